#!/usr/bin/env python3
"""Registers, stack and spills of every CUDA kernel for each architecture, as reported by ptxas.

    scripts/kernel_registers.py             prints the table; exits 1 if cuda/registers.txt differs
    scripts/kernel_registers.py --update    writes cuda/registers.txt

Exits 77 without comparing if nvcc is missing or is not the table's version: each version allocates registers
differently. --nvcc PATH selects the compiler.

Compiling all kernels takes minutes. A build that compiled them with "scripts/kernel_registers.py;--record" as
CMAKE_CUDA_COMPILER_LAUNCHER has the reports beside its objects: --build FOLDER reads those that are up to date.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "cuda/registers.txt"
ARCHITECTURES = ("75", "80", "90a")


def version(nvcc):
    said = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r", (V[0-9.]+)", said)[1]


def record(command):
    """Compiles, and writes what ptxas reports to OBJECT.ptxas."""
    done = subprocess.run([*command, "-Xptxas", "-v"], stderr=subprocess.PIPE, text=True)
    report, others = [], []
    for text in done.stderr.splitlines(keepends=True):
        (report if re.match("ptxas info |    ", text) else others).append(text)
    sys.stderr.writelines(others if done.returncode == 0 else [done.stderr])
    if done.returncode == 0:
        pathlib.Path(command[command.index("-o") + 1] + ".ptxas").write_text("".join(report))
    return done.returncode


def recorded(build, source):
    """The report of the build's object, None if there is none or the object, its source or a header is newer."""
    found = list(pathlib.Path(build).glob(f"CMakeFiles/*.dir/cuda/{source.name}.o.ptxas")) if build else []
    if not found:
        return None
    inputs = [found[0].with_suffix(""), source, *source.parent.glob("*.cuh"), *source.parent.glob("*.h")]
    written = found[0].stat().st_mtime_ns
    return found[0].read_text() if all(path.stat().st_mtime_ns <= written for path in inputs) else None


def compiled(nvcc, source, folder):
    """The report of a compilation of its own."""
    line = [nvcc, "-std=c++17", "-O3", "-lineinfo", "-I.", f"-I{folder}", "-fatbin", "-Xptxas", "-v"]
    line += ["-o", f"{folder}/{source.stem}", str(source)]
    for a in ARCHITECTURES:
        line += ["-gencode", f"arch=compute_{a},code=sm_{a}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stderr}")
    return done.stderr


def resources(report):
    """{(kernel, architecture): "registers stack spilled"}"""
    found, entry, frame = {}, None, None
    for text in report.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)' for 'sm_(\w+)'", text):
            entry = m.groups()
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", text):
            frame = m.groups()
        elif (m := re.search(r"Used (\d+) registers", text)) and entry:
            found[entry] = f"{m[1]} {frame[0]} {frame[1]}"
            entry = None
    return found


def readable(names):
    """Without arguments and the types' prefixes."""
    done = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True)
    return [re.sub(r"^void |\((anonymous namespace|bool|int)\)|\(.*$", "", re.sub(r"\((bool|int)\)", "", line))
            for line in done.stdout.splitlines()]


def table(nvcc, build):
    sources = sorted((ROOT / "cuda").glob("*.cu"))
    rows = {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        pathlib.Path(folder, "pa_version.h").write_text('#define PA_VERSION ""\n')  # which a build generates
        reports = pool.map(lambda s: recorded(build, s) or compiled(nvcc, s, folder), sources)
        for source, found in zip(sources, map(resources, reports)):
            mangled = sorted({name for name, _ in found})
            for name, nice in zip(mangled, readable(mangled)):
                rows[f"{source.stem}: {nice}"] = [found.get((name, a), "-") for a in ARCHITECTURES]
    width = 80  # whatever the names, so that one more changes one line
    lines = [f"# registers, bytes of stack, bytes spilled; nvcc {version(nvcc)}; scripts/kernel_registers.py",
             f"{'# kernel':{width}}" + "".join(f"{'sm_' + a:>15}" for a in ARCHITECTURES)]
    return lines + [f"{name:{width}}" + "".join(f"{x:>15}" for x in row) for name, row in sorted(rows.items())]


def main():
    if sys.argv[1:2] == ["--record"]:
        return record(sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"))
    parser.add_argument("--build", default="")
    options = parser.parse_args()
    if not options.nvcc:
        print("skipped: nvcc not found")
        return 77
    held = TABLE.read_text().splitlines() if TABLE.exists() else [""]
    if not options.update and version(options.nvcc) + ";" not in held[0]:
        print(f"skipped: nvcc is {version(options.nvcc)}; {TABLE.name}: {held[0]}")
        return 77
    lines = table(options.nvcc, options.build)
    if options.update:
        TABLE.write_text("\n".join(lines) + "\n")
        return 0
    print("\n".join(lines))
    changed = sorted(set(held) ^ set(lines), key=lambda line: line.split("  ")[0])
    for line in changed:
        print(f"{'was' if line in held else 'is '} {line}", file=sys.stderr)
    if changed:
        print("cuda/registers.txt differs from the kernels; if the change is right, run scripts/kernel_registers.py "
              "--update", file=sys.stderr)
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
