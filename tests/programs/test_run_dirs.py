#!/usr/bin/env python3
"""Run directories among other processes: moved or taken while a run has them, on file systems without locks, with a
user's own files in them."""

import errno
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

import programs

SHIM = os.environ["PA_SHIM"]
NO_LOCKS = f"flock:/lock:1+:{errno.ENOLCK}"
LONG = ("train.steps=1000000", "train.epochs=0", "checkpoint.every=0", "log.eval_every=0", "log.every=1")


def environment(shim):
    return programs.environment(LD_PRELOAD=SHIM, FAILING_FS=shim,
                                ASAN_OPTIONS="verify_asan_link_order=0:detect_leaks=0")


class RunDirs(programs.WithCorpus):
    def start(self, run, *arguments, before=(), **options):
        line = [*before, *programs.command(self.folder, run, *arguments)]
        process = subprocess.Popen(line, env=options.pop("env", programs.environment()), stderr=subprocess.PIPE,
                                   text=True, **options)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, process, text):
        for line in process.stderr:
            if line.startswith(text):
                return
        self.fail(f"the run ended before \"{text}\"")

    def last_line(self, process, status):
        said = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, status, said)
        return said.splitlines()[-1]

    def start_until(self, call, run, *arguments):
        """The shim stops it before that call."""
        process = self.start(run, *arguments, env=environment(f"{call}:stop"))
        found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.assertEqual(found.si_code, os.CLD_STOPPED)
        return process

    def go_on(self, process, status):
        process.send_signal(signal.SIGCONT)
        return self.last_line(process, status)

    def the_one_left(self, many, others):
        """Of several starts the one that runs; the others have ended with an error that matches."""
        while sum(process.poll() is None for process in many) > 1:
            time.sleep(0.05)
        (left,) = [process for process in many if process.poll() is None]
        for process in many:
            if process is not left:
                said = process.communicate()[1]
                self.assertEqual(process.returncode, 1, said)
                self.assertRegex(said.splitlines()[-1], others)
        return left

    def steps(self, run):
        return sorted(int(path.name[5:]) for path in (self.folder / run / "checkpoints").iterdir())


class Moved(RunDirs):
    def test_a_directory_that_is_moved(self):
        """The run saves where it is now, and ends; another that has begun at the old path meanwhile is left alone."""
        process = self.start("moved", *LONG)
        self.wait_for(process, "step 3 ")
        process.send_signal(signal.SIGSTOP)
        (self.folder / "moved").rename(self.folder / "elsewhere")
        second = programs.train(self.folder, "moved", "train.steps=2")
        self.assertEqual(second.returncode, 0, second.stderr)
        before = {p: p.read_bytes() for p in (self.folder / "moved").rglob("*") if p.is_file()}
        process.send_signal(signal.SIGCONT)
        found = self.last_line(process, 1)
        (step,) = self.steps("elsewhere")
        self.assertEqual(found,
                         f"patrain: {self.folder}/moved was moved to {self.folder}/elsewhere during this run; "
                         f"step {step} is saved there")
        self.assertEqual({p: p.read_bytes() for p in (self.folder / "moved").rglob("*") if p.is_file()}, before)
        done = programs.train(self.folder, "elsewhere", f"train.steps={step + 2}", "log.eval_every=0")
        self.assertIn(f"elsewhere: resuming from step {step}\n", done.stderr)

    def test_a_lock_that_is_removed(self):
        """Another run has begun there: of two only the later one writes."""
        process = self.start("taken", *LONG, "checkpoint.every=50")
        self.wait_for(process, "step 3 ")
        process.send_signal(signal.SIGSTOP)
        (self.folder / "taken/lock").unlink()
        second = programs.train(self.folder, "taken", "train.steps=2", "log.eval_every=0")
        self.assertEqual(second.returncode, 0, second.stderr)
        found = self.steps("taken")
        process.send_signal(signal.SIGCONT)
        self.assertEqual(self.last_line(process, 1),
                         f"patrain: {self.folder}/taken or its lock was moved, removed or taken during this "
                         "run; nothing more is written")
        self.assertEqual(self.steps("taken"), found)

    def test_a_lock_that_is_removed_without_saves(self):
        """The next step finds it: no two runs write one log."""
        process = self.start("unsaved", *LONG)
        self.wait_for(process, "step 3 ")
        process.send_signal(signal.SIGSTOP)
        (self.folder / "unsaved/lock").unlink()
        self.train("unsaved", "train.steps=2", "log.eval_every=0")
        process.send_signal(signal.SIGCONT)
        self.assertIn("was moved, removed or taken", self.last_line(process, 1))
        steps = [m["step"] for m in programs.metrics(self.folder / "unsaved")[0]]
        self.assertEqual(steps[:2], [1, 2])
        self.assertLess(len(steps), 4)  # the line that was due when it was stopped

    def test_fresh_starts_at_once(self):
        """One of several simultaneous starts gets the directory; none is moved from under another."""
        self.assertEqual(programs.train(self.folder, "many", "train.steps=1", "log.eval_every=0").returncode, 0)
        many = [self.start("many", "--fresh", *LONG, "train.grace=0") for _ in range(6)]
        self.one_stays(many, "many")

    def one_stays(self, many, run):
        left = self.the_one_left(many, "is in use by another run|all names up to|moved, removed or taken|cannot ")
        self.wait_for(left, "step 2 ")
        left.terminate()
        left.communicate()
        self.assertEqual(left.returncode, 75)
        self.assertEqual(len(self.steps(run)), 1)


