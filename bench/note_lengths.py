#!/usr/bin/env python3
"""How long pianists let notes sound, by octave: the tail of the distribution of ages, as host/lib/release.c has it.

    python3 bench/note_lengths.py data/train.safetensors

An age is in steps of 10 ms, and 20 more for each stroke of any key since the note's own. The token file must have the
`performance` encoding, which folds the pedal into the notes' lengths. Octaves with fewer than 50,000 notes join their
neighbour towards the middle.
"""

import array
import json
import struct
import sys

LEVELS = [0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005]  # shares of notes that sound longer
FEWEST = 50_000
STROKE = 20


def read_pieces(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        if header["__metadata__"]["encoding"] != "performance":
            raise SystemExit(f"{path}: expected the encoding performance, found {header['__metadata__']['encoding']}")
        data = f.read()

    def column(name, kind):
        first, last = header[name]["data_offsets"]
        return array.array(kind, data[first:last])

    offsets, tokens = column("offsets", "q"), column("tokens", "H")
    return [tokens[a:b] for a, b in zip(offsets, offsets[1:])]


def count_ages(pieces):
    """For each pitch, how many notes reach each age."""
    ages = [{} for _ in range(128)]
    for tokens in pieces:
        clock, begun = 0, [[] for _ in range(128)]
        for t in tokens:
            if t < 128:
                clock += STROKE
                begun[t].append(clock)
            elif t < 256:
                age = clock - begun[t - 128].pop(0)
                ages[t - 128][age] = ages[t - 128].get(age, 0) + 1
            elif t < 356:
                clock += t - 255
    return ages


def join(groups):
    """Octaves, (first pitch, counts), without those that have few notes."""
    while len(groups) > 1 and min(sum(c.values()) for _, c in groups) < FEWEST:
        k = min(range(len(groups)), key=lambda i: sum(groups[i][1].values()))
        other = k + 1 if groups[k][0] < 60 else k - 1
        low, high = sorted((k, other))
        counts = dict(groups[low][1])
        for age, n in groups[high][1].items():
            counts[age] = counts.get(age, 0) + n
        groups[low:high + 1] = [(groups[low][0], counts)]
    return groups


def tail(counts):
    """The lowest ages that at most the levels' shares of notes exceed."""
    total = left = sum(counts.values())
    found, level = [], 0
    for age in sorted(counts):
        left -= counts[age]
        while level < len(LEVELS) and left <= LEVELS[level] * total:
            found.append(age)
            level += 1
    return found, total


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    ages = count_ages(read_pieces(sys.argv[1]))
    octaves = []
    for first in range(0, 128, 12):
        counts = {}
        for pitch in range(first, min(first + 12, 128)):
            for age, n in ages[pitch].items():
                counts[age] = counts.get(age, 0) + n
        octaves.append((first, counts))
    print("// lowest pitch, then ages that " + ", ".join(f"{100 * l:g} %" for l in LEVELS) +
          " of notes exceed")
    for first, counts in join(octaves):
        found, notes = tail(counts)
        print(f"{{{first}, {{{', '.join(map(str, found))}}}}}, // {notes:,} notes")


if __name__ == "__main__":
    main()
