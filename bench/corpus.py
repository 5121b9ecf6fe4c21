#!/usr/bin/env python3
"""How paprep's time and memory grow with a corpus: writes small, different MIDI files to a temporary folder and runs it
on 1,000, 10,000 and 100,000 of them. Prints a table in Markdown.

    python3 bench/corpus.py build/cpu/bin/paprep [--files 1000 10000 100000] [--notes 100] [--jobs 2] [--folder /tmp]
"""

import argparse
import os
import pathlib
import random
import re
import struct
import tempfile
import time


def melody(draw, notes):
    """A type 0 file, a tick a millisecond: one note after the other."""
    events = bytearray()
    for pitch, ticks in zip(draw.randbytes(notes), draw.randbytes(notes)):
        pitch = 21 + pitch % 88
        events += bytes((0, 0x90, pitch, 32 + ticks % 64, 20 + ticks % 100, 0x80, pitch, 0))
    events += b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, 500, b"MTrk", len(events)) + events


def run(paprep, midi, out, jobs):
    """Seconds, processor seconds with its workers', and peak memory in bytes without them, of one run."""
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)]
    began, most = time.monotonic(), 0
    pid = os.posix_spawn(paprep, [paprep, midi, out, "--jobs", str(jobs)], os.environ, file_actions=null)
    # the kernel's own high-water mark, as ru_maxrss counts Python's memory from before the program was started
    while True:
        with open(f"/proc/{pid}/status") as f:
            found = re.search(r"VmHWM:\s*(\d+) kB", f.read())
        most = max(most, int(found[1]) * 1024 if found else 0)
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    if status:
        raise SystemExit(f"{paprep}: status {status}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime, most


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paprep")
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--notes", type=int, default=100, help="notes per file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="where the temporary folder is made")
    options = parser.parse_args()
    draw, written, last = random.Random(1), 0, None
    print("| files | tokens | seconds | processor ms per file | peak memory, MB | growth, bytes per file |")
    print("|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        midi, out = pathlib.Path(folder, "midi"), pathlib.Path(folder, "out")
        for files in sorted(options.files):
            for number in range(written, files):
                path = midi / f"{number // 1000:04}/{number:07}.mid"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(melody(draw, options.notes))
            written = files
            seconds, processor, memory = run(options.paprep, midi, out, options.jobs)
            tokens = sum(path.stat().st_size for path in out.glob("*.safetensors")) // 2
            more = f"{(memory - last[1]) / (files - last[0]):.0f}" if last else ""
            print(f"| {files:,} | {tokens:,} | {seconds:.1f} | {1000 * processor / files:.2f} | {memory / 1e6:.1f} | "
                  f"{more} |", flush=True)
            last = files, memory


if __name__ == "__main__":
    main()
