#!/usr/bin/env python3
"""patrain where something is lost or ends early: numbers that are not finite, a full disk, signals."""

import errno
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest

import programs
from test_train import SLOW, Run, compute
from test_train_files import tree

SHIM = os.environ["PA_SHIM"]


class Lost(Run):
    """Numbers that are not finite."""

    def spoil(self, run, value, file="model", name="to_logits.weight"):
        """The latest checkpoint with one number changed; its checksums are right."""
        folder = (self.folder / run / "latest").resolve()
        for each in ("model", "state"):
            tensors, meta = programs.read_safetensors(folder / f"{each}.safetensors")
            if each == file:
                kind, shape, raw = tensors[name]
                tensors[name] = (kind, shape, struct.pack("<f", value) + raw[4:])
            if each == "state":
                meta["model_crc32c"] = programs.read_safetensors(folder / "model.safetensors")[1]["crc32c"]
            meta.pop("crc32c")
            programs.write_safetensors(folder / f"{each}.safetensors", [(name, *t) for name, t in tensors.items()],
                                       meta)

    def test_too_many_skips_stop_the_run(self):
        self.train("lost", "train.steps=10", "log.eval_every=0")
        self.spoil("lost", 3e38)
        before = tree(self.folder / "lost/checkpoints")
        done = self.train("lost", "train.steps=40", "train.max_skips=3", "checkpoint.every=1", "log.eval_every=0",
                          status=1)
        self.assertEqual(done.stderr.count("  (skipped: not finite)\n"), 3)
        self.assertEqual(done.stderr.splitlines()[-1],
                         "patrain: step 13: loss or gradient not finite 3 times in a row; the last checkpoint is step "
                         "10")
        self.assertEqual(tree(self.folder / "lost/checkpoints"), before)
        steps = programs.metrics(self.folder / "lost")[0]
        self.assertEqual([(m["loss"], m["grad_norm"], m["skipped"]) for m in steps[10:]], [(None, None, True)] * 3)

    def test_a_run_that_ends_among_skips(self):
        """Not finished, and what it would save is not saved; nor on request."""
        self.train("ends", "train.steps=10", "log.eval_every=0")
        self.spoil("ends", 3e38)
        before = tree(self.folder / "ends/checkpoints")
        for skips in (5, 0):
            done = self.train("ends", "train.steps=12", f"train.max_skips={skips}", "log.eval_every=1", status=1)
            self.assertEqual(done.stderr.splitlines()[-1],
                             "patrain: step 12: loss or gradient not finite 2 times in a row; the last checkpoint is "
                             "step 10")
            self.assertEqual(tree(self.folder / "ends/checkpoints"), before)
        self.assertEqual(os.readlink(self.folder / "ends/latest"), "checkpoints/step-00000010")
        self.assertFalse((self.folder / "ends/best").exists())
        process = subprocess.Popen(programs.command(self.folder, "ends", "train.max_skips=0", "log.eval_every=0",
                                                    "train.steps=1000000"),
                                   env=programs.environment(), stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        for line in process.stderr:
            if "skipped" in line:
                break
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 75, said)
        self.assertRegex(said,
                         r"stopped on request at step \d+, not saved: its loss is not finite; the same command resumes "
                         r"from step 10\n")
        self.assertEqual(tree(self.folder / "ends/checkpoints"), before)

    def test_a_checkpoint_that_is_not_finite(self):
        """The one before is taken, and the run says so."""
        for i, (value, file, name) in enumerate(((math.nan, "model", "to_logits.weight"),
                                                 (-math.inf, "state", "moment1.to_logits.weight"),
                                                 (math.nan, "state", "moment2.to_logits.weight"))):
            run = f"finite-{i}"
            self.train(run, "train.steps=20", "log.eval_every=0", "checkpoint.every=10")
            self.spoil(run, value, file, name)
            said = self.train(run, "train.steps=25", "log.eval_every=0").stderr
            self.assertRegex(said,
                             f"skipping a damaged checkpoint: .*step-00000020/{file}.safetensors: {name}: expected "
                             f"finite numbers, found others\n")
            self.assertIn("resuming from step 10\n", said)
            self.assertEqual(os.readlink(self.folder / run / "latest"), "checkpoints/step-00000025")

    def test_weights_that_an_update_made_infinite(self):
        """The loss came before the update, so only the save can find them."""
        self.train("infinite", "train.steps=10", "log.eval_every=0")
        self.spoil("infinite", 3e38, "state", "moment1.to_logits.weight")
        before = tree(self.folder / "infinite/checkpoints")
        done = self.train("infinite", "train.steps=11", "log.eval_every=0", "optimizer.lr=1",
                          "optimizer.schedule=constant", status=1)
        self.assertIsNotNone(programs.metrics(self.folder / "infinite")[0][10]["loss"])
        self.assertEqual(done.stderr.splitlines()[-1],
                         "patrain: step 11 is not saved: weights of to_logits.weight are not finite")
        self.assertEqual(tree(self.folder / "infinite/checkpoints"), before)

    def test_spikes_are_counted(self):
        """A rate that throws the weights about, after a hundred steps that went well. Stopped and gone on, the same are
        found."""
        quiet = ("log.every=1000", "log.eval_every=0", "optimizer.schedule=constant", "--precision", "fp32")
        self.train("spikes", "train.steps=100", *quiet)
        self.assertEqual([m for m in programs.metrics(self.folder / "spikes")[0] if "spike" in m], [])
        shutil.copytree(self.folder / "spikes", self.folder / "spikes-2", symlinks=True)
        done = self.train("spikes", "train.steps=130", "optimizer.lr=0.5", "train.grad_clip=0", *quiet)
        for steps in (104, 115, 130):
            self.train("spikes-2", f"train.steps={steps}", "optimizer.lr=0.5", "train.grad_clip=0", *quiet)
        self.assertEqual(programs.losses(self.folder / "spikes"), programs.losses(self.folder / "spikes-2"))
        found, again = ([(m["step"], m["spike"], m["spikes"])
                         for m in programs.metrics(self.folder / run)[0] if "spike" in m]
                        for run in ("spikes", "spikes-2"))
        self.assertEqual(found, again)
        self.assertEqual([f[2] for f in found], list(range(1, len(found) + 1)))
        self.assertLess(100, found[0][0])
        self.assertIn("loss", [f[1] for f in found])
        self.assertEqual(
            len(re.findall(r"^step \d+ .*  \(spike: (?:loss|norm) above [\d.e+]+\)$", done.stderr, re.MULTILINE)),
            len(found))

    def test_without_a_checkpoint(self):
        self.train("source", "train.steps=5", "log.eval_every=0")
        self.spoil("source", math.inf)
        done = self.train("nothing", "--init", str(self.folder / "source"), "train.max_skips=2", status=1)
        self.assertEqual(done.stderr.splitlines()[-1],
                         "patrain: step 2: loss or gradient not finite 2 times in a row; there is no checkpoint")
        self.assertEqual(list((self.folder / "nothing/checkpoints").iterdir()), [])


