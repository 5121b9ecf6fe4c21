#!/usr/bin/env python3
"""patrain with optimizer.name = muon: learning, resuming, ranks, the plan of its memory."""

import re
import unittest

import programs

BUCKET = {"PATRAIN_BUCKET": "8192"}  # buckets end inside of matrices
MUON = ("optimizer.name=muon", "optimizer.lr=0.02")
RESUME = "; to train its weights with another optimizer, use --init and another --run-dir"


class Muon(programs.WithCorpus):
    def losses(self, run):
        return programs.losses(self.folder / run)

    def assert_same(self, one, other):
        self.assertEqual(self.losses(one), self.losses(other))
        a, b = (programs.checkpoint(self.folder / run, "latest") for run in (one, other))
        self.assertTrue(a == b, f"the latest of {one} and {other} differ")

    def test_it_learns(self):
        self.train("learns", *MUON, "train.steps=100", "log.eval_every=100")
        self.assertLess(self.losses("learns")[0][-1][1], 3)

    def test_a_resumed_run_has_the_same_bits(self):
        for precision in ("fp32", "bf16"):
            arguments = (*MUON, "optimizer.schedule=constant", "log.eval_every=0", "--precision", precision)
            self.train(f"whole-{precision}", *arguments, "train.steps=30")
            self.train(f"parts-{precision}", *arguments, "train.steps=17")
            self.train(f"parts-{precision}", *arguments, "train.steps=30")
            self.assert_same(f"whole-{precision}", f"parts-{precision}")

    def test_moments_are_not_adams(self):
        self.train("muon", *MUON, "train.steps=2")
        said = self.train("muon", "train.steps=3", status=2)
        self.assertIn(f"optimizer.name: checkpoint muon, configuration adam or adamw{RESUME}\n", said)
        self.train("adamw", "train.steps=2")
        said = self.train("adamw", *MUON, "train.steps=3", status=2)
        self.assertIn(f"optimizer.name: checkpoint adam or adamw, configuration muon{RESUME}\n", said)

    def test_one_moment_in_memory_and_in_checkpoints(self):
        plan = {}
        for name in ("adamw", "muon"):
            said = self.train(f"plan-{name}", f"optimizer.name={name}", "model.dim=256", "--dry-run")
            plan[name] = {key: float(size) for key, size in re.findall(r"^  (\w+) +([\d.]+) MB$", said, re.M)}
        self.assertLess(plan["muon"]["moments"], 0.6 * plan["adamw"]["moments"])
        self.assertGreater(plan["muon"]["workspace"], 0)
        self.train("state", *MUON, "train.steps=1")
        tensors, meta = programs.read_safetensors(self.folder / "state/latest/state.safetensors")
        self.assertEqual(meta["optimizer"], "muon")
        self.assertIn("moment1.layers.0.0.to_qkv.weight", tensors)
        self.assertNotIn("moment2.layers.0.0.to_qkv.weight", tensors)
        self.assertIn("moment2.to_logits.weight", tensors)

    def test_ranks(self):
        """However many ranks keep the moments, the same number has the same bits; another number sums in another order,
        whose rounding (2^-24 of a sum of some 100 terms) each step may double."""
        steps = (*MUON, "train.steps=12", "log.eval_every=0", "--precision", "fp32")
        self.train("one", *steps)
        for ranks in (2, 3):
            for zero in (0, 1):
                self.train_ranks(ranks, f"{ranks}-{zero}", *steps, f"train.zero={zero}", **BUCKET)
            self.assert_same(f"{ranks}-0", f"{ranks}-1")
            for (step, loss, *_), (_, ours, *_) in zip(self.losses("one")[0], self.losses(f"{ranks}-0")[0]):
                self.assertAlmostEqual(ours, loss, delta=1e-6 * loss * 2 ** (step - 1))
        self.train_ranks(2, "2-again", *steps, **BUCKET)
        self.assert_same("2-0", "2-again")

    def test_rates_unless_set(self):
        for name, rate in (("adam", 3e-4), ("adamw", 3e-4), ("muon", 0.02)):
            self.train(f"auto-{name}", "train.steps=1", f"optimizer.name={name}", "optimizer.lr=auto",
                       "log.eval_every=0")
            self.assertEqual(self.losses(f"auto-{name}")[0][0][2], rate)
            self.assertIn("\nlr = auto\n", (self.folder / f"auto-{name}/config.ini").read_text())

    def test_other_rates(self):
        """Each has an effect, with adamw too, and is lr / 10 unless set."""
        steps = ("train.steps=3", "log.eval_every=0")
        for number, name in enumerate(("muon", "adamw")):
            kind = (f"optimizer.name={name}", "optimizer.lr=0.01")
            base = 0.01 if number else 0.001
            self.train(f"plain-{name}", *steps, *kind)
            keys = ("lr_embedding", "lr_head", "lr_rest")
            self.train(f"same-{name}", *steps, *kind, *(f"optimizer.{key}={base}" for key in keys))
            self.assertEqual(self.losses(f"plain-{name}"), self.losses(f"same-{name}"))
            for key in keys:
                self.train(f"{key}-{name}", *steps, *kind, f"optimizer.{key}=0.002")
                self.assertNotEqual(self.losses(f"plain-{name}"), self.losses(f"{key}-{name}"))


if __name__ == "__main__":
    unittest.main()
