"""Features of piano music (docs/features.md), computed independently of host/play/features.c, which a test compares."""

import collections
import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from note_lengths import read_pieces  # noqa: F401  (for those who import this file)

MINUTE = 6000  # steps of 10 ms
HALF, FIVE = 50, 500
EDGES = (3, 6, 12, 25, 50, 100, 200)  # steps of 10 ms that the bins of times reach
LAGS = 64

Note = collections.namedtuple("Note", "start end pitch velocity token")  # times in steps of 10 ms


def decode(tokens):
    """Notes of the encoding `performance`, and its length in steps. What still sounds at the end ends there."""
    clock, velocity, down, notes = 0, 0, collections.defaultdict(list), []
    for i, t in enumerate(tokens):
        if t < 128:
            down[t].append((clock, velocity, i))
        elif t < 256:
            if down[t - 128]:
                start, loud, at = down[t - 128].pop(0)
                notes.append(Note(start, clock, t - 128, loud, at))
        elif t < 356:
            clock += t - 255
        elif t < 388:
            velocity = 4 * (t - 356) + 1
    notes += [Note(start, clock, key, loud, at) for key, sounding in down.items() for start, loud, at in sounding]
    return sorted((n for n in notes if n.end > n.start), key=lambda n: (n.start, n.pitch)), clock


def bin_of(steps):
    return sum(steps > edge for edge in EDGES)


def shares(values, bins):
    return [values.count(b) / len(values) for b in range(bins)]


def entropy(values):
    n = len(values)
    return -sum(c / n * math.log2(c / n) for c in collections.Counter(values).values()) if n else math.nan


def histograms(begun):
    """The four that are compared with the primer's: (values, bins)."""
    return ([n.pitch % 12 for n in begun], 12), ([bin_of(b.start - a.start) for a, b in zip(begun, begun[1:])], 8), \
        ([bin_of(n.end - n.start) for n in begun], 8), ([n.velocity // 8 for n in begun], 16)


def compare(begun, primer):
    """Overlap and divergence, means over the four histograms."""
    overlaps, divergences = [], []
    for (x, bins), (y, _) in zip(histograms(begun), histograms(primer)):
        if not x or not y:
            return math.nan, math.nan
        overlaps.append(sum(map(min, shares(x, bins), shares(y, bins))))
        p = [(x.count(b) + 1) / (len(x) + bins) for b in range(bins)]
        q = [(y.count(b) + 1) / (len(y) + bins) for b in range(bins)]
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q)))
    return statistics.fmean(overlaps), statistics.fmean(divergences)


