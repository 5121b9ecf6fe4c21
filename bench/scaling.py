#!/usr/bin/env python3
"""How training scales over ranks: measured on this machine, and by a model on more devices than are here.

    bench/scaling.py [--bin build/cpu/bin] [--ranks 1,2] [--steps 12] [--buckets 65536,1048576]

Strong scaling: the same 8 windows a step. Weak: 4 windows a rank. One thread a rank, a model of dim
256 and 5 layers at half its context, made-up tokens, ranks joined by --rendezvous. Of each run the median step,
the share of it that rank 0 waits for others, and the bytes it sends a step against the least that any algorithm sends
for its gradients, 2 (W - 1) / W of them. Standard library only.
"""

import argparse
import json
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import tempfile

CONFIG = """
[model]
context = 512
prefix = 256
dim = 256
heads = 4
depth = 5
prefix_dropout = 0.5
position = rotary
[data]
train = {folder}/train.safetensors
validation =
sampling = token
[train]
micro_batch = 1
[optimizer]
warmup = 1
[checkpoint]
every = 0
"""

# What the model is asked about besides this machine: the published H100 figures below, and each model's flop and bytes
# of gradients as bench/counts.txt has them. 989e12 flop/s in bf16 is NVIDIA's data sheet of the H100 SXM; that a step
# reaches 40 % of it is assumed, since none was at hand: the first figure to replace by a measured one. Bus, bytes/s:
# 476e9 within a machine of 8 (nccl-tests issue 290); between machines 46e9 for each NDR adapter (the same issue), eight
# of them. 47e-6 s for the smallest sum over two machines, whole (nccl issue 1244); taken within a machine too, and
# however many devices there are.
H100, MFU = 989e12, 0.40
WITHIN, BETWEEN, LATENCY = 476e9, 8 * 46e9, 47e-6
COUNTS = pathlib.Path(__file__).resolve().parent.parent / "bench/counts.txt"


def counts():
    """(name, flop of a window, bytes of gradients) of each model."""
    for part in re.split(r"^(?=v\d, one window$)", COUNTS.read_text(), flags=re.M)[1:]:
        flop = sum(int(number) for number in re.findall(r" (\d+) (?:forward|backward)", part.splitlines()[1]))
        yield part[:2], flop, 1e6 * float(re.search(r"gradients +([\d.]+) MB", part)[1])


def write_tokens(path):
    rng = random.Random(1)
    tokens = [rng.randrange(388) for _ in range(200_000)]
    parts = [("offsets", "I64", struct.pack("<2q", 0, len(tokens))), ("notes", "I64", struct.pack("<q", 1))]
    parts += [("seconds", "F32", struct.pack("<f", 1)), ("tokens", "U16", struct.pack(f"<{len(tokens)}H", *tokens))]
    header, data = {}, b""
    for name, kind, raw in parts:
        shape = [len(raw) // {"I64": 8, "F32": 4, "U16": 2}[kind]]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header["__metadata__"] = {"format": "patrain-tokens-1", "encoding": "performance", "vocab": "390", "split": "train",
                              "names": '["made up"]'}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Bench:
    def __init__(self, programs, folder, steps):
        self.programs, self.folder, self.steps, self.runs = pathlib.Path(programs).resolve(), folder, steps, 0
        write_tokens(folder / "train.safetensors")
        (folder / "c.ini").write_text(CONFIG.format(folder=folder))

    def start(self, ranks, line, **environment):
        """All ranks of a command; what rank 0 printed."""
        more = {"OMP_NUM_THREADS": "1", **environment}
        meet = ["--rendezvous", str(self.folder / "meet"), "--world", str(ranks), "--rank"]
        each = [subprocess.Popen([*line, *meet, str(r)], env=os.environ | more, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
                for r in range(ranks)]
        said = [process.communicate() for process in each]
        if any(process.returncode for process in each):
            raise SystemExit(f"scaling.py: {' '.join(line)}: {said[0][1]}")
        return said[0][0]

    def train(self, ranks, windows, *settings, **environment):
        """Returns seconds of a run's median step, bytes rank 0 sent in it, seconds rank 0 waited in it."""
        self.runs += 1
        run = self.folder / f"run-{self.runs}"
        line = [self.programs / "patrain", str(self.folder / "c.ini"), "--device", "cpu", "--run-dir", str(run),
                f"train.steps={self.steps}"]
        self.start(ranks, [str(word) for word in line] + [f"train.global_batch={windows}", *settings], **environment)
        steps = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()][2:]
        median = lambda key: statistics.median(step.get(key, 0) for step in steps)
        return median("seconds"), median("sent_bytes"), median("waited")

    def bus(self, ranks, floats, bucket):
        """Seconds and bytes/s of a sum over ranks with nothing else to do."""
        said = self.start(ranks, [str(self.programs / "pabench_ranks"), str(floats)], PATRAIN_BUCKET=str(bucket))
        return float(said.split()[1]), float(said.split()[2]) * 1e9


