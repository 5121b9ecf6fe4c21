"""What the calls of gpu.py share: commands under a limit, their logs, and results rewritten after every part."""
import concurrent.futures
import datetime
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 15 << 20  # of an archive's input files: more may not come back from where the GPU is


def library_folders() -> list:
    """Where NVIDIA's libraries may be: a toolkit named by the user, this Python's packages, what setup_cuda.sh made, an
    installed toolkit."""
    packages = ("import nvidia, glob\n"
                "print('\\n'.join(f for p in nvidia.__path__ for f in sorted(glob.glob(p + '/*/lib'))))")
    found = subprocess.run([sys.executable, "-c", packages], capture_output=True, text=True).stdout.split("\n")
    cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    toolkits = [os.environ.get("PA_CUDA_ROOT"), Path(cache, "patrain/cuda/toolkit"), os.environ.get("CUDA_PATH"),
                "/usr/local/cuda"]
    toolkits = [str(Path(t, "lib64")) for t in toolkits if t]
    first = toolkits[:1] if os.environ.get("PA_CUDA_ROOT") else []
    return [f for f in first + found + toolkits if f and Path(f).is_dir()]


def has_gpu() -> bool:
    """Whether NVIDIA's driver has one, on Linux or in WSL."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


class Outcome:
    def __init__(self, state: str, text: str = "", seconds: float = 0):
        self.state, self.text, self.seconds = state, text, seconds
        self.ok = state == "ok"


class Stop(Exception):
    """The parts that follow make no sense."""


class Run:
    """A call: its parts in order, each under a limit of its own and the call's."""

    def __init__(self, options, call: str):
        self.o, self.call, self.began = options, call, time.monotonic()
        self.until = self.began + options.seconds  # of the part at hand
        self.patience = 10 if options.smoke else 1  # an emulator takes its time
        self.work, self.out = options.work.resolve() / call, options.out.resolve()
        self.parts, self.sections, self.lock, self.running = [], [], threading.Lock(), []
        self.ours = {}  # what training measured: (model, batch) -> figures
        self.claim(options.work.resolve())
        self.out.mkdir(parents=True, exist_ok=True)
        # PyTorch brings its own libraries, and must not meet these.
        ours = ":".join([str(ROOT / "lib"), *library_folders(), os.environ.get("LD_LIBRARY_PATH", "")])
        self.env = {**os.environ, "LD_LIBRARY_PATH": ours, "PA_DEVICE": options.device,
                    "CUDA_CACHE_PATH": str(options.work.resolve() / "cache"), "CUDA_CACHE_MAXSIZE": str(1 << 30)}

    def claim(self, work: Path) -> None:
        """Empties this call's folder, and nobody else's."""
        mark = work / ".gpu.sh"
        if work.exists() and not mark.exists() and (not work.is_dir() or any(work.iterdir())):
            print(f"--work: expected an empty folder or one of an earlier run, found {work}", file=sys.stderr)
            sys.exit(2)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        mark.touch()

    def left(self) -> float:
        return self.until - time.monotonic()

    def all(self, parts: list) -> bool:
        """parts: (name, function, seconds)."""
        clocks = self.work / "clocks.csv"
        watch = self.watch(clocks)
        try:
            for name, function, seconds in parts:
                self.until = min(self.began + self.o.seconds, time.monotonic() + self.patience * seconds)
                try:
                    function(self)
                except Stop as e:
                    self.note(name, Outcome(f"FAILED: {e}; the call ends here"))
                    break
                except Exception as e:  # a mistake of this script's must not cost the other parts
                    self.note(name, Outcome(f"FAILED: {type(e).__name__}: {e}"))
                finally:
                    self.write(clocks)
        finally:
            for process in [*self.running, *watch]:
                stop(process)
            self.write(clocks)
        failed = sum(state.startswith("FAILED") for _, state, _, _ in self.parts)
        print(f"{self.out}/gpu-{self.call}.md: {len(self.parts)} parts, {failed} failed")
        return failed == 0

    def watch(self, log: Path) -> list:
        query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader", "-l", "1"]
        try:
            with open(log, "wb") as out:
                return [subprocess.Popen(query, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True)]
        except OSError:
            return []

    def note(self, name: str, outcome: Outcome, log: str = "") -> Outcome:
        with self.lock:
            self.parts.append((name, outcome.state, outcome.seconds, log))
            print(f"{time.monotonic() - self.began:6.1f} s  {name}: {outcome.state}", flush=True)
        return outcome

    def start(self, name: str, argv: list, env: dict = {}) -> tuple:
        """(process, log), in a session of its own."""
        log = self.work / (re.sub(r"[^\w.-]+", "-", name) + ".log")
        with open(log, "wb") as out:
            process = subprocess.Popen([str(a) for a in argv], stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
                                       stdin=subprocess.DEVNULL, env={**self.env, **env}, start_new_session=True)
        self.running.append(process)
        return process, log

    def finish(self, name: str, process, log: Path, limit: float, keep: str = "") -> Outcome:
        began, limit = time.monotonic(), max(0, min(self.patience * limit, self.left()))
        try:
            code = process.wait(limit)
            state = "ok" if code == 0 else f"FAILED: exit {code}"
        except subprocess.TimeoutExpired:
            state = f"FAILED: not done in {limit:.0f} s"
        stop(process)
        text = log.read_text(errors="replace")
        if state != "ok":
            lines = [line for line in text.splitlines() if line.strip()][-1:]
            said = re.findall(keep, text, re.M) if keep else lines
            state += "".join(f"; {s.strip()[:160]}" for s in said[:3])
        return self.note(name, Outcome(state, text, time.monotonic() - began), log.name)

    def command(self, name: str, argv: list, limit: float, env: dict = {}, keep: str = "") -> Outcome:
        """Runs it, with its output in a log. keep: a regular expression for the lines of a failure to report."""
        if min(limit, self.left()) < 2:
            return self.note(name, Outcome("left out: no time left"))
        try:
            process, log = self.start(name, argv, env)
        except OSError as e:
            return self.note(name, Outcome(f"FAILED: {e}"))
        return self.finish(name, process, log, limit, keep)

    def at_once(self, calls: list, processes: int = 6) -> list:
        """Commands whose times do not matter, on two threads each."""
        with concurrent.futures.ThreadPoolExecutor(1 if self.o.smoke else processes) as pool:
            futures = [pool.submit(self.command, name, argv, limit, {"OMP_NUM_THREADS": "2", **env}, keep)
                       for name, argv, limit, env, keep in calls]
            return [f.result() for f in futures]

    def write(self, clocks: Path) -> None:
        counted = clocks_of(clocks) if clocks.exists() else ""
        lines = [f"# bench/gpu.sh {self.call}", "", *self.sections[:1]]
        lines += [f"- during the call: {counted}"] if counted else []
        lines += ["", "| part | | seconds | log |", "|---|---|---|---|"]
        lines += [f"| {n} | {state.replace('|', '/')} | {s:.1f} | {log} |" for n, state, s, log in self.parts]
        failed = sum(state.startswith("FAILED") for _, state, _, _ in self.parts)
        left = sum(state.startswith("left out") for _, state, _, _ in self.parts)
        lines += ["", f"{len(self.parts)} parts: {failed} failed, {left} left out; "
                      f"{time.monotonic() - self.began:.0f} s so far."]
        text = "\n\n".join(["\n".join(lines).rstrip(), *self.sections[1:]]) + "\n"
        (self.out / f"gpu-{self.call}.md").write_text(text)
        part = self.out / f".gpu-{self.call}.tar.gz"
        with tarfile.open(part, "w:gz") as archive:
            room = MOST_BYTES
            for path in sorted(self.work.rglob("*"), key=lambda p: p.stat().st_size):
                if path.suffix in (".log", ".txt", ".json", ".jsonl", ".csv") and path.stat().st_size <= room:
                    room -= path.stat().st_size
                    archive.add(path, f"gpu-{self.call}/{path.relative_to(self.work)}")
        part.rename(self.out / f"gpu-{self.call}.tar.gz")


