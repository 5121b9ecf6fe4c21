#!/usr/bin/env python3
"""Models pass between perceiver_ar_pytorch on PyTorch and patrain, both ways, and give the same logits.

Skipped (exit 77) where torch or perceiver_ar_pytorch cannot be imported. PA_BIN is the folder of patrain's programs,
PA_DEVICE the device.

The rule: in float32, patrain's logits may be four times as far from PyTorch's in float64 as PyTorch's own float32 ones
are.
"""
import contextlib
import copy
import importlib.util
import io
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

try:
    import numpy as np
    import torch
    from perceiver_ar_pytorch import PerceiverAR
    from perceiver_ar_pytorch.autoregressive_wrapper import AutoregressiveWrapper
    from safetensors.numpy import load_file as load_arrays, save_file as save_arrays
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

BIN = Path(os.environ.get("PA_BIN", "build/cpu/bin"))
DEVICE = os.environ.get("PA_DEVICE", "cpu")
IMPORT = Path(__file__).resolve().parent.parent.parent / "scripts" / "import_checkpoint.py"
# v4's form: heads narrower together than dim. The second: wider, two cross-attentions, dims that rotary passes.
MODELS = [dict(context=48, prefix=16, dim=96, heads=1, dim_head=64, depth=2, perceive_depth=1, ff_mult=4),
          dict(context=40, prefix=24, dim=32, heads=3, dim_head=80, depth=1, perceive_depth=2, ff_mult=2)]


def documented() -> dict:
    """load and save of docs/from-pytorch.md."""
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", (IMPORT.parent.parent / "docs" / "from-pytorch.md").read_text(),
                           re.S):
        exec(code, names)
    return names


def build(m: dict) -> PerceiverAR:
    torch.manual_seed(5)
    model = PerceiverAR(num_tokens=390, dim=m["dim"], depth=m["depth"], max_seq_len=m["context"],
                        cross_attn_seq_len=m["prefix"], dim_head=m["dim_head"], heads=m["heads"], ff_mult=m["ff_mult"],
                        perceive_depth=m["perceive_depth"], cross_attn_dropout=0.7)
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:
                value.add_(0.3 * torch.randn_like(value))
    return model.eval()


def ini(m: dict, keys=None, extra: str = "") -> str:
    return "[model]\n" + "".join(f"{k} = {v}\n" for k, v in m.items() if keys is None or k in keys) + extra


