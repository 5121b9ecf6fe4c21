#!/usr/bin/env python3
"""Times patrain beside the PyTorch programs it re-does, alternating in one run on this machine. Call it through run.sh.

    compare.py [--bin DIR] [--tokens TOKENS.safetensors] [--models v1,v2] [--rounds N] [--generate v1,v3]
               [--prepare MIDI_DIR --seed-project DIR] [--json OUT]

Training: batch 1, prefix dropout 0.7, Adam, a whole step (windows drawn, forward, backward, update). Peers:
    published      perceiver_ar_pytorch 0.0.10 as its user trains it, float32
    best fp32      scaled_dot_product_attention, fused Adam, eager and torch.compile: the faster of the two
    best bf16      the same under bf16 autocast
    patrain        configs/MODEL.ini with global_batch 1, in the same precisions
Fairness: the same number of threads for all; one process at a time, the others wait without spinning; set-up,
compilation and the first steps are not timed; each round times every peer once, so that a slow minute of the machine
meets them all; the ratio is taken round by round and its median, least and most are printed. That all compute the same
is checked first: the loss of PyTorch's first weights on one batch by perceiver_ar_pytorch, by the SDPA form, and by
paeval --logits.
Generation: seconds a token by the original project's method, a full forward pass in float32 over a full window a token,
and by pagen as it comes (bf16 weights and caches), the mean of a window's tokens after a primer of P + 1, prefill
included.
Preparing: 100 files of MAESTRO by the original project's prep.py (its encode_midi and pickle, one process as published)
and by paprep.
"""
import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS = 3  # timed steps of patrain a round


def settings(name: str) -> dict:
    text = (ROOT / f"configs/{name}.ini").read_text()
    found = {}
    for key in ("context", "prefix", "dim", "heads", "dim_head", "depth", "perceive_depth", "ff_mult"):
        match = re.search(rf"^{key} = (\d+)", text, re.M)
        found[key] = int(match[1]) if match else {"dim_head": 64, "perceive_depth": 1, "ff_mult": 4}[key]
    return {**found, "prefix_dropout": 0.7}


