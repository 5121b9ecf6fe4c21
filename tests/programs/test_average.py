#!/usr/bin/env python3
"""patrain with train.ema: an average of the weights, which checkpoints hold as the model; the run itself is as
without."""

import re
import struct
import unittest

import programs

EMA = ("train.ema=0.99", "checkpoint.keep=100", "optimizer.schedule=constant")


class Average(programs.WithCorpus):
    def tensors(self, run, step, file="model", prefix=""):
        """{name: numbers} of those that begin with prefix, without it."""
        found, _ = programs.read_safetensors(self.folder / run / f"checkpoints/step-{step:08}/{file}.safetensors")
        return {
            name[len(prefix) :]: [x for (x,) in struct.iter_unpack("<f", data)]
            for name, (_, _, data) in found.items() if name.startswith(prefix) and name != "rotary_pos_emb.inv_freq"
        }

    def assert_same(self, one, other, links=("latest", "best")):
        self.assertEqual(programs.losses(self.folder / one), programs.losses(self.folder / other))
        for which in links:
            a, b = (programs.checkpoint(self.folder / run, which) for run in (one, other))
            self.assertTrue(a == b, f"{which} of {one} and {other} differ")

    def test_the_run_is_as_without_and_the_model_is_its_average(self):
        self.train("without", *EMA, "train.ema=0", "train.precision=fp32")
        self.train("with", *EMA, "train.precision=fp32")
        ours, theirs = (programs.losses(self.folder / run) for run in ("without", "with"))
        self.assertEqual(ours[0], theirs[0])
        self.assertEqual(ours[1], [e[:2] for e in theirs[1]])
        average = None
        for step in (10, 20, 30, 40):
            weights = self.tensors("without", step)
            self.assertEqual(weights, self.tensors("with", step, "state", "weight."))
            saved = self.tensors("with", step)
            if average:
                share = 1 - min(0.99, (1 + step) / (10 + step)) ** 10
                for name, numbers in average.items():
                    for old, weight, new in zip(numbers, weights[name], saved[name]):
                        self.assertAlmostEqual(old + share * (weight - old), new, delta=1e-6 * max(1, abs(new)))
            average = saved
        self.assertNotEqual(average, weights)

    def test_it_is_evaluated(self):
        """As a run that begins with it evaluates it; best is chosen by it."""
        said = self.train("evaluated", *EMA, "train.precision=fp32")
        steps, evaluations = programs.metrics(self.folder / "evaluated")
        self.assertTrue(all(e["eval_loss"] != e["eval_loss_ema"] for e in evaluations[1:]))
        last = evaluations[-1]
        self.assertIn(f"evaluation: {last['eval_loss']:.4f} nats a token, {last['eval_loss_ema']:.4f} by the average, "
                      "accuracy ", said)
        self.train("begun", "--init", str(self.folder / "evaluated/latest"), "train.steps=1", "train.precision=fp32")
        self.assertEqual(programs.metrics(self.folder / "begun")[1][0]["eval_loss"], last["eval_loss_ema"])
        best = min(evaluations[1:], key=lambda e: e["eval_loss_ema"])["step"]
        self.assertEqual((self.folder / "evaluated/best").resolve().name, f"step-{best:08}")

    def test_it_evens_out_a_high_rate(self):
        """On the mean of four runs: a single one is as chance has it, and instruction sets round differently."""
        gain = []
        for seed in range(1, 5):
            self.train(f"high-{seed}", "train.ema=0.99", "optimizer.lr=0.03", "optimizer.schedule=constant",
                       "train.steps=300", "log.eval_every=300", f"train.seed={seed}")
            last = programs.metrics(self.folder / f"high-{seed}")[1][-1]
            gain.append(last["eval_loss"] - last["eval_loss_ema"])
        self.assertGreater(sum(gain) / len(gain), 0.02, gain)

    def test_a_resumed_run_has_the_same_bits(self):
        for precision in ("fp32", "bf16"):
            arguments = (*EMA, "--precision", precision, "checkpoint.every=17")
            self.train(f"whole-{precision}", *arguments)
            self.train(f"parts-{precision}", *arguments, "train.steps=17")
            self.train(f"parts-{precision}", *arguments)
            self.assert_same(f"whole-{precision}", f"parts-{precision}")

    def test_switched_on_and_off(self):
        """Off: the run resumes from the weights. On: the average begins with them."""
        self.train("plain", "optimizer.schedule=constant")
        self.train("off", *EMA, "train.steps=20")
        self.assertIn("train.ema: was 0.99, is 0\n", self.train("off", "optimizer.schedule=constant"))
        self.assertEqual(programs.losses(self.folder / "plain")[0], programs.losses(self.folder / "off")[0])
        self.assertTrue(programs.checkpoint(self.folder / "plain") == programs.checkpoint(self.folder / "off"))
        self.train("on", "optimizer.schedule=constant", "train.steps=15")
        weights = self.tensors("on", 15)
        self.train("on", *EMA, "train.steps=19", "log.eval_every=0")
        self.assertEqual(self.tensors("on", 19), weights)
        self.assertNotEqual(self.tensors("on", 19, "state", "weight."), weights)

    def test_ranks(self):
        self.train("one", *EMA, "train.precision=fp32")
        self.train_ranks(3, "three", *EMA, "train.precision=fp32")
        self.train_ranks(3, "three-zero", *EMA, "train.precision=fp32", "train.zero=1")
        self.assert_same("three", "three-zero")
        for ours, theirs in zip(programs.losses(self.folder / "one")[1], programs.losses(self.folder / "three")[1]):
            for x, y in zip(ours, theirs):
                self.assertAlmostEqual(x, y, delta=1e-5 * max(1, x))

    def test_memory_and_disk_are_printed(self):
        said = {ema: self.train("plan", f"train.ema={ema}", "--dry-run", "model.dim=256") for ema in (0, 0.9)}
        self.assertNotIn("average", said[0])
        average = float(re.search(r"  and ([\d.]+) MB of host memory for the average of weights\n", said[0.9])[1])
        copy, disk = ({ema: float(re.search(pattern, text)[1]) for ema, text in said.items()}
                      for pattern in (r"on ([\d.]+) MB of host memory for a copy", r"checkpoints: ([\d.]+) MB each"))
        self.assertAlmostEqual(copy[0.9], copy[0] * 4 / 3, delta=0.2)
        self.assertAlmostEqual(disk[0.9], disk[0] * 4 / 3, delta=0.2)
        self.assertGreater(average, copy[0] / 3)


if __name__ == "__main__":
    unittest.main()
