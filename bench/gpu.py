"""Tests and measures a bundle on this machine's GPU, in three calls (a, b, c) of a few minutes. Called by gpu.sh;
Python 3.8 or newer, no package. PyTorch, perceiver_ar_pytorch's needs and compute-sanitizer are used where they are.
Every part has a time limit and its log is kept; one that fails is reported, and the next one runs.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import sys
import time
from pathlib import Path

from gpu_run import ROOT, Outcome, Run, Stop, has_gpu, library_folders, machine
from gpu_torch import Torch, missing

WINDOWS = 962  # of an epoch: MAESTRO's training pieces, one window each
TINY = ("model.context=128", "model.prefix=48", "model.dim=32", "model.heads=1", "model.depth=1")
LOSS_APART = 0.01  # of a loss, between bf16 or fp16 on a GPU and the CPU


def training_line(r: Run, model: str, program: Path, device: str, folder: Path, steps: int, *more) -> list:
    return [program, ROOT / f"configs/{model}.ini", f"data.train={ROOT}/data/train.safetensors", "data.validation=",
            "--device", device, "--fresh", "--run-dir", folder, f"train.steps={steps}", "train.epochs=0",
            "log.eval_every=0", "log.sample_every=0", "checkpoint.every=0", *(TINY if r.o.smoke else ()), *more]


def steps_of(folder: Path) -> list:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [m for m in lines if "loss" in m]


# ---- a: are the kernels right, and what does a step consist of


def gate(r: Run) -> None:
    """Every operation against float64, in the types it is used in. Nothing else is worth measuring if this fails."""
    names = ("test_cuda_ops", "test_golden") if r.o.smoke else ("test_cuda_ops", "test_cuda_attention", "test_golden")
    keep = r"^\[  FAILED  \].*|^.*is off by.*|^.*: error: .*"
    done = r.at_once([(name, [ROOT / "bin" / name], 40, {"OMP_NUM_THREADS": "4"}, keep) for name in names])
    wrong = [line for o in done for line in re.findall(keep, o.text, re.M)]
    if wrong:
        r.sections.append("## Operations that are wrong\n\n```\n" + "\n".join(wrong[:60]) + "\n```")
    if any(o.state.startswith("FAILED: exit") for o in done):
        raise Stop("operations are wrong")


def losses(r: Run) -> None:
    """Three steps of v1, v3 and v4 on both devices."""
    models = ("v1",) if r.o.smoke else ("v1", "v3", "v4")
    one = ("train.global_batch=1", "train.micro_batch=1")
    cpu, rows, wrong = {}, [], []
    threads = str(max(2, (os.cpu_count() or 2) // len(models)))
    for m in models:
        line = training_line(r, m, ROOT / "bin/patrain", "cpu", r.work / f"{m}-cpu", 3, "--no-save", *one)
        cpu[m] = r.start(f"{m} on the CPU", ["nice", *line], {"OMP_NUM_THREADS": threads})
    for m in models:
        line = training_line(r, m, ROOT / "bin/patrain", r.o.device, r.work / m, 3, *one)  # saved, for generation
        r.command(f"{m}, three steps", line, 30)
    for m in models:
        r.finish(f"{m} on the CPU", *cpu[m], 60)
        try:
            pairs = [(a["loss"], b["loss"]) for a, b in zip(steps_of(r.work / m), steps_of(r.work / f"{m}-cpu"))]
        except OSError:
            pairs = []
        if not pairs:
            continue
        rows.append(f"| {m} | " + " | ".join(f"{a:.4f} {b:.4f}" for a, b in pairs) + " |")
        if not all(abs(a - b) <= LOSS_APART * b for a, b in pairs):
            wrong.append(m)
    head = ["## Loss of three steps, GPU and CPU", "", "| model | step 1 | 2 | 3 |", "|---|---|---|---|"]
    r.sections.append("\n".join(head + rows))
    if wrong:
        raise Stop(f"the loss of {' and '.join(wrong)} differs from the CPU's by more than {100 * LOSS_APART:.0f} %")


def table_of(r: Run, name: str, title: str, *arguments, limit: float) -> None:
    line = [ROOT / "bin/pabench", "--device", r.o.device, "--json", r.work / f"{name}.json", *arguments]
    done = r.command(name, line, limit)
    if done.ok:
        text = done.text[done.text.rfind("\n", 0, done.text.find("Roofs")) + 1:].strip()
        r.sections.append(f"## {title}\n\n```\n{text}\n```")
        if "WRONG" in text:
            r.note(f"{name}: errors", Outcome("FAILED: rows are marked WRONG"))


def attention(r: Run) -> None:
    only = "v1 layernorm_fwd" if r.o.smoke else "v[34] attention_[fb]"
    more = ("--quick", "--filter", only, "--precision", "fp32" if r.o.smoke else "bf16")
    table_of(r, "attention", "Attention: error and time of each implementation", *more, limit=30)


def traces(r: Run) -> None:
    """One step without capture, by operation and shape."""
    for m in ("v1",) if r.o.smoke else ("v3", "v4"):
        line = training_line(r, m, ROOT / "bin/patrain", r.o.device, r.work / f"{m}-traced", 6, "--no-save",
                             "train.global_batch=1", "train.micro_batch=1")
        r.command(f"trace {m}", line, 20, {"PATRAIN_TRACE": str(r.work / f"trace-{m}")})
        text = r.work / f"trace-{m}-step.txt"
        if text.exists():
            log = (r.work / f"trace-{m}.log").read_text(errors="replace")
            said = re.findall(r"^attention.*", log, re.M)
            said += [text.read_text().rstrip()]
            r.sections.append(f"## A step of {m}, batch 1\n\n```\n" + "\n".join(said) + "\n```")


def generate(r: Run, folder: Path, length: int, env: dict = {}) -> None:
    model = "v1" if r.o.smoke else "v3"
    length, prime = (40, 49) if r.o.smoke else (length, 1025)
    if not (folder / "latest").exists():
        r.note("generation", Outcome("left out: there is no checkpoint to generate from"))
        return
    line = [ROOT / "bin/pagen", folder, "--device", r.o.device, "--primer", f"{ROOT}/data/train.safetensors:0",
            "--prime-tokens", prime, "--length-tokens", length, "--output", r.work / "made.safetensors", "--seed", "1"]
    done = r.command("generation", line, 60, env)
    found = re.search(r"^(\d+) tokens in ([\d.]+) s, (\d+) tokens/s", done.text, re.M)
    if done.ok and found:
        text = (f"## Generation\n\n{model}: {found[1]} tokens in {found[2]} s, {found[3]} a second, prefill and "
                "refills of the window included.")
        table = r.work / "trace-token.txt"
        r.sections.append(text + (f"\n\n```\n{table.read_text().rstrip()}\n```" if table.exists() else ""))


def tokens(r: Run) -> None:
    generate(r, r.work / ("v1" if r.o.smoke else "v3"), 1024, {"PATRAIN_TRACE": str(r.work / "trace")})


# ---- b: patrain beside PyTorch, generation, tests


def train(r: Run, model: str, program: Path, label: str, precision: str, batch: int, limit: float) -> dict:
    """Steps of a batch, which is halved into micro-batches until it fits. The median step after the first five."""
    micro, extra = batch, []
    while True:
        folder = r.work / f"{model}{label.replace(' ', '-')}-{batch}"
        line = training_line(r, model, program, r.o.device, folder, 6 if r.o.smoke else 60, "--no-save", "--precision",
                             precision, f"train.global_batch={batch}", f"train.micro_batch={micro}",
                             f"train.minutes={limit / 60:.3f}", *extra)
        done = r.command(f"train {model}{label} batch {batch}", line, 2 * limit + 20)
        if done.ok or "out of memory" not in done.text or extra:
            break
        if micro > 1:
            micro //= 2
        else:
            extra = ["train.recompute=true"]
    if not done.ok:
        return {}
    steps = [s for s in steps_of(folder) if "tokens_per_s" in s]
    timed = steps[5:] or steps
    seconds = statistics.median(s["seconds"] for s in timed)
    memory = re.findall(r"([\d.]+) GB", done.text)
    said = re.findall(r"^attention.*", done.text, re.M)
    return {"seconds": seconds, "tokens": statistics.median(s["tokens_per_s"] for s in timed), "micro": micro,
            "mfu": statistics.median(s["mfu"] or 0 for s in timed), "loss": (steps[0]["loss"], steps[-1]["loss"]),
            "memory": memory[-1] if memory else "", "recompute": bool(extra), "said": said}


CASES = (("v3", 1), ("v4", 1), ("v3", 2), ("v3", 8))  # in the order of their worth


def tests(r: Run) -> None:
    """While PyTorch compiles, whose workers stay for `versus`."""
    r.torch, r.absent = {}, missing(r)
    if r.absent:
        r.note("PyTorch", Outcome(f"left out: {r.absent}"))
    else:
        cases = (("v1", 4),) if r.o.smoke else CASES
        wanted = [(m, "best", b) for m, b in cases] + [(m, "cudnn", b) for m, b in cases[:1]]
        r.torch = {key: Torch(r, *key) for key in wanted}
    calls = []
    for folder, label in ((ROOT / "bin", ""), (ROOT / "bin-75", " as compute_75")):
        for program in sorted(folder.glob("test_*")):
            if not r.o.smoke or program.name in ("test_cuda_ops", "test_golden"):
                calls.append((program.name + label, [program], 110, {}, r"^\[  FAILED  \].*|^.*: error: .*"))
    r.at_once(calls)


def row_of(m: str, b: int, t: dict, peers: dict) -> str:
    row = [f"{m}, {b}"]
    if t:
        row[0] += f" (micro-batch {t['micro']}{', recomputed' if t['recompute'] else ''})" if t["micro"] != b else ""
        row += [f"{1e3 * t['seconds']:.2f}", f"{t['tokens']:.0f}", f"{100 * t['mfu']:.1f} %",
                f"{WINDOWS / b * t['seconds']:.2f}", t["memory"], f"{t['loss'][0]:.3f} → {t['loss'][1]:.3f}"]
    else:
        row += ["failed", "", "", "", "", ""]
    for form in ("best", "cudnn"):
        p = peers.get(form)
        row.append(f"{1e3 * p['seconds']:.2f} ({p['batch']})" if p else "–")
    times = [p["seconds"] / p["batch"] * b for p in peers.values() if p]
    row.append(f"{min(times) / t['seconds']:.2f}" if times and t else "–")
    return "| " + " | ".join(row) + " |"


def versus(r: Run) -> None:
    """In turn, so that both find the same clocks; a worker that is still compiling is waited for, then ended."""
    lines = ["## A training step, prefix dropout 0.7", "",
             "| model, batch | ms | tokens/s | MFU | s an epoch | GB | loss | PyTorch best, ms | cuDNN first | ratio |",
             "|---" * 10 + "|"]
    notes = ["", "Medians of whole steps. MFU: share of the largest matrix product that the same process measured.",
             "Of PyTorch: ms (batch). Ratio: its faster form, a window, by patrain's."]
    at, said = len(r.sections), []
    for m, b in (("v1", 4),) if r.o.smoke else CASES:
        t = r.ours[m, b] = train(r, m, ROOT / "bin/patrain", "", "auto", b, 5)
        peers = {form: r.torch[m, form, b].measure(r, 40) for form in ("best", "cudnn") if (m, form, b) in r.torch}
        lines.append(row_of(m, b, t, peers))
        said += [s for s in t.get("said", []) if s not in said]
        r.sections[at:] = ["\n".join(lines + notes + (["", "```", *said, "```"] if said else []))]


def long_generation(r: Run) -> None:
    model = "v1" if r.o.smoke else "v3"
    folder = r.work.parent / "a" / model  # of call a
    if not (folder / "latest").exists():
        folder = r.work / f"{model}-weights"
        line = training_line(r, model, ROOT / "bin/patrain", r.o.device, folder, 1, "train.global_batch=1")
        r.command(f"{model}, one step", line, 30)
    generate(r, folder, 8192)


def published(r: Run) -> None:
    if r.absent:
        return
    rows = []
    head = ["## PyTorch as published: float32, eager", "", "| model, batch | ms (batch) | ratio |", "|---|---|---|"]
    for m, b in (("v1", 4),) if r.o.smoke else CASES[:2]:
        if r.left() < 10:
            r.note(f"PyTorch published {m}", Outcome("left out: no time left"))
            continue
        p, t = Torch(r, m, "published", b).measure(r, 25), r.ours.get((m, b))
        if p and t:
            ratio = p["seconds"] / p["batch"] * b / t["seconds"]
            rows.append(f"| {m}, {b} | {1e3 * p['seconds']:.1f} ({p['batch']}) | {ratio:.2f} |")
    if rows:
        r.sections.append("\n".join(head + rows))


# ---- c: every operation, other paths, sanitizer


def operations(r: Run) -> None:
    more = ("--quick", "--filter", "v1 (layernorm_fwd|matmul y)") if r.o.smoke else ("--precision", "bf16")
    table_of(r, "pabench", "pabench", *more, limit=88)


def ladder(r: Run) -> None:
    """Attention's kernels in versions: what other tiles and launch bounds bring here."""
    done = r.command("ladder", [ROOT / "bin/pabench_attention", *(("--quick",) if r.o.smoke else ())], 30)
    if done.text.strip():
        r.sections.append(f"## Versions of the attention kernels\n\n```\n{done.text.strip()}\n```")


