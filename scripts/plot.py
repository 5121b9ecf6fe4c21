#!/usr/bin/env python3
"""Draws the loss curves of one or several runs, from their metrics.jsonl.

    scripts/plot.py RUN... [--x step|epoch|hours] [--output loss.svg]

A RUN is a run directory or a metrics.jsonl. Lines: training loss in nats a token, averaged over a fiftieth of the run.
Dots: eval_loss. Hours are those of training steps only. Needs only Python's standard library.
"""
import argparse
import html
import json
import math
import os
import sys

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]  # Okabe and Ito's
DASHES = ["", "7 3", "2 3", "9 3 2 3"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 420, 60, 20, 20, 50
BINS = 200  # points of a line


def read(path, unit):
    """[(x, training loss)], [(x, eval_loss)]"""
    name = os.path.join(path, "metrics.jsonl") if os.path.isdir(path) else path
    train, evals, hours, place = [], [], 0.0, {0: 0.0}
    try:
        with open(name) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    sys.exit(f"plot.py: {name}: line {number} is not JSON")
                if "seconds" in row:
                    hours += row["seconds"] / 3600
                    place[row["step"]] = {"step": row["step"], "epoch": row["epoch"], "hours": hours}[unit]
                    if row["loss"] is not None:
                        train.append((place[row["step"]], row["loss"]))
                if row.get("eval_loss") is not None:
                    evals.append((place.get(row["step"], 0.0), row["eval_loss"]))
    except OSError as error:
        sys.exit(f"plot.py: cannot open {name}: {error.strerror}")
    if not train:
        sys.exit(f"plot.py: {name} has no step with a loss")
    return train, evals


def smooth(points):
    """Means of a fiftieth of the points around BINS of them."""
    half, out = max(1, len(points) // 100), []
    for i in range(0, len(points), max(1, len(points) // BINS)):
        part = points[max(0, i - half):i + half + 1]
        out.append((points[i][0], math.fsum(y for _, y in part) / len(part)))
    return out


def ticks(low, high):
    """Round numbers from low to high, some six of them."""
    raw = (high - low) / 6
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(runs, unit):
    lines = [(name, smooth(train), evals) for name, train, evals in runs]
    right = max(line[-1][0] for _, line, _ in lines) or 1
    seen = sorted(y for _, line, evals in lines for _, y in line + evals)
    low, high = seen[0], seen[min(len(seen) - 1, int(len(seen) * 0.97))]  # the steep beginning would flatten the rest
    margin = (high - low) * 0.05 or 0.05
    low, high = low - margin, high + margin

    def x_of(x): return LEFT + (WIDTH - LEFT - RIGHT) * x / right
    def y_of(y): return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="13">',
           f'<title>Loss of {html.escape(", ".join(name for name, _, _ in runs))}</title>',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
           f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>']
    for y in ticks(low, high):
        out.append(f'<path d="M{LEFT} {y_of(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.6g}</text>')
    for x in ticks(0, right):
        out.append(f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:.6g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{unit}</text>'
               f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">nats a '
               f'token</text>')
    for i, (name, line, evals) in enumerate(lines):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in line)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}" '
                   f'clip-path="url(#plot)"/>')
        out += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5" fill="{colour}"/>'
                for x, y in evals if y <= high]
        where = TOP + 16 + 20 * i
        out.append(f'<path d="M{WIDTH - 210} {where}h30" stroke="{colour}" stroke-width="1.5" '
                   f'stroke-dasharray="{dash}"/>'
                   f'<text x="{WIDTH - 172}" y="{where + 4}">{html.escape(name)}</text>')
    return "\n".join(out + ["</svg>\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--x", choices=["step", "epoch", "hours"], default="step")
    parser.add_argument("--output", default="loss.svg")
    options = parser.parse_args()
    runs = [(os.path.basename(os.path.normpath(path)), *read(path, options.x)) for path in options.runs]
    picture = draw(runs, options.x)
    try:
        with open(options.output, "w") as file:
            file.write(picture)
    except OSError as error:
        sys.exit(f"plot.py: cannot open {options.output}: {error.strerror}")


if __name__ == "__main__":
    main()
