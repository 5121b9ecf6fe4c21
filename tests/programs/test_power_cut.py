#!/usr/bin/env python3
"""A power cut at any moment of a run that saves twice: what a disk may hold then, and what the same command does.

support/faults.c records what patrain does to its run directory. After each recorded call the disk holds for certain
what was synced. Of the rest it holds anything: of the names made, changed and removed in a folder any part, as file
systems may write them in any order; of a file's data nothing, all, its size only, what came before any multiple of 512
bytes, or any of its blocks of 512 bytes.

The same command must take the newest checkpoint that is whole there, never one older than was once for certain on the
disk, and end with the files of the run without a power cut, no temporary ones beside them.

A sample of the states is drawn unless PA_FAULTS=all, always the same; PA_SEED=N draws another.
"""

import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import tempfile
import unittest

import faults
import programs

ALL = os.environ.get("PA_FAULTS") == "all"
SEED = int(os.environ.get("PA_SEED", 1))
SAMPLE, BLOCK = 100, 512
TEARS = 4  # drawn of each kind for each other choice


class File:
    """Its contents for certain, and what was written since: (offset, bytes), or (length, None) for a truncation."""

    def __init__(self):
        self.durable, self.pending = b"", []

    def write(self, data, writes):
        data = bytearray(data)
        for at, what in writes:
            if what is None:
                del data[at:]
                data.extend(bytes(at - len(data)))
            else:
                data.extend(bytes(max(0, at - len(data))))
                data[at : at + len(what)] = what
        return bytes(data)

    def now(self):
        return self.write(self.durable, self.pending)

    def sync(self):
        self.durable, self.pending = self.now(), []

    def blocks(self):
        """What is pending, cut at multiples of 512 bytes."""
        for at, what in self.pending:
            if what is None:
                yield at, None
                continue
            while what:
                length = BLOCK - at % BLOCK
                yield at, what[:length]
                at, what = at + length, what[length:]

    def after_cut(self, how, rng):
        blocks = list(self.blocks())
        if how == "nothing" or not blocks:
            return self.durable
        if how == "all":
            return self.now()
        if how == "size":
            return self.durable + bytes(max(0, len(self.now()) - len(self.durable)))
        if how == "torn":
            return self.write(self.durable, blocks[: rng.randrange(len(blocks))])
        return self.write(self.durable, [block for block in blocks if rng.random() < 0.5])


class Folder:
    def __init__(self):
        self.durable, self.now = {}, {}


class Disk:
    """Folders and files, and the changes of names that are not for certain: lists of (folder, name, what or None)."""

    def __init__(self, root, inode):
        self.root_path, self.root = root, Folder()
        self.by_inode, self.changes = {inode: self.root}, []

    def find(self, path):
        """The folder that holds a path, and the name there."""
        folder, *parts, name = [self.root, *pathlib.PurePath(path).relative_to(self.root_path).parts]
        for part in parts:
            folder = folder.now[part]
        return folder, name

    def change(self, *entries):
        for folder, name, what in entries:
            folder.now.pop(name, None)
            if what is not None:
                folder.now[name] = what
        self.changes.append(entries)

    def sync(self, what):
        if isinstance(what, File):
            return what.sync()
        done = [c for c in self.changes if any(folder is what for folder, _, _ in c)]
        self.changes = [c for c in self.changes if c not in done]
        for folder, name, target in itertools.chain(*done):
            folder.durable.pop(name, None)
            if target is not None:
                folder.durable[name] = target

    def replay(self, call, inode, number, text):
        if call in ("write", "truncate", "sync"):
            what = self.by_inode.get(inode)
            if what is None:
                return
            if call == "sync":
                self.sync(what)
            else:
                what.pending.append((number, text if call == "write" else None))
            return
        path, _, other = text.decode().partition("\0")
        if not path.startswith(f"{self.root_path}/"):
            return
        folder, name = self.find(path)
        if call == "create":
            self.create(folder, name, inode, number)
        elif call == "mkdir":
            self.by_inode[inode] = Folder()
            self.change((folder, name, self.by_inode[inode]))
        elif call == "symlink":
            self.change((folder, name, other))
        elif call == "remove":
            self.change((folder, name, None))
        elif call == "rename":
            assert not number, "renameat2 with flags is not simulated"
            self.change((folder, name, None), (*self.find(other), folder.now[name]))
        else:
            raise AssertionError(f"not simulated: {call}")

    def create(self, folder, name, inode, truncates):
        if name not in folder.now:
            self.by_inode[inode] = File()
            self.change((folder, name, self.by_inode[inode]))
        elif truncates:
            self.by_inode[inode].pending.append((0, None))

    def after_cut(self, kept, how, rng):
        """{path: contents, None for a folder, text for a link}; kept: the changes of names that reached the disk."""
        entries = {}
        for folder, name, what in itertools.chain(*kept):
            entries.setdefault(folder, dict(folder.durable)).pop(name, None)
            if what is not None:
                entries[folder][name] = what
        state = {}

        def walk(folder, at):
            for name, what in entries.get(folder, folder.durable).items():
                if isinstance(what, Folder):
                    state[f"{at}{name}"] = None
                    walk(what, f"{at}{name}/")
                else:
                    state[f"{at}{name}"] = what.after_cut(how, rng) if isinstance(what, File) else what

        walk(self.root, "")
        return state