def turing(r: Run) -> None:
    """The T4's code, fp16, compiled by the driver from its PTX."""
    if not (ROOT / "bin-75").is_dir():
        r.note("T4 path", Outcome("left out: the bundle has no bin-75"))
        return
    t = train(r, "v1", ROOT / "bin-75/patrain", " as compute_75", "fp16", 8, 3)
    if t:
        r.sections.append("## The T4's path\n\n"
                          f"v1 in fp16 from compute_75 PTX: {1e3 * t['seconds']:.2f} ms a step of batch 8, "
                          f"{t['tokens']:.0f} tokens/s; loss {t['loss'][0]:.3f} → {t['loss'][1]:.3f}. This GPU's "
                          "speed says nothing of a T4's.")


def nccl(r: Run) -> None:
    """One rank over NCCL computes what one rank without computes."""
    if r.o.device != "cuda":
        r.note("one rank over NCCL", Outcome("left out: needs --device cuda"))
        return
    found = []
    for label, env in (("", {}), (" over NCCL", {"PATRAIN_NCCL": "1"})):
        folder = r.work / f"one-rank{label.replace(' ', '-')}"
        line = training_line(r, "v1", ROOT / "bin/patrain", "cuda", folder, 5, "--no-save", "train.deterministic=true")
        if not r.command(f"one rank{label}", line, 30, env).ok:
            return
        found.append([s["loss"] for s in steps_of(folder)])
    same = found[0] == found[1]
    r.note("the same losses over NCCL", Outcome("ok" if same else f"FAILED: {found[0]} and {found[1]}"))


