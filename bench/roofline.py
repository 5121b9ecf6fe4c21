#!/usr/bin/env python3
"""Draws the roofline of what `pabench --json` wrote: bench/roofline.py IN.json OUT.svg. Standard library only."""
import html
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 560, 70, 250, 40, 55
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22")


class Axis:
    """Decades from low to high, to pixels from start to end."""

    def __init__(self, values, start, end):
        self.low, self.high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self.start, self.end = start, end

    def __call__(self, value):
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def decades(self):
        return [10.0**d for d in range(self.low, self.high + 1)]


def text(x, y, words, anchor="start", size=12, extra=""):
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" {extra}>{html.escape(words)}</text>'


def line(x1, y1, x2, y2, style):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def draw(data):
    cases = [c for c in data["cases"] if c["flop"] > 0]
    if not cases:
        sys.exit("no operation with flop in this file")
    roof = data["roof"]
    peaks = [(k, roof[k + "_flops"]) for k in ("fp32", "bf16") if roof[k + "_flops"] > 0]
    intensity = [c["flop"] / c["bytes"] for c in cases]
    rate = [c["flop"] / c["seconds"]["median"] for c in cases]
    x = Axis([*intensity, peaks[-1][1] / roof["read"]], LEFT, WIDTH - RIGHT)
    y = Axis([*rate, *(p for _, p in peaks)], HEIGHT - BOTTOM, TOP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 22,
             f"pabench {data['version']}, {data['date']}, {data['device']} {data['isa']}, {data['threads']} threads",
             size=14),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "flop a byte", "middle"),
        text(0, 0, "Gflop/s", "middle", extra=f'transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)"'),
    ]
    for v in x.decades():
        out += [line(x(v), TOP, x(v), HEIGHT - BOTTOM, 'stroke="#ddd"'),
                text(x(v), HEIGHT - BOTTOM + 16, f"{v:g}", "middle")]
    for v in y.decades():
        out += [line(LEFT, y(v), WIDTH - RIGHT, y(v), 'stroke="#ddd"'), text(LEFT - 6, y(v) + 4, f"{v / 1e9:g}", "end")]
    bottom, right = 10.0**y.low, 10.0**x.high
    for name in ("read", "copy"):
        top = min(peaks[-1][1], roof[name] * right)
        start = max(10.0**x.low, bottom / roof[name])
        dash = "" if name == "copy" else ' stroke-dasharray="5 3"'
        out.append(line(x(start), y(start * roof[name]), x(top / roof[name]), y(top), f'stroke="black"{dash}'))
        out.append(text(x(start) + 4, y(start * roof[name]) - (14 if name == "copy" else 2),
                        f"{name} {roof[name] / 1e9:.1f} GB/s", size=11))
    for name, peak in peaks:
        out.append(line(x(peak / max(roof["read"], roof["copy"])), y(peak), WIDTH - RIGHT, y(peak), 'stroke="black"'))
        out.append(text(WIDTH - RIGHT - 4, y(peak) - 5, f"{name} product {peak / 1e9:.0f} GF/s", "end", 11))
    kinds = []
    for case, at, speed in zip(cases, intensity, rate):
        kind = case["name"].split()[1]
        if kind not in kinds:
            kinds.append(kind)
        number = kinds.index(kind)
        fill = COLOURS[number % len(COLOURS)]
        tip = html.escape(f"{case['name']}: {speed / 1e9:.1f} GF/s, {100 * case['roof_share']:.0f} % of its roof")
        shape = f'<circle cx="{x(at):.1f}" cy="{y(speed):.1f}" r="4"'
        if number >= len(COLOURS):
            shape = f'<rect x="{x(at) - 4:.1f}" y="{y(speed) - 4:.1f}" width="8" height="8"'
        opacity = 1 if case["type"] == "fp32" else 0.5
        out.append(f'{shape} fill="{fill}" fill-opacity="{opacity}"><title>{tip}</title></{shape[1:].split()[0]}>')
    for number, kind in enumerate(kinds):
        fill, at = COLOURS[number % len(COLOURS)], TOP + 8 + 18 * number
        shape = "<circle cx='{0}' cy='{1}' r='4'"
        if number >= len(COLOURS):
            shape = "<rect x='{2}' y='{3}' width='8' height='8'"
        out.append(shape.format(WIDTH - RIGHT + 20, at, WIDTH - RIGHT + 16, at - 4) + f' fill="{fill}"/>')
        out.append(text(WIDTH - RIGHT + 32, at + 4, kind))
    return "\n".join([*out, "</svg>", ""])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        picture = draw(json.load(file))
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
