"""scripts/bundle.sh, bench/gpu.sh and bench/train_on_gpu.sh in an emulated build: the bundle is made of this build and a few
made-up pieces, the three calls run on tiny models, and a part that fails or hangs is reported and doesn't affect the
others."""
import json
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
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
        for i in range(12):
            notes = [(t / 4, t / 4 + rng.uniform(0.1, 0.5), 40 + rng.randrange(40), rng.randrange(30, 100))
                     for t in range(160)]
            (midi / f"{i}.mid").write_bytes(chorales.midi(notes))
        made = Path(cls.folder.name, "bundle")
        # Without an index: the test needs no network.
        done = subprocess.run([ROOT / "scripts/bundle.sh", made, "--midi", midi, "--build", BUILD, "--build75", "",
                               "--pieces", "6"], capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"})
        if done.returncode:
            raise AssertionError(done.stderr)
        made.rename(cls.bundle)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_what_is_there_already_stays(self):
        for name in ("made", "made.part", "made.tar.gz"):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, name).write_text("mine")
                line = [ROOT / "scripts/bundle.sh", f"{folder}/made", "--midi", folder, "--build", BUILD]
                done = subprocess.run([*line, "--build75", ""], capture_output=True)
                self.assertEqual(done.returncode, 1)
                self.assertEqual([(p.name, p.read_text()) for p in Path(folder).iterdir()], [(name, "mine")])

    @unittest.skipIf(list(Path("/dev").glob("nvidia[0-9]*")), "there is a GPU")
    def test_without_a_gpu(self):
        done = subprocess.run([self.bundle / "bench/gpu.sh", "a", "--out", self.bundle / "none"], capture_output=True,
                              text=True)
        self.assertEqual((done.returncode, done.stderr), (1, "gpu.sh: no GPU found: there is no /dev/nvidia0\n"))
        self.assertFalse((self.bundle / "none").exists())

    def test_what_is_in_it(self):
        there = [p.name.split(".so")[0] for p in (self.bundle / "lib").iterdir()]
        self.assertIn("libdnnl", there)
        self.assertFalse({"libc", "libm", "libstdc++", "libgcc_s"} & set(there), there)
        pieces = 0
        for path in (self.bundle / "data").glob("*.safetensors"):
            data = path.read_bytes()
            pieces += json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])["seconds"]["shape"][0]
        self.assertEqual(pieces, 6)

    def test_a_working_folder_that_is_not_its_own(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "mine").touch()
            done = subprocess.run([self.bundle / "bench/gpu.sh", "a", "--smoke", "--work", folder], capture_output=True,
                                  text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertTrue(Path(folder, "mine").exists())

    def gpu(self, call, *arguments):
        done = subprocess.run([self.bundle / "bench/gpu.sh", call, "--smoke", *map(str, arguments)], capture_output=True,
                              text=True)
        results = (self.bundle / f"out/gpu-{call}.md").read_text()
        states = dict(re.findall(r"^\| (.+?) \| (.+?) \| [\d.]+ \|", results, re.M))
        return done, results, states

    def ok(self, states, parts, results):
        for part in parts:
            self.assertEqual(states.get(part), "ok", results)

    def test_call_a(self):
        done, results, states = self.gpu("a", "--seconds", 1200)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + results)
        self.ok(states, ("test_cuda_ops", "test_golden", "v1, three steps", "v1 on the CPU", "attention", "trace v1",
                         "generation"), results)
        self.assertEqual(list(states)[1 if "part" in states else 0], "test_cuda_ops")
        self.assertRegex(results, r"(?m)^\| v1 \| ([\d.]+ [\d.]+ \| ){2}[\d.]+ [\d.]+ \|$")
        self.assertRegex(results, r"One step on cuda: \d+ operations in [\d.]+ ms")
        self.assertRegex(results, r"One token on cuda: \d+ operations in [\d.]+ ms")
        self.assertRegex(results, r"v1: 40 tokens in [\d.]+ s")
        with tarfile.open(self.bundle / "out/gpu-a.tar.gz") as archive:
            names = archive.getnames()
        for name in ("trace-v1-step.json", "trace-token.txt", "test_golden.log", "v1/metrics.jsonl"):
            self.assertIn(f"gpu-a/{name}", names)
        self.assertFalse([name for name in names if name.endswith(".safetensors")])

    def test_calls_b_and_c(self):
        done, results, states = self.gpu("b", "--seconds", 1200)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + results)
        self.ok(states, ("test_cuda_ops", "test_golden", "train v1 batch 4", "generation"), results)
        self.assertRegex(states["PyTorch"], "^left out: .+$")
        self.assertRegex(results, r"(?m)^\| v1, 4 \| [\d.]+ \| \d+ \| [\d.]+ % \| [\d.]+ \| .* \| – \| – \| – \|$")
        self.assertFalse((self.bundle / "work/b/v1-4/latest").exists())
        done, results, states = self.gpu("c", "--seconds", 1200)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + results)
        self.assertRegex(results, r"(?m)^dq +128 queries, 32 keys, 2 blocks +[\d.]+ +[\d.]+ +[\d.e-]+$")
        self.assertNotIn("WRONG", results)
        self.ok(states, ("pabench", "ladder", "one rank", "one rank over NCCL", "the same losses over NCCL"), results)
        for part in ("compute-sanitizer", "T4 path"):
            self.assertRegex(states[part], "^(ok|left out: .+)$")
        self.assertRegex(results, r"(?m)^v1 layernorm_fwd fp32 +[\d.]+")

    def test_quick_measures_what_the_filter_names(self):
        done = subprocess.run([self.bundle / "bin/pabench", "--quick", "--filter", "v3 column_sum fp32"],
                              capture_output=True, text=True)
        self.assertRegex(done.stdout, r"(?m)^v3 column_sum fp32 +[\d.]+", done.stderr)

    def with_files(self, made, call):
        """Runs `call` with other files in the bundle."""
        before = {p: (self.bundle / p).read_bytes() for p in made if (self.bundle / p).exists()}
        try:
            for p, text in made.items():
                (self.bundle / p).parent.mkdir(exist_ok=True)
                (self.bundle / p).write_text(text)
            return call()
        finally:
            for p in made:
                (self.bundle / p).unlink()
            for p, data in before.items():
                (self.bundle / p).write_bytes(data)
                (self.bundle / p).chmod(0o755)

    def test_pytorch_of_which_one_form_compiles_too_long(self):
        worker = """import json, sys, time
if json.loads(sys.argv[1])["cudnn"]:
    time.sleep(100)
print('READY{"batch": 2}', flush=True)
for line in sys.stdin:
    print('{"seconds": 0.5}', flush=True)
"""
        cuda = "class cuda:\n    is_available = staticmethod(lambda: True)\n"
        made = {"python/torch.py": cuda, "python/perceiver_ar_pytorch.py": "", "bench/peers/torch_worker.py": worker,
                "bin/test_cuda_ops": "#!/bin/sh\n", "bin/test_golden": "#!/bin/sh\n"}
        done, results, states = self.with_files(made, lambda: self.gpu("b", "--only", "tests,versus,published",
                                                                       "--seconds", 60))
        self.assertEqual(states["PyTorch best v1 batch 4"], "ok", results)
        self.assertRegex(states["PyTorch cudnn v1 batch 4"], "^FAILED: not done in")
        self.assertRegex(results, r"(?m)^\| v1, 4 .*\| 500.00 \(2\) \| – \| [\d.]+ \|$")

    def test_a_part_that_fails_or_hangs(self):
        made = {"bin/patrain": "#!/bin/sh\necho words of an error >&2\nexit 1\n", "bin/test_golden": "#!/bin/sh\nsleep 100\n",
                "bin/test_cuda_ops": "#!/bin/sh\n"}
        done, results, states = self.with_files(made, lambda: self.gpu("b", "--seconds", 20))
        self.assertEqual(done.returncode, 1, results)
        self.assertEqual(states["test_cuda_ops"], "ok")
        self.assertRegex(states["test_golden"], "^FAILED: not done in ")

    def test_wrong_operations_end_the_first_call(self):
        text = "#!/bin/sh\necho 'v1 rotary bf16: dx is off by 7 of what rounding allows (0.1 of the largest)'\nexit 1\n"
        done, results, states = self.with_files({"bin/test_cuda_ops": text}, lambda: self.gpu("a"))
        self.assertEqual(done.returncode, 1, results)
        self.assertEqual(states["gate"], "FAILED: operations are wrong; the call ends here")
        self.assertNotIn("trace v1", states)
        self.assertIn("v1 rotary bf16: dx is off by 7", results)

    def test_training_leaves_the_model_in_parts(self):
        tiny = ("model.context=128", "model.prefix=48", "model.dim=32", "model.heads=1", "model.depth=1", "train.steps=3",
                "train.global_batch=2", "--device", "cuda")
        done = subprocess.run([self.bundle / "bench/train_on_gpu.sh", "5", *tiny], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        out = self.bundle / "out"
        joined = b"".join(p.read_bytes() for p in sorted(out.glob("model.safetensors.part-*")))
        self.assertEqual(joined, (self.bundle / "work/train/latest/model.safetensors").read_bytes())
        self.assertTrue((out / "train.log").exists() and (out / "config.ini").exists())


if __name__ == "__main__":
    unittest.main()
