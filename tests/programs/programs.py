"""What the tests of patrain share, in Python's standard library: token files and weights written by hand, runs of the
program, its files."""

import faulthandler
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

PATRAIN = os.path.join(os.environ["PA_BIN"], "patrain")
# ctest ends a test that waits in vain (scripts/test.sh); a minute before that, this says where it waits.
faulthandler.dump_traceback_later(840)

KINDS = {"U16": "H", "I64": "q", "F32": "f"}

# A model small enough for hundreds of steps a second: 24 latents of windows of 32 tokens.
TINY = """
[model]
context = 32
prefix = 8
dim = 16
heads = 2
dim_head = 8
depth = 2
prefix_dropout = 0.5
[train]
global_batch = 4
steps = 40
[optimizer]
lr = 3e-3
schedule = cosine
warmup = 0
[checkpoint]
every = 10
[log]
every = 1
eval_every = 10
"""


def crc32c(data, table=[]):
    """Castagnoli's CRC-32, a byte at a time."""
    if not table:
        for c in range(256):
            for _ in range(8):
                c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
            table.append(c)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def write_safetensors(path, tensors, meta):
    """tensors: (name, type, shape, values or bytes), the widest types first. The header has no checksum."""
    header, data = {}, b""
    for name, kind, shape, values in tensors:
        raw = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{KINDS[kind]}", *values)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header["__metadata__"] = {k: v for k, v in meta.items() if k != "header_crc32c"} | {"crc32c": f"{crc32c(data):08x}"}
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    """({name: (type, shape, bytes)}, metadata)"""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    meta = header.pop("__metadata__", {})
    tensors = {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        tensors[name] = (t["dtype"], t["shape"], data[8 + length + begin : 8 + length + end])
    return tensors, meta


def read_numbers(path):
    """({name: numbers}, metadata)"""
    tensors, meta = read_safetensors(path)
    numbers = {name: [x for (x,) in struct.iter_unpack("<" + KINDS[kind], data)]
               for name, (kind, _, data) in tensors.items()}
    return numbers, meta


def write_tokens(path, lengths, encoding="performance", seed=1):
    """A token file of made-up pieces: a walk over a few notes, so that there is something to learn."""
    rng = random.Random(seed)
    pieces = []
    for length in lengths:
        piece, pitch = [], 60
        while len(piece) < length:
            pitch = max(30, min(90, pitch + rng.choice([-2, -1, 1, 2])))
            piece += [356 + 16, pitch, 256 + 24, 128 + pitch]
        pieces.append(piece[:length])
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    tokens = [t for piece in pieces for t in piece]
    n = len(pieces)
    tensors = [
        ("offsets", "I64", [n + 1], offsets),
        ("notes", "I64", [n], [len(p) // 4 for p in pieces]),
        ("seconds", "F32", [n], [len(p) / 16 for p in pieces]),
        ("tokens", "U16", [len(tokens)], tokens),
    ]
    names = json.dumps([f"piece {i}" for i in range(n)])
    meta = {"format": "patrain-tokens-1", "encoding": encoding, "vocab": "390", "split": "train", "names": names}
    write_safetensors(path, tensors, meta)


def make_corpus(folder):
    """train.safetensors, validation.safetensors and tiny.ini in a folder."""
    write_tokens(folder / "train.safetensors", [30 + 17 * i for i in range(9)], seed=1)
    write_tokens(folder / "validation.safetensors", [70, 90, 20], seed=2)
    data = f"[data]\ntrain = {folder}/train.safetensors\nvalidation = {folder}/validation.safetensors\n"
    (folder / "tiny.ini").write_text(TINY + data)


class WithCorpus(unittest.TestCase):
    """A folder with that for all tests of a class, gone after them."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="patrain-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        make_corpus(cls.folder)

    def train(self, run, *arguments, status=0):
        """Runs to the end; what it says on stderr."""
        done = train(self.folder, run, *arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def train_ranks(self, ranks, run, *arguments, **more):
        """The same with several ranks of one thread, which meet at a file. more: their environment's."""
        line = [*command(self.folder, run, *arguments), "--rendezvous", f"{self.folder}/{run}.meet", "--world",
                str(ranks)]
        started = [
            subprocess.Popen([*line, "--rank", str(rank)], env=environment(OMP_NUM_THREADS="1", **more),
                             stderr=subprocess.PIPE, text=True)
            for rank in range(ranks)
        ]
        said = [process.communicate(timeout=120)[1] for process in started]
        self.assertEqual([process.returncode for process in started], [0] * ranks, said)


def command(folder, run, *arguments):
    """patrain's command line on the tiny model, on two threads of the CPU."""
    return [PATRAIN, str(folder / "tiny.ini"), "--device", "cpu", "--run-dir", f"{folder}/{run}", *arguments]


def environment(**more):
    return os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"} | more


def train(folder, run, *arguments, timeout=120, **options):
    """Runs to the end; .returncode, .stdout and .stderr as text."""
    line = command(folder, run, *arguments)
    return subprocess.run(line, **({"env": environment()} | options), capture_output=True, text=True, timeout=timeout)


def metrics(run):
    """The lines of metrics.jsonl: of steps, of evaluations."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [m for m in lines if "loss" in m], [m for m in lines if "eval_loss" in m]


def losses(run):
    """What must agree to the bit between two runs: of each step in order, and of each evaluation."""
    steps, evaluations = metrics(run)
    return [(m["step"], m["loss"], m["lr"], m["grad_norm"]) for m in steps], [
        (m["step"], m["eval_loss"], *([m["eval_loss_ema"]] if "eval_loss_ema" in m else [])) for m in evaluations
    ]


def checkpoint(run, which="latest"):
    """All tensors of a checkpoint, weights and moments, as bytes."""
    return [read_safetensors(run / which / f"{name}.safetensors")[0] for name in ("model", "state")]
