#!/usr/bin/env python3
"""Ranks of one run that differ: found at the start, or where a replica's weights drift, before they are saved."""

import os
import pathlib
import re
import shutil
import subprocess
import time
import unittest

import programs
from test_ranks import ENVIRONMENT

# Weights keep their bits, so that a rank's can be found in its memory.
STILL = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "train.precision=fp32")


class Differ(programs.WithCorpus):
    def start(self, run, ranks, *arguments, other=(), environment=None):
        """Ranks of a run; the last has other arguments and environment."""
        processes = []
        for rank in range(ranks):
            last = rank == ranks - 1
            line = programs.command(self.folder, run, *arguments, *(other if last else ()))
            line += ["--rendezvous", f"{self.folder}/{run}.meet", "--rank", str(rank), "--world", str(ranks)]
            process = subprocess.Popen(line, env=ENVIRONMENT | (environment or {} if last else {}),
                                       stderr=subprocess.PIPE, text=True)
            for end in (process.stderr.close, process.wait, process.kill):
                self.addCleanup(end)
            processes.append(process)
        return processes

    def test_found_at_the_start(self):
        programs.write_tokens(self.folder / "a.safetensors", [70, 90, 20], seed=61)
        self.assertEqual(programs.train(self.folder, "weights", "train.steps=1").returncode, 0)
        cases = [
            ("optimizer.lr", "0.003", "0.001"),
            ("train.seed", "1", "2"),
            ("train.global_batch", "4", "6"),
            ("train.steps", "40", "50"),
            ("train.zero", "0", "1"),
            ("model.depth", "2", "3"),
            ("train.precision", "auto", "bf16"),
        ]
        cases = [(f"{key}={other}", f"{key}: rank 0 has {one}, rank 2 has {other}") for key, one, other in cases]
        cases += [(f"data.{data}={self.folder}/a.safetensors",
                   rf"checksum of data.{data}: rank 0 has \w+, rank 2 has \w+")
                  for data in ("train", "validation")]
        cases += [("--dry-run", "--dry-run: rank 0 has false, rank 2 has true")]
        for i, (other, says) in enumerate(cases):
            self.refused(f"start-{i}", 2, f"{says}; ranks of a run need the same", other=[other])
        self.refused("isa", 2, r"instruction set: rank 0 has \w+, rank 2 has generic; ranks of a run need the same",
                     "train.precision=fp32", environment={"PATRAIN_ISA": "generic"})
        self.refused("init", 1, "weights of rank 2 differ from rank 0's at step 0, which is not saved",
                     other=["--init", f"{self.folder}/weights"])

    def refused(self, run, status, says, *arguments, **options):
        processes = self.start(run, 3, *arguments, **options)
        for rank, process in enumerate(processes):
            said = process.communicate(timeout=60)[1]
            with self.subTest(run=run, rank=rank, **options):
                self.assertEqual(process.returncode, status, said)
                self.assertRegex(said, f"(?m)^patrain: {says}$")
        self.assertFalse((self.folder / run / "latest").exists())

    def flip_weight(self, pid, weight):
        """Flips a bit of every copy of a tensor in a process's memory; how many there were."""
        found = 0
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
                begin, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
                if not mode.startswith("rw") or int(end, 16) - int(begin, 16) > 1 << 30:  # sanitizers map more
                    continue
                try:
                    memory.seek(int(begin, 16))
                    data = memory.read(int(end, 16) - int(begin, 16))
                except OSError:
                    continue
                at = data.find(weight)
                while at >= 0:
                    memory.seek(int(begin, 16) + at)
                    memory.write(bytes([weight[0] ^ 1]))
                    found += 1
                    at = data.find(weight, at + 1)
        return found

    def test_a_bit_that_flips_in_memory(self):
        """With train.zero no other rank could find it: they get the weight."""
        self.train("weights", "train.steps=1")
        weight = programs.checkpoint(self.folder / "weights")[0]["token_emb.weight"][2]
        for rank in (0, 1):
            run = f"flip-{rank}"
            processes = self.start(run, 2, *STILL, "train.zero=1", "train.steps=100000000", "checkpoint.every=0",
                                   "log.eval_every=0", "--init", f"{self.folder}/weights")
            metrics = self.folder / run / "metrics.jsonl"
            while not metrics.exists() or not metrics.stat().st_size:
                self.assertIsNone(processes[0].poll())
                time.sleep(0.01)
            flips = 0
            while processes[rank].poll() is None and self.flip_weight(processes[rank].pid, weight[4 * flips : 4096]):
                flips += 1  # one that flips during an update is not found
                time.sleep(0.05)
            self.assertGreater(flips, 0)
            said = [process.communicate(timeout=60)[1] for process in processes]
            self.assertEqual([process.returncode for process in processes], [1, 1], said)
            self.assertIn(f"patrain: rank {rank}: weights or moments changed in memory between two updates (bad "
                          "memory?)\n", said[rank])
            self.assertFalse((self.folder / run / "latest").exists())

    def test_a_replica_that_drifts(self):
        """Without train.zero, whose ranks send each other their weights at every step."""
        for ranks in (2, 3):
            run = f"drift-{ranks}"
            processes = self.start(run, ranks, *STILL, "train.steps=100000000", "checkpoint.every=50",
                                   "log.eval_every=0")
            while not (self.folder / run / "latest").exists():
                self.assertIsNone(processes[0].poll())
                time.sleep(0.01)
            weight = programs.checkpoint(self.folder / run)[0]["token_emb.weight"][2]
            found = self.flip_weight(processes[-1].pid, weight[:4096])
            self.assertGreater(found, 0)
            for process in processes:
                said = process.communicate(timeout=60)[1]
                self.assertEqual(process.returncode, 1, said)
                told = re.search(rf"(?m)^patrain: weights of rank {ranks - 1} differ from rank 0's "
                                 r"at step (\d+), which is not saved$", said)
                self.assertTrue(told, said)
            kept = programs.checkpoint(self.folder / run)[0]["token_emb.weight"][2]
            self.assertEqual(kept, weight)
            self.assertLess(int(os.readlink(self.folder / run / "latest")[-8:]), int(told[1]))

    def test_a_file_that_a_rank_loses(self):
        """Between any two collective operations: all ranks save what is sound, and name the file."""
        settings = ("train.steps=8", "log.eval_every=3", "train.ema=0.9", "checkpoint.every=0")
        self.train_ranks(2, "whole", *settings)
        # Checks of steps; the last two of an evaluation.
        for which, calls in (("train", range(4, 6)), ("validation", range(5, 9))):
            path = self.folder / f"{which}-1.safetensors"
            shutil.copy(self.folder / f"{which}.safetensors", path)
            for n in calls:
                run = f"lost-{which}-{n}"
                shim = {"LD_PRELOAD": os.environ["PA_SHIM"], "FAILING_FS": f"fstat:{path.name}:{n}:5",
                        "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}
                processes = self.start(run, 2, *settings, other=[f"data.{which}={path}"], environment=shim)
                steps = set()
                for process in processes:
                    said = process.communicate(timeout=60)[1]
                    self.assertEqual(process.returncode, 3, said)
                    told = re.search(rf"(?m)^patrain: rank 1: {path} could not be read while it was open: Input/output "
                                     r"error; the run is saved at step (\d+)$", said)
                    self.assertTrue(told, said)
                    steps.add(int(told[1]))
                self.assertEqual(steps, {int(os.readlink(self.folder / run / "latest")[-8:])})
                if steps == {3}:
                    self.train_ranks(2, run, *settings)
                    self.assertEqual(programs.checkpoint(self.folder / run), programs.checkpoint(self.folder / "whole"))


if __name__ == "__main__":
    unittest.main()