class FullDisk(Run):
    def limited(self, size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def test_while_saving(self):
        """A constant rate, so that a run of 12 steps is the beginning of one of 40."""
        settings = ("--precision", "fp32", "optimizer.schedule=constant", "log.eval_every=0")
        self.train("whole", *settings)
        self.train("full", *settings, "train.steps=12")
        newest = self.folder / "full/checkpoints/step-00000012"
        before = tree(newest)
        room = (newest / "state.safetensors").stat().st_size - 1
        done = self.train("full", *settings, status=1, preexec_fn=self.limited(room))
        self.assertRegex(done.stderr.splitlines()[-1],
                         r"^patrain: cannot write .*step-00000020\.tmp\.\w+/state\.safetensors, \d+ bytes: File too "
                         r"large$")
        self.assertEqual(tree(newest), before)
        self.assertEqual(sorted((self.folder / "full/checkpoints").iterdir())[-1], newest)
        self.train("full", *settings)
        self.assert_same_run("whole", "full", ("latest",))

    def test_while_logging(self):
        """The run does not depend on its metrics: it warns once, and ends as it would."""
        self.train("log-whole", "checkpoint.every=0", "log.eval_every=0", "train.steps=30")
        done = self.train("log", "checkpoint.every=0", "log.eval_every=0", "train.steps=30", env=programs.environment(
            LD_PRELOAD=SHIM, FAILING_FS=f"write:metrics.jsonl:3+:{errno.ENOSPC}",
            ASAN_OPTIONS="verify_asan_link_order=0"))
        self.assertEqual(
            done.stderr.count("warning: cannot write metrics.jsonl: No space left on device; training continues\n"), 1)
        self.assertEqual(programs.checkpoint(self.folder / "log"), programs.checkpoint(self.folder / "log-whole"))
        self.assertEqual([m["step"] for m in programs.metrics(self.folder / "log")[0]], [1, 2])
        done = self.train("log", "train.steps=32", "log.eval_every=0")
        self.assertIn(f"warning: {self.folder}/log/metrics.jsonl lacks steps 3 to 30\n", done.stderr)
        self.assertEqual([m["step"] for m in programs.metrics(self.folder / "log")[0]], [1, 2, 31, 32])

    def test_a_line_that_is_cut_short(self):
        done = self.train("cut", "checkpoint.every=0", "log.eval_every=0", "train.steps=6", env=programs.environment(
            LD_PRELOAD=SHIM, FAILING_FS="write:metrics.jsonl:3:torn", ASAN_OPTIONS="verify_asan_link_order=0"))
        self.assertEqual(done.stderr.count("warning: cannot write"), 1)
        lines = (self.folder / "cut/metrics.jsonl").read_text().splitlines()
        self.assertTrue(lines.pop(2).startswith('{"step":3,'))
        self.assertEqual([json.loads(line)["step"] for line in lines], [1, 2, 4, 5, 6])

    def test_samples_that_cannot_be_written(self):
        """And one that a run did not get to write, after the checkpoint of its step."""
        settings = ("log.sample_every=5", "checkpoint.every=5")
        (self.folder / "samples").mkdir()
        (self.folder / "samples/samples").mkdir()
        pipes = [self.folder / f"samples/samples/step-000000{name}" for name in ("05.mid", "10.wav")]
        for pipe in pipes:
            os.mkfifo(pipe)
        done = self.train("samples", "train.steps=12", *settings)
        for what, pipe in zip(("sample", "picture and sound of the sample"), pipes):
            self.assertIn(f"warning: no {what}: {pipe}: ", done.stderr)
            pipe.unlink()
        self.assertEqual(sorted(p.name for p in (self.folder / "samples/samples").iterdir()),
                         [f"step-000000{name}" for name in ("05.png", "05.wav", "10.mid", "10.png")])
        sample = (self.folder / "samples/samples/step-00000010.mid").read_bytes()
        shutil.rmtree(self.folder / "samples/checkpoints/step-00000012")
        (self.folder / "samples/samples/step-00000010.mid").unlink()
        self.train("samples", "train.steps=12", *settings)
        self.assertEqual((self.folder / "samples/samples/step-00000010.mid").read_bytes(), sample)


class Signals(Run):
    def test_what_schedulers_send(self):
        """A warning before the time is up."""
        for number in (signal.SIGUSR2, signal.SIGXCPU):
            run = f"warned-{number.name}"
            process = self.start(run, "train.steps=100000", "log.eval_every=0", "checkpoint.every=0")
            self.assertTrue(self.wait_for_step(process, 3))
            process.send_signal(number)
            said = process.stderr.read()
            self.assertEqual(process.wait(), 75, said)
            self.assertRegex(said, r"stopped on request at step \d+, saved;")

    def test_hangup_is_ignored(self):
        process = self.start("hangup", "train.steps=300", "log.eval_every=0")
        self.assertTrue(self.wait_for_step(process, 5))
        process.send_signal(signal.SIGHUP)
        said = process.stderr.read()
        self.assertEqual(process.wait(), 0)
        self.assertIn("\nstep 300  ", said)

    def test_a_pipe_that_is_gone_is_ignored(self):
        process = self.start("pipe", "train.steps=300", "log.eval_every=0", "log.every=1")
        self.assertTrue(self.wait_for_step(process, 5))
        process.stderr.close()
        self.assertEqual(process.wait(), 0)
        self.assertEqual(programs.losses(self.folder / "pipe")[0][-1][0], 300)

    def test_a_second_interrupt_exits_at_once(self):
        process = self.start("twice", *SLOW, "train.steps=100", "checkpoint.every=0")
        self.assertTrue(self.wait_for_step(process, 1))
        compute(process, 0.2)  # into the second step
        process.send_signal(signal.SIGINT)
        while self.pending(process):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        self.assertEqual(process.wait(), 130)
        self.assertEqual(said,
                         "\nstopping: finishing this step (60 s at most), then saving; Ctrl-C again exits at once, "
                         "without saving\n")
        self.assertEqual(list((self.folder / "twice/checkpoints").iterdir()), [])

    def pending(self, process):
        """Whether an interrupt was sent and not yet taken."""
        masks = re.findall(r"^S(?:hd|ig)Pnd:\s*(\w+)", pathlib.Path(f"/proc/{process.pid}/status").read_text(),
                           re.MULTILINE)
        return any(int(mask, 16) >> signal.SIGINT - 1 & 1 for mask in masks)


if __name__ == "__main__":
    unittest.main()