def run(*command, status: int = 0) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    if done.returncode != status:
        raise AssertionError(
            f"{' '.join(map(str, command))}\nexit {done.returncode}, expected {status}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def import_checkpoint(source: Path, out: Path, config: Path, status: int = 0, *more: str) -> str:
    """The script's main in this process: starting Python with torch takes seconds."""
    spec = importlib.util.spec_from_file_location("import_checkpoint", IMPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = io.StringIO()
    with mock.patch.object(sys, "argv", [str(IMPORT), str(source), str(out), "--config", str(config), *more]):
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = module.main()
    if found != status:
        raise AssertionError(f"exit {found}, expected {status}: {said.getvalue()}")
    return said.getvalue()


class Interop(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.at = Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def write(self, name: str, text: str) -> Path:
        (self.at / name).write_text(text)
        return self.at / name

    def windows(self, m: dict) -> np.ndarray:
        x = np.random.default_rng(7).integers(0, 388, (3, m["context"]))
        save_arrays({"x": x.astype(np.int64)}, self.at / "x.safetensors")
        return x

    def check_logits(self, model: PerceiverAR, m: dict, checkpoint: Path, *more) -> None:
        """What paeval computes from the checkpoint against what the model does."""
        x = self.windows(m)
        run(BIN / "paeval", checkpoint, self.at / "x.safetensors", "--logits", self.at / "logits.safetensors",
            "--device", DEVICE, "--precision", "fp32", *more)
        ours = load_arrays(self.at / "logits.safetensors")["logits"]
        with torch.no_grad():
            near = model(torch.from_numpy(x)).double().numpy()
            exact = copy.deepcopy(model).double()
            size = 2 * exact.rotary_pos_emb.inv_freq.numel()
            exact.rotary_pos_emb.inv_freq = 1.0 / 10000 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
            truth = exact(torch.from_numpy(x)).numpy()
        self.assertEqual(ours.shape, (3, m["context"] - m["prefix"], 390))
        self.assertLessEqual(np.linalg.norm(ours - truth), 4 * np.linalg.norm(near - truth))

    def test_seed_checkpoint_is_imported(self):
        for i, m in enumerate(MODELS):
            model = build(m)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            x = torch.zeros(1, m["context"], dtype=torch.long)
            model(x, labels=torch.ones_like(x)).backward()
            optimizer.step()  # so that its state is in the file, as the seed saves it
            model.zero_grad()
            for j, state in enumerate([model.state_dict(), AutoregressiveWrapper(model).state_dict(),
                                       {f"module.{k}": v for k, v in model.state_dict().items()}]):
                torch.save({"state_dict": state, "optimizer": optimizer.state_dict()} if j == 0 else state,
                           self.at / "in.pt")
                config = self.write("c.ini", ini(m, ("prefix", "heads"),
                                                 "; comments stay out\nprefix_dropout = 0.7 ; here too\n[train]\n"))
                out = self.at / f"out{i}{j}.safetensors"
                import_checkpoint(self.at / "in.pt", out, config)
                self.check_logits(model, m, out)

    def test_imported_with_16_bits(self):
        model, m = build(MODELS[0]), MODELS[0]
        torch.save(model.state_dict(), self.at / "in.pt")
        import_checkpoint(self.at / "in.pt", self.at / "out.safetensors", self.write("c.ini", ini(m)), 0, "--half")
        expected = {k: v if k.startswith("rotary") else v.half() for k, v in model.state_dict().items()}
        state = load_file(self.at / "out.safetensors")
        self.assertEqual({k: v.dtype for k, v in state.items()}, {k: v.dtype for k, v in expected.items()})
        self.assertTrue(all(torch.equal(state[k], v) for k, v in expected.items()))
        self.check_logits(documented()["load"](self.at / "out.safetensors"), m, self.at / "out.safetensors")
        with torch.no_grad():
            model.to_logits.weight[1, 2] = 70000
        torch.save(model.state_dict(), self.at / "in.pt")
        self.assertIn("to_logits.weight: expected at most 65504 for 16 bits, found 70000",
                      import_checkpoint(self.at / "in.pt", self.at / "large", self.at / "c.ini", 3, "--half"))

    def test_raw_state_dict_with_config(self):
        for m in MODELS:
            model = build(m)
            save_file(model.state_dict(), self.at / "raw.safetensors")
            self.check_logits(model, m, self.at / "raw.safetensors", "--config", self.write("c.ini", ini(m)))
            run(BIN / "paeval", self.at / "raw.safetensors", self.at / "x.safetensors", "--logits",
                self.at / "l.safetensors", status=2)

    def test_trained_here_loads_there(self):
        rng = np.random.default_rng(11)
        for split, pieces in (("train", 3), ("validation", 2)):
            lengths = rng.integers(60, 90, pieces)
            tokens = {"tokens": rng.integers(0, 388, lengths.sum()).astype(np.uint16),
                      "offsets": np.concatenate(([0], lengths.cumsum())).astype(np.int64),
                      "seconds": np.full(pieces, 9, np.float32), "notes": np.full(pieces, 20, np.int64)}
            save_arrays(tokens, self.at / f"{split}.safetensors",
                        metadata={"format": "patrain-tokens-1", "encoding": "performance",
                                                                            "vocab": "390", "split": split,
                                  "names": "[]"})
        code = documented()
        for i, m in enumerate(MODELS + [MODELS[0] | {"position": "rotary"}]):
            config = self.write("c.ini",
                                ini(m, extra=f"prefix_dropout = 0.5\n[data]\ntrain = {self.at}/train.safetensors\n"
                                             f"validation = {self.at}/validation.safetensors\n[train]\nglobal_batch = "
                                             f"2\nsteps = 4\n"
                                             "[optimizer]\nlr = 0.01\nwarmup = 0\n"))
            run(BIN / "patrain", config, "--run-dir", self.at / f"run{i}", "--device", DEVICE)
            state = load_file(self.at / f"run{i}" / "latest" / "model.safetensors")
            model = build(m)
            before = model.to_logits.weight.clone()
            frequencies = model.rotary_pos_emb.inv_freq.clone()
            model.load_state_dict(state)  # strict: neither missing nor unexpected
            self.assertTrue(torch.allclose(model.rotary_pos_emb.inv_freq, frequencies, rtol=1e-6, atol=0))
            self.assertFalse(torch.equal(before, model.to_logits.weight))
            self.check_logits(model, m, self.at / f"run{i}")
            self.assertEqual(not state["pos_emb.weight"].any(), "position" in m)
            # The page's code, and back; in 16 bits too.
            file = self.at / f"run{i}" / "latest" / "model.safetensors"
            self.check_logits(code["load"](file), m, self.at / f"run{i}")
            code["save"](code["load"](file), self.at / "back.safetensors")
            self.check_logits(model, m, self.at / "back.safetensors", "--config", config)
            run(BIN / "paeval", file, "--export", self.at / "half.safetensors", "--half")
            self.check_logits(code["load"](self.at / "half.safetensors"), m, self.at / "half.safetensors")
            code["save"](code["load"](file).bfloat16(), self.at / "bf16.safetensors")
            with torch.no_grad():
                for value in model.parameters():
                    value.copy_(value.bfloat16())
            self.check_logits(model, m, self.at / "bf16.safetensors", "--config", config)


class ImportRefuses(unittest.TestCase):
    def check(self, change, config: str, status: int, *said: str) -> None:
        m = MODELS[0]
        state = dict(build(m).state_dict())
        change(state)
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            torch.save(state, at / "in.pt")
            (at / "c.ini").write_text(config)
            text = import_checkpoint(at / "in.pt", at / "out.safetensors", at / "c.ini", status)
            self.assertEqual(sorted(p.name for p in at.iterdir()), ["c.ini", "in.pt"])
        for words in said:
            self.assertIn(words, text)

    def test_damaged_checkpoints(self):
        good = ini(MODELS[0])
        self.check(lambda s: s.pop("layers.1.0.to_out.weight"), good, 3, "layers.1.0.to_out.weight", "found none")
        self.check(lambda s: s.update(extra=torch.zeros(2)), good, 3, "extra")
        self.check(lambda s: s.update({"to_logits.weight": torch.zeros(388, 96)}), good, 3, "to_logits.weight",
                   "(390, 96)", "(388, 96)")
        self.check(lambda s: s["layers.0.0.norm.bias"].fill_(float("nan")), good, 3, "layers.0.0.norm.bias", "finite")
        self.check(lambda s: s.update({"module.to_logits.weight": s["to_logits.weight"]}), good, 3, "to_logits.weight",
                   "twice")
        self.check(lambda s: s.update(epoch=3), good, 3, "epoch")

    def test_wrong_configurations(self):
        def unchanged(state):
            pass
        self.check(unchanged, ini(MODELS[0] | {"dim": 64}), 2, "model.dim", "96", "64")
        self.check(unchanged, ini(MODELS[0], ("heads",)), 2, "model.prefix")
        self.check(unchanged, ini({"prefix": 16, "heads": 5}), 2, "model.heads", "divisor of 64")
        self.check(unchanged, ini({"prefix": 48, "heads": 1}), 2, "model.prefix", "0 to 47")
        self.check(unchanged, ini(MODELS[0], extra="activation = sqrelu\n"), 2, "model.activation")
        self.check(unchanged, "prefix = 16\n", 2, "c.ini")

    def test_not_a_checkpoint(self):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            (at / "c.ini").write_text(ini(MODELS[0]))
            (at / "in.pt").write_bytes(b"not a checkpoint")
            self.assertIn("in.pt", import_checkpoint(at / "in.pt", at / "out", at / "c.ini", 3))
            self.assertIn("none.pt", import_checkpoint(at / "none.pt", at / "out", at / "c.ini", 1))
            torch.save({"state_dict": build(MODELS[0])}, at / "in.pt")  # a whole module is code, and refused
            self.assertIn("weights_only", import_checkpoint(at / "in.pt", at / "out", at / "c.ini", 3))

    def test_as_a_program(self):
        self.assertIn("--config", run(sys.executable, IMPORT, "--help"))
        self.assertIn("--config", run(sys.executable, IMPORT, "in.pt", "out", status=2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