def stop(process) -> None:
    """Ends a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def clocks_of(log: Path) -> str:
    rows = [[float(x) for x in re.findall(r"[\d.]+", line)[:3]] for line in log.read_text().splitlines()]
    rows = [row for row in rows if len(row) == 3]
    if not rows:
        return ""
    sm, watts, hot = zip(*rows)
    return (f"SM clock {min(sm):.0f} to {max(sm):.0f} MHz, median {statistics.median(sm):.0f}; power up to "
            f"{max(watts):.0f} W; up to {max(hot):.0f} °C")


def machine(r: Run) -> None:
    def said(*argv):
        try:
            return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""

    query = "name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.mem,clocks.sm,power.limit"
    gpu = said("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = ("import importlib.metadata as m\n"
                "for p in ('torch', 'triton', 'nvidia-cublas', 'nvidia-cudnn-cu13', 'nvidia-nccl-cu13'):\n"
                "    try: print(p, m.version(p), end='; ')\n    except m.PackageNotFoundError: pass")
    packages = said(sys.executable, "-c", versions)
    r.sections.append("\n".join([
        f"- date: {datetime.date.today()}; patrain {(ROOT / 'VERSION').read_text().strip()}; device {r.o.device}",
        f"- GPU ({query}): {gpu or 'none that nvidia-smi sees'}",
        f"- host: {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} threads; {platform.platform()}; "
        f"Python {platform.python_version()}",
        f"- packages: {packages or 'none of NVIDIA or PyTorch'}"]))
