"""Runs of the programs with a call that fails, or with a record of what they do to their files: support/faults.c."""

import atexit
import collections
import hashlib
import os
import pathlib
import re
import select
import struct
import subprocess

import programs

BIN = pathlib.Path(os.environ["PA_BIN"]).resolve()
SHIM = os.environ["PA_FAULTS_SHIM"]
KINDS = ("memory", "thread", "fork", "open", "read", "write", "sync", "rename", "map", "name", "list")

# A run of four steps that saves after two and four, in {0}.
CONFIG = """
[model]
context = 16
prefix = 4
dim = 16
heads = 2
dim_head = 8
depth = 1
[data]
train = {0}/tokens/train.safetensors
validation = {0}/tokens/validation.safetensors
[train]
global_batch = 2
steps = 4
[checkpoint]
every = 2
keep = 1
[log]
every = 1
eval_every = 2
sample_every = 0
"""

Run = collections.namedtuple("Run", "status stdout stderr counts failed trace")


def environment(scratch, threads, **more):
    return programs.environment(LD_PRELOAD=SHIM, PA_COUNTS=f"{scratch}/counts", OMP_NUM_THREADS=str(threads), **more)


class Server:
    """A program whose libraries are loaded, to be run many times."""

    def __init__(self, command, scratch, threads):
        self.process = subprocess.Popen(command, env=environment(scratch, threads, PA_SERVER="1"), bufsize=0,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        atexit.register(self.end)

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, fault, timeout):
        """The exit status, -N after signal N; None: it was killed after `timeout` seconds."""
        self.process.stdin.write(f"{fault or '-'}\n".encode())
        child = int(self.process.stdout.readline())
        ended = select.select([self.process.stdout], [], [], timeout)[0]
        if not ended:
            os.killpg(child, 9)
        status = os.waitstatus_to_exitcode(int(self.process.stdout.readline()))
        return status if ended else None


SERVERS = {}


def run(command, scratch, fault=None, record=None, timeout=60, threads=1):
    """status None: it was killed after `timeout` seconds. trace: the functions in which the call failed."""
    counts, *texts = [pathlib.Path(f"{scratch}/counts{ending}") for ending in ("", ".out", ".err", ".trace")]
    counts.write_bytes(bytes(4096))
    for path in texts:
        path.write_text("")
    if record:
        with open(texts[0], "wb") as out, open(texts[1], "wb") as err:
            status = subprocess.run(command, env=environment(scratch, threads, PA_RECORD=str(record)), stdout=out,
                                    stderr=err, timeout=timeout).returncode
    else:
        key = (*map(str, command), threads)
        if key not in SERVERS:
            SERVERS[key] = Server(command, scratch, threads)
        status = SERVERS[key].run(fault, timeout)
    *calls, failed = struct.unpack_from(f"<{len(KINDS) + 1}q", counts.read_bytes())
    stdout, stderr, trace = [path.read_text(errors="replace") for path in texts]
    return Run(status, stdout, stderr, dict(zip(KINDS, calls)), failed, trace)


def content(path):
    """What of a file must agree between two runs."""
    if path.is_symlink():
        return "-> " + os.readlink(path)
    if path.name == "metrics.jsonl":
        return programs.losses(path.parent)
    if path.suffix == ".safetensors":
        try:
            tensors, meta = programs.read_safetensors(path)
        except (ValueError, KeyError, struct.error):
            return "damaged"
        return tensors, {key: value for key, value in meta.items() if key not in ("seconds", "header_crc32c")}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder):
    """Of all files below a folder, by their names there, but for those that hold times."""
    times = re.compile(r"run\.jsonl|train\.log|lock|events\.out\..*")
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))
            if not times.fullmatch(path.name) and (path.is_symlink() or path.is_file())}
