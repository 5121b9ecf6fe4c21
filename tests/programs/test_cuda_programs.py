#!/usr/bin/env python3
"""patrain, paeval and pagen with --device cuda in the emulator (tests/emulator) against --device cpu; each error of a
GPU in one line.

The rule: d is how far bf16 on the CPU is from float32 on the CPU (losses of a run, or logits, as one vector). bf16 with
--device cuda may be twice as far, fp16 an eighth of that (three bits more), float32 2^-16 sqrt(n) of it, n = 390 the
longest sum: as in test_model.c.
"""

import json
import math
import os
import pathlib
import struct
import subprocess
import unittest

import programs

BIN = pathlib.Path(os.environ["PA_BIN"])
SHARE = {"bf16": 1, "fp16": 1 / 8, "fp32": 2**-16 * math.sqrt(390)}
STEPS = 8
RUN = ("optimizer.schedule=constant", "data.piece_starts=0.3", "train.global_batch=3", "train.micro_batch=2",
       "model.dropout=0.1", "log.eval_every=0", "checkpoint.every=2")


class Programs(programs.WithCorpus):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.losses = {p: cls.run_losses(f"cpu-{p}", "cpu", p) for p in ("fp32", "bf16")}

    @classmethod
    def start(cls, program, *arguments, status=0, **emulator):
        line = [BIN / program, *map(str, arguments)]
        done = subprocess.run(line, env=programs.environment(**emulator), capture_output=True, text=True, timeout=300)
        if done.returncode != status:
            raise AssertionError(f"{line}\nexit {done.returncode}, expected {status}\n{done.stdout}{done.stderr}")
        return done

    @classmethod
    def train(cls, run, device, *arguments, **options):
        return cls.start("patrain", cls.folder / "tiny.ini", "--device", device, "--run-dir", cls.folder / run, *RUN,
                         *arguments, **options)

    @classmethod
    def run_losses(cls, run, device, precision, steps=STEPS):
        cls.train(run, device, "--precision", precision, f"train.steps={steps}")
        return [m["loss"] for m in programs.metrics(cls.folder / run)[0]]

    def assert_near(self, exact, coarse, ours, precision):
        self.assertEqual(len(exact), len(ours))
        d = math.dist(exact, coarse)
        self.assertGreater(d, 0)
        self.assertLessEqual(math.dist(exact, ours), 2 * d * SHARE[precision], precision)


