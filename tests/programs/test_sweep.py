#!/usr/bin/env python3
"""bench/recipe/sweep.py: its arithmetic, and a sweep that is interrupted."""

import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

import programs

SWEEP = pathlib.Path(__file__).resolve().parents[2] / "bench/recipe/sweep.py"
sys.path.insert(0, str(SWEEP.parent))
import sweep  # noqa: E402


def rows(**values):
    """For each name its values by seed."""
    return [{"name": name, "seed": seed, "value": value, "steps": 10} for name, of in values.items()
            for seed, value in of.items()]


class Arithmetic(unittest.TestCase):
    def test_means_and_paired_differences(self):
        """Seeds differ by far more than the configurations: only pairs show it."""
        first, second = sweep.compare(rows(a={1: 1.0, 2: 2.0, 3: 3.0}, b={3: 2.7, 1: 0.8, 2: 1.9}))
        self.assertEqual(first[:3], ("a", 3, 2.0))
        self.assertAlmostEqual(first[3], 1 / math.sqrt(3))
        self.assertEqual((first[6], first[7]), ("", 10))
        self.assertAlmostEqual(second[2], 1.8)
        self.assertAlmostEqual(second[4], -0.2)
        self.assertAlmostEqual(second[5], 2 * 0.1 / math.sqrt(3))
        self.assertEqual(second[6], "lower")

    def test_verdicts(self):
        for values, expected in (
            ({1: 1.3, 2: 2.2, 3: 3.1}, "higher"),
            ({1: 1.3, 2: 1.9, 3: 3.1}, "noise"),
            ({1: 0.5, 2: 1.5}, "too few seeds"),
            ({1: 0.5, 2: 1.5, 4: 0.1}, "too few seeds"),  # the first has no seed 4
            ({1: 1.0, 2: 2.0, 3: 3.0}, "noise"),
        ):
            with self.subTest(values=values):
                self.assertEqual(list(sweep.compare(rows(a={1: 1.0, 2: 2.0, 3: 3.0}, b=values)))[1][6], expected)

    def test_order(self):
        self.assertEqual(list(sweep.in_turn(["a", "b"], [5, 6])), [("a", 5), ("b", 5), ("b", 6), ("a", 6)])

    def test_matrix(self):
        text = "# a comment\nplain\n\nfast  optimizer.lr=0.1 model.dim=8 # more\n"
        self.assertEqual(sweep.read_matrix(text), {"plain": [], "fast": ["optimizer.lr=0.1", "model.dim=8"]})
        for text in ("a\na", "a b", "optimizer.lr=1", "../a", "# nothing"):
            with self.subTest(text=text), self.assertRaises(ValueError):
                sweep.read_matrix(text)


class Sweep(programs.WithCorpus):
    def setUp(self):
        self.out = self.folder / self._testMethodName

    def line(self, *arguments):
        (self.folder / "matrix.txt").write_text("slow optimizer.lr=1e-4\nfast optimizer.lr=1e-2\n")
        return [sys.executable, str(SWEEP), str(self.out), str(self.folder / "matrix.txt"),
                str(self.folder / "tiny.ini"), "--bin", os.environ["PA_BIN"], "--seeds", "1,2,3", "log.eval_every=0",
                *arguments]

    def results(self):
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]

    def run_line(self, *arguments, status=0):
        done = subprocess.run(self.line(*arguments), env=programs.environment(), capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def test_interrupted_and_resumed(self):
        settings = ("log.eval_every=30", "train.steps=300", "checkpoint.every=100")
        process = subprocess.Popen(self.line(*settings), env=programs.environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        self.assertEqual((process.returncode, said), (75, "stopped; the same command resumes\n"))
        before = self.results()
        self.assertIn(f"{before[0]['name']}, seed 1: {before[0]['value']:.4f} after 300 steps\n", first)
        self.assertLess(len(before), 6)
        out = self.run_line(*settings, "--jobs", "2").stdout
        after = self.results()
        self.assertEqual(after[: len(before)], before)
        self.assertEqual(sorted((row["name"], row["seed"]) for row in after),
                         [(name, seed) for name in ("fast", "slow") for seed in (1, 2, 3)])
        for row in after:
            run = self.out / f"{row['name']}-{row['seed']}"
            steps, evaluations = programs.metrics(run)
            self.assertEqual((row["value"], row["steps"]), (evaluations[-1]["eval_loss"], len(steps)))
        self.assertRegex(out,
                         r"\nslow +3 +[\d.]+ +[\d.]+ +300\nfast +3 +[\d.]+ +[\d.]+ +-[\d.]+ +[\d.]+  lower +300\n$")
        table = subprocess.run([sys.executable, str(SWEEP), str(self.out), "--table"], capture_output=True, text=True,
                               check=True)
        self.assertTrue(out.endswith(table.stdout))
        other = self.run_line(*settings, "train.grad_clip=2", status=1).stderr
        self.assertRegex(other, "results.jsonl: slow had other settings; name the new ones otherwise, "
                                "or use another folder\n$")

    def test_an_error_of_a_run_is_reported(self):
        done = self.run_line("model.depht=1", status=1)
        self.assertEqual(done.stderr, "sweep: patrain: unknown key 'model.depht' (did you mean 'model.depth'?)\n")

    def test_by_paeval(self):
        done = self.run_line("--paeval", str(self.folder / "validation.safetensors"), "--pieces", "2", "--seeds", "1",
                             "train.steps=5", "train.grad_clip=3")
        self.assertTrue(re.search(r"^slow +1 .*\nfast +1 .* too few seeds +5\n$", done.stdout, re.M), done.stdout)


if __name__ == "__main__":
    unittest.main()
