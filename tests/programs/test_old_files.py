#!/usr/bin/env python3
"""Checkpoints, configurations and token files of earlier versions, in tests/old: they are read for ever.

A folder is named by the day of the commit whose patrain and paprep wrote it. The run made three steps on two melodies;
what it gave for the two after them is that version's own. A change of what checkpoints or token files hold adds a
folder."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import programs
from tiny import BIN, DEVICE, pieces

OLD = pathlib.Path(__file__).resolve().parent.parent / "old"
ADAM, MUON, KEYBOARD = [6.538966, 6.221931], [6.633212, 6.276611], [5.987441, 6.095727]
LOSSES = {"2026-11-22": ADAM, "2026-11-26": ADAM, "2026-11-28-ema": ADAM, "2026-11-28-muon": MUON,
          "2026-11-29-keyboard": KEYBOARD}
MELODY = [371, 38, 261, 166, 46, 261, 174, 61, 266, 189, 60, 265, 188, 80, 262, 208, 36, 267, 164, 31, 265, 159,
          57, 260, 185, 74, 265, 202, 47, 263, 175, 67, 261, 195, 87, 264, 215]


class OldFiles(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="patrain-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_program(self, program, *arguments):
        line = [str(BIN / program), *map(str, arguments), "--device", DEVICE]
        done = subprocess.run(line, env=programs.environment(OMP_NUM_THREADS="1"), capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def test_runs_resume(self):
        self.assertEqual(sorted(os.listdir(OLD)), sorted(LOSSES))
        for day, losses in LOSSES.items():
            with self.subTest(day):
                newest, run = self.folder / day / "checkpoints/step-00000003", self.folder / day
                newest.mkdir(parents=True)
                for file in ("model", "state"):
                    shutil.copy(OLD / day / f"{file}.safetensors", newest)
                said = self.run_program("patrain", OLD / day / "config.ini", "--run-dir", run,
                                        f"data.train={OLD}/{day}/train.safetensors", "data.validation=",
                                        "train.steps=5")
                self.assertIn("resuming from step 3\n", said)
                steps = programs.losses(run)[0]
                self.assertEqual([step[0] for step in steps], [4, 5])
                for step, expected in zip(steps, losses):
                    self.assertAlmostEqual(step[1], expected, delta=1e-4)

    def test_pieces_continue(self):
        for day in LOSSES:
            with self.subTest(day):
                out = self.folder / f"{day}.safetensors"
                self.run_program("pagen", OLD / day, "--primer", f"{OLD}/{day}/train.safetensors:0", "--output", out,
                                 "--length-tokens", 1)
                self.assertEqual(pieces(out)[0][:-1], MELODY)


if __name__ == "__main__":
    unittest.main()