def least(ranks, gradients):
    return 2 * (ranks - 1) / ranks * gradients


def efficiency(ranks, step, gradients, bucket, bus, latency):
    """Buckets are summed one after the other while the backward pass, two thirds of a step, makes them at a steady
    rate. What is left when it ends is what a step has to wait for: the last bucket at least. latency: seconds of the
    smallest sum, to its end."""
    if ranks == 1:
        return 1.0
    buckets = max(1, round(gradients / bucket))
    one = least(ranks, gradients / buckets) / bus + latency
    made, done = 0.0, 0.0
    for _ in range(buckets):
        made += 2 / 3 * step / buckets
        done = max(done, made) + one
    return step / (step + max(0.0, done - made))


def measured(bench, ranks, buckets):
    floats = 1 << 20
    print("\n## Ranks here\n\n| ranks | windows a step | zero | seconds a step | speed-up | efficiency | waited | "
          "bytes a rank | of the least |\n"
          "|---|---|---|---|---|---|---|---|---|")
    gradients = base = None
    for kind in ("strong", "weak"):
        for count in ranks:
            windows = 8 if kind == "strong" else 4 * count
            for zero in (0, 1) if count > 1 else (0,):
                seconds, sent, waited = bench.train(count, windows, f"train.zero={zero}")
                if count == ranks[0]:
                    base = seconds / windows, count
                gain = base[0] / (seconds / windows)
                if gradients is None and count > 1:
                    gradients = 4 * parameters(bench)
                bound = f"{sent:.0f} | {sent / least(count, gradients):.4f}" if count > 1 else "0 | "
                print(f"| {count} | {windows} | {zero} | {seconds:.3f} | {gain:.2f} | {gain * base[1] / count:.0%} | "
                      f"{waited / seconds:.1%} | {bound} |",
                      flush=True)
    most = max(ranks)
    if most > 1:
        print("\n| bytes a bucket | only the sum, GB/s | seconds a step | waited |\n|---|---|---|---|")
        for bucket in buckets:
            idle = bench.bus(most, 4 * floats, bucket)[1]
            seconds, _, waited = bench.train(most, 8, PATRAIN_BUCKET=str(bucket))
            print(f"| {bucket} | {idle / 1e9:.2f} | {seconds:.3f} | {waited / seconds:.1%} |", flush=True)
    return gradients


def parameters(bench):
    """Floats of the arena that ranks sum: the run's last checkpoint has their shapes, each tensor rounded up to 16."""
    data = (bench.folder / "run-1/latest/model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    sizes = [t["data_offsets"][1] - t["data_offsets"][0]
             for name, t in header.items() if name not in ("__metadata__", "rotary_pos_emb.inv_freq")]
    return sum((size // 4 + 15) // 16 * 16 for size in sizes)


def modelled(bench, gradients, ranks):
    bucket, gpu_bucket = 4 << 20, 16 << 20  # bytes: BUCKET in host/ranks/comm.c, CUDA_BUCKET in cuda/sizes.h
    rows = []
    if gradients and max(ranks) > 1:
        step = bench.train(1, 4)[0]
        here, latency = bench.bus(2, 4 << 20, bucket)[1], bench.bus(2, 32, bucket)[0]
        name = (f"this machine's cores, 4 windows each: step {step:.3f} s, "
                f"sockets {here / 1e9:.2f} GB/s, {latency * 1e6:.0f} us")
        rows.append((name, step, gradients, bucket, here, here, latency))
    for name, flop, size in counts():
        for windows in (1, 8):
            step = windows * flop / H100 / MFU
            for what, bytes_sent in [("", size), (", sums in bf16", size / 2)][: 2 if windows == 1 else 1]:
                rows.append((f"{name}, {windows} an H100{what}: step {step * 1e3:.1f} ms", step, bytes_sent,
                             gpu_bucket * bytes_sent / size, WITHIN, BETWEEN, LATENCY))
    print("\n## Model: efficiency of weak scaling\n\n| model, windows a device | gradients | 8 | 64 | 512 "
          "|\n|---|---|---|---|---|")
    for name, step, size, bucket, within, between, latency in rows:
        cells = " | ".join(f"{efficiency(n, step, size, bucket, within if n <= 8 else between, latency):.0%}"
                           for n in (8, 64, 512))
        print(f"| {name} | {size / 1e6:.0f} MB | {cells} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/cpu/bin")
    parser.add_argument("--ranks", default="1,2", help="no more than cores")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--buckets", default="65536,262144,1048576,4194304,16777216")
    options = parser.parse_args()
    ranks = [int(count) for count in options.ranks.split(",")]
    with tempfile.TemporaryDirectory(prefix="patrain-scaling-") as folder:
        bench = Bench(options.bin, pathlib.Path(folder), options.steps)
        gradients = measured(bench, ranks, [int(bucket) for bucket in options.buckets.split(",")])
        modelled(bench, gradients, ranks)


if __name__ == "__main__":
    main()
