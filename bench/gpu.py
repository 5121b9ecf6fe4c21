"""Runs a bundle's tests and measurements on this machine's GPU and writes one results file. Called by gpu.sh; Python 3.8 or newer, no
package. PyTorch, perceiver_ar_pytorch's needs and compute-sanitizer are used where they are. Every part has a time limit and its log is
kept; one that fails is reported, and the next one runs.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("v1", "v2", "v3", "v4", "v5")
WINDOWS = 962  # of an epoch: MAESTRO's training pieces, one window each


def library_folders() -> list:
    """Where NVIDIA's libraries may be: a toolkit named by the user, this Python's packages, what setup_cuda.sh made, an installed toolkit."""
    packages = "import nvidia, glob; print('\\n'.join(f for p in nvidia.__path__ for f in sorted(glob.glob(p + '/*/lib'))))"
    found = subprocess.run([sys.executable, "-c", packages], capture_output=True, text=True).stdout.split("\n")
    toolkits = [os.environ.get("PA_CUDA_ROOT"), Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "patrain/cuda/toolkit"),
                os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    toolkits = [str(Path(t, "lib64")) for t in toolkits if t]
    return [f for f in (toolkits[:1] if os.environ.get("PA_CUDA_ROOT") else []) + found + toolkits if f and Path(f).is_dir()]


def settings(model: str) -> dict:
    text = (ROOT / f"configs/{model}.ini").read_text()
    found = {"dim_head": 64, "perceive_depth": 1, "ff_mult": 4}
    found.update({k: int(v) for k, v in re.findall(r"^(context|prefix|dim|heads|dim_head|depth|perceive_depth|ff_mult) = (\d+)", text, re.M)})
    return {**found, "prefix_dropout": 0.7}


class Outcome:
    def __init__(self, state: str, text: str = "", seconds: float = 0):
        self.state, self.text, self.seconds = state, text, seconds
        self.ok = state == "ok"


class Run:
    def __init__(self, options):
        self.o, self.began = options, time.monotonic()
        self.until, self.ours = self.began + options.seconds, {}  # until: of the part at hand; ours: what training measured
        self.work = options.work.resolve()
        mark = self.work / ".gpu.sh"  # nobody else's folder is emptied
        if self.work.exists() and not mark.exists() and (not self.work.is_dir() or any(self.work.iterdir())):
            print(f"--work: expected an empty folder or one of an earlier run, found {self.work}", file=sys.stderr)
            sys.exit(2)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        mark.touch()
        self.parts, self.sections, self.lock = [], [], threading.Lock()
        # PyTorch brings its own libraries, and must not meet these.
        ours = ":".join([str(ROOT / "lib"), *library_folders(), os.environ.get("LD_LIBRARY_PATH", "")])
        self.env = {**os.environ, "LD_LIBRARY_PATH": ours, "PA_DEVICE": options.device, "CUDA_CACHE_PATH": str(self.work / "cache"),
                    "CUDA_CACHE_MAXSIZE": str(1 << 30)}

    def left(self) -> float:
        return self.until - time.monotonic()

    def part(self, name: str) -> None:
        work, seconds = PARTS[name]
        self.until = min(self.began + self.o.seconds, time.monotonic() + seconds)
        try:
            work(self)
        except Exception as e:  # a mistake of this script's must not cost the other parts
            self.note(name, Outcome(f"FAILED: {type(e).__name__}: {e}"))

    def note(self, name: str, outcome: Outcome, log: str = "") -> Outcome:
        with self.lock:
            self.parts.append((name, outcome.state, outcome.seconds, log))
            print(f"{time.monotonic() - self.began:6.1f} s  {name}: {outcome.state}", flush=True)
        return outcome

    def command(self, name: str, argv: list, limit: float, env: dict = {}, keep: str = "") -> Outcome:
        """Runs it under a limit, with its output in a log. keep: a regular expression for the lines of a failure to report."""
        log = self.work / (re.sub(r"[^\w.-]+", "-", name) + ".log")
        limit = min(limit, self.left())
        if limit < 2:
            return self.note(name, Outcome("left out: no time left"))
        began = time.monotonic()
        try:
            with open(log, "wb") as out:
                process = subprocess.Popen([str(a) for a in argv], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                                           env={**self.env, **env}, start_new_session=True)
                try:
                    code = process.wait(limit)
                    state = "ok" if code == 0 else f"FAILED: exit {code}"
                except subprocess.TimeoutExpired:
                    state = f"FAILED: not done in {limit:.0f} s"
                finally:
                    try:
                        os.killpg(process.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                    process.wait()
        except OSError as e:
            return self.note(name, Outcome(f"FAILED: {e}"))
        text = log.read_text(errors="replace")
        if state != "ok":
            said = re.findall(keep, text, re.M) if keep else [line for line in text.splitlines() if line.strip()][-1:]
            state += "".join(f"; {s.strip()[:160]}" for s in said[:3])
        return self.note(name, Outcome(state, text, time.monotonic() - began), log.name)

    def at_once(self, calls: list) -> None:
        """Commands whose times do not matter."""
        with concurrent.futures.ThreadPoolExecutor(1 if self.o.smoke else 6) as pool:
            for f in [pool.submit(self.command, *call) for call in calls]:
                f.result()


def machine(r: Run) -> None:
    def said(*argv):
        try:
            return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""

    query = "name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.mem,clocks.sm,power.limit"
    gpu = said("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = ("import importlib.metadata as m\nfor p in ('torch', 'triton', 'nvidia-cublas', 'nvidia-cudnn-cu13', 'nvidia-nccl-cu13'):\n"
                "    try: print(p, m.version(p), end='; ')\n    except m.PackageNotFoundError: pass")
    lines = [f"- date: {datetime.date.today()}; patrain {(ROOT / 'VERSION').read_text().strip()}; device {r.o.device}",
             f"- GPU ({query}): {gpu or 'none that nvidia-smi sees'}",
             f"- host: {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} threads; {platform.platform()}; Python {platform.python_version()}",
             f"- packages: {said(sys.executable, '-c', versions) or 'none of NVIDIA or PyTorch'}"]
    r.sections.append("\n".join(lines))


def tests(r: Run) -> None:
    calls = []
    for folder, label in ((ROOT / "bin", ""), (ROOT / "bin-75", " as compute_75")):
        for program in sorted(folder.glob("test_*")):
            if r.o.smoke and program.name not in ("test_cuda_ops", "test_golden"):
                continue
            calls.append((program.name + label, [program], 150, {}, r"^\[  FAILED  \].*|^.*: error: .*"))
    r.at_once(calls)


def sanitizer(r: Run) -> None:
    folders = [Path(f).parent / "bin" for f in library_folders()]
    tool = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], *map(str, folders)]))
    if not tool or r.o.device != "cuda":
        r.note("compute-sanitizer", Outcome("left out: not found" if not tool else "left out: needs --device cuda"))
        return
    calls, ours = [], {"PATRAIN_CUDNN": "0"}  # cuDNN's kernels are not under test
    for check in ("memcheck", "racecheck", "synccheck"):
        for program in ("test_cuda_ops", "test_golden"):
            calls.append((f"{check} {program}", [tool, "--tool", check, "--error-exitcode", "9", ROOT / "bin" / program], 125, ours,
                          r"^========= (?:ERROR SUMMARY.*|Error.*|Invalid.*|.*hazard.*)"))
    r.at_once(calls)


def pabench(r: Run) -> None:
    argv = [ROOT / "bin/pabench", "--device", r.o.device, "--json", r.work / "pabench.json"]
    argv += ["--quick", "--filter", "v1 (layernorm_fwd|matmul y)"] if r.o.smoke else ["--precision", "bf16"]
    done = r.command("pabench", argv, 88)
    if done.ok:
        r.sections.append("## pabench\n\n```\n" + done.text[done.text.rfind("\n", 0, done.text.find("Roofs")) + 1:].strip() + "\n```")


SMALL = ("model.context=128", "model.prefix=48", "model.dim=32", "model.heads=1", "model.depth=1")


def train(r: Run, model: str, program: Path, label: str, precision: str, batch: int, limit: float) -> dict:
    """Steps of a global batch; halves the micro-batch until it fits. The median step after the first five."""
    micro, extra = batch, []
    while True:
        folder = r.work / f"{model}{label.replace(' ', '-')}"
        argv = [program, ROOT / f"configs/{model}.ini", f"data.train={ROOT}/data/train.safetensors", "data.validation=", "--device", r.o.device,
                "--precision", precision, "--fresh", "--run-dir", folder, f"train.global_batch={batch}", f"train.micro_batch={micro}",
                f"train.steps={6 if r.o.smoke else 60}", f"train.minutes={limit / 60:.3f}", "train.epochs=0", "log.eval_every=0",
                "log.sample_every=0", "checkpoint.every=0", *extra, *(SMALL if r.o.smoke else ())]
        done = r.command(f"train {model}{label}", argv, 4 * limit + 30)
        if done.ok or "out of memory" not in done.text or "train.recompute=true" in extra:
            break
        if micro > 1:
            micro //= 2
        else:
            extra = ["train.recompute=true"]
    if not done.ok:
        return {}
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [s for s in steps if "tokens_per_s" in s]
    timed = steps[5:] or steps
    seconds = statistics.median(s["seconds"] for s in timed)
    memory = re.findall(r"([\d.]+) GB", done.text)
    return {"seconds": seconds, "windows": batch / seconds, "tokens": statistics.median(s["tokens_per_s"] for s in timed),
            "mfu": statistics.median(s["mfu"] or 0 for s in timed), "loss": (steps[0]["loss"], steps[-1]["loss"]), "micro": micro,
            "steps": len(timed), "memory": memory[-1] if memory else "", "recompute": bool(extra)}


class Torch:
    """A worker process; ready() waits until it has warmed up, step() times one."""

    def __init__(self, r: Run, model: str, form: str, batch: int):
        self.name, self.log = f"PyTorch {form} {model}", r.work / f"torch-{form}-{model}.log"
        best = form == "best"
        options = dict(model=settings(model), form=form, precision="bf16" if best else "fp32", compile=best, threads=4, weights="", warm=3,
                       device="cuda", batch=batch, tries=4 if best else 1)
        self.lines, self.err = [], open(self.log, "wb")
        self.process = subprocess.Popen([sys.executable, str(ROOT / "bench/peers/torch_worker.py"), json.dumps(options)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.err, text=True, start_new_session=True,
                                        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "TORCHINDUCTOR_COMPILE_THREADS": "4"})
        self.arrived = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            with self.arrived:
                self.lines.append(line)
                self.arrived.notify()
        with self.arrived:
            self.lines.append(None)
            self.arrived.notify()

    def next(self, mark: str, limit: float):
        until = time.monotonic() + limit
        while True:
            with self.arrived:
                if not self.lines and not self.arrived.wait_for(lambda: self.lines, max(0, until - time.monotonic())):
                    raise RuntimeError(f"not done in {limit:.0f} s")
                line = self.lines.pop(0)
            if line is None:
                said = [t for t in self.log.read_text(errors="replace").splitlines() if t.strip()]
                raise RuntimeError("the worker ended" + (f": {said[-1][:160]}" if said else ""))
            if line.startswith(mark):
                return json.loads(line[len(mark):] if mark != "{" else line)

    def measure(self, limit: float) -> dict:
        until = time.monotonic() + limit
        batch = self.next("READY", limit)["batch"]
        seconds = []
        while len(seconds) < 20 and (not seconds or time.monotonic() + seconds[-1] < until) and sum(seconds) < 5:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
            seconds.append(self.next("{", max(1, until - time.monotonic()))["seconds"])
        return {"seconds": statistics.median(seconds), "windows": batch / statistics.median(seconds), "batch": batch, "steps": len(seconds)}

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.err.close()


def training(r: Run) -> None:
    models = MODELS[:1] if r.o.smoke else MODELS
    r.ours = {m: train(r, m, ROOT / "bin/patrain", "", "auto", 8, 5) for m in models}
    if not any(r.ours.values()):
        return
    rows = ["## Training, global batch 8, prefix dropout 0.7", "",
            "| model | ms a step | tokens/s | MFU | s an epoch of 962 windows | memory GB | micro-batch | loss, first and last step |", "|---" * 8 + "|"]
    for m, t in r.ours.items():
        rows.append(f"| {m} | {1e3 * t['seconds']:.2f} | {t['tokens']:.0f} | {100 * t['mfu']:.1f} % | {WINDOWS / t['windows']:.2f} | {t['memory']} | "
                    f"{t['micro']}{', recomputed' if t['recompute'] else ''} | {t['loss'][0]:.3f} → {t['loss'][1]:.3f} |" if t else
                    f"| {m} | failed |" + " |" * 6)
    rows += ["", "Medians of whole steps. MFU: share of the largest matrix product that the same process measured."]
    r.sections.append("\n".join(rows))


def compiled(r: Run, models, limit: float) -> dict:
    """Workers of the best form that have warmed up within the limit, side by side; the others are ended, so that none compiles while one is timed."""
    workers, began = {m: Torch(r, m, "best", 8) for m in models}, time.monotonic()
    for worker in workers.values():
        with worker.arrived:
            worker.arrived.wait_for(lambda: worker.lines, max(0, began + limit - time.monotonic()))
    for m in [m for m in models if not workers[m].lines]:
        worker = workers.pop(m)
        worker.close()
        r.note(worker.name, Outcome(f"left out: not compiled in {limit:.0f} s", "", time.monotonic() - began), worker.log.name)
    return workers


def pytorch(r: Run) -> None:
    """Both forms of every model; the compiled one where compiling leaves time for the other."""
    models, keep = (MODELS[:1], 5) if r.o.smoke else (MODELS, 60)
    have = subprocess.run([sys.executable, "-c", "import torch, perceiver_ar_pytorch; assert torch.cuda.is_available()"], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, timeout=max(1, min(60, r.left())))
    if have.returncode:
        r.note("PyTorch", Outcome(f"left out: {(have.stderr.strip().splitlines() or [f'exit {have.returncode}'])[-1][:160]}"))
        return
    limit = min(100, r.left() - keep)
    best, times = {}, {}
    if limit >= keep / 3:
        best = compiled(r, models, limit)
    else:
        r.note("PyTorch best", Outcome("left out: no time left to compile"))
    for form, m in [("best", m) for m in best] + [("published", m) for m in models]:
        worker, began, state = best[m] if form == "best" else Torch(r, m, form, 8), time.monotonic(), "left out: no time left"
        if r.left() >= 2:
            try:
                times[m, form], state = worker.measure(min(25, r.left())), "ok"
            except (RuntimeError, ValueError, OSError) as e:
                state = f"FAILED: {e}"
        worker.close()
        r.note(worker.name, Outcome(state, "", time.monotonic() - began), worker.log.name)
    if not times:
        return
    rows = ["## PyTorch, the same training step", "",
            "| model | patrain, windows/s | PyTorch as published, windows/s (batch) | times it | PyTorch best, windows/s (batch) | times it |",
            "|---" * 6 + "|"]
    for m in models:
        ours, row = (r.ours.get(m) or {}).get("windows"), [m]
        row.append(f"{ours:.2f}" if ours else "–")
        for form in ("published", "best"):
            p = times.get((m, form))
            row += [f"{p['windows']:.2f} ({p['batch']})" if p else "–", f"{ours / p['windows']:.2f}" if p and ours else "–"]
        rows.append("| " + " | ".join(row) + " |")
    rows += ["", "Medians of whole steps. As published: float32, eager; best: scaled_dot_product_attention, torch.compile, bf16 autocast, fused Adam; a",
             "batch that does not fit is halved."]
    r.sections.append("\n".join(rows))


def generation(r: Run) -> None:
    model, length = ("v1", 40) if r.o.smoke else ("v3", 8192)
    if not (r.work / model / "latest").exists():
        r.note("generation", Outcome(f"left out: training {model} left no checkpoint"))
        return
    prime = 49 if r.o.smoke else 1025
    done = r.command("generation", [ROOT / "bin/pagen", r.work / model, "--device", r.o.device, "--primer", f"{ROOT}/data/train.safetensors:0",
                                    "--prime-tokens", prime, "--length-tokens", length, "--output", r.work / "made.safetensors", "--seed", "1"], 60)
    found = re.search(r"^(\d+) tokens in ([\d.]+) s, (\d+) tokens/s", done.text, re.M)
    if done.ok and found:
        r.sections.append(f"## Generation\n\n{model}: {found[1]} tokens in {found[2]} s, {found[3]} a second, prefill and refills of the window "
                          "included.")


def turing(r: Run) -> None:
    """The T4's code, fp16, compiled by the driver from its PTX."""
    if not (ROOT / "bin-75").is_dir():
        r.note("T4 path", Outcome("left out: the bundle has no bin-75"))
        return
    t = train(r, "v1", ROOT / "bin-75/patrain", " as compute_75", "fp16", 8, 3)
    if t:
        r.sections.append(f"## The T4's path\n\nv1 in fp16 from compute_75 PTX: {1e3 * t['seconds']:.2f} ms a step of batch 8, {t['tokens']:.0f} tokens/s; loss "
                          f"{t['loss'][0]:.3f} → {t['loss'][1]:.3f}. This GPU's speed says nothing of a T4's.")


