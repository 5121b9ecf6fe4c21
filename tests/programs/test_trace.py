"""PATRAIN_TRACE: a training step and a generated token, by operation and shape and in Chrome's format, on the device
PA_DEVICE. A traced run computes what it computes without. --no-save leaves no checkpoint."""
import json
import os
import re
import subprocess
import unittest

import programs

DEVICE = os.environ.get("PA_DEVICE", "cpu")
ROW = re.compile(r"^(\w+) +(.{44}) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)")


class Trace(programs.WithCorpus):
    def rows(self, path):
        """{(operation, shape): (calls, ms)}, and the number of operations and ms in the first line."""
        lines = path.read_text().splitlines()
        found = [ROW.match(line) for line in lines[3:]]
        self.assertTrue(all(found), lines)
        first = re.match(rf"One (step|token) on {DEVICE}: (\d+) operations in ([\d.]+) ms; ", lines[0])
        self.assertTrue(first, lines[0])
        return {(m[1], m[2].strip()): (int(m[3]), float(m[4])) for m in found}, int(first[2]), float(first[3])

    def check(self, name, expected):
        rows, operations, ms = self.rows(self.folder / f"{name}.txt")
        self.assertEqual(sum(calls for calls, _ in rows.values()), operations)
        self.assertAlmostEqual(sum(t for _, t in rows.values()), ms, delta=1e-3 * (len(rows) + 1))
        for kind, count in expected.items():
            calls = sum(calls for (found, _), (calls, _) in rows.items() if found == kind)
            self.assertEqual(calls, count, (kind, rows))
        events = [e for e in json.loads((self.folder / f"{name}.json").read_text())["traceEvents"] if e["ph"] == "X"]
        device = [e for e in events if e["tid"] == 0]
        self.assertEqual(len(device), operations)
        self.assertEqual(len(events), operations * (1 if DEVICE == "cpu" else 2))
        for before, after in zip(device, device[1:]):
            self.assertAlmostEqual(before["ts"] + before["dur"], after["ts"], delta=0.01)
        return rows

    def test_a_step_and_a_token(self):
        arguments = ("--device", DEVICE, "train.steps=8", "log.eval_every=0", "--precision", "fp32")
        traced = programs.environment(PATRAIN_TRACE=str(self.folder / "t"))
        for run, more, env in (("plain", (), programs.environment()), ("traced", ("--no-save",), traced)):
            done = programs.train(self.folder, run, *arguments, *more, env=env)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(*(programs.losses(self.folder / run) for run in ("plain", "traced")))
        self.assertFalse((self.folder / "traced/latest").exists())
        self.assertEqual(list((self.folder / "traced/checkpoints").iterdir()), [])
        # Three blocks; a backward pass has two products for each of the forward's.
        expected = {"attn_fwd": 3, "attn_bwd": 3, "adam": 1, "cross_entropy": 1, "product": 3 * (3 * 4 + 2)}
        rows = self.check("t-step", expected)
        self.assertIn(("attn_fwd", "B 4 N 24 K 4 H 2 D 8"), rows)

        pagen = [os.path.join(os.environ["PA_BIN"], "pagen"), str(self.folder / "plain"), "--device", DEVICE,
                 "--length-tokens", "9", "--primer", f"{self.folder}/validation.safetensors:0", "--prime-tokens", "20",
                 "--seed", "1", "--precision", "fp32", "--output"]
        for name, env in (("plain", programs.environment()), ("traced", traced)):
            done = subprocess.run([*pagen, str(self.folder / f"{name}.safetensors")], capture_output=True, text=True,
                                  timeout=120, env=env)
            self.assertEqual(done.returncode, 0, done.stderr)
        files = [programs.read_numbers(self.folder / f"{name}.safetensors")[0] for name in ("plain", "traced")]
        self.assertEqual(*(tensors["tokens"] for tensors in files))
        self.check("t-token", {"attn_decode": 3, "embed_fwd": 1})

    def test_a_file_that_cannot_be_written(self):
        done = programs.train(self.folder, "refused", "--device", DEVICE, "train.steps=8", "log.eval_every=0",
                              env=programs.environment(PATRAIN_TRACE=str(self.folder / "absent/t")))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("absent/t-step.json", done.stderr)
        self.assertIn("No such file or directory", done.stderr)


if __name__ == "__main__":
    unittest.main()