def empty_shares(notes, begun, first, last):
    halves = (last - first) // HALF
    sounding, begins = [False] * halves, [False] * halves
    for n in notes:
        for h in range(max(0, (n.start - first) // HALF), min(halves, -((first - n.end) // HALF))):
            sounding[h] = True
    for n in begun:
        if (n.start - first) // HALF < halves:
            begins[(n.start - first) // HALF] = True
    return (sounding.count(False) / halves, begins.count(False) / halves) if halves else (math.nan, math.nan)


def pitch_class_change(begun, first, last):
    groups = [[] for _ in range((last - first) // FIVE)]
    for n in begun:
        if (n.start - first) // FIVE < len(groups):
            groups[(n.start - first) // FIVE].append(n.pitch % 12)
    distances = [sum(abs(p - q) for p, q in zip(shares(a, 12), shares(b, 12))) / 2
                 for a, b in zip(groups, groups[1:]) if a and b]
    return statistics.fmean(distances) if distances else math.nan


def longest_loop(begun):
    symbols = [(b.pitch - a.pitch, bin_of(b.start - a.start)) for a, b in zip(begun, begun[1:])]
    longest = 0
    for lag in range(1, LAGS + 1):
        run = 0
        for a, b in zip(symbols, symbols[lag:]):
            run = run + 1 if a == b else 0
            longest = max(longest, run)
    return longest


def returned(begun):
    intervals = [b.pitch - a.pitch for a, b in zip(begun, begun[1:])]
    grams = [tuple(intervals[i:i + 5]) for i in range(len(intervals) - 4)]
    return (len(grams) - len(set(grams))) / len(grams) if grams else math.nan


def neighbour_correlation(values):
    x, y = values[:-1], values[1:]
    if len(x) < 2 or len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return statistics.correlation(x, y)


def part_features(notes, first, last, primer):
    """Of the span [first, last) of steps. primer: the notes that begin in it, or None."""
    begun = [n for n in notes if first <= n.start < last]
    lengths, pitches, loud = ([f(n) for n in begun] for f in (lambda n: n.end - n.start, lambda n: n.pitch,
                                                              lambda n: n.velocity))
    silence, rests = empty_shares(notes, begun, first, last)
    overlap, divergence = compare(begun, primer) if primer is not None else (math.nan, math.nan)
    some = bool(begun)
    return {
        "notes_per_second": 100 * len(begun) / (last - first),
        "polyphony": sum(max(0, min(n.end, last) - max(n.start, first)) for n in notes) / (last - first),
        "note_seconds": statistics.median(lengths) / 100 if some else math.nan,
        "longest_note": max(lengths) / 100 if some else math.nan,
        "silence": silence,
        "rests": rests,
        "lowest_pitch": min(pitches) if some else math.nan,
        "pitch": statistics.fmean(pitches) if some else math.nan,
        "highest_pitch": max(pitches) if some else math.nan,
        "velocity": statistics.fmean(loud) if some else math.nan,
        "velocity_spread": statistics.pstdev(loud) if some else math.nan,
        "velocity_correlation": neighbour_correlation(loud),
        "pitch_class_entropy": entropy([p % 12 for p in pitches]),
        "pitch_class_change": pitch_class_change(begun, first, last),
        "rhythm_entropy": entropy([bin_of(b.start - a.start) for a, b in zip(begun, begun[1:])]),
        "loop": longest_loop(begun),
        "returns": returned(begun),
        "overlap": overlap,
        "divergence": divergence,
    }


def features(notes, first, last, primer=None):
    """Means over equal parts of about a minute. primer: (first, last) of it, or None."""
    count = max(1, (last - first + MINUTE // 2) // MINUTE)
    begun = primer and [n for n in notes if primer[0] <= n.start < primer[1]]
    edges = [first + (last - first) * k // count for k in range(count + 1)]
    parts = [part_features(notes, a, b, begun) for a, b in zip(edges, edges[1:])]
    means = {}
    for name in parts[0]:
        known = [p[name] for p in parts if not math.isnan(p[name])]
        means[name] = statistics.fmean(known) if known else math.nan
    return means

# What distance() compares: features whose expected value is the primer's, and those of which only more (1) or only less
# (-1) than expected counts.
FOLLOW = {"notes_per_second", "polyphony", "note_seconds", "rests", "lowest_pitch", "pitch", "highest_pitch", "velocity",
          "velocity_spread", "velocity_correlation", "pitch_class_entropy", "pitch_class_change", "rhythm_entropy"}
SIDE = {"longest_note": 1, "silence": 1, "loop": 1, "overlap": -1, "divergence": 1}


def distance(take, primer, ranges):
    """Of each feature (docs/features.md). take, primer: features; ranges: name -> 5 %, 50 % and 95 % quantile."""
    found = {}
    for name, (low, middle, high) in ranges.items():
        follows = name in FOLLOW and not math.isnan(primer[name])
        expected = min(max(primer[name], low), high) if follows else middle
        more = (take[name] - expected) / (high - low)
        found[name] = 1 if math.isnan(more) else 0 if SIDE.get(name, 0) * more < 0 else min(abs(more), 1)
    return found


def outside(take, ranges):
    """Names of the features that are outside their range."""
    return [name for name, (low, _, high) in ranges.items()
            if (take[name] > high and SIDE.get(name, 0) >= 0) or (take[name] < low and SIDE.get(name, 0) <= 0)]
