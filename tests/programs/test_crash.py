#!/usr/bin/env python3
"""Killed runs and failing disks: what they leave is whole, and the same command resumes to the same numbers.

PA_CRASHES (default 12) is how many times ranks are killed, shared over runs of 1 to 4 ranks; PA_CRASHES=100 is the long
form."""

import errno
import fcntl
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import unittest

import programs

CRASHES = int(os.environ.get("PA_CRASHES", "12"))
SHIM = os.environ["PA_SHIM"]
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
       "OMPI_MCA_hwloc_base_binding_policy": "none"}


def environment(shim=None):
    # the leaks are MPI's
    more = {"OMP_NUM_THREADS": "1", "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0", **MPI}
    if shim:
        more |= {"LD_PRELOAD": SHIM, "FAILING_FS": shim}
    return programs.environment(**more)


class Crash(programs.WithCorpus):
    def line(self, ranks, run, *arguments):
        line = programs.command(self.folder, run, "--precision", "fp32", *arguments)
        return ["mpirun", "-n", str(ranks), *line] if ranks > 1 else line

    def train(self, ranks, run, *arguments, shim=None):
        done = subprocess.run(self.line(ranks, run, *arguments), env=environment(shim), capture_output=True, text=True,
                              timeout=300)
        return done.returncode, done.stderr

    def assert_whole(self, run, whole, leavings=False, lost=False):
        """Each checkpoint is the undisturbed run's of that step to the bit, and the links lead to one; its steps. lost:
        one may have been cut short by a disk that lost it."""

        def size(of, path):
            return (self.folder / of / "checkpoints" / path.name / "model.safetensors").stat().st_size

        found = []
        for path in sorted((self.folder / run / "checkpoints").iterdir()):
            if ".tmp." in path.name:
                self.assertTrue(leavings, path)
                continue
            if lost and size(run, path) < 0.6 * size(whole, path):
                found.append(int(path.name[5:]))
                continue
            self.assert_same_tensors(whole, run, f"checkpoints/{path.name}")
            for name in ("model", "state"):
                self.assertEqual(int(programs.read_safetensors(path / f"{name}.safetensors")[1]["step"]),
                                 int(path.name[5:]))
            found.append(int(path.name[5:]))
        for link in (self.folder / run / "latest", self.folder / run / "best"):
            if link.is_symlink():
                self.assertIn(int(link.resolve().name[5:]), found)
        return found

    def assert_same_tensors(self, one, other, which):
        for ours, theirs in zip(*(programs.checkpoint(self.folder / run, which) for run in (one, other))):
            self.assertEqual([name for name in ours if ours[name] != theirs.get(name)], [])
            self.assertEqual(ours.keys(), theirs.keys())

    def assert_same_run(self, one, other):
        for ours, theirs in zip(programs.losses(self.folder / one), programs.losses(self.folder / other)):
            self.assertEqual(ours, theirs)
        for which in ("latest", "best"):
            self.assert_same_tensors(one, other, which)


