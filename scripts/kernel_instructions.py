#!/usr/bin/env python3
"""Instructions that a warp executes for one inner tile in each tensor-core attention kernel, counted in SASS.

    scripts/kernel_instructions.py OBJECT...             prints the table; exits 1 if cuda/instructions.txt has less
    scripts/kernel_instructions.py OBJECT... --update    writes cuda/instructions.txt

OBJECT is an object file or cubin of cuda/attention_fwd.cu or cuda/attention_bwd.cu. The count is that of the shortest
way around the loop over tiles that copies the next tile and multiplies: no mask, no skipped tile.

Exits 77 without comparing if cuobjdump is missing or nvcc is not the table's version (see kernel_registers.py).
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

from kernel_registers import ARCHITECTURES, ROOT, readable, version

TABLE = ROOT / "cuda/instructions.txt"
WIDTH = 66  # of names
COPY = r"LDGSTS|LDG\.E\.128"  # sm_75 has no asynchronous copies
COUNTED = {"mma": "HMMA", "ldmatrix": "LDSM", "copies": COPY}


def functions(dump):
    """Yields (mangled name, architecture, [(address, instruction with its predicate)])."""
    architecture = ""
    for part in re.split(r"^\s*(?=Function : |code for sm_)", dump, flags=re.M):
        if m := re.match(r"code for sm_(\w+)", part):
            architecture = m[1]
        elif m := re.match(r"Function : (\w+)", part):
            lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", part, re.M)
            yield m[1], architecture, [(int(address, 16), text) for address, text in lines]


def loop_of(code):
    """(first, last) index of the innermost loop with the most HMMA, or None."""
    places = {address: i for i, (address, _) in enumerate(code)}
    best = None
    for i, (_, text) in enumerate(code):
        m = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        start = places.get(int(m[1], 16)) if m else None
        if start is None or start >= i:
            continue
        key = (sum("HMMA" in t for _, t in code[start:i + 1]), start - i)
        if key[0] and (best is None or key > best[0]):
            best = (key, start, i)
    return best and best[1:]


def way_around(code, first, last):
    """Instructions of the way from `first` to `last` with the most HMMA and copies, of those the shortest."""
    places = {address: i for i, (address, _) in enumerate(code)}
    best = {first: ((0, 0), [])}  # index: (score so far, instructions), in program order
    for i in range(first, last + 1):
        if i not in best:
            continue
        score, way = best.pop(i)
        text = code[i][1]
        score = (score[0] + bool(re.search(rf"HMMA|{COPY}", text)), score[1] - 1)
        way = way + [text]
        if i == last:
            return way
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        always = target and re.match(r"BRA 0x", text)
        successors = [] if always or re.match(r"EXIT|RET", text) else [i + 1]
        if target and places.get(int(target[1], 16), -1) > i:
            successors.append(places[int(target[1], 16)])
        for s in successors:
            if s <= last and (s not in best or best[s][0] < score):
                best[s] = (score, way)
    return None


def table(tool, nvcc, objects):
    rows = {}
    for path in objects:
        done = subprocess.run([tool, "-sass", path], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"cuobjdump {path}: {done.stderr.strip()}")
        found = list(functions(done.stdout))
        for (_, architecture, code), name in zip(found, readable([name for name, _, _ in found])):
            loop = loop_of(code) if "mma_kernel" in name else None
            way = way_around(code, *loop) if loop else None
            if way:
                counts = [len(way), *(sum(bool(re.search(op, text)) for text in way) for op in COUNTED.values())]
                rows.setdefault(name, {})[architecture] = " ".join(map(str, counts))
    head = f"# executed instructions a tile and warp, of them {', '.join(COUNTED)}; nvcc {version(nvcc)}"
    lines = [f"{head}; scripts/kernel_instructions.py",
             f"{'# kernel':{WIDTH}}" + "".join(f"{'sm_' + a:>17}" for a in ARCHITECTURES)]
    return lines + [f"{name:{WIDTH}}" + "".join(f"{row.get(a, '-'):>17}" for a in ARCHITECTURES)
                    for name, row in sorted(rows.items())]


def counts_of(lines):
    """{(kernel, column): instructions}"""
    return {(line[:WIDTH].strip(), i): int(count)
            for line in lines if not line.startswith("#")
            for i, count in enumerate(re.findall(r"(?:(\d+)(?: \d+)+|-)", line[WIDTH:])) if count}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("objects", nargs="+")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"))
    options = parser.parse_args()
    beside = str(pathlib.Path(options.nvcc).parent) if options.nvcc else ""
    tool = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=beside)
    if not options.nvcc or not tool:
        print(f"skipped: {'cuobjdump' if options.nvcc else 'nvcc'} not found")
        return 77
    held = TABLE.read_text().splitlines() if TABLE.exists() else [""]
    if not options.update and version(options.nvcc) + ";" not in held[0]:
        print(f"skipped: nvcc is {version(options.nvcc)}; {TABLE.name}: {held[0]}")
        return 77
    lines = table(tool, options.nvcc, options.objects)
    if options.update:
        TABLE.write_text("\n".join(lines) + "\n")
        return 0
    print("\n".join(lines))
    before, after = counts_of(held), counts_of(lines)
    grown = [(key, before.get(key), n) for key, n in sorted(after.items()) if n > before.get(key, 0)]
    for (kernel, i), was, now in grown:
        print(f"{kernel}, sm_{ARCHITECTURES[i]}: expected {f'at most {was}' if was else 'no'} instructions a tile, "
              f"found {now}", file=sys.stderr)
    for kernel, i in sorted(before.keys() - after.keys()):
        print(f"{kernel}, sm_{ARCHITECTURES[i]}: not found", file=sys.stderr)
    if grown:
        print("if the change is right, run scripts/kernel_instructions.py OBJECT... --update", file=sys.stderr)
    return int(bool(grown or before.keys() - after.keys()))


if __name__ == "__main__":
    sys.exit(main())