class Stopped(RunDirs):
    """What others do between two calls of a run, which the shim stops there."""

    SAVES = (*LONG, "checkpoint.every=10")
    MOMENTS = ("fsync:/state.safetensors:1", "rename:/checkpoints/step-00000010:3")  # of the save at step 10

    def files(self, run):
        return {p: p.readlink() if p.is_symlink() else p.read_bytes()
                for p in (self.folder / run).rglob("*") if p.is_symlink() or p.is_file()}

    def test_two_fresh_starts(self):
        """One of them has the directory, and it is not moved from under that one."""
        in_use = r"^patrain: \S+ is in use by another run \("
        for i, call in enumerate(("rename:fresh-0.old-1:1", "mkdir:fresh-1/checkpoints:1", "flock:fresh-2/lock:2")):
            with self.subTest(call):
                run = f"fresh-{i}"
                self.train(run, "train.steps=1", "log.eval_every=0")
                first = self.start_until(call, run, "--fresh", "train.steps=2", "log.eval_every=0")
                if i == 0:  # it has the old one
                    second = self.start(run, "--fresh", "train.steps=2")
                    self.assertRegex(self.last_line(second, 1), in_use)
                    self.go_on(first, 0)
                    self.assertEqual(self.steps(run), [2])
                else:
                    second = self.start(run, "--fresh", *LONG)
                    self.wait_for(second, "step 3 ")
                    self.assertRegex(self.go_on(first, 1), in_use)
                    second.terminate()
                    self.last_line(second, 75)
                    self.assertEqual(len(self.steps(run)), 1)
                self.assertEqual(self.steps(f"{run}.old-1"), [1])

    def test_a_stale_lock_that_another_takes(self):
        """Without locks: of two starts after a killed one the slower gives back what it took for the killed one's."""
        (self.folder / "stale").mkdir()
        (self.folder / "stale/lock.owner").write_text("process 1 on nowhere\n0123456789abcdef\n7\n")
        first = self.start_until(f"{NO_LOCKS},rename:stale/lock.owner.tmp.:1", "stale", "train.steps=2")
        second = self.start("stale", *LONG, env=environment(NO_LOCKS))
        self.wait_for(second, "step 3 ")
        second.send_signal(signal.SIGSTOP)
        self.assertRegex(self.go_on(first, 1), r"^patrain: \S+ is in use by another run \(process ")
        second.send_signal(signal.SIGCONT)
        second.terminate()
        self.last_line(second, 75)
        self.assertEqual(len(self.steps("stale")), 1)

    def test_a_directory_that_is_moved_during_a_save(self):
        """The step is saved where the directory is now."""
        for call in self.MOMENTS:
            for steps, every in ((10, 10), (1000000, 10), (1000000, 1)):  # 1: the next save waits for this one
                with self.subTest(call=call, steps=steps, every=every):
                    run = f"during-{self.MOMENTS.index(call)}-{steps}-{every}"
                    process = self.start_until(call, run, *self.SAVES, f"train.steps={steps}",
                                               f"checkpoint.every={every}")
                    (self.folder / run).rename(self.folder / f"{run}-now")
                    self.train(run, "train.steps=2", "log.eval_every=0")
                    before = self.files(run)
                    found = self.go_on(process, 0 if steps == 10 else 1)
                    step = int(os.readlink(self.folder / f"{run}-now/latest")[-8:])
                    self.assertGreaterEqual(step, every)
                    self.assertRegex(found, f"^finished at step 10, .*{run}-now$" if steps == 10 else
                                     f"^patrain: .*/{run} was moved to .*/{run}-now during this run; step {step} is "
                                     "saved there$")
                    self.assertEqual(self.files(run), before)
                    said = self.train(f"{run}-now", f"train.steps={step + 2}", "log.eval_every=0")
                    self.assertIn(f"{run}-now: resuming from step {step}\n", said)
                    self.assertEqual(list((self.folder / f"{run}-now").rglob("*.tmp.*")), [])

    def test_a_lock_that_is_removed_during_a_save(self):
        """Nothing of the step is left where another run has begun."""
        for i, call in enumerate(self.MOMENTS):
            with self.subTest(call):
                process = self.start_until(call, f"removed-{i}", *self.SAVES)
                (self.folder / f"removed-{i}/lock").unlink()
                self.train(f"removed-{i}", "train.steps=2", "log.eval_every=0")
                self.assertRegex(self.go_on(process, 1),
                                 "or its lock was moved, removed or taken during this run; nothing more is written$")
                self.assertEqual(self.steps(f"removed-{i}"), [2])
                self.assertEqual(os.readlink(self.folder / f"removed-{i}/latest"), "checkpoints/step-00000002")