class Torch:
    """A worker process; start() brings it up, time(what) runs that once."""

    def __init__(self, name, model, threads, form, precision="fp32", compile=False, weights="", warm=1):
        self.name = name
        options = dict(model=model, form=form, precision=precision, compile=compile, threads=threads,
                       weights=str(weights), warm=warm)
        # torch's threads spin while they wait inside a step; between steps the process sleeps on its input.
        self.process = subprocess.Popen([sys.executable, HERE / "torch_worker.py", json.dumps(options)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("READY"):
                self.loss = json.loads(line[6:])["loss"]
                return
        raise RuntimeError(f"{name}: the worker ended")

    def time(self, what: str) -> float:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["seconds"]
        raise RuntimeError(f"{self.name}: the worker ended")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Patrain:
    def __init__(self, name, config, precision, options, folder):
        self.name, self.folder = name, folder
        self.command = [options.bin / "patrain", ROOT / f"configs/{config}.ini", f"data.train={options.tokens}",
                        "data.validation=", "train.global_batch=1", "--device", "cpu", f"train.steps={STEPS + 1}",
                        "log.eval_every=0", "checkpoint.every=0", "--precision", precision, "--fresh", "--run-dir",
                        folder / "run"]

    def time(self, what: str) -> float:
        run("rm", "-rf", self.folder / "run")
        run(*self.command)
        seconds = [json.loads(line)["seconds"] for line in (self.folder / "run/metrics.jsonl").read_text().splitlines()]
        return statistics.median(seconds[1:])  # the first one makes oneDNN's primitives

    def close(self):
        pass


def check_losses(config: str, model: dict, options, folder: Path) -> dict:
    """The loss of the same weights on the same tokens, three ways."""
    published = Torch("published", model, options.threads, "published", weights=folder / "weights.safetensors", warm=0)
    best = Torch("best", model, options.threads, "best", warm=0)
    published.close(), best.close()
    tensors = load_file(folder / "weights.safetensors")
    x = tensors.pop("x")
    save_file({k[len("model."):]: v for k, v in tensors.items()}, folder / "model.safetensors")
    save_file({"x": x}, folder / "x.safetensors")
    run(options.bin / "paeval", folder / "model.safetensors", folder / "x.safetensors", "--config",
        ROOT / f"configs/{config}.ini", "--precision", "fp32", "--device", "cpu", "--logits",
        folder / "logits.safetensors")
    logits = load_file(folder / "logits.safetensors")["logits"].astype(np.float64)[0]
    labels = x[0, model["prefix"]:]
    top = logits.max(axis=-1)
    nats = np.log(np.exp(logits - top[:, None]).sum(axis=-1)) + top - logits[np.arange(len(labels)), labels]
    ours = nats[labels != 0].mean()
    for name, loss in (("sdpa", best.loss), ("patrain", ours)):
        if abs(loss - published.loss) > 1e-4 * published.loss:
            raise RuntimeError(f"{config}: loss by {name} {loss}, published {published.loss}")
    return {"published": published.loss, "sdpa": best.loss, "patrain": float(ours)}


def alternate(peers: list, rounds: int, what: str, bases: list) -> dict:
    """Seconds by peer, and their ratios to each base's of the same round."""
    seconds = {p.name: [] for p in peers}
    for r in range(rounds):
        for p in peers:
            seconds[p.name].append(p.time(what))
        print(f"  round {r + 1}: " + ", ".join(f"{n} {s[-1]:.3f} s" for n, s in seconds.items()), flush=True)
    for p in peers:
        p.close()
    table = {}
    for name, s in seconds.items():
        table[name] = {"median": statistics.median(s), "least": min(s), "most": max(s), "ratio": {}}
        for base in bases:
            ratio = [a / b for a, b in zip(s, seconds[base])]
            table[name]["ratio"][base] = {"median": statistics.median(ratio), "least": min(ratio), "most": max(ratio)}
    return table


def show(title: str, table: dict, bases: list) -> None:
    print(f"\n{title}\n| | median | least | most |" + "".join(f" as many times {b}'s |" for b in bases) + "\n" +
          "|---" * (4 + len(bases)) + "|")
    for name, t in table.items():
        ratios = [f" {r['median']:.2f} ({r['least']:.2f}–{r['most']:.2f}) |" for r in t["ratio"].values()]
        print(f"| {name} | {t['median']:.4g} s | {t['least']:.4g} | {t['most']:.4g} |{''.join(ratios)}", flush=True)


def has_bf16() -> bool:
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def precisions(options) -> list:
    if options.precisions:
        return options.precisions.split(",")
    return ["fp32", "bf16"] if has_bf16() or options.bf16 else ["fp32"]


def training(config: str, options, folder: Path) -> dict:
    model = settings(config)
    print(f"\n{config}: {model}", flush=True)
    losses = check_losses(config, model, options, folder)
    print(f"  the same loss: {losses}", flush=True)
    peers = []
    forms = [("published fp32", "published", "fp32", False)] if config not in options.skip_published else []
    for precision in precisions(options):
        forms += [(f"best {precision} eager", "best", precision, False),
                  (f"best {precision} compiled", "best", precision, True)]
    for name, form, precision, compiled in forms:
        peers.append(Torch(name, model, options.threads, form, precision, compiled, warm=2))
    bases = [f"patrain {precision}" for precision in precisions(options)]
    peers += [Patrain(name, config, name[-4:], options, folder) for name in bases]
    table = alternate(peers, options.rounds, "step", bases)
    show(f"{config}, a training step", table, bases)
    return {"losses": losses, "step": table}


class Pagen:
    def __init__(self, config, model, options, folder):
        self.name, self.options, self.folder, self.model = "pagen", options, folder, model
        run("rm", "-rf", folder / "run")
        run(options.bin / "patrain", ROOT / f"configs/{config}.ini", f"data.train={options.tokens}", "data.validation=",
            "train.global_batch=1", "train.steps=1", "optimizer.warmup=0", "log.eval_every=0", "--device", "cpu",
            "--fresh", "--run-dir", folder / "run")

    def time(self, what: str) -> float:
        """Seconds a token from a primer of P + 1 tokens to the end of the window."""
        length = self.model["context"] - self.model["prefix"] - 1
        said = run(self.options.bin / "pagen", self.folder / "run", "--primer", f"{self.options.tokens}:0",
                   "--prime-tokens", self.model["prefix"] + 1, "--length-tokens", length, "--output",
                   self.folder / "out.safetensors", "--seed", "1", "--device", "cpu")
        made, took = re.search(r"^(\d+) tokens in ([\d.]+) s", said, re.M).groups()
        return float(took) / int(made)

    def close(self):
        pass


def generation(config: str, options, folder: Path) -> dict:
    model = settings(config)
    print(f"\n{config}, seconds a generated token: a full pass in float32, or pagen's mean over a window in bf16",
          flush=True)
    peers = [Torch("full pass, published", model, options.threads, "published", warm=0),
             Torch("full pass, sdpa", model, options.threads, "best", warm=0), Pagen(config, model, options, folder)]
    table = alternate(peers, options.rounds, "forward", ["pagen"])
    show(f"{config}, seconds a generated token", table, ["pagen"])
    return table


class SeedPrep:
    def __init__(self, files, project):
        self.name = "prep.py"
        code = ("import sys, time, pickle, io\nsys.path.insert(0, sys.argv[1])\nimport prep\nbegan = "
                "time.perf_counter()\n"
                "for f in sys.argv[2:]:\n    pickle.dump(prep.encode_midi(f), io.BytesIO())\n"
                "print('SECONDS', time.perf_counter() - began)\n")
        self.command = [sys.executable, "-c", code, project, *files]

    def time(self, what: str) -> float:
        return float(re.search(r"^SECONDS ([\d.]+)", run(*self.command), re.M)[1])

    def close(self):
        pass


class Paprep:
    def __init__(self, options, folder):
        self.name, self.options, self.folder = "paprep", options, folder

    def time(self, what: str) -> float:
        run("rm", "-rf", self.folder / "tokens")
        began = time.perf_counter()
        run(self.options.bin / "paprep", self.folder / "midi", self.folder / "tokens", "--encoding", "midi-neural")
        return time.perf_counter() - began

    def close(self):
        pass


def preparing(options, folder: Path) -> dict:
    files = sorted(Path(options.prepare).rglob("*.midi"))
    files = random.Random(1).sample(files, 100)
    (folder / "midi").mkdir()
    for i, f in enumerate(files):
        (folder / "midi" / f"{i:03}.midi").write_bytes(f.read_bytes())
    copies = sorted((folder / "midi").iterdir())
    table = alternate([SeedPrep(copies, options.seed_project), Paprep(options, folder)], min(options.rounds, 3), "",
                      ["paprep"])
    show("Preparing 100 MAESTRO files, midi-neural", table, ["paprep"])
    return table


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", type=Path, default=ROOT / "build/cpu/bin")
    p.add_argument("--tokens", type=Path, required=True,
                   help="a token file with pieces longer than the models' windows")
    p.add_argument("--models", default="v1,v2")
    p.add_argument("--skip-published", default="v3", help="models whose published form takes too long")
    p.add_argument("--generate", default="v1")
    p.add_argument("--prepare", default="", help="MAESTRO's folder")
    p.add_argument("--seed-project", default="", help="a checkout of tvergho/perceiver-ar-piano")
    p.add_argument("--precisions", default="",
                   help="of the best forms and of patrain: fp32, bf16 or both (default: what the processor has)")
    p.add_argument("--bf16", action="store_true",
                   help="bf16 autocast of PyTorch even where the processor has no bf16 products")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--json", type=Path)
    options = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of all programs
    options.bin, options.tokens = options.bin.resolve(), options.tokens.resolve()
    options.skip_published = options.skip_published.split(",")
    result = {"training": {}, "generation": {}}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in filter(None, options.models.split(",")):
            result["training"][name] = training(name, options, folder)
        for name in filter(None, options.generate.split(",")):
            result["generation"][name] = generation(name, options, folder)
        if options.prepare:
            result["preparing"] = preparing(options, folder)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