class Killed(Crash):
    """kill -9: of one rank, of all of them and mpirun, of one while it saves, of one between two calls of a save."""

    ARGUMENTS = ("train.steps=60", "checkpoint.every=3", "checkpoint.keep=2", "log.eval_every=12")
    MOMENTS = [f"{call}:{where}:{n}:{how}" for how in ("kill", "killed") for call, where, n in (
        ("fwrite", "checkpoints/", 20), ("fwrite", "checkpoints/", 70), ("fsync", "model.safetensors", 2),
        ("fsync", "checkpoints", 8),
        ("rename", "state.safetensors", 2), ("rename", "/checkpoints/step", 6), ("rename", "/latest", 2),
        ("rename", "/best", 1),
        ("symlink", "/latest", 3))] + ["rename:/checkpoints/step:9:lost"]

    def ranks_of(self, process):
        """The processes of a run: mpirun's children, or the one process."""
        out = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == process.pid and fields[0] != "Z":
                out.append(int(path.parent.name))
        return out

    def wait_for_step(self, process, step):
        for line in process.stderr:
            found = re.match(r"step (\d+)  epoch", line)
            if found and int(found[1]) >= step:
                return

    def wait_for_save(self, process, run):
        while process.poll() is None:
            if any(".tmp." in p.name for p in (self.folder / run / "checkpoints").iterdir()):
                return

    def crash(self, ranks, run, how, rng):
        """Starts the run and kills it; whether it was killed before its end."""
        shim = rng.choice(self.MOMENTS) if how == "call" else None
        process = subprocess.Popen(self.line(ranks, run, *self.ARGUMENTS), env=environment(shim),
                                   stderr=subprocess.PIPE, text=True)
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        if not shim:
            self.wait_for_step(process, self.reached + rng.randrange(1, 12))
            if how == "save":
                self.wait_for_save(process, run)
            else:
                time.sleep(rng.random() * 0.02)
            victims = self.ranks_of(process) if ranks > 1 else [process.pid]
            if how == "all":
                process.kill()
            else:
                victims = [rng.choice(victims)] if victims else []
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        said = process.stderr.read()
        status = process.wait()
        if how == "all":  # its ranks are gone once the lock is
            with open(self.folder / run / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
        if status == 0:
            return False
        self.assertNotIn(status, (2, 3, 75), said)
        if "lost" in (shim or ""):
            self.lost += 1
        else:
            found = self.assert_whole(run, f"whole-{ranks}", leavings=True, lost=self.lost)
            self.reached = max(found, default=self.reached)
        return True

    def check(self, ranks, crashes):
        rng, self.lost, kills = random.Random(ranks), 0, 0
        self.reached, runs = 0, 0
        self.assertEqual(self.train(ranks, f"whole-{ranks}", *self.ARGUMENTS, "checkpoint.keep=100")[0], 0)
        order = [("one", "call", "save", "all", "call")[i % 5] for i in range(crashes)]
        while kills < crashes:
            run = f"killed-{ranks}-{runs}"
            ended = False
            while kills < crashes and not ended:
                how = order[kills]
                killed = self.crash(ranks, run, how, rng)
                kills += killed
                ended = not killed and how != "call"  # a moment that a nearly finished run has no more of
                if not killed and how == "call":
                    order[kills] = "one"
            status, said = self.train(ranks, run, *self.ARGUMENTS)
            self.assertEqual(status, 0, said)
            self.assert_same_run(f"whole-{ranks}", run)
            self.assertEqual(list(self.folder.glob(f"{run}/**/*.tmp.*")), [])
            self.assert_whole(run, f"whole-{ranks}")
            self.reached, runs = 0, runs + 1
        print(f"{ranks} ranks: killed {kills} times in {runs} runs, {self.lost} with a lost fsync", flush=True)

    def test_one(self):
        self.check(1, CRASHES - 3 * (CRASHES // 4))

    @unittest.skipUnless(shutil.which("mpirun"), "needs mpirun")
    def test_two(self):
        self.check(2, CRASHES // 4)

    @unittest.skipUnless(shutil.which("mpirun"), "needs mpirun")
    def test_three(self):
        self.check(3, CRASHES // 4)

    @unittest.skipUnless(shutil.which("mpirun"), "needs mpirun")
    def test_four(self):
        self.check(4, CRASHES // 4)


class Disk(Crash):
    """Each kind of failure at the calls of a save: an error that names file and cause, only the checkpoint before it,
    whole; then the same command resumes to the same numbers."""

    ARGUMENTS = ("optimizer.schedule=constant", "log.eval_every=0", "checkpoint.every=10", "train.steps=20")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for run, steps in (("whole", 20), ("half", 10)):
            line = programs.command(cls.folder, run, "--precision", "fp32", *cls.ARGUMENTS, f"train.steps={steps}")
            subprocess.run(line, env=environment(), check=True, capture_output=True)

    def disk_fails(self, call, where, n, how, pattern, left=(10,), again=False):
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        shutil.copytree(self.folder / "half", self.folder / "run", symlinks=True)
        with self.subTest(call=call, where=where, n=n, how=how):
            status, said = self.train(1, "run", *self.ARGUMENTS, shim=f"{call}:{where}:{n}:{how}")
            self.assertEqual(status, 1, said)
            self.assertRegex(said.splitlines()[-1], "^patrain: .*" + pattern)
            self.assertEqual(self.assert_whole("run", "whole"), list(left))
            if not again and left == (10,):  # as another case of this kind
                return
            status, said = self.train(1, "run", *self.ARGUMENTS)
            self.assertEqual(status, 0, said)
            for ours, theirs in zip(programs.losses(self.folder / "whole"), programs.losses(self.folder / "run")):
                self.assertEqual(ours, theirs)
            self.assert_same_tensors("whole", "run", "latest")

    def disk_goes_on(self, call, where, n, how):
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        with self.subTest(call=call, where=where, n=n, how=how):
            status, said = self.train(1, "run", *self.ARGUMENTS, shim=f"{call}:{where}:{n}:{how}")
            self.assertEqual(status, 0, said)
            self.assertEqual(self.assert_whole("run", "whole"), [10, 20])

    def test_full(self):
        said = rf"tmp\.\w+/(model|state)\.safetensors, \d+ bytes: {os.strerror(errno.ENOSPC)}$"
        for n in ("1+", "2+", "35+", "70+"):
            self.disk_fails("fwrite", "checkpoints/", n, errno.ENOSPC, said)
        self.disk_fails("fflush", "checkpoints/", "2+", errno.ENOSPC, f"cannot write .*: {os.strerror(errno.ENOSPC)}$")
        self.disk_fails("fwrite", "checkpoints/", "40+", errno.EDQUOT,
                        said.replace(os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)), again=True)

    def test_read_only(self):
        said = f": {os.strerror(errno.EROFS)}$"
        self.disk_fails("mkdir", "checkpoints/step", "1+", errno.EROFS, said)
        self.disk_fails("open", "checkpoints/step", "1+", errno.EROFS, said)
        self.disk_fails("rename", "/checkpoints/step-00000020", "3+", errno.EROFS, said, again=True)

    def test_input_output_error(self):
        said = f": {os.strerror(errno.EIO)}$"
        self.disk_fails("fclose", "checkpoints/", 1, errno.EIO, said)
        for where, n in (("model.safetensors", 1), ("state.safetensors", 1), ("checkpoints/step", 2),
                         ("checkpoints/step", 5)):
            self.disk_fails("fsync", where, n, errno.EIO, said)
        self.disk_fails("fsync", "/checkpoints", 7, errno.EIO, said, left=(10, 20))  # in its place, if not for sure on the disk
        for n in (1, 2, 3):
            self.disk_fails("rename", "checkpoints/step", n, errno.EIO, said)
        self.disk_fails("rename", "/latest", 1, errno.EIO, said, left=(10, 20))
        self.disk_fails("symlink", "/latest", 1, errno.EIO, said, left=(10, 20))
        # the checkpoint before is never taken for damaged, and none passed over: the disk may be mended
        for n in (1, 2, 3, 6):
            self.disk_fails("pread", "checkpoints/step-00000010", n, errno.EIO,
                            r"cannot read .*step-00000010/\w+\.safetensors after \d+ of \d+ bytes" + said)

    def test_torn(self):
        """A disk that says all is well: found when it is read back."""
        for n in (1, 2, 3, 34, 38):  # 36 rewrites the header, and only its first half changes
            self.disk_fails("fwrite", "checkpoints/", n, "torn",
                            r"tmp\.\w+/(model|state)\.safetensors: .*expected .*; it was just written")

    def test_lost_fsync(self):
        """A disk that acknowledges everything, and then loses power: the run resumes from the previous checkpoint and
        reports it."""
        shutil.copytree(self.folder / "half", self.folder / "lost", symlinks=True)
        status, said = self.train(1, "lost", *self.ARGUMENTS, shim="rename:/checkpoints/step-00000020:3:lost")
        self.assertEqual(status, -signal.SIGKILL, said)
        status, said = self.train(1, "lost", *self.ARGUMENTS)
        self.assertEqual(status, 0, said)
        self.assertRegex(said,
                         r"(?m)^skipping a damaged checkpoint: .*step-00000020/model\.safetensors: .*\n.*: resuming "
                         r"from step 10$")
        self.assert_same_tensors("whole", "lost", "latest")

    def test_no_locks(self):
        """What its holder writes each second decides whether another run has the directory."""
        for error in (errno.ENOLCK, errno.ENOTSUP):
            with self.subTest(error=error):
                none, run = f"flock:/lock:1+:{error}", f"lock-{error}"
                line = self.line(1, run, *self.ARGUMENTS, "train.steps=100000")
                first = subprocess.Popen(line, env=environment(none), stderr=subprocess.PIPE, text=True)
                self.addCleanup(first.stderr.close)
                self.addCleanup(first.kill)
                while not first.stderr.readline().startswith("step 12 "):
                    pass
                status, said = self.train(1, run, *self.ARGUMENTS, shim=none)
                self.assertEqual(status, 1, said)
                self.assertEqual(said.splitlines()[-1],
                                 f"patrain: {self.folder}/{run} is in use by another run (process {first.pid} "
                                 f"on {socket.gethostname()})")
                first.kill()
                first.wait()
                newest = max(int(path.name[5:])
                             for path in (self.folder / run / "checkpoints").iterdir() if ".tmp." not in path.name)
                status, said = self.train(1, run, *self.ARGUMENTS, f"train.steps={newest + 5}", shim=none)
                self.assertEqual(status, 0, said)
                self.assertIn(f"the previous start was killed (process {first.pid} on {socket.gethostname()})", said)

    def test_folders_that_cannot_be_exchanged(self):
        """A step is saved over a damaged one of its number. Wherever that ends, one of the two is found under its name,
        and the run resumes."""
        none = f"renameat2:/checkpoints/:1+:{errno.EINVAL}"
        ends = [("", 0)] + [(f",rename:step-00000020:{n}:{how}", status) for n in (3, 4, 5)
                            for how, status in (("kill", -signal.SIGKILL), ("killed", -signal.SIGKILL),
                                                (str(errno.EIO), 1))]
        for end, expected in ends:
            with self.subTest(end=end):
                shutil.rmtree(self.folder / "run", ignore_errors=True)
                shutil.copytree(self.folder / "whole", self.folder / "run", symlinks=True)
                with open(self.folder / "run/checkpoints/step-00000020/state.safetensors", "r+b") as state:
                    state.truncate(1000)
                status, said = self.train(1, "run", *self.ARGUMENTS, shim=none + end)
                self.assertEqual(status, expected, said)
                self.assertIn("skipping a damaged checkpoint", said)
                if status == 1:
                    self.assertRegex(said.splitlines()[-1], rf"^patrain: .*step-00000020.*: {os.strerror(errno.EIO)}$")
                    self.assertEqual(len(list((self.folder / "run/checkpoints").iterdir())), 2)
                status, said = self.train(1, "run", *self.ARGUMENTS, shim=none)
                self.assertEqual(status, 0, said)
                self.assertEqual(self.assert_whole("run", "whole"), [10, 20])
                self.assert_same_tensors("whole", "run", "latest")

    def test_no_links(self):
        for error in (errno.EPERM, errno.ENOTSUP):
            self.disk_goes_on("symlink", "/", "1+", error)

    def test_folders_that_cannot_be_synced(self):
        for n in (1, 3, 6, 7):
            self.disk_goes_on("fsync", "/checkpoints", n, errno.EINVAL)


if __name__ == "__main__":
    unittest.main()
