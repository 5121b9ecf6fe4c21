"""PyTorch's training step in processes of their own (bench/peers/torch_worker.py), for gpu.py."""
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time

from gpu_run import ROOT, Outcome, Run, stop


def settings(model: str) -> dict:
    text = (ROOT / f"configs/{model}.ini").read_text()
    found = {"dim_head": 64, "perceive_depth": 1, "ff_mult": 4}
    keys = "context|prefix|dim|heads|dim_head|depth|perceive_depth|ff_mult"
    found.update({k: int(v) for k, v in re.findall(rf"^({keys}) = (\d+)", text, re.M)})
    return {**found, "prefix_dropout": 0.7}


def missing(r: Run) -> str:
    """Why PyTorch cannot be measured; empty if it can."""
    code = "import torch, perceiver_ar_pytorch as p\nassert torch.cuda.is_available()"
    try:
        have = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, timeout=max(1, min(60, r.left())))
    except subprocess.TimeoutExpired:
        return "importing torch took too long"
    return (have.stderr.strip().splitlines() or ["it sees no GPU"])[-1][:160] if have.returncode else ""


class Torch:
    """A worker. Forms: published; best (compiled, bf16, fused); cudnn: the best with cuDNN's attention first."""

    def __init__(self, r: Run, model: str, form: str, batch: int):
        self.name, self.batch, self.began = f"PyTorch {form} {model} batch {batch}", batch, time.monotonic()
        self.log = r.work / (self.name.replace(" ", "-") + ".log")
        compiles = form != "published"
        options = dict(model=settings(model), form="best" if compiles else form, compile=compiles, threads=4, warm=3,
                       precision="bf16" if compiles else "fp32", device="cuda", batch=batch, weights="",
                       tries=4 if compiles else 1, cudnn=form == "cudnn")
        self.lines = []
        with open(self.log, "wb") as err:
            line = [sys.executable, str(ROOT / "bench/peers/torch_worker.py"), json.dumps(options)]
            self.process = subprocess.Popen(
                line, text=True, stderr=err, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "TORCHINDUCTOR_COMPILE_THREADS": "4"})
        r.running.append(self.process)
        self.arrived = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in self.process.stdout:
            with self.arrived:
                self.lines.append(line)
                self.arrived.notify()
        with self.arrived:
            self.lines.append(None)
            self.arrived.notify()

    def ready(self, limit: float) -> bool:
        with self.arrived:
            return bool(self.arrived.wait_for(lambda: self.lines, max(0, limit)))

    def next(self, mark: str, limit: float) -> dict:
        until = time.monotonic() + limit
        while True:
            if not self.ready(until - time.monotonic()):
                raise RuntimeError(f"not done in {limit:.0f} s")
            line = self.lines.pop(0)
            if line is None:
                said = [t for t in self.log.read_text(errors="replace").splitlines() if t.strip()]
                raise RuntimeError("the worker ended" + (f": {said[-1][:160]}" if said else ""))
            if line.startswith(mark):
                return json.loads(line[len(mark):] if mark != "{" else line)

    def measure(self, r: Run, limit: float) -> dict:
        """Seconds a step; empty where it fails. Ends the worker."""
        until, result = time.monotonic() + min(r.patience * limit, r.left()), {}
        try:
            batch, seconds = self.next("READY", until - time.monotonic())["batch"], []
            while len(seconds) < 20 and sum(seconds) < 5 and (not seconds or time.monotonic() + seconds[-1] < until):
                self.process.stdin.write("step\n")
                self.process.stdin.flush()
                seconds.append(self.next("{", max(1, until - time.monotonic()))["seconds"])
            result, state = {"seconds": statistics.median(seconds), "batch": batch, "steps": len(seconds)}, "ok"
        except (RuntimeError, ValueError, OSError) as e:
            state = f"FAILED: {e}"
        stop(self.process)
        r.note(self.name, Outcome(state, "", time.monotonic() - self.began), self.log.name)
        return result