def read_record(path):
    data, at = path.read_bytes(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        call, inode, number, count = data[at:end].split()
        at = end + 1 + int(count)
        yield call.decode(), int(inode), int(number), data[end + 1 : at]


def subsets(changes, rng):
    """Of the changes of names: the first n, all but one, one, and some."""
    n = len(changes)
    chosen = [tuple(range(i)) for i in range(n + 1)]
    chosen += [tuple(j for j in range(n) if j != i) for i in range(n)] + [(i,) for i in range(n)]
    chosen += [tuple(i for i in range(n) if rng.random() < 0.5) for _ in range(TEARS)]
    return dict.fromkeys(chosen)


def states(disk, rng):
    """Ways to lose what is not for certain: (kept changes, what becomes of files' data)."""
    for kept in subsets(disk.changes, rng):
        for how, count in (("nothing", 1), ("all", 1), ("size", 1), ("torn", TEARS), ("blocks", TEARS)):
            for _ in range(count):
                yield [disk.changes[i] for i in kept], how


def put_state(folder, state):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, what in state.items():
        if what is None:
            (folder / name).mkdir()
        elif isinstance(what, str):
            (folder / name).symlink_to(what)
        else:
            (folder / name).write_bytes(what)


def digest(state):
    return hashlib.sha256(repr(sorted(state.items())).encode()).digest()


class PowerCut(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="patrain-test-")).resolve()
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.disk_path = cls.base / "disk"
        for folder in ("disk", "tokens", "scratch"):
            (cls.base / folder).mkdir()
        programs.write_tokens(cls.base / "tokens/train.safetensors", [30, 47, 64], seed=1)
        programs.write_tokens(cls.base / "tokens/validation.safetensors", [40, 30], seed=2)
        (cls.base / "tiny.ini").write_text(faults.CONFIG.format(cls.base))
        cls.command = [programs.PATRAIN, f"{cls.base}/tiny.ini", "--device", "cpu", "--precision", "fp32",
                       "--run-dir", f"{cls.disk_path}/run"]
        cls.run_patrain([*cls.command, "checkpoint.keep=100"])
        cls.whole = {}
        for path in (cls.disk_path / "run/checkpoints").iterdir():
            cls.whole[int(path.name[5:])] = faults.contents(path)
        shutil.rmtree(cls.disk_path / "run")
        cls.record, cls.inode = cls.base / "record", cls.disk_path.stat().st_ino
        done = cls.run_patrain(cls.command, record=cls.record)
        assert not done.status, done
        cls.after = faults.contents(cls.disk_path)

    @classmethod
    def run_patrain(cls, command, record=None):
        return faults.run(command, cls.base / "scratch", record=record)

    def newest_whole(self, folder):
        """The step of the newest checkpoint with both files as they were written; -1: none."""
        path = folder / "run/checkpoints"
        steps = [int(p.name[5:]) for p in path.glob("step-*") if re.fullmatch("step-[0-9]{8}", p.name)]
        whole = [step for step in steps if faults.contents(path / f"step-{step:08}") == self.whole[step]]
        return max(whole, default=-1)

    def check(self, state, certain, what):
        put_state(self.disk_path, state)
        newest = self.newest_whole(self.disk_path)
        self.assertGreaterEqual(newest, certain, what)
        done = self.run_patrain(self.command)
        what = (what, done)
        self.assertEqual(done.status, 0, what)
        resumed = re.search(r": resuming from step (\d+)", done.stderr)
        self.assertEqual(int(resumed[1]) if resumed else -1, newest, what)
        for step in self.whole:  # one that was not pruned goes at the next save
            name = f"run/checkpoints/step-{step:08}"
            if step < max(self.whole) and faults.contents(self.disk_path / name) == self.whole[step]:
                shutil.rmtree(self.disk_path / name)
        now = faults.contents(self.disk_path)
        for name in sorted(now.keys() | self.after.keys()):
            if now.get(name) != self.after.get(name):
                self.fail(f"{name}: {'other' if name in now and name in self.after else 'only in one'}, {what}")

    def moments(self):
        """The disk after each call, and the step of the newest checkpoint that it holds for certain."""
        disk, certain = Disk(str(self.disk_path), self.inode), -1
        yield "the start", disk, certain
        for n, (call, inode, number, text) in enumerate(read_record(self.record)):
            disk.replay(call, inode, number, text)
            if call == "sync":
                put_state(self.disk_path, disk.after_cut([], "nothing", None))
                newest = self.newest_whole(self.disk_path)
                self.assertGreaterEqual(newest, certain, "a checkpoint that was for certain on the disk is gone")
                certain = newest
            yield f"call {n}, {call} {'' if call == 'write' else text.decode()}", disk, certain
        self.assertEqual(certain, max(self.whole), "at the run's end its last checkpoint may still be lost")

    def test_metrics_before_checkpoints(self):
        """When a checkpoint gets its name, the lines of its steps have been synced."""
        metrics, written, synced, checkpoints = (self.disk_path / "run/metrics.jsonl").stat().st_ino, [], [], []
        for call, inode, _, text in read_record(self.record):
            step = re.search(rb"/checkpoints/step-([0-9]{8})$", text)
            if call == "write" and inode == metrics:
                written.append(json.loads(text)["step"])
            elif call == "sync" and inode == metrics:
                synced = list(written)
            elif call == "rename" and step:
                checkpoints.append(int(step[1]))
                self.assertLessEqual(set(range(checkpoints[-1] + 1)), set(synced))
        self.assertEqual(checkpoints, [2, 4])

    def test_power_cut(self):
        rng, seen, count = random.Random(SEED), set(), 0
        moments = sum(1 for _ in self.moments())
        share = 1 if ALL else 3 * SAMPLE / moments / 100
        for where, disk, certain in self.moments():
            for kept, how in states(disk, rng):
                if rng.random() >= share:
                    continue
                state = disk.after_cut(kept, how, rng)
                if digest(state) in seen:
                    continue
                seen.add(digest(state))
                names = [[f"{name}{'' if to is not None else ' gone'}" for _, name, to in change] for change in kept]
                with self.subTest(where=where, names=names, data=how):
                    self.check(state, certain, (where, how))
        print(f"{len(seen)} states after {moments} moments", flush=True)


if __name__ == "__main__":
    print(f"PA_SEED={SEED}", flush=True)
    unittest.main()