class Same(Programs):
    """What is computed is what the CPU computes."""

    def test_losses(self):
        self.assertEqual(len(self.losses["fp32"]), STEPS)
        ours = {precision: self.run_losses(f"cuda-{precision}", "cuda", precision) for precision in SHARE}
        for precision in SHARE:
            self.assert_near(self.losses["fp32"], self.losses["bf16"], ours[precision], precision)
        self.assertEqual(ours["fp16"], self.run_losses("again", "cuda", "fp16"))  # to the bit

    def test_a_run_goes_on_on_the_other_device(self):
        for first, then in (("cpu", "cuda"), ("cuda", "cpu")):
            self.run_losses(f"{first}-{then}", first, "fp32", STEPS // 2)
            ours = self.run_losses(f"{first}-{then}", then, "fp32")
            self.assert_near(self.losses["fp32"], self.losses["bf16"], ours, "fp32")

    def logits(self, device, precision):
        path = self.folder / f"{device}-{precision}.logits"
        self.start("paeval", self.folder / "cpu-fp32", self.windows, "--device", device, "--precision", precision,
                   "--logits", path)
        raw = programs.read_safetensors(path)[0]["logits"][2]
        return struct.unpack(f"<{len(raw) // 4}f", raw)

    def test_paeval(self):
        self.windows = self.folder / "windows.safetensors"
        x = [(7 * i * i + i) % 389 for i in range(64)]
        programs.write_safetensors(self.windows, [("x", "U16", [2, 32], x)], {})
        exact, coarse = self.logits("cpu", "fp32"), self.logits("cpu", "bf16")
        for precision in SHARE:
            self.assert_near(exact, coarse, self.logits("cuda", precision), precision)
        on = {}
        for device in ("cpu", "cuda"):
            done = self.start("paeval", self.folder / "cpu-fp32", self.folder / "validation.safetensors", "--device",
                              device, "--precision", "fp32", "--json")
            on[device] = json.loads(done.stdout)
        numbers = [k for k, v in on["cpu"].items() if isinstance(v, float) and k not in ("tokens_per_s", "seconds")]
        self.assertGreater(len(numbers), 3)
        for name in numbers:  # sums of nats within 2^-20 of float64's each (test_gradcheck.c)
            self.assertAlmostEqual(on["cuda"][name], on["cpu"][name], delta=2**-19 * abs(on["cpu"][name]), msg=name)

    def test_pagen(self):
        for more in ((), ("--int8",)):
            made = {}
            for device in ("cpu", "cuda"):
                path = self.folder / f"{device}{len(more)}.safetensors"
                self.start("pagen", self.folder / "cpu-fp32", "--primer", f"{self.folder}/validation.safetensors:0",
                           "--prime-tokens", 12, "--greedy", "--length-tokens", 40, "--output", path, "--device",
                           device, "--precision", "fp32", *more)
                made[device] = programs.read_safetensors(path)[0]["tokens"][2]
            self.assertGreater(len(made["cpu"]), 80)
            self.assertEqual(made["cpu"], made["cuda"])


class Errors(Programs):
    """Each in one line that says what failed; what was saved stays."""

    def refuse(self, text, *arguments, device="cuda", status=1, **emulator):
        done = self.train("refused", device, "train.steps=2", *arguments, status=status, **emulator)
        self.assertEqual([line for line in done.stderr.splitlines() if line.startswith("patrain: ")],
                         ["patrain: " + text])
        return done

    def test_no_gpu(self):
        self.refuse("CUDA: no GPU here", PA_EMULATOR_SM="0")
        self.refuse('CUDA: no such GPU: CUDA_VISIBLE_DEVICES is "7"', PA_EMULATOR_SM="0", CUDA_VISIBLE_DEVICES="7")
        self.refuse("CUDA: no NVIDIA driver here; this build needs CUDA 13's, 580 or newer", PA_EMULATOR_DRIVER="0")
        self.refuse("CUDA: the NVIDIA driver is of CUDA 12.4; this build needs CUDA 13's, 580 or newer",
                    PA_EMULATOR_DRIVER="12040")

    def test_heads_that_the_kernels_do_not_take(self):
        for dims in (20, 136):
            self.refuse(f"model.dim_head: expected a multiple of 8 up to 128 with --device cuda, found {dims}",
                        f"model.dim_head={dims}", status=2)
        self.train("refused", "cpu", "train.steps=1", "model.dim_head=20")

    def test_auto_falls_to_the_cpu_and_says_so(self):
        done = self.train("auto", "auto", "train.steps=1", PA_EMULATOR_DRIVER="0")
        self.assertEqual(done.stderr.splitlines()[0],
                         "CUDA: no NVIDIA driver here; this build needs CUDA 13's, 580 or newer; on the CPU")
        self.assertRegex(done.stderr, r"memory plan, (fp32|bf16) on the CPU \(")
        done = self.train("auto-cuda", "auto", "train.steps=1", PA_EMULATOR_SM="75")
        self.assertIn("memory plan, fp16 on emulated sm_75:", done.stderr)

    def test_no_memory(self):
        done = self.train("large", "cuda", status=1, PA_EMULATOR_MEMORY="1000000")
        self.assertRegex(done.stderr,
                         r"patrain: CUDA: out of memory: arena [a-z0-9 -]+ wants \d+\.\d MB, \d+\.\d of 1\.0 MB are "
                         r"free "
                         r"\(the plan needs \d+\.\d MB\); try train\.recompute = true or a smaller "
                         r"train\.micro_batch\n$")
        self.assertLess(done.stderr.index("memory plan"), done.stderr.index("out of memory"))

    def test_what_breaks_under_way(self):
        # A tensor is written or read after a wait: T for the first weights, 3 T for a checkpoint; a step is one wait;
        # some are for tables and timing.
        # inv_freq is not the backend's
        tensors = sum(t[0] == "F32" for t in programs.checkpoint(self.folder / "cpu-fp32")[0].values()) - 1
        timing = 12
        for code, at, text in (
            (214, 4 * tensors + timing + 3,
             r"CUDA: the GPU's memory had an uncorrectable error while computing a step; the last checkpoint is whole"),
            (700, 5 * tensors + timing + 4, r"CUDA: an illegal memory access was encountered while reading a tensor "
             r"\(cudaErrorIllegalAddress\); the last checkpoint is whole"),  # in the second checkpoint
        ):
            run = f"broken-{code}"
            arguments = ("--precision", "fp32", f"train.steps={STEPS}")
            done = self.train(run, "cuda", *arguments, status=1, PA_EMULATOR_ERROR=f"{code}@{at}")
            self.assertRegex(done.stderr.splitlines()[-1], "^patrain: " + text + "$")
            done = self.train(run, "cpu", *arguments)
            self.assertIn("resuming from step 2\n", done.stderr)
            ours = [m["loss"] for m in programs.metrics(self.folder / run)[0]]
            self.assert_near(self.losses["fp32"], self.losses["bf16"], ours, "fp32")

    def test_a_dry_run_needs_no_gpu(self):
        done = self.train("dry", "cuda", "--dry-run", "--precision", "fp16", PA_EMULATOR_SM="0")
        self.assertRegex(done.stderr, r"million parameters in \d+ tensors")
        self.assertRegex(done.stderr,
                         r"memory plan, fp16 on a GPU \(none found\):\n  parameters +\d+\.\d MB\n(.*\n)+  all +\d+\.\d "
                         r"MB\n"
                         r"  and from the first checkpoint on \d+\.\d MB of host memory for a copy of weights and "
                         r"moments\ncheckpoints: .*\n"
                         r"dry run: CUDA: no GPU here; no step was run, nothing written\n$")
        self.assertFalse((self.folder / "dry").exists())
        self.assertIn("one window took", self.train("dry", "cuda", "--dry-run").stderr)


if __name__ == "__main__":
    unittest.main()