class NoLocks(RunDirs):
    """A file system without locks: what its holder writes each second shows whether it still is."""

    UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]

    def test_another_container(self):
        """One host name, another set of process ids: the holder's means nothing there, or somebody else. With locks and
        without."""
        if subprocess.run([*self.UNSHARE, "true"], capture_output=True).returncode:
            self.skipTest("no namespaces here")
        for run, shim in (("apart", NO_LOCKS), ("locked", "none:none:1:1")):
            with self.subTest(run):
                first = self.start(run, *LONG, env=environment(shim))
                self.wait_for(first, "step 3 ")
                second = self.start(run, *LONG, env=environment(shim), before=self.UNSHARE)
                self.assertRegex(self.last_line(second, 1), rf"^patrain: {self.folder}/{run} is in use by another run "
                                 rf"\(process {first.pid} on ")
                first.terminate()
                first.communicate()
                self.assertEqual(first.returncode, 75)
                self.assertFalse((self.folder / run / "lock.owner").exists())

    def test_containers_at_one_moment(self):
        """All of them have the same process id."""
        if subprocess.run([*self.UNSHARE, "true"], capture_output=True).returncode:
            self.skipTest("no namespaces here")
        many = [self.start("same", *LONG, env=environment(NO_LOCKS), before=self.UNSHARE) for _ in range(4)]
        left = self.the_one_left(many, r"is in use by another run|moved, removed or taken")
        self.wait_for(left, "step 2 ")
        left.kill()
        left.communicate()

    def test_at_one_moment(self):
        for state in ("new", "killed"):
            with self.subTest(state):
                many = [self.start("race", *LONG, env=environment(NO_LOCKS)) for _ in range(6)]
                Moved.one_stays(self, many, "race")
                shutil.rmtree(self.folder / "race/checkpoints")
                (self.folder / "race/lock.owner").write_text("process 1 on nowhere\n0123456789abcdef\n7\n")

    def test_a_lock_that_is_given_back(self):
        """Another start that was slower to remove the last holder's has moved it, and finds that it is a new one."""
        run = self.start("back", *LONG, env=environment(NO_LOCKS))
        self.wait_for(run, "step 3 ")
        lock, aside = self.folder / "back/lock.owner", self.folder / "back/aside"
        lock.rename(aside)
        time.sleep(0.3)
        os.link(aside, lock)
        aside.unlink()
        run.terminate()
        said = run.communicate()[1]
        self.assertEqual(run.returncode, 75, said)
        self.assertFalse(lock.exists())

    def test_a_holder_that_was_asleep(self):
        """Longer than others wait: it finds that the directory is taken."""
        first = self.start("asleep", *LONG, env=environment(NO_LOCKS))
        self.wait_for(first, "step 3 ")
        first.send_signal(signal.SIGSTOP)
        second = self.start("asleep", "train.steps=3", "log.eval_every=0", env=environment(NO_LOCKS))
        self.assertEqual(self.last_line(second, 0).split(",")[0], "finished at step 3")
        first.send_signal(signal.SIGCONT)
        self.assertIn("was moved, removed or taken", self.last_line(first, 1))
        self.assertEqual(self.steps("asleep"), [3])


