#!/usr/bin/env python3
"""patrain over several ranks of MPI: the trajectory of one, resumed on any number, stopped together. Skipped (77) without mpirun."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import programs

SETTINGS = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
ENVIRONMENT = programs.environment(**SETTINGS, OMP_NUM_THREADS="1", OMPI_MCA_hwloc_base_binding_policy="none")


class Ranks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="patrain-ranks-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        programs.make_corpus(cls.folder)

    def line(self, ranks, run, *arguments):
        return ["mpirun", "-n", str(ranks), *programs.command(self.folder, run, *arguments)]

    def train(self, ranks, run, *arguments, status=0):
        done = subprocess.run(self.line(ranks, run, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def losses(self, run):
        return programs.losses(self.folder / run)

    def assert_close(self, one, other):
        """Every step's loss, rate and norm, every evaluation: equal but for the order of float32 sums."""
        for ours, theirs in zip(self.losses(one), self.losses(other)):
            self.assertEqual([row[0] for row in ours], [row[0] for row in theirs])
            for a, b in zip(ours, theirs):
                for x, y in zip(a, b):
                    self.assertAlmostEqual(x, y, delta=1e-4 * max(1, abs(x)))

    def test_trajectory_of_any_number_of_ranks(self):
        self.train(1, "one")
        self.assertEqual(len(self.losses("one")[0]), 40)
        for ranks in (2, 3, 4, 8):  # of 4 windows: four of the eight have none
            with self.subTest(ranks=ranks):
                self.train(ranks, f"ranks-{ranks}", f"train.micro_batch={1 if ranks == 2 else 0}")
                self.assert_close("one", f"ranks-{ranks}")

    def test_same_ranks_same_bits_also_through_a_stop(self):
        self.train(3, "again-1")
        self.train(3, "again-2", "train.steps=40")
        self.assertEqual(self.losses("again-1"), self.losses("again-2"))
        for which in ("latest", "best"):
            self.assertEqual(programs.checkpoint(self.folder / "again-1", which), programs.checkpoint(self.folder / "again-2", which))

    def test_stopped_on_four_goes_on_on_fewer(self):
        long = ("train.steps=3000", "checkpoint.every=100", "log.eval_every=1000")
        process = subprocess.Popen(self.line(4, "elastic", *long), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        for line in process.stderr:
            if line.startswith("step 120 "):
                break
        process.send_signal(signal.SIGUSR1)  # mpirun hands it on; SIGTERM it answers by killing the ranks
        said = process.stderr.read()
        process.wait()
        stopped = re.search(r"stopped on request at step (\d+), saved", said)
        self.assertTrue(stopped, said)
        step = int(stopped[1])
        self.assertLess(step, 3000)
        for ranks in (3, 2, 1):
            step += 5
            done = self.train(ranks, "elastic", f"train.steps={step}", *long[1:])
            self.assertEqual(done.stderr.count("going on from step"), 1)
        self.assertEqual([row[0] for row in self.losses("elastic")[0]], list(range(1, step + 1)))

    def test_an_error_of_one_rank_ends_all(self):
        (self.folder / "taken").write_text("a file where the run's directory should be")
        done = subprocess.run(self.line(3, "taken"), env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stderr.count("patrain: "), 1, done.stderr)


if __name__ == "__main__":
    if not shutil.which("mpirun"):
        print("mpirun is not here: skipped")
        sys.exit(77)
    unittest.main()
