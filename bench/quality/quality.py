#!/usr/bin/env python3
"""How settings of pagen compare: several takes of several primers each, beside what the pianists played next (the
ceiling) and that with its notes shuffled (the floor). Prints a table of features (docs/features.md) in Markdown, means
and their standard errors over primers. What is in FOLDER already is not generated again, so that a run resumes, and
settings may be added.

    python3 bench/quality/quality.py build/cpu/bin/pagen piano data/validation.safetensors FOLDER \\
        default= bold='--temperature 1'

Each setting is a name and pagen's options. The token file has the encoding `performance`.
"""

import argparse
import json
import math
import pathlib
import random
import shlex
import statistics
import subprocess

from features import MINUTE, Note, decode, distance, features, outside, read_pieces


def choose(pieces, primers, cut, steps):
    """Pieces with enough music behind `cut` tokens, spread over the file: (index, notes, step of the cut)."""
    fit = []
    for index, tokens in enumerate(pieces):
        at = sum(t - 255 for t in tokens[:cut] if 256 <= t < 356)
        if sum(t - 255 for t in tokens if 256 <= t < 356) >= at + steps:
            fit.append((index, at))
    if len(fit) < primers:
        raise SystemExit(f"expected {primers} pieces with {steps / 100:g} s behind {cut} tokens, found {len(fit)}")
    chosen = [fit[(2 * i + 1) * len(fit) // (2 * primers)] for i in range(primers)]
    return [(index, decode(pieces[index])[0], at) for index, at in chosen]


def shuffle(notes, first, last, seed):
    """The notes that begin in [first, last); pitches, velocities, lengths and times between, each in another order."""
    rng = random.Random(seed)
    begun = [n for n in notes if first <= n.start < last]
    columns = [[n.pitch for n in begun], [n.velocity for n in begun], [n.end - n.start for n in begun],
               [b.start - a for a, b in zip([first] + [n.start for n in begun], begun)]]
    for column in columns:
        rng.shuffle(column)
    clock, made = first, [n for n in notes if n.start < first]
    for pitch, velocity, length, time in zip(*columns):
        clock += time
        made.append(Note(clock, clock + length, pitch, velocity, 0))
    return sorted(made, key=lambda n: (n.start, n.pitch))


class Setting:
    def __init__(self, text, o):
        self.name, found, options = text.partition("=")
        if not found or not self.name or "/" in self.name:
            raise SystemExit(f"expected NAME=OPTIONS, found {text}")
        self.folder = o.folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.command = [o.pagen, o.checkpoint, "--prime-tokens", o.prime_tokens, "--length-seconds", o.seconds,
                        "--number", o.takes, "--json", *shlex.split(options)]
        self.command = [str(word) for word in self.command]
        noted = self.folder / "command"
        text = shlex.join(self.command) + "\n"
        if noted.exists() and noted.read_text() != text:
            raise SystemExit(f"{noted}: expected {text.strip()}, found {noted.read_text().strip()}")
        noted.write_text(text)

    def generate(self, tokens, piece):
        """pagen's summary and the takes' tokens."""
        out, said = (self.folder / f"{piece}{end}" for end in (".safetensors", ".json"))
        if not said.exists():
            done = subprocess.run([*self.command, "--primer", f"{tokens}:{piece}", "--output", out],
                                  capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{shlex.join(self.command)}: exit status {done.returncode}\n{done.stderr.strip()}")
            part = said.with_suffix(".part")
            part.write_text(done.stdout)
            part.replace(said)
        return json.loads(said.read_text()), read_pieces(out)


def known(values):
    return {name: math.nan if value is None else value for name, value in values.items()}


def row(found, primer, ranges):
    """A take's columns of the table."""
    parts = distance(found, primer, ranges)
    return {**found, "distance": statistics.fmean(parts.values()), "outside": len(outside(found, ranges))}


def mean(rows):
    columns = {name: [r[name] for r in rows if not math.isnan(r[name])] for name in rows[0]}
    return {name: statistics.fmean(values) if values else math.nan for name, values in columns.items()}


def measure(o, settings):
    """For each column a list of rows, one a primer; and each setting's tokens a second."""
    steps, columns, speed = round(100 * o.seconds), {}, {s.name: [0, 0] for s in settings}
    for index, notes, at in choose(read_pieces(o.tokens), o.primers, o.prime_tokens, steps):
        before = (max(0, at - MINUTE), at)
        primer = features(notes, *before)
        made = {s.name: s.generate(o.tokens, index) for s in settings}
        ranges = next(iter(made.values()))[0]["pianists"]
        for name, (said, takes) in made.items():
            rows = [row(features(decode(t)[0], at, at + steps, before), primer, ranges) for t in takes]
            columns.setdefault(name, []).append(mean(rows))
            speed[name][0] += said["tokens"]
            speed[name][1] += said["seconds"]
        human = [n for n in notes if n.start < at + steps]
        for name, playing in (("pianists", human), ("shuffled", shuffle(human, at, at + steps, index))):
            found = features(playing, at, at + steps, before)
            columns.setdefault(name, []).append(row(found, primer, ranges))
    return columns, speed


def cell(values):
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return ""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    digits = 1 if abs(statistics.fmean(values)) >= 10 else 2 if abs(statistics.fmean(values)) >= 1 else 3
    return f"{statistics.fmean(values):.{digits}f} ± {error:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pagen")
    parser.add_argument("checkpoint")
    parser.add_argument("tokens")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("settings", nargs="+", metavar="NAME=OPTIONS")
    parser.add_argument("--primers", type=int, default=8)
    parser.add_argument("--takes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--prime-tokens", type=int, default=768)
    o = parser.parse_args()
    settings = [Setting(text, o) for text in o.settings]
    columns, speed = measure(o, settings)
    names = ["pianists", *(s.name for s in settings), "shuffled"]
    print("| | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for feature in columns["pianists"][0]:
        print(f"| `{feature}` | " + " | ".join(cell([r[feature] for r in columns[n]]) for n in names) + " |")
    print("| tokens/s | | " + " | ".join(f"{speed[s.name][0] / speed[s.name][1]:.0f}" for s in settings) + " | |")


if __name__ == "__main__":
    main()
