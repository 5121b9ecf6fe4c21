"""A tiny checkpoint that patrain makes from made-up pieces, and the programs run on it: for the tests of paeval and
pagen.

They are skipped (exit 77) where one of the programs is not built. PA_BIN is their folder, PA_DEVICE the device.
"""
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import programs

BIN = Path(os.environ["PA_BIN"]).resolve()
DEVICE = os.environ.get("PA_DEVICE", "cpu")
CONTEXT, PREFIX = 64, 24
LATENTS = CONTEXT - PREFIX

if not all((BIN / program).exists() for program in ("paprep", "patrain", "paeval", "pagen")):
    print(f"skipped: {BIN} does not hold all programs")
    sys.exit(77)


def command(program, *arguments):
    on = [] if program == "paprep" else ["--device", DEVICE]
    return [str(BIN / program), *map(str, arguments), *on]


def run(program, *arguments, status=0, env=None):
    """What it prints; what it says on stderr where the status is another than 0."""
    done = subprocess.run(command(program, *arguments), capture_output=True, text=True, timeout=120,
                          env=os.environ | (env or {}))
    if done.returncode != status:
        raise AssertionError(f"{done.args}\nexit {done.returncode}, expected {status}\n{done.stdout}{done.stderr}")
    return done.stdout if status == 0 else done.stderr


def run_plain(program, *arguments):
    """The same without a device, where nothing is computed."""
    line = [str(BIN / program), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout


def save(path, tensors, meta=None):
    """tensors: name -> (type, shape, values)."""
    programs.write_safetensors(path, [(name, *tensor) for name, tensor in tensors.items()], meta or {})


def pieces(path):
    t, _ = programs.read_numbers(path)
    return [list(t["tokens"][a:b]) for a, b in zip(t["offsets"], t["offsets"][1:])]


def seconds(tokens):
    return sum(t - 255 for t in tokens if 256 <= t < 356) / 100


def events(midi):
    return [line.split() for line in run("paprep", "--events", midi).splitlines() if line[0] != "#"]


def variable_length(n):
    groups = [n & 127]
    while n := n >> 7:
        groups.append(n & 127 | 128)
    return bytes(reversed(groups))


def midi(notes, seconds):
    """A type-0 file of notes (start, end, pitch, velocity) whose tick is a millisecond, the pedal down for half of each
    second."""
    played = [(1000 * s + half, 0, bytes([0xB0, 64, down])) for s in range(seconds)
              for half, down in ((0, 127), (500, 0))]
    for start, end, pitch, velocity in notes:
        played += [(round(1000 * start), 2, bytes([0x90, pitch, velocity])),
                   (round(1000 * end), 1, bytes([0x80, pitch, 0]))]
    track, now = b"", 0
    for at, _, event in sorted(played):
        track += variable_length(at - now) + event
        now = at
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500) + b"MTrk" + struct.pack(">I", len(track)) + track


def make(folder):
    """A corpus, its tokens in both encodings, and a checkpoint."""
    rng = random.Random(3)
    rows = ["canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"]
    (folder / "midi").mkdir()
    for i in range(6):
        notes, at = [], 0.0
        for _ in range(60 + 20 * i):
            at += rng.choice([0.0, 0.1, 0.25, 0.4])
            notes.append((at, at + rng.uniform(0.1, 0.9), 40 + rng.randrange(40), rng.randrange(30, 100)))
        (folder / "midi" / f"{i}.mid").write_bytes(midi(notes, int(at) + 2))
        rows.append(f"Nobody,Piece {i},{('train', 'validation')[i % 2]},2004,{i}.mid,{i}.wav,40.0")
    (folder / "midi" / "maestro-v3.0.0.csv").write_text("\n".join(rows) + "\n")
    run("paprep", folder / "midi", folder / "tokens")
    run("paprep", folder / "midi", folder / "neural", "--encoding", "midi-neural")
    (folder / "c.ini").write_text(f"""[model]
context = {CONTEXT}
prefix = {PREFIX}
dim = 32
heads = 2
dim_head = 16
depth = 1
[data]
train = {folder}/tokens/train.safetensors
validation = {folder}/tokens/validation.safetensors
[train]
steps = 3
global_batch = 2
[optimizer]
lr = 0.01
warmup = 1
""")
    run("patrain", folder / "c.ini", "--run-dir", folder / "run")


class Program(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.at = Path(cls.folder.name)
        make(cls.at)
        cls.run_dir, cls.tokens = cls.at / "run", cls.at / "tokens" / "validation.safetensors"
        cls.primer = cls.at / "midi" / "1.mid"

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def out(self, name):
        return self.at / f"{self._testMethodName}-{name}"

    def generate(self, name, *arguments, primer=None):
        """pagen's tokens, one list a continuation, without the primer."""
        out = self.out(name)
        run("pagen", self.run_dir, "--primer", primer or self.primer, "--output", out, "--without-primer",
            "--precision", "fp32", *arguments)
        return pieces(out)

    def refused(self, program, status, says, *arguments):
        said = run(program, *arguments, status=status)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, said)
