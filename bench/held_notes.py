#!/usr/bin/env python3
"""What --long-notes changes: pagen continues validation pieces for a minute without and with it, and the human continuation of the same
tokens stands beside. Prints a table in Markdown.

    python3 bench/held_notes.py build/cpu/bin/pagen runs/v1 data/validation.safetensors [--pieces 5 25 45 65 85 105] [--seed 1]
"""

import argparse
import pathlib
import subprocess
import tempfile

from note_lengths import read_pieces

PRIMER, SECONDS = 768, 60


def measure(tokens):
    """Of the minute behind the primer: longest note, notes over 10 s, mean polyphony, notes a second, median note. Encoding
    `performance`; what still sounds at the end ends there."""
    clock, start, down, notes = 0, None, {}, []
    for i, t in enumerate(tokens):
        if i == PRIMER:
            start = clock
        if start is not None and clock >= start + 100 * SECONDS:
            break
        if t < 128:
            down.setdefault(t, []).append((clock, i))
        elif t < 256:
            begun, at = down[t - 128].pop(0)
            notes.append((begun, clock, at))
        elif t < 356:
            clock += t - 255
    end = min(clock, start + 100 * SECONDS)
    notes += [(begun, end, at) for key in down.values() for begun, at in key]
    lengths = sorted((last - first) / 100 for first, last, at in notes if at >= PRIMER)
    sounding = sum(max(0, min(last, end) - max(first, start)) for first, last, _ in notes)
    return lengths[-1], sum(x > 10 for x in lengths), sounding / (end - start), 100 * len(lengths) / (end - start), lengths[len(lengths) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pagen")
    parser.add_argument("checkpoint")
    parser.add_argument("tokens")
    parser.add_argument("--pieces", type=int, nargs="+", default=[5, 25, 45, 65, 85, 105])
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    human = read_pieces(o.tokens)
    print("| piece | who | longest note, s | notes over 10 s | polyphony | notes/s | median note, s |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "out.safetensors")
        for piece in o.pieces:
            takes = {"human": human[piece]}
            for name, more in (("`--long-notes`", ["--long-notes"]), ("default", [])):
                subprocess.run([o.pagen, o.checkpoint, "--primer", f"{o.tokens}:{piece}", "--prime-tokens", str(PRIMER), "--length-seconds",
                                str(SECONDS), "--seed", str(o.seed), "--output", out, *more], check=True, capture_output=True)
                takes[name] = read_pieces(out)[0]
            for name, tokens in takes.items():
                longest, over, polyphony, rate, median = measure(tokens)
                print(f"| {piece} | {name} | {longest:.1f} | {over} | {polyphony:.1f} | {rate:.1f} | {median:.2f} |", flush=True)


if __name__ == "__main__":
    main()
