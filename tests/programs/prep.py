"""What the tests of paprep share: MIDI files of a few notes, a scratch folder, and running the program."""

import csv
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

import programs

PAPREP = os.path.join(os.environ["PA_BIN"], "paprep")


def midi(pitch=60, ms=500, kind=0, pedal=False):
    """A type 0 file of one note, a tick a millisecond."""
    down, up = (b"\0\xb0\x40\x7f", b"\x83\x60\xb0\x40\0") if pedal else (b"", b"")
    delta = bytes([0x80 | ms >> 7, ms & 127])
    events = down + bytes([0, 0x90, pitch, 64]) + delta + bytes([0x80, pitch, 0]) + up + b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, kind, 1, 500, b"MTrk", len(events)) + events


def tune(seed, notes=8, up=0, later=0):
    """A melody like no other with another seed; transposed by `up`, and its beginning moved by `later` ms."""
    draw = random.Random(seed)
    events = b""
    for i in range(notes):
        wait = 0 if i else later
        pitch = draw.randrange(30, 90) + up
        events += bytes([0x80 | wait >> 7, wait & 127, 0x90, pitch, 64, draw.randrange(50, 120), 0x80, pitch, 0])
    events += b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, 500, b"MTrk", len(events)) + events


def read_tokens(path):
    tensors, meta = programs.read_numbers(path)
    return tensors, meta | {"names": json.loads(meta["names"])}


class Paprep(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.midi, self.out = self.folder / "midi", self.folder / "out"
        self.midi.mkdir()

    def put(self, name, data=None):
        path = self.midi / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(midi() if data is None else data)

    def put_list(self, text, name="maestro-v9.csv"):
        (self.midi / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def run_paprep(self, *arguments, status=0, **more):
        done = subprocess.run([PAPREP, *map(str, arguments)], capture_output=True, text=True, timeout=120, **more)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def prepare(self, *arguments, status=0, **more):
        return self.run_paprep(self.midi, self.out, *arguments, status=status, **more)

    def expect_error(self, message, *arguments, status, **more):
        done = self.prepare(*arguments, status=status, **more)
        self.assertIn(message, done.stderr)
        return done

    def rejected(self):
        with open(self.out / "rejected.tsv", newline="", encoding="latin-1") as f:
            rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
        self.assertEqual(rows[0], ["file", "reason"])
        return dict(rows[1:])

    def names(self):
        return {s: read_tokens(self.out / f"{s}.safetensors")[1]["names"] for s in ("train", "validation", "test")}
