#!/usr/bin/env python3
"""Each call that can fail fails once, the Nth of its kind in a run for every N: memory, files, threads, processes.

A run ends as if nothing had failed, or with one line that says what did and exit 1; then no file is half-written under
its name, the same command succeeds, and its outputs are those of a run that nothing disturbed, without a temporary
file beside them.

A sample is drawn unless PA_FAULTS is set, always the same: PA_SEED=N draws another. PA_FAULTS=all tries all,
PA_FAULTS=SCENARIO those of one scenario, SCENARIO:KIND those of one kind, SCENARIO:KIND:N+ from the Nth on, and
SCENARIO:KIND:N one.
"""

import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import tempfile
import unittest

import faults
import prep
import programs

SCENARIO, KIND, FIRST = (os.environ.get("PA_FAULTS", "").split(":") + ["", ""])[:3]
SEED = int(os.environ.get("PA_SEED", 1))
SAMPLE = 6  # of a scenario's calls of one kind

# Libraries that end the process by themselves where the call failed in them: how, and why nothing is done about it.
ALONE = {
    "libgomp": (1, "^libgomp: ", "it has no other way to report that it cannot start a team"),
    "libdnnl": (-signal.SIGABRT, "std::bad_alloc", "it throws, and its callers are C"),
    "libdnnl.so": (-signal.SIGSEGV, "", "it does not check the memory of the code that it generates"),
}

# Errors with another status than 1: a path of the command line cannot be read; a token file cannot be read any more.
OTHERS = {
    2: r"cannot (open|read) .*: (Input/output error|Too many open files|Cannot allocate memory)$"
       r"|tiny.ini: expected at most \d+ bytes of text and memory for them",
    3: "; the run is saved at step",
}
# What could be read is converted, and what was trained is saved, at a step where an undisturbed run saves nothing.
PARTIAL = "cannot read [0-9]+ of its files and folders|; the run is saved at step [0-9]+$"


def without_times(text):
    return re.sub(r"[\d.]+ (s|tokens/s)\b", r"N \1", text)


class Scenario:
    """A command run in a folder that begins as a copy of a template."""

    def __init__(self, name, base, *command):
        self.name, self.template, self.folder = name, base / "templates" / name, base / "work"
        self.program = command[0]
        on = [] if command[0] == "paprep" else ["--device", "cpu", "--precision", "fp32"]
        self.command = [str(faults.BIN / command[0]), *(str(a).format(self.folder) for a in command[1:]), *on]
        self.scratch = base / "scratch"

    def begin(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder, symlinks=True)

    def run(self, fault=None, **more):
        threads = 2 if fault and fault.startswith("thread") else 1
        return faults.run(self.command, self.scratch, fault, threads=threads, **more)

    def learn(self):
        """What a run that nothing disturbs does."""
        self.before = faults.contents(self.template)
        self.begin()
        done = self.run()
        if done.status:
            raise AssertionError(f"{self.command}: {done}")
        self.calls, self.stdout, self.after = done.counts, done.stdout, faults.contents(self.folder)
        self.between = self.learn_between()

    def learn_between(self):
        """Further contents that a file may have when a run ends early."""
        return {}


class Training(Scenario):
    def learn_between(self):
        """The checkpoints that are pruned later."""
        self.begin()
        done = faults.run([*self.command, "checkpoint.keep=100"], self.scratch)
        if done.status:
            raise AssertionError(done)
        return {name: what for name, what in faults.contents(self.folder).items() if "/step-" in name}


def make_templates(base):
    (base / "scratch").mkdir()
    train, midi = base / "templates" / "train", base / "templates" / "paprep"
    (train / "tokens").mkdir(parents=True)
    programs.write_tokens(train / "tokens/train.safetensors", [30, 47, 64], seed=1)
    programs.write_tokens(train / "tokens/validation.safetensors", [40, 30], seed=2)
    (train / "tiny.ini").write_text(faults.CONFIG.format(base / "work"))
    (midi / "midi").mkdir(parents=True)
    for i in range(4):
        (midi / "midi" / f"{i}.mid").write_bytes(prep.tune(i))
    (midi / "midi" / "bad.mid").write_bytes(b"MThd")
    return train, midi


def make_scenarios(base):
    train, midi = make_templates(base)
    first = Training("train", base, "patrain", "{0}/tiny.ini", "--run-dir", "{0}/run")
    again = Training("resume", base, "patrain", "{0}/tiny.ini", "--run-dir", "{0}/run", "train.steps=6")
    first.begin()
    faults.run(first.command, base / "scratch")
    shutil.copytree(first.folder, again.template, symlinks=True)
    convert = Scenario("paprep", base, "paprep", "{0}/midi", "{0}/out", "--jobs", "1")
    convert.begin()
    older = faults.run([*convert.command, "--part-bytes", "100"], base / "scratch")
    assert not older.status, older
    shutil.copytree(convert.folder / "out", midi / "out")
    for name in ("pagen", "paeval"):
        shutil.copytree(again.template, base / "templates" / name, symlinks=True)
    play = base / "templates/pagen"
    (play / "primer.mid").write_bytes(prep.tune(7))
    (play / "out.mid").write_bytes(b"an older file")
    generate = Scenario("pagen", base, "pagen", "{0}/run", "--primer", "{0}/primer.mid", "--output", "{0}/out.mid",
                        "--length-tokens", "20")
    measure = Scenario("paeval", base, "paeval", "{0}/run", "{0}/tokens/validation.safetensors")
    export = Scenario("export", base, "paeval", "{0}/run", "--export", "{0}/copy.safetensors")
    shutil.copytree(again.template, export.template, symlinks=True)
    (export.template / "copy.safetensors").write_bytes(b"an older file")
    return {s.name: s for s in (first, again, convert, generate, measure, export)}


