"""Runs of the programs with a call that fails, or with a record of what they do to their files: support/faults.c."""

import collections
import hashlib
import os
import pathlib
import re
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


def run(command, scratch, fault=None, record=None, timeout=60, threads=1):
    """status None: it was killed after `timeout` seconds. trace: the functions in which the call failed."""
    counts, trace = scratch / "counts", scratch / "counts.trace"
    counts.write_bytes(bytes(4096))
    trace.write_text("")
    more = {"LD_PRELOAD": SHIM, "PA_COUNTS": str(counts), "OMP_NUM_THREADS": str(threads)}
    if fault:
        more["PA_FAULT"] = fault
    if record:
        more["PA_RECORD"] = str(record)
    process = subprocess.Popen(command, env=programs.environment(**more), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        stdout, stderr = process.communicate()
        status = None
    *calls, failed = struct.unpack_from(f"<{len(KINDS) + 1}q", counts.read_bytes())
    return Run(status, stdout, stderr, dict(zip(KINDS, calls)), failed, trace.read_text())


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