class Leavings(RunDirs):
    def test_a_user_s_own_files(self):
        """What an older save left is known by its process's word, not by what its name looks like."""
        self.assertEqual(programs.train(self.folder, "own", "train.steps=3", "log.eval_every=0").returncode, 0)
        run = self.folder / "own"
        mine = [run / "checkpoints/step-00000001.old", run / "checkpoints/step-00000003.tmp.good", run / "step-1.tmp.1"]
        for path in mine:
            path.mkdir()
            (path / "note").write_text("mine")
        for name in ("config.ini.tmp.42", "samples/step-00000003.mid.tmp.7"):
            (run / name).write_text("mine")
        process = self.start("own", *LONG, env=environment("fsync:checkpoints/step:1:kill"))
        self.wait_for(process, "step 5 ")
        process.terminate()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        word = (run / "lock").read_text().split("\n")[1]
        # a folder and a file in it
        self.assertEqual(len([p for p in run.rglob("*") if p.name.endswith(f".tmp.{word}")]), 2)
        (run / f"config.ini.tmp.{word}").write_text("half")
        self.assertEqual(programs.train(self.folder, "own", "train.steps=8", "log.eval_every=0").returncode, 0)
        self.assertEqual([p for p in run.rglob("*") if word in p.name and not p.name.startswith("events.")], [])
        for path in mine:
            self.assertEqual((path / "note").read_text(), "mine")
        for name in ("config.ini.tmp.42", "samples/step-00000003.mid.tmp.7"):
            self.assertEqual((run / name).read_text(), "mine")


class Changed(RunDirs):
    """Token files that somebody writes to during the run."""

    def copies(self, run):
        """Settings that name this run's own token files."""
        out = ["log.eval_every=10"]
        for name in ("train", "validation"):
            shutil.copy(self.folder / f"{name}.safetensors", self.folder / f"{run}-{name}.safetensors")
            out.append(f"data.{name}={self.folder}/{run}-{name}.safetensors")
        return out

    def change(self, run, which, change, message):
        files, path = self.copies(run), self.folder / f"{run}-{which}.safetensors"
        process = self.start(run, *LONG, *files)
        self.wait_for(process, "step 3 ")
        process.send_signal(signal.SIGSTOP)
        change(path)
        process.send_signal(signal.SIGCONT)
        said = self.last_line(process, 3)
        (step,) = self.steps(run)
        self.assertRegex(said, f"^patrain: {path} {message}; the run is saved at step {step}$")
        tensors = programs.checkpoint(self.folder / run)
        for kind, _, data in (tensor for part in tensors for tensor in part.values()):
            self.assertTrue(all(x == x and abs(x) < 1e6 for x in struct.unpack(f"<{len(data) // 4}f", data)))
        # with the files as they were
        done = programs.train(self.folder, run, f"train.steps={step + 2}", "log.eval_every=0")
        self.assertIn(f"resuming from step {step}\n", done.stderr)

    def test_cut_short(self):
        for which in ("train", "validation"):
            self.change(f"cut-{which}", which, lambda path: os.truncate(path, 100),
                        "was changed while it was open: expected \\d+ bytes, found 100")

    def test_cut_short_before_it_is_read(self):
        """Its pages are gone, just after it was checked."""
        process = self.start_until("fstat:gone-validation.safetensors:8", "gone", *LONG, *self.copies("gone"))
        os.truncate(self.folder / "gone-train.safetensors", 0)
        said = self.go_on(process, 3)
        (step,) = self.steps("gone")
        self.assertRegex(said, "^patrain: .*/gone-train.safetensors could not be read, or was cut short, while it was "
                         f"open; the run is saved at step {step}$")

    def test_overwritten(self):
        def change(path):
            with path.open("r+b") as f:
                f.write(b"\xff" * path.stat().st_size)

        self.change("noise", "train", change, "was written to while it was open")

    def test_overwritten_without_a_trace(self):
        def change(path):
            info = path.stat()
            data = path.read_bytes()
            with path.open("r+b") as f:
                f.write(data[:-50] + b"\x07" + data[-49:])
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

        self.change("silent", "train", change,
                    "was changed while it was open: expected data with CRC-32C \\w+, found \\w+")


class Kinds(RunDirs):
    """A named pipe, a folder or a device where a file belongs."""

    def test_in_a_run(self):
        for name in ("lock", "metrics.jsonl", "train.log", "run.jsonl", "config.ini"):
            with self.subTest(name):
                run = f"kind-{name}"
                (self.folder / run).mkdir()
                os.mkfifo(self.folder / run / name)
                done = programs.train(self.folder, run, "train.steps=2", timeout=20)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertRegex(done.stderr.splitlines()[-1],
                                 f"^patrain: {self.folder}/{run}/{name}: expected a file.*, found a named pipe")

    def test_configurations(self):
        os.mkfifo(self.folder / "pipe.ini")
        for path, kind in ((f"{self.folder}/pipe.ini", "a named pipe that nobody writes to"), ("/dev/zero", "a device"),
                           (str(self.folder), "a folder")):
            done = subprocess.run([programs.PATRAIN, path], capture_output=True, text=True, timeout=20,
                                  env=programs.environment())
            self.assertEqual((done.returncode, done.stderr), (2, f"patrain: {path}: expected a file, found {kind}\n"))


if __name__ == "__main__":
    unittest.main()
