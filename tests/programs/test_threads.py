#!/usr/bin/env python3
"""Two ranks, each with a thread that watches the other, the first with one that writes a checkpoint every other step:
what the thread sanitizer is to see. In a plain build the same runs are no more than a check that they end as they
should."""

import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

import programs
from test_ranks import ENVIRONMENT, MPIRUN


class Threads(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="patrain-threads-"))
        self.addCleanup(shutil.rmtree, self.folder)
        programs.make_corpus(self.folder)

    def start(self, run, *arguments, mpi=False):
        line = programs.command(self.folder, run, "--precision", "fp32", "checkpoint.every=2", *arguments)
        meet = [*line, "--rendezvous", f"{self.folder}/{run}.meet", "--world", "2", "--rank"]
        environment = ENVIRONMENT | ({"ASAN_OPTIONS": "detect_leaks=0"} if mpi else {})  # MPI's own
        out = []
        for each in [[MPIRUN, "-n", "2", *line]] if mpi else [[*meet, str(rank)] for rank in range(2)]:
            process = subprocess.Popen(each, env=environment, stderr=subprocess.PIPE, text=True)
            for end in (process.stderr.close, process.wait, process.kill):  # the last is called first
                self.addCleanup(end)
            out.append(process)
        return out

    def finish(self, process):
        said = process.stderr.read()
        self.assertNotIn("WARNING: ThreadSanitizer", said)
        return process.wait(), said

    def test_to_the_end(self):
        for zero in (0, 1):
            for process in self.start(f"zero-{zero}", f"train.zero={zero}", "train.steps=30"):
                status, said = self.finish(process)
                self.assertEqual(status, 0, said)
        self.assertEqual(*(programs.checkpoint(self.folder / f"zero-{zero}")[0].keys() for zero in (0, 1)))

    def test_a_stop_while_saving(self):
        first, second = self.start("stopped", "train.steps=100000", "log.eval_every=0")
        while not first.stderr.readline().startswith("step 20 "):
            pass
        first.send_signal(signal.SIGTERM)
        for process in (first, second):
            status, said = self.finish(process)
            self.assertEqual(status, 75, said)

    @unittest.skipUnless(MPIRUN, "needs mpirun")
    def test_over_mpi(self):
        (both,) = self.start("mpi", "train.zero=1", "train.steps=30", mpi=True)
        status, said = self.finish(both)
        self.assertEqual(status, 0, said)

    def test_a_rank_that_is_killed(self):
        first, second = self.start("killed", "train.steps=100000", "log.eval_every=0")
        while not first.stderr.readline().startswith("step 20 "):
            pass
        second.kill()
        status, said = self.finish(first)
        self.assertEqual(status, 1, said)


if __name__ == "__main__":
    unittest.main()
