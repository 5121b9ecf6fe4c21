#!/usr/bin/env python3
"""patrain run as a program, interrupted in every way: it computes the bits of an uninterrupted run. Its messages, files
and logs are in test_train_logs.py."""

import fcntl
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
import unittest

import programs


def compute(process, seconds):
    """Waits until the process has used so much more processor time."""

    def used():
        return sum(map(int, pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

    until = used() + seconds * os.sysconf("SC_CLK_TCK")
    while process.poll() is None and used() < until:
        time.sleep(0.001)


BIN = pathlib.Path(programs.PATRAIN).parent

# Settings of a model that takes more than two seconds of processor time a step.
SLOW = ("model.context=512", "model.prefix=128", "model.dim=256", "train.global_batch=32", "log.eval_every=0")


class Run(programs.WithCorpus):
    """A run directory of its own for each test."""

    def train(self, run, *arguments, status=0, **options):
        done = programs.train(self.folder, run, *arguments, **options)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def start(self, run, *arguments):
        """Its stderr holds a page, so that it is never more than some 80 lines ahead of a reader who has to wait for a
        processor."""
        line = programs.command(self.folder, run, *arguments)
        process = subprocess.Popen(line, env=programs.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                   text=True)
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_for_step(self, process, step):
        """Until its line on stderr: True, or False where it ended before."""
        for line in process.stderr:
            found = re.match(r"step (\d+)  epoch", line)
            if found and int(found[1]) >= step:
                return True
        return False

    def assert_same_run(self, one, other, links=("latest", "best")):
        """Losses, evaluations and every tensor of the last and of the best checkpoint."""
        for ours, theirs in zip(programs.losses(self.folder / one), programs.losses(self.folder / other)):
            self.assertEqual(ours, theirs)
        for which in links:
            a, b = (programs.checkpoint(self.folder / run, which) for run in (one, other))
            self.assertEqual(a, b)
            self.assertGreater(len(a[0]), 20)


class Stopped(Run):
    LONG = ("train.steps=400", "checkpoint.every=50", "log.eval_every=90")

    def stop_thrice(self, precision):
        """The first time where an evaluation begins."""
        whole, parts = f"whole-{precision}", f"parts-{precision}"
        arguments = (*self.LONG, "--precision", precision)
        self.train(whole, *arguments)
        for number, at in ((signal.SIGTERM, 90), (signal.SIGUSR1, 130), (signal.SIGINT, 250)):
            process = self.start(parts, *arguments)
            self.assertTrue(self.wait_for_step(process, at))
            process.send_signal(number)
            said = process.stderr.read()
            self.assertEqual(process.wait(), 75, said)
            stopped = re.search(r"stopped on request at step (\d+), saved; the same command resumes from there\n$",
                                said)
            self.assertTrue(stopped, said)
            self.assertLess(int(stopped[1]), 400)
            latest = (self.folder / parts / "latest").resolve()
            self.assertEqual(latest.name, f"step-{int(stopped[1]):08}")
        done = self.train(parts, *arguments)
        self.assertIn(f"{self.folder}/{parts}: resuming from step {stopped[1]}\n", done.stderr)
        self.assert_same_run(whole, parts)

    def test_to_the_bit_in_fp32(self):
        self.stop_thrice("fp32")

    def test_to_the_bit_in_bf16(self):
        self.stop_thrice("bf16")

    def test_a_copy_that_followed_its_links(self):
        self.train("copied-whole", "optimizer.schedule=constant")
        self.train("copied", "optimizer.schedule=constant", "train.steps=20")
        shutil.copytree(self.folder / "copied", self.folder / "copy", symlinks=False)
        self.train("copy", "optimizer.schedule=constant")
        self.assertTrue((self.folder / "copy/latest").is_symlink() and (self.folder / "copy/best").is_symlink())
        self.assert_same_run("copied-whole", "copy")

    def test_a_finished_run_stays_as_it_is(self):
        self.train("finished")
        before = (self.folder / "finished/metrics.jsonl").read_text()
        done = self.train("finished", "--init", str(self.folder / "finished"))
        self.assertEqual((self.folder / "finished/metrics.jsonl").read_text(), before)
        self.assertIn("/finished: resuming from step 40; --init applies to new runs only\n", done.stderr)
        self.assertTrue(done.stderr.endswith("already finished at step 40; raise train.steps, train.epochs or "
                                             "train.minutes to continue\n"), done.stderr)
        done = self.train("finished", "train.steps=50")
        loss = programs.losses(self.folder / "finished")[0][-1][1]
        self.assertTrue(done.stderr.endswith(f"finished at step 50, loss {loss:.4f}: {self.folder}/finished\n"),
                        done.stderr)
        self.assertEqual([s[0] for s in programs.losses(self.folder / "finished")[0]], list(range(1, 51)))


class Dropped(Run):
    """A step that outlasts train.grace after a signal: it leaves no trace."""

    MODEL = ("model.context=512", "model.prefix=128", "model.dim=256", "optimizer.schedule=constant",
             "log.eval_every=0", "--precision", "fp32")
    LONG = ("train.global_batch=128", "train.micro_batch=64", "train.recompute=true", "train.grace=0")  # seconds a step

    def drop(self, processes):
        """Signals the processes of a run in the middle of its fourth step; what the first of them says."""
        for line in processes[0].stderr:
            if "resuming from step 3" in line:
                break
        compute(processes[0], 0.5)
        for process in reversed(processes):  # rank 0 ends at once
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120)[1] for process in processes]
        self.assertEqual([process.returncode for process in processes], [75] * len(processes), said)
        return said[0]

    def check(self, run, start):
        self.train("undisturbed", *self.MODEL, "train.steps=5", "train.global_batch=2")
        self.train(run, *self.MODEL, "train.steps=3", "train.global_batch=2")
        said = self.drop(start(run, *self.MODEL, *self.LONG, "train.steps=5"))
        self.assertTrue(said.endswith("step 4 took longer than train.grace, 0 s, and was dropped\n"
                                      "stopped on request at step 3, saved; the same command resumes from there\n"),
                        said)
        done = self.train(run, *self.MODEL, "train.steps=5", "train.global_batch=2")
        self.assertIn("resuming from step 3\n", done.stderr)
        self.assertNotIn("was killed", done.stderr)
        self.assert_same_run("undisturbed", run, ("latest",))

    def test_to_the_bit(self):
        self.check("dropped", lambda *arguments: [self.start(*arguments)])

    def test_by_ranks(self):
        """Rank 0 saves what all have; the others end with it."""

        def start(run, *arguments):
            meet = ("--rendezvous", f"{self.folder}/{run}.meet", "--world", "2", "--rank")
            return [self.start(run, *arguments, *meet, str(rank)) for rank in range(2)]

        self.check("dropped-ranks", start)

    def test_before_the_first_step(self):
        """There is a checkpoint of step 0, which the run resumes from."""
        process = self.start("dropped-first", *self.MODEL, *self.LONG, "train.steps=2", "train.grace=1")
        compute(process, 1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
        if process.returncode == -signal.SIGTERM:  # before it caught the signal
            self.skipTest("not even started")
        self.assertEqual(process.returncode, 75, said)
        self.assertTrue((self.folder / "dropped-first/latest/model.safetensors").exists())
        self.train("dropped-first", *self.MODEL, "train.steps=2", "train.global_batch=2")


class Killed(Run):
    """kill -9 at ten random moments, half of them while a checkpoint is being written."""

    ARGUMENTS = ("train.steps=300", "checkpoint.every=3", "checkpoint.keep=2", "log.eval_every=40", "--precision",
                 "fp32")

    def kill_while_saving(self, process, folder):
        while process.poll() is None:
            if any(".tmp." in p.name for p in folder.iterdir()):
                process.kill()
        return any(".tmp." in p.name for p in folder.iterdir())

    def test_to_the_bit(self):
        rng, leavings, step = random.Random(4), 0, 0
        self.train("whole", *self.ARGUMENTS)
        folder = self.folder / "killed"
        for i in range(10):
            process = self.start("killed", *self.ARGUMENTS)
            step += rng.randrange(1, 28)
            self.assertTrue(self.wait_for_step(process, step))
            if i % 2:
                leavings += self.kill_while_saving(process, folder / "checkpoints")
            else:
                time.sleep(rng.random() * 0.02)
                process.kill()
            process.stderr.read()
            self.assertEqual(process.wait(), -signal.SIGKILL)
        self.assertGreater(leavings, 0)
        self.train("killed", *self.ARGUMENTS)
        self.assertEqual([s[0] for s in programs.losses(folder)[0]], list(range(1, 301)))
        self.assertEqual([e[0] for e in programs.losses(folder)[1]], [*range(0, 300, 40), 300])
        self.assert_same_run("whole", "killed")
        self.assertFalse([p for p in folder.rglob("*.tmp.*")])

    def test_before_the_first_checkpoint(self):
        self.train("whole-2", "train.steps=200", "checkpoint.every=0", "log.eval_every=200")
        process = self.start("killed-2", "train.steps=200", "checkpoint.every=0", "log.eval_every=200")
        self.assertTrue(self.wait_for_step(process, 10))
        process.kill()
        process.wait()
        self.train("killed-2", "train.steps=200", "checkpoint.every=0", "log.eval_every=200")
        self.assert_same_run("whole-2", "killed-2")


class PieceStarts(Run):
    """data.piece_starts: windows that begin at the start of a piece, with prefixes of all lengths."""

    STARTS = ("data.piece_starts=0.3", "data.augment_transpose=2", "log.eval_every=0")

    def test_a_resumed_run_has_the_same_bits(self):
        for precision in ("fp32", "bf16"):
            arguments = (*self.STARTS, "optimizer.schedule=constant", "--precision", precision)
            self.train(f"whole-{precision}", *arguments)
            self.train(f"parts-{precision}", *arguments, "train.steps=17")
            self.train(f"parts-{precision}", *arguments)
            self.assert_same_run(f"whole-{precision}", f"parts-{precision}", links=("latest",))

    def test_micro_batches(self):
        """As in Trajectory."""
        steps = (*self.STARTS, "train.steps=12", "--precision", "fp32")
        self.train("all", *steps)
        self.train("one-by-one", *steps, "train.micro_batch=1")
        for (step, loss, _, norm), (_, ours, _, our_norm) in zip(*(programs.losses(self.folder / run)[0]
                                                                   for run in ("all", "one-by-one"))):
            self.assertAlmostEqual(ours, loss, delta=1e-6 * loss * 2 ** (step - 1))
            self.assertAlmostEqual(our_norm, norm, delta=1e-5 * norm * 2 ** (step - 1))

    def test_beginnings_are_learned(self):
        """Pieces of 8 tokens are all beginnings. Without them the model never saw fewer than 9 tokens."""
        programs.write_tokens(self.folder / "beginnings.safetensors", [8] * 20, seed=3)
        loss = {}
        for share in (0, 0.25):
            self.train(f"share-{share}", "train.steps=300", "log.eval_every=0", "train.precision=fp32",
                       f"data.piece_starts={share}", "model.prefix_dropout=0")
            line = [str(BIN / "paeval"), str(self.folder / f"share-{share}"),
                    str(self.folder / "beginnings.safetensors"), "--json"]
            done = subprocess.run(line, capture_output=True, text=True, check=True, env=programs.environment())
            loss[share] = json.loads(done.stdout)["loss"]
        self.assertLess(loss[0.25], loss[0] - 0.3)

    def test_short_pieces(self):
        programs.write_tokens(self.folder / "short.safetensors", [3, 8, 5])
        short = f"data.train={self.folder}/short.safetensors"
        self.train("only-short", short, status=3)
        done = self.train("short-starts", short, "data.piece_starts=1", "log.eval_every=0")
        self.assertIn("short.safetensors: 3 of 3 pieces are no longer than model.prefix, 8 tokens; the run trains on "
                      "them only by data.piece_starts\n", done.stderr)
        self.assertTrue(any(m["loss"] for m in programs.metrics(self.folder / "short-starts")[0]))


class Trajectory(Run):
    """What must not change the numbers, and what the numbers must be."""

    STEPS = ("train.steps=12", "log.eval_every=0", "--precision", "fp32")

    def test_micro_batches(self):
        """A window's loss does not depend on its batch but for the rounding of products cut differently (2^-24 a sum of
        some 100 terms: within 1e-6 of a loss), which each step of Adam may double while gradients near 0 make up their
        minds."""
        self.train("whole", *self.STEPS)
        expected = programs.losses(self.folder / "whole")[0]
        for micro in (1, 2, 3):
            self.train(f"micro-{micro}", *self.STEPS, f"train.micro_batch={micro}")
            found = programs.losses(self.folder / f"micro-{micro}")[0]
            for (step, loss, lr, norm), (_, ours, our_lr, our_norm) in zip(expected, found):
                self.assertAlmostEqual(ours, loss, delta=1e-6 * loss * 2 ** (step - 1))
                self.assertAlmostEqual(our_norm, norm, delta=1e-5 * norm * 2 ** (step - 1))
                self.assertEqual(our_lr, lr)

    def test_recomputation(self):
        for precision in ("fp32", "bf16"):
            for recompute in ("true", "false"):
                self.train(f"recompute-{precision}-{recompute}", f"train.recompute={recompute}", "--precision",
                           precision)
            self.assert_same_run(f"recompute-{precision}-true", f"recompute-{precision}-false")

    def test_it_learns(self):
        self.train("learns", "train.steps=200", "log.eval_every=200", "--precision", "fp32")
        steps, evaluations = programs.metrics(self.folder / "learns")
        self.assertLess(abs(steps[0]["loss"] - math.log(390)), 0.6)
        self.assertLess(steps[-1]["loss"], 3)
        self.assertLess(evaluations[-1]["eval_loss"], evaluations[0]["eval_loss"] - 2)

    def test_seeds_differ(self):
        self.train("seed-1", *self.STEPS)
        self.train("seed-2", *self.STEPS, "train.seed=2")
        self.assertNotEqual(programs.losses(self.folder / "seed-1")[0][0][1],
                            programs.losses(self.folder / "seed-2")[0][0][1])

    def test_learning_rates(self):
        n, warm, low, decay = 20, 4, 0.1, 0.25
        shape = {
            "constant": lambda p: 1,
            "cosine": lambda p: low + (1 - low) * (1 + math.cos(math.pi * p)) / 2,
            "linear": lambda p: low + (1 - low) * (1 - p),
            "wsd": lambda p: 1 if p <= 1 - decay else low + (1 - low) * (1 - p) / decay,
        }
        for name, at in shape.items():
            self.train(name, f"train.steps={n}", f"optimizer.schedule={name}", "optimizer.warmup=4",
                       f"optimizer.decay={decay}", f"optimizer.final_lr={low}")
            rates = [m["lr"] for m in programs.metrics(self.folder / name)[0]]
            for step, rate in enumerate(rates):
                self.assertAlmostEqual(rate, 3e-3 * min(1, (step + 1) / warm) * at(step / n), delta=1e-15)

    def test_epochs_end_a_run(self):
        self.train("epochs", "train.steps=0", "train.epochs=2", "optimizer.schedule=linear", "optimizer.final_lr=0")
        steps = programs.metrics(self.folder / "epochs")[0]
        self.assertEqual(len(steps), 5)  # 9 pieces an epoch, 4 a step: 18 are reached in the fifth
        self.assertEqual([m["epoch"] for m in steps], [4 * (i + 1) / 9 for i in range(5)])
        self.assertAlmostEqual(steps[4]["lr"], 3e-3 * (1 - 16 / 18), delta=1e-15)

    def test_a_window_of_nothing_to_score(self):
        programs.write_tokens(self.folder / "short.safetensors", [3, 8, 5, 30])
        done = self.train("short", "train.steps=20", "train.global_batch=1", "log.every=1",
                          f"data.train={self.folder}/short.safetensors")
        self.assertIn("short.safetensors: 3 of 4 pieces are no longer than model.prefix, 8 tokens; the run does not "
                      "train on them\n", done.stderr)
        losses = [m["loss"] for m in programs.metrics(self.folder / "short")[0]]
        self.assertEqual((losses.count(None), len(losses)), (15, 20))
        self.assertEqual(done.stderr.count("nothing to score: no window reaches beyond model.prefix"), 15)
        self.assertNotIn("nan", done.stderr)
        self.assertNotIn("skipped", done.stderr)


if __name__ == "__main__":
    unittest.main()
