#!/usr/bin/env python3
"""The range of each feature in minutes of human playing, as host/play/pianists.c has it.

    python3 bench/quality/pianists.py data/validation.safetensors

Each minute of a piece but the first is compared with the minute before it. What remains of a piece is left out.
"""

import math
import sys

from features import MINUTE, decode, features, read_pieces


def quantile(values, share):
    """Linear between neighbours."""
    at = share * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    minutes = []
    for tokens in read_pieces(sys.argv[1]):
        notes, steps = decode(tokens)
        for first in range(0, steps - MINUTE + 1, MINUTE):
            near = [n for n in notes if n.end > first - MINUTE and n.start < first + MINUTE]
            minutes.append(features(near, first, first + MINUTE, (first - MINUTE, first) if first else None))
    if not minutes:
        raise SystemExit(f"{sys.argv[1]}: expected a piece of a minute, found none")
    print(f"// {len(minutes)} minutes: 5 %, 50 %, 95 %")
    for name in minutes[0]:
        values = sorted(m[name] for m in minutes if not math.isnan(m[name]))
        low, middle, high = (quantile(values, share) for share in (0.05, 0.5, 0.95))
        print(f'{{"{name}", {low:.4g}, {middle:.4g}, {high:.4g}}}, // of {len(values)}')


if __name__ == "__main__":
    main()
