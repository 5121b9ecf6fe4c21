"""scripts/bundle.sh and bench/gpu.sh in an emulated build: the bundle is made of this build and a few made-up pieces, all parts of the script
run on tiny models, and a part that fails or hangs is reported and doesn't affect the others."""
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ["PA_BIN"]).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))
import chorales  # noqa: E402


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        midi, cls.bundle, rng = Path(cls.folder.name, "midi"), Path(cls.folder.name, "moved"), random.Random(1)
        midi.mkdir()
        for i in range(6):
            notes = [(t / 4, t / 4 + rng.uniform(0.1, 0.5), 40 + rng.randrange(40), rng.randrange(30, 100)) for t in range(160)]
            (midi / f"{i}.mid").write_bytes(chorales.midi(notes))
        made = Path(cls.folder.name, "bundle")
        # Without an index: the test needs no network.
        subprocess.run([ROOT / "scripts/bundle.sh", made, "--midi", midi, "--build", BUILD, "--build75", ""], check=True, capture_output=True,
                       env={**os.environ, "PIP_NO_INDEX": "1"})
        made.rename(cls.bundle)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_what_is_there_already_stays(self):
        for name in ("made", "made.part", "made.tar.gz"):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, name).write_text("mine")
                done = subprocess.run([ROOT / "scripts/bundle.sh", f"{folder}/made", "--midi", folder, "--build", BUILD, "--build75", ""], capture_output=True)
                self.assertEqual(done.returncode, 1)
                self.assertEqual([(p.name, p.read_text()) for p in Path(folder).iterdir()], [(name, "mine")])

    def test_what_every_system_has_stays_out(self):
        there = [p.name.split(".so")[0] for p in (self.bundle / "lib").iterdir()]
        self.assertIn("libdnnl", there)
        self.assertFalse({"libc", "libm", "libstdc++", "libgcc_s"} & set(there), there)

    def test_a_working_folder_that_is_not_its_own(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "mine").touch()
            done = subprocess.run([self.bundle / "bench/gpu.sh", "--smoke", "--work", folder], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertTrue(Path(folder, "mine").exists())

    def gpu(self, *arguments):
        done = subprocess.run([self.bundle / "bench/gpu.sh", "--smoke", *map(str, arguments)], capture_output=True, text=True)
        results = (self.bundle / "results.md").read_text()
        states = dict(re.findall(r"^\| (.+?) \| (.+?) \| [\d.]+ \|", results, re.M))
        return done, results, states

    def test_all_parts(self):
        done, results, states = self.gpu()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + results)
        for part in ("test_cuda_ops", "test_golden", "train v1", "pabench", "generation"):
            self.assertEqual(states.get(part), "ok", results)
        for part in ("compute-sanitizer", "PyTorch", "T4 path"):
            self.assertRegex(states[part], "^(ok|left out: .+)$")
        order = [name for name in states if name != "v1"]
        self.assertEqual(order[-1], "PyTorch", results)  # in what time the others leave
        self.assertRegex(results, r"(?m)^\| v1 \| [\d.]+ \| \d+ \| [\d.]+ % \|")
        self.assertRegex(results, r"v1: 40 tokens in [\d.]+ s")
        self.assertRegex(results, r"(?m)^v1 layernorm_fwd fp32 +[\d.]+")

    def test_pytorch_that_compiles_too_long(self):
        made = {"python/torch.py": "class cuda:\n    is_available = staticmethod(lambda: True)\n", "python/perceiver_ar_pytorch.py": "",
                "bench/peers/torch_worker.py": """import json, sys, time
if json.loads(sys.argv[1])["form"] == "best":
    time.sleep(100)
print('READY{"batch": 4}', flush=True)
for line in sys.stdin:
    print('{"seconds": 0.5}', flush=True)
"""}
        before = {p: (self.bundle / p).read_bytes() for p in made if (self.bundle / p).exists()}
        try:
            for p, text in made.items():
                (self.bundle / p).parent.mkdir(exist_ok=True)
                (self.bundle / p).write_text(text)
            done, results, states = self.gpu("--only", "pytorch", "--seconds", 12)
        finally:
            for p in made:
                (self.bundle / p).unlink()
            for p, data in before.items():
                (self.bundle / p).write_bytes(data)
        self.assertEqual(done.returncode, 0, results)
        self.assertRegex(states["PyTorch best v1"], "^left out: not compiled in [567] s$")
        self.assertEqual(states["PyTorch published v1"], "ok", results)
        self.assertRegex(results, r"(?m)^\| v1 \| – \| 8.00 \(4\) \| – \| – \| – \|$")

    def test_a_part_that_fails_or_hangs(self):
        patrain, golden, ops = (self.bundle / "bin" / name for name in ("patrain", "test_golden", "test_cuda_ops"))
        programs = {p: p.read_bytes() for p in (patrain, golden, ops)}
        try:
            patrain.write_text("#!/bin/sh\necho words of an error >&2\nexit 1\n")
            golden.write_text("#!/bin/sh\nsleep 100\n")
            ops.write_text("#!/bin/sh\n")
            done, results, states = self.gpu("--only", "training,generation,tests", "--seconds", 20)
        finally:
            for p, data in programs.items():
                p.write_bytes(data)
        self.assertEqual(done.returncode, 1, results)
        self.assertEqual(states["train v1"], "FAILED: exit 1; words of an error", results)
        self.assertRegex(states["generation"], "^left out: ")
        self.assertEqual(states["test_cuda_ops"], "ok")
        self.assertRegex(states["test_golden"], "^FAILED: not done in ")


if __name__ == "__main__":
    unittest.main()
