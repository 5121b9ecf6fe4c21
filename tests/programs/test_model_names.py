#!/usr/bin/env python3
"""Models found by name: which folder comes first, what is found in it, and what is said of a name that is nowhere.

A program looks beside itself, so a copy of it stands in folders like those of a build tree and of an installation.
"""
import json
import os
import shutil
import subprocess
import unittest

import programs
from tiny import BIN, DEVICE, Program


class Names(Program):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.at = cls.at.resolve()
        cls.prefix, cls.own, cls.here = cls.at / "prefix", cls.at / "own", cls.at / "here"
        for folder in (cls.prefix / "bin", cls.here):
            folder.mkdir(parents=True)
        for program in ("paeval", "pagen", "patrain"):
            shutil.copy(BIN / program, cls.prefix / "bin")

    def setUp(self):
        self.built, self.installed = self.prefix / "models", self.prefix / "share/patrain/models"
        self.environment = programs.environment(PATRAIN_MODELS=str(self.own))
        for folder in (self.own, self.built, self.installed):
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, folder, name):
        """A model of that name; its file."""
        (folder / name).mkdir(parents=True)
        return shutil.copy(self.run_dir / "latest/model.safetensors", folder / name / "model.safetensors")

    def program(self, name, *arguments, status=0):
        done = subprocess.run([str(self.prefix / "bin" / name), *map(str, arguments), "--device", DEVICE],
                              capture_output=True, text=True, timeout=120, cwd=self.here, env=self.environment)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr if status else done.stdout

    def found(self, name):
        return json.loads(self.program("paeval", name, self.tokens, "--json"))["model"]

    def test_order(self):
        """The last one put comes first."""
        for folder in (self.installed, self.built, self.own):
            file = self.put(folder, "piano")
            self.assertEqual(self.found("piano"), str(file))
        link = self.here / "piano"
        link.symlink_to(self.run_dir)
        self.addCleanup(link.unlink)
        self.assertEqual(self.found("piano"), "piano/best/model.safetensors")
        self.environment["PATRAIN_MODELS"] = ""
        link.rename(self.here / "elsewhere")
        self.assertEqual(self.found("piano"), str(self.built / "piano/model.safetensors"))
        (self.here / "elsewhere").rename(link)

    def test_programs(self):
        """A name is what the path would be, and a run directory may be named too."""
        self.put(self.built, "piano")
        self.own.mkdir()
        (self.own / "runs").symlink_to(self.run_dir)
        self.assertEqual(self.found("runs"), str(self.own / "runs/best/model.safetensors"))
        for model, out in (("piano", "a.safetensors"), (self.built / "piano", "b.safetensors")):
            self.program("pagen", model, "--primer", self.primer, "--output", self.out(out), "--length-tokens", 50)
        self.assertEqual(self.out("a.safetensors").read_bytes(), self.out("b.safetensors").read_bytes())
        self.program("patrain", "--init", "piano", f"data.train={self.tokens}", "train.steps=1")
        self.assertTrue((self.here / "runs/piano-tuned/latest/model.safetensors").exists())
        shutil.rmtree(self.here / "runs")
        self.assertIn("PATRAIN_MODELS", self.program("pagen", "--help"))

    def test_nowhere(self):
        expected = "expected a model file, a checkpoint, a run directory or a model's name, found nothing there"
        for program, arguments in (("paeval", ("violin", self.tokens)), ("pagen", ("violin", "--output", "x.mid")),
                                   ("patrain", ("--init", "violin", f"data.train={self.tokens}"))):
            said = self.program(program, *arguments, status=2)
            self.assertEqual(said, f"{program}: violin: {expected}; models in {self.own}: none\n")
        self.put(self.built, "piano")
        self.put(self.built, "organ")
        (self.built / "notes").mkdir()
        self.assertEqual(self.program("paeval", "violin", self.tokens, status=2),
                         f"paeval: violin: {expected}; models in {self.own}: none; models in {self.built}: organ, "
                         f"piano\n")
        self.assertIn("./violin: expected a model file, a checkpoint or a run directory, found nothing there\n",
                      self.program("paeval", "./violin", self.tokens, status=2))
        self.environment["PATRAIN_MODELS"] = ""
        shutil.rmtree(self.built)
        self.assertIn(f"{expected}; no folder of models found\n",
                      self.program("paeval", "violin", self.tokens, status=2))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main()