# In the order of their weight, and the seconds each may take at most: the last ones go short where time runs out.
PARTS = {"tests": (tests, 170), "training": (training, 150), "generation": (generation, 60), "turing": (turing, 45), "sanitizer": (sanitizer, 130),
         "pabench": (pabench, 90), "pytorch": (pytorch, 400)}


def write(r: Run, clocks: str) -> bool:
    lines = ["# Results of bench/gpu.sh", "", *r.sections[:1], *([f"- while it ran: {clocks}"] if clocks else []), "",
             "| part | | seconds | log |", "|---|---|---|---|"]
    lines += [f"| {n} | {state.replace('|', '/')} | {s:.1f} | {log} |" for n, state, s, log in r.parts]
    failed = sum(state.startswith("FAILED") for _, state, _, _ in r.parts)
    out = sum(state.startswith("left out") for _, state, _, _ in r.parts)
    lines += ["", f"{len(r.parts)} parts: {failed} failed, {out} left out. The whole took {time.monotonic() - r.began:.0f} s.", ""]
    r.o.out.write_text("\n\n".join(["\n".join(lines).rstrip(), *r.sections[1:]]) + "\n")
    print(f"{r.o.out}: {len(r.parts)} parts, {failed} failed, {out} left out")
    return failed == 0


def clocks_of(log: Path) -> str:
    rows = [[float(x) for x in re.findall(r"[\d.]+", line)[:3]] for line in log.read_text().splitlines()]
    rows = [row for row in rows if len(row) == 3]
    if not rows:
        return ""
    sm, watts, hot = zip(*rows)
    return f"SM clock {min(sm):.0f} to {max(sm):.0f} MHz, median {statistics.median(sm):.0f}; power up to {max(watts):.0f} W; up to {max(hot):.0f} °C"


def main() -> int:
    p = argparse.ArgumentParser(prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=ROOT / "results.md")
    p.add_argument("--work", type=Path, default=ROOT / "work", help="logs and runs; emptied first")
    p.add_argument("--only", default=",".join(PARTS), help="parts, of " + ",".join(PARTS))
    p.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    p.add_argument("--seconds", type=float, default=520, help="for all of it")
    p.add_argument("--smoke", action="store_true", help="tiny models and few tests: whether the script works, not what a GPU does")
    options = p.parse_args()
    unknown = [part for part in options.only.split(",") if part not in PARTS]
    if unknown:
        p.error(f"--only: expected parts of {','.join(PARTS)}, found {unknown[0]}")
    r = Run(options)
    log = r.work / "clocks.csv"
    try:
        watch = subprocess.Popen(["nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader", "-l", "1"],
                                 stdout=open(log, "wb"), stderr=subprocess.DEVNULL)
    except OSError:
        watch = None
    try:
        machine(r)
        for part in options.only.split(","):
            r.part(part)
    finally:
        if watch:
            watch.kill()
            watch.wait()
    return 0 if write(r, clocks_of(log) if log.exists() else "") else 1


if __name__ == "__main__":
    sys.exit(main())
