#!/usr/bin/env python3
"""patrain over several GPUs of the emulator, whose NCCL is MPI. Skipped (77) without mpirun."""

import os
import re
import signal
import subprocess
import sys
import unittest

import programs
from test_ranks import ENVIRONMENT, MPIRUN, ranks_below

RUN = ("train.steps=6", "train.precision=fp32", "model.dropout=0.1", "log.eval_every=3", "checkpoint.every=2")


class CudaRanks(programs.WithCorpus):
    def line(self, ranks, run, *arguments, device="cuda"):
        line = programs.command(self.folder, run, *RUN, *arguments)
        line[line.index("cpu")] = device
        return [MPIRUN, "-n", str(ranks), *line] if ranks else line

    def train(self, ranks, run, *arguments, device="cuda", **emulator):
        environment = ENVIRONMENT | {"PA_EMULATOR_GPUS": "4"} | emulator
        line = self.line(ranks, run, *arguments, device=device)
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def assert_close(self, one, other, tolerance=1e-5):
        """Equal but for the order of float32 sums, as in test_ranks.py; or of what is printed."""
        for ours, theirs in zip(programs.losses(self.folder / one), programs.losses(self.folder / other)):
            self.assertEqual([row[0] for row in ours], [row[0] for row in theirs])
            for a, b in zip(ours, theirs):
                for x, y in zip(a, b):
                    self.assertAlmostEqual(x, y, delta=tolerance * max(1, abs(x)))

    def test_one_rank_on_nccl_is_one_without(self):
        self.train(0, "single")
        self.train(0, "single-nccl", PATRAIN_NCCL="1")
        self.assertEqual(programs.losses(self.folder / "single"), programs.losses(self.folder / "single-nccl"))
        self.assertTrue(programs.checkpoint(self.folder / "single") == programs.checkpoint(self.folder / "single-nccl"))

    def test_trajectory_of_several(self):
        self.train(0, "one")
        moments = {}
        for ranks, zero, micro, seed in ((2, 0, 1, 1), (2, 1, 0, 2), (3, 1, 1, 1), (4, 0, 0, 2)):
            with self.subTest(ranks=ranks, zero=zero):
                run = f"ranks-{ranks}-{zero}"
                said = self.train(ranks, run, f"train.zero={zero}", f"train.micro_batch={micro}",
                                  PA_EMULATOR_SEED=str(seed))
                self.assert_close("one", run)
                # not counted with NCCL
                self.assertFalse({"sent_bytes", "waited"} & set(programs.metrics(self.folder / run)[0][0]))
                moments[ranks, zero] = float(re.search(r"moments +([\d.]+) MB", said)[1])
        self.assertAlmostEqual(moments[2, 1], moments[2, 0] / 2, delta=0.051)  # printed to 0.1
        # In 16 bits, with the loss scaled: whoever keeps the moments, two ranks' sums are a + b = b + a, and only the
        # norm's order differs.
        for zero in (0, 1):
            self.train(2, f"fp16-{zero}", "train.precision=fp16", f"train.zero={zero}")
        self.assert_close("fp16-0", "fp16-1")

    def test_muon(self):
        """Ranks share matrices out by spans of any length."""
        muon = ("optimizer.name=muon", "optimizer.lr=0.02", "train.precision=fp32")
        self.train(0, "muon", *muon)
        self.train(0, "muon-cpu", *muon, device="cpu")
        self.assert_close("muon", "muon-cpu", 1e-4)
        for ranks, zero in ((2, 0), (3, 1)):
            with self.subTest(ranks=ranks, zero=zero):
                self.train(ranks, f"muon-{ranks}-{zero}", *muon, f"train.zero={zero}")
                self.assert_close("muon", f"muon-{ranks}-{zero}", 1e-4)

    def test_gradient_sums_in_bf16(self):
        """Each sum is rounded to 8 bits: near float32's, not the same, and of two ranks the same with train.zero."""
        self.train(2, "sums-fp32")
        for zero in (0, 1):
            self.train(2, f"sums-{zero}", "train.gradient_sums=bf16", f"train.zero={zero}")
        self.assert_close("sums-fp32", "sums-0", 2e-3)
        self.assert_close("sums-0", "sums-1")
        with self.assertRaises(AssertionError):
            self.assert_close("sums-fp32", "sums-0")
        self.train(0, "sums-one", "train.gradient_sums=bf16")  # nothing to sum
        line = self.line(2, "sums-cpu", "train.gradient_sums=bf16", device="cpu")
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 2)
        self.assertIn("train.gradient_sums: expected fp32 on the CPU, found bf16, which is for GPUs", done.stderr)

    def test_ranks_without_windows(self):
        """Four ranks, and two windows a step: as on the CPU."""
        self.train(0, "few", "train.global_batch=2")
        for ranks, device, zero in ((4, "cuda", 0), (3, "cuda", 1), (4, "cpu", 1)):
            with self.subTest(ranks=ranks, device=device):
                run = f"few-{device}-{ranks}"
                said = self.train(ranks, run, "train.global_batch=2", f"train.zero={zero}", device=device)
                self.assertIn(f"{ranks - 2} of {ranks} ranks are idle: train.global_batch is 2", said)
                self.assert_close("few", run)

    def test_joined_by_a_file(self):
        """NCCL's id goes by the rendezvous file's sockets; the emulator's NCCL itself is MPI still."""
        self.train(2, "joined-mpi", "train.zero=1")
        line = self.line(0, "joined", "train.zero=1", "--rendezvous", f"{self.folder}/meet", "--world", "2")
        script = 'exec "$@" --rank "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"'
        done = subprocess.run([MPIRUN, "-n", "2", "sh", "-c", script, "sh", *line],
                              env=ENVIRONMENT | {"PA_EMULATOR_GPUS": "2"}, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.count("million parameters"), 1)  # one run of two ranks
        self.assert_close("joined-mpi", "joined")

    def test_goes_on_elsewhere(self):
        self.train(2, "elastic", "train.zero=1")
        self.train(3, "elastic", "train.zero=1", "train.steps=8")
        self.train(0, "elastic", "train.steps=10")
        self.train(2, "elastic", "train.steps=12", device="cpu")
        self.assertEqual([row[0] for row in programs.losses(self.folder / "elastic")[0]], list(range(1, 13)))

    def test_a_rank_that_is_stopped(self):
        line = self.line(2, "silent", "train.steps=100000", "train.timeout=10", "log.eval_every=0")
        process = subprocess.Popen(line, env=ENVIRONMENT | {"PA_EMULATOR_GPUS": "2"}, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        for text in process.stderr:
            if text.startswith("step 20 "):
                break
        os.kill(ranks_below(process.pid)[1], signal.SIGSTOP)
        said = process.stderr.read()
        self.assertNotEqual(process.wait(timeout=120), 0)
        self.assertRegex(said,
                         r"patrain: communication: (NCCL: nothing for 10 s \(train.timeout\); no answer from rank 1;|"
                         r"nothing from rank 1 for 10 s \(train.timeout\);)")
        self.assertEqual(said.count("patrain: communication"), 1, said)


if __name__ == "__main__":
    if not MPIRUN:
        print("mpirun is not here: skipped")
        sys.exit(77)
    unittest.main()
