#!/usr/bin/env python3
"""patrain's memory: the plan is printed before anything is taken, and what a real step takes is the plan. `Small` is
quick; `Large` runs a step of v4, 16,384 tokens, in less than 6 GB."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import programs

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
SANITIZED = b"__asan_init" in pathlib.Path(programs.PATRAIN).read_bytes()  # its shadow is memory too


class Memory(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="patrain-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        programs.write_tokens(self.folder / "train.safetensors", [17000])

    def start(self, config, *arguments, run=("--dry-run",)):
        line = [programs.PATRAIN, str(CONFIGS / f"{config}.ini"), f"data.train={self.folder}/train.safetensors",
                "data.validation=", *run, "--device", "cpu", "--run-dir", str(self.folder / "run"), *arguments]
        process = subprocess.Popen(line, env=programs.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                   text=True)
        for end in (process.stderr.close, process.wait, process.kill):  # the last is called first
            self.addCleanup(end)
        return process

    def plan(self, process):
        """Bytes by arena, and of all; read from stderr as they are printed."""
        arenas = {}
        for line in process.stderr:
            row = re.match(r"  (\w[\w -]*\w) +(\d+\.\d) MB\n", line)
            if row:
                arenas[row[1]] = float(row[2]) * 1e6
            if "all" in arenas:
                return arenas
            self.assertNotRegex(line, "^step ")
        self.fail("no memory plan")

    def peak(self, process):
        """(what it said after the plan, most bytes that it had resident)"""
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, said)
        return said, usage.ru_maxrss * 1024

    def check(self, config, *arguments, run=("--dry-run",), says="\ndry run: one window took "):
        tiny = self.start("demo", "model.context=32", "model.prefix=8", "model.dim=16", "model.heads=1",
                          "model.depth=1")
        bare = self.peak(tiny)[1]  # the program and its libraries, and the product that it measures the device by
        process = self.start(config, *arguments, run=run)
        planned = self.plan(process)["all"]
        said, taken = self.peak(process)
        self.assertIn(says, said)
        if "--dry-run" not in run:
            planned += float(re.search(r"^  and from the first checkpoint on (\d+\.\d) MB ", said, re.M)[1]) * 1e6
        self.assertLess(abs(taken - bare - planned), 0.1 * planned,
                        f"{taken} bytes taken, {bare} of them by the program, {planned} planned")
        return taken


class Small(Memory):
    @unittest.skipIf(SANITIZED, "a sanitizer takes memory of its own")
    def test_a_step_takes_what_is_planned(self):
        for precision in ("fp32", "bf16"):
            self.check("v1", "train.global_batch=1", "--precision", precision)

    def test_every_configuration_has_a_plan(self):
        for path in sorted(CONFIGS.glob("*.ini")):
            process = self.start(path.stem, "train.micro_batch=1")
            arenas = self.plan(process)  # printed before it is taken: nothing needs to be there yet
            process.kill()
            self.assertAlmostEqual(sum(arenas.values()), 2 * arenas["all"], delta=1e6)
            self.assertLessEqual({"parameters", "gradients", "moments", "activations", "backward"}, arenas.keys(), path)


class Large(Memory):
    @unittest.skipIf(SANITIZED, "a sanitizer takes memory of its own")
    def test_v4_in_6_gb(self):
        """A whole step and its checkpoint: a dry run computes only part of so long a window."""
        self.assertLess(self.check("v4", "train.global_batch=1", run=("train.steps=1",), says="\nfinished at step 1"),
                        6e9)


if __name__ == "__main__":
    unittest.main()