def sanitizer(r: Run) -> None:
    folders = [Path(f).parent / "bin" for f in library_folders()]
    tool = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], *map(str, folders)]))
    if not tool or r.o.device != "cuda":
        r.note("compute-sanitizer", Outcome("left out: not found" if not tool else "left out: needs --device cuda"))
        return
    keep = r"^========= (?:ERROR SUMMARY.*|Error.*|Invalid.*|.*hazard.*)"
    checks = (("memcheck", "test_cuda_ops"), ("racecheck", "test_cuda_attention"), ("memcheck", "test_golden"),
              ("racecheck", "test_cuda_ops"), ("synccheck", "test_cuda_ops"))
    ours = {"PATRAIN_CUDNN": "0"}  # cuDNN's kernels are not under test
    line = [tool, "--error-exitcode", "9", "--tool"]
    r.at_once([(f"{c} {program}", [*line, c, ROOT / "bin" / program], 125, ours, keep) for c, program in checks])


CALLS = {  # parts and the seconds each may take, then those of the call
    "a": ([("gate", gate, 40), ("losses", losses, 60), ("attention", attention, 30), ("traces", traces, 30),
           ("tokens", tokens, 20)], 118),
    "b": ([("tests", tests, 110), ("versus", versus, 150), ("generation", long_generation, 60),
           ("published", published, 60)], 295),
    "c": ([("operations", operations, 90), ("ladder", ladder, 30), ("turing", turing, 45), ("nccl", nccl, 60),
           ("sanitizer", sanitizer, 130)], 290)}


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="gpu.sh", description=__doc__, formatter_class=raw)
    p.add_argument("call", choices=CALLS,
                   help="a: kernels, traces; b: PyTorch, tests; c: operations, versions of attention, T4's path, NCCL, "
                        "sanitizer")
    p.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "out"),
                   help="results (default: $OUT, else out)")
    p.add_argument("--work", type=Path, default=ROOT / "work",
                   help="logs and runs; the call's folder there is emptied first")
    p.add_argument("--only", default="", help="some of the call's parts, separated by commas")
    p.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="device of the measured programs")
    p.add_argument("--seconds", type=float, help="limit of the call (default: 118, 295, 290)")
    p.add_argument("--smoke", action="store_true", help="tiny models and few tests: whether the script works")
    options = p.parse_args()
    parts, seconds = CALLS[options.call]
    names = [name for name, _, _ in parts]
    wanted = options.only.split(",") if options.only else names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        p.error(f"--only: expected parts of {','.join(names)}, found {unknown[0]}")
    options.seconds = options.seconds or seconds
    if options.device == "cuda" and not options.smoke and not has_gpu():
        print("gpu.sh: no GPU found: there is no /dev/nvidia0", file=sys.stderr)
        return 1
    r = Run(options, options.call)
    r.torch, r.absent = {}, "not started"
    machine(r)
    return 0 if r.all([part for part in parts if part[0] in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main())