class FailNth(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="patrain-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.scenarios = make_scenarios(cls.base)
        cls.tried = cls.ended = cls.alone = 0

    @classmethod
    def tearDownClass(cls):
        print(f"{cls.tried} failed calls: {cls.tried - cls.ended - cls.alone} runs ended with the same result, "
              f"{cls.ended} with an error, {cls.alone} in a library that ends the process", flush=True)

    def assert_one_line(self, scenario, done):
        lines = [line for line in done.stderr.splitlines() if re.match(f"{scenario.program}: ", line)]
        self.assertTrue(lines, done)
        self.assertEqual(lines[-1], done.stderr.splitlines()[-1], done)
        self.assertNotRegex(done.stderr, "Sanitizer|runtime error|terminate called")

    def assert_nothing_torn(self, scenario, done):
        for name, what in faults.contents(scenario.folder).items():
            if ".tmp." in name or ".paprep-" in name or name.endswith("metrics.jsonl"):
                continue
            if str(what).startswith("-> "):
                self.assertTrue((scenario.folder / name).exists(), f"{name} leads nowhere after {done}")
                continue
            whole = [files[name] for files in (scenario.before, scenario.between, scenario.after) if name in files]
            self.assertTrue(what in whole, f"{name} is torn after {done}")

    def assert_same(self, scenario, done, warned=False, stays=False):
        """The outputs are those of an undisturbed run; warned: but for those that a warning was about; stays: a
        temporary file could not be removed."""
        now = faults.contents(scenario.folder)
        for name in sorted(now.keys() | scenario.after.keys()):
            if warned and name.endswith("metrics.jsonl"):
                continue
            if name in now and now[name] == scenario.between.get(name):  # a checkpoint that was not pruned
                continue
            if stays and ".tmp." in name:
                continue
            self.assertIn(name, now, done)
            self.assertIn(name, scenario.after, done)
            self.assertTrue(now[name] == scenario.after[name], f"{name} differs after {done}")
        self.assertEqual(without_times(done.stdout), without_times(scenario.stdout), done)

    def is_alone(self, done):
        return any(done.status == status and library in done.trace and re.search(says, done.stderr, re.M)
                   for library, (status, says, _) in ALONE.items())

    def check(self, scenario, kind, n):
        """Whether there was an Nth call."""
        scenario.begin()
        done = scenario.run(f"{kind}:{n}")
        if not done.failed:
            return False
        stays = kind == "name" and scenario.program in ("pagen", "paeval")  # nothing says where a next run would look
        type(self).tried += 1
        self.assertIsNotNone(done.status, f"hangs: {done}")
        if done.status == 0:
            self.assert_same(scenario, done, warned="warning: " in done.stderr, stays=stays)
            return True
        if self.is_alone(done):
            type(self).alone += 1
        else:
            type(self).ended += 1
            self.assert_one_line(scenario, done)
            says = done.stderr.splitlines()[-1]
            if not any(done.status == status and re.search(words, says) for status, words in OTHERS.items()):
                self.assertEqual(done.status, 1, done)
        if not re.search(PARTIAL, done.stderr, re.M):
            self.assert_nothing_torn(scenario, done)
        again = scenario.run()
        self.assertEqual(again.status, 0, (done, again))
        if scenario.name == "resume":
            self.assertRegex(again.stderr, "resuming from step [456]\n")
        self.assertNotIn("skipping a damaged checkpoint", again.stderr)
        self.assert_same(scenario, again, stays=stays)
        return True

    def numbers(self, scenario, kind, rng):
        calls = scenario.calls[kind]
        if SCENARIO and (not FIRST or FIRST.endswith("+")):
            return itertools.count(int(FIRST[:-1] or 1))
        return [int(FIRST)] if FIRST else sorted(rng.sample(range(1, calls + 1), min(calls, SAMPLE)))

    def check_all(self, name):
        if SCENARIO not in ("", "all", name):
            self.skipTest("another is asked for")
        scenario = self.scenarios[name]
        scenario.learn()
        print(f"{name}: {scenario.calls}", flush=True)
        rng = random.Random(f"{SEED} {name}")
        for kind in [KIND] if KIND else faults.KINDS:
            before = self.tried
            for n in self.numbers(scenario, kind, rng):
                with self.subTest(replay=f"PA_FAULTS={name}:{kind}:{n}"):
                    if not self.check(scenario, kind, n):
                        self.assertFalse(FIRST.isdigit(), "no such call")
                        break
            print(f"{name}, {kind}: {self.tried - before} calls failed", flush=True)

    def test_train(self):
        self.check_all("train")

    def test_resume(self):
        self.check_all("resume")

    def test_paprep(self):
        self.check_all("paprep")

    def test_pagen(self):
        self.check_all("pagen")

    def test_paeval(self):
        self.check_all("paeval")

    def test_export(self):
        self.check_all("export")


if __name__ == "__main__":
    print(f"PA_SEED={SEED}", flush=True)
    unittest.main()
