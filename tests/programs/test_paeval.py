#!/usr/bin/env python3
"""paeval, run as a program on a tiny checkpoint that patrain makes here from made-up pieces (tiny.py)."""
import json
import math
import os
import shutil
import struct
import unittest

import programs
from tiny import CONTEXT, LATENTS, PREFIX, Program, pieces, run, run_plain, save

NAMES = ["NOTE_ON", "NOTE_OFF", "TIME_SHIFT", "VELOCITY"]


class Eval(Program):
    def measure(self, *arguments):
        return json.loads(run("paeval", self.run_dir, self.tokens, "--precision", "fp32", "--json", *arguments))

    def test_counts_and_sums(self):
        files = pieces(self.tokens)
        r = self.measure()
        self.assertEqual(r["tokens"], sum(len(p) - 1 for p in files))
        self.assertEqual((r["pieces"], r["stride"], r["context"], r["prefix"]),
                         (len(files), LATENTS // 2, CONTEXT, PREFIX))
        self.assertEqual(sum(c["tokens"] for c in r["classes"].values()), r["tokens"])
        self.assertEqual(list(r["classes"]), NAMES)
        nats = sum(c["tokens"] * c["loss"] for c in r["classes"].values())
        self.assertAlmostEqual(nats / r["tokens"], r["loss"], places=6)
        self.assertAlmostEqual(nats / r["notes"], r["nats_per_note"], places=5)
        self.assertAlmostEqual(nats / r["seconds"], r["nats_per_second"], places=5)
        self.assertEqual(r["notes"], sum(programs.read_numbers(self.tokens)[0]["notes"]))
        self.assertTrue(0 < r["loss"] < 8 and 0 < r["loss_seed"] < 12 and 0 <= r["accuracy"] < 1)
        self.assertEqual(self.measure("--pieces", 1)["tokens"], len(files[0]) - 1)

    def save_pieces(self, name, files):
        """A token file of these pieces."""
        path, meta = self.out(name), programs.read_numbers(self.tokens)[1]
        offsets = [sum(map(len, files[:i])) for i in range(len(files) + 1)]
        meta = {k: meta[k] for k in ("format", "encoding", "vocab", "split")}
        meta["names"] = json.dumps([str(i) for i in range(len(files))])
        save(path, {"offsets": ("I64", [len(offsets)], offsets), "notes": ("I64", [len(files)], [9] * len(files)),
                    "seconds": ("F32", [len(files)], [5.0] * len(files)),
                    "tokens": ("U16", [offsets[-1]], sum(files, []))}, meta)
        return path

    def nats(self, model, files):
        """Sums over tokens of each piece, by a run for each."""
        done = []
        for piece in files:
            one = self.save_pieces("one.safetensors", [piece])
            done.append(json.loads(run("paeval", model, one, "--precision", "fp32", "--json")))
        self.assertEqual([r["tokens"] for r in done], [len(p) - 1 for p in files])
        self.assertEqual({r["loss_error"] for r in done}, {None})  # one piece says nothing of others
        return [r["loss"] * r["tokens"] for r in done]

    def check_estimate(self, found, sums, files):
        """The ratio estimator of docs/metrics.md, here by its definition."""
        tokens = [len(p) - 1 for p in files]
        mean, n = sum(sums) / sum(tokens), len(files)
        error = math.sqrt(n / (n - 1) * sum((y - mean * x) ** 2 for x, y in zip(tokens, sums))) / sum(tokens)
        for name, expected in (("loss", mean), ("loss_error", error), ("loss_low", mean - 4.3027 * error),
                               ("loss_high", mean + 4.3027 * error)):
            self.assertAlmostEqual(found[name], expected, places=5, msg=name)

    def test_interval_and_baseline(self):
        """Against sums of runs on single pieces; the baseline has other windows and is scored on the same tokens."""
        files, other = pieces(self.tokens), self.at / "other"
        self.assertEqual(len(files), 3)
        run("patrain", self.at / "c.ini", "--run-dir", other, "model.context=48", "model.prefix=16", "train.seed=2",
            "train.steps=2")
        r = self.measure("--baseline", other)
        ours, theirs = self.nats(self.run_dir, files), self.nats(other, files)
        self.check_estimate(r, ours, files)
        self.check_estimate(r["baseline"], theirs, files)
        self.check_estimate(r["difference"], [a - b for a, b in zip(ours, theirs)], files)
        alone = json.loads(run("paeval", other, self.tokens, "--precision", "fp32", "--json"))
        for key, value in r["baseline"].items():
            if key != "tokens_per_s":
                self.assertEqual(value, alone[key], key)
        self.assertEqual((r["baseline"]["context"], r["context"]), (48, CONTEXT))
        text = run("paeval", self.run_dir, self.tokens, "--precision", "fp32", "--baseline", other)
        self.assertIn(f"interval    {r['loss_low']:.4f} to {r['loss_high']:.4f} a token", text)
        self.assertIn("difference  {loss:+.4f} a token, {loss_low:+.4f} to {loss_high:+.4f}".format(**r["difference"]),
                      text)
        same = self.measure("--baseline", self.run_dir)["difference"]
        self.assertEqual([same[k] for k in ("loss", "loss_error", "loss_low", "loss_high")], [0, 0, 0, 0])
        run("patrain", self.at / "c.ini", "--run-dir", self.at / "neural-run",
            f"data.train={self.at}/neural/train.safetensors",
            f"data.validation={self.at}/neural/validation.safetensors")
        self.refused("paeval", 3, ["expected midi-neural, that of", "found performance"], self.run_dir, self.tokens,
                     "--baseline", self.at / "neural-run")
        for option in ("--logits", "--export"):
            given = (self.run_dir,) if option == "--export" else (self.run_dir, self.tokens)
            self.refused("paeval", 2, f"expected --baseline or {option}, found both", *given, "--baseline", other,
                         option, self.out("x.safetensors"))

    def test_positions_and_contexts(self):
        """Rows by position: differences of sums over beginnings of the pieces."""
        files, r = pieces(self.tokens), self.measure()
        sums, counts = [0.0], [0]
        for end in (16, 64, 256, 1024):
            beginnings = [p[:end + 1] for p in files]
            one = json.loads(run("paeval", self.run_dir, self.save_pieces("b.safetensors", beginnings), "--precision",
                                 "fp32", "--json"))
            sums.append(one["loss"] * one["tokens"])
            counts.append(one["tokens"])
        self.assertEqual([(x["from"], x["to"]) for x in r["positions"]], [(1, 16), (17, 64), (65, 256), (257, 1024)])
        for i, row in enumerate(r["positions"]):
            self.assertEqual(row["tokens"], counts[i + 1] - counts[i])
            self.assertAlmostEqual(row["loss"], (sums[i + 1] - sums[i]) / row["tokens"], places=4)
        self.assertEqual([(x["from"], x["to"], x["tokens"]) for x in r["contexts"]], [(1, CONTEXT, r["tokens"])])
        self.assertAlmostEqual(r["contexts"][0]["loss"], r["loss"], places=6)
        self.assertRegex(run("paeval", self.run_dir, self.tokens, "--precision", "fp32"),
                         rf"17-64 +{counts[2] - counts[1]} ")

    def test_what_a_card_needs(self):
        train = self.at / "tokens" / "train.safetensors"
        r = json.loads(run("paeval", self.run_dir, train, "--json"))
        self.assertEqual(r["tokens_crc32c"], json.loads((self.run_dir / "run.jsonl").read_text())["corpus_crc32c"])
        shapes = [t[1] for name, t in programs.read_safetensors(self.run_dir / "best" / "model.safetensors")[0].items()
                  if not name.startswith("rotary")]
        self.assertEqual(r["parameters"], sum(math.prod(s) for s in shapes))
        self.assertEqual(r["version"], run("paeval", "--version").split()[1])
        self.assertEqual((r["encoding"], r["step"]), ("performance", 3))

    def test_batch_changes_nothing_and_table_says_the_same(self):
        whole = self.measure()
        for batch in (1, 3):
            self.assertAlmostEqual(self.measure("--batch", batch)["loss"], whole["loss"], places=5)
        text = run("paeval", self.run_dir, self.tokens, "--precision", "fp32")
        self.assertIn(f"{whole['loss']:.4f} a token, {whole['nats_per_note']:.4f} a note", text)
        self.assertIn(f"loss_seed   {whole['loss_seed']:.4f}", text)
        for name in NAMES:
            self.assertIn(name, text)

    def test_logits_give_the_loss(self):
        """A piece that is one full window: scored by paeval, and again here from its logits."""
        piece = pieces(self.tokens)[1][:CONTEXT + 1]
        meta = programs.read_numbers(self.tokens)[1]
        meta = {k: meta[k] for k in ("format", "encoding", "vocab", "split", "names")}
        one = self.out("one.safetensors")
        save(one, {"offsets": ("I64", [2], [0, len(piece)]), "notes": ("I64", [1], [9]), "seconds": ("F32", [1], [5.0]),
                   "tokens": ("U16", [len(piece)], piece)}, meta)
        save(self.out("x.safetensors"), {"x": ("I64", [2, CONTEXT], piece[:-1] + piece[:-1])})
        run("paeval", self.run_dir, self.out("x.safetensors"), "--logits", self.out("l.safetensors"), "--precision",
            "fp32", "--batch", 1)
        logits = programs.read_numbers(self.out("l.safetensors"))[0]["logits"]
        self.assertEqual(len(logits), 2 * LATENTS * 390)
        self.assertEqual(logits[:LATENTS * 390], logits[LATENTS * 390:])
        nats = 0.0
        for n in range(LATENTS):
            row = logits[n * 390:(n + 1) * 390]
            nats += math.log(sum(map(math.exp, row))) - row[piece[PREFIX + 1 + n]]
        # The seed's crop of a piece of context + 1 tokens can only be this window.
        r = json.loads(run("paeval", self.run_dir, one, "--precision", "fp32", "--json"))
        self.assertNotIn(0, piece)
        self.assertAlmostEqual(r["loss_seed"], nats / LATENTS, places=4)
        self.assertEqual(r["tokens"], CONTEXT)

    def test_refuses(self):
        at, x = self.at, self.out("x.safetensors")
        self.refused("paeval", 3, ["neural/validation.safetensors", "expected performance", "found midi-neural"],
                     self.run_dir, at / "neural" / "validation.safetensors")
        self.refused("paeval", 2, f"stride: expected 1 to {LATENTS}", self.run_dir, self.tokens, "--stride",
                     LATENTS + 1)
        self.refused("paeval", 2, "--stride: expected 1", self.run_dir, self.tokens, "--stride", -1)
        self.refused("paeval", 2, "--batch: expected 1 to 4096, found 0", self.run_dir, self.tokens, "--batch", 0)
        self.refused("paeval", 2, "nowhere", at / "nowhere", self.tokens)
        self.refused("paeval", 2, "nowhere", self.run_dir, at / "nowhere")
        self.refused("paeval", 2, "found 1 arguments", self.run_dir)
        self.refused("paeval", 2, "found two", self.run_dir, self.tokens, "--json", "--logits", x)
        for shape, values, says in (([1, CONTEXT + 1], [1] * (CONTEXT + 1),
                                     f"windows of {PREFIX + 1} to {CONTEXT} tokens, found 1 of {CONTEXT + 1}"),
                                    ([1, PREFIX], [1] * PREFIX, f"found 1 of {PREFIX}"),
                                    ([0, CONTEXT], [], "found 0 of"),
                                    ([PREFIX + 1], [1] * PREFIX + [390],
                                     f"x[{PREFIX}]: expected an id below 390, found 390"),
                                    ([1, 1, CONTEXT], [1] * CONTEXT, "3 dimensions"),
                                    ([PREFIX + 1], [1] * PREFIX + [-1], "found -1")):
            save(x, {"x": ("I64", shape, values)})
            self.refused("paeval", 3, ["x.safetensors: x", says], self.run_dir, x, "--logits",
                         self.out("l.safetensors"))
        save(x, {"y": ("I64", [1], [1])})
        self.refused("paeval", 3, "expected a tensor x (B, M) or tokens", self.run_dir, x, "--logits",
                     self.out("l.safetensors"))
        self.assertFalse(self.out("l.safetensors").exists())
        meta = programs.read_numbers(self.tokens)[1]
        save(x, {"offsets": ("I64", [2], [0, 1]), "notes": ("I64", [1], [1]), "seconds": ("F32", [1], [1.0]),
                 "tokens": ("U16", [1], [60])},
             {k: meta[k] for k in ("format", "encoding", "vocab", "split", "names")})
        self.refused("paeval", 3, "at least two tokens", self.run_dir, x)

    def test_export(self):
        """A copy of 16 bits is half as large, says all of itself, and measures as the numbers that it holds."""
        half, whole = self.out("half.safetensors"), self.out("whole.safetensors")
        self.assertIn(f"{half}: F16 weights", run_plain("paeval", self.run_dir, "--export", half, "--half"))
        run_plain("paeval", self.run_dir, "--export", whole)
        model = self.run_dir / "best" / "model.safetensors"
        (was, meta), (now, meta_now), (same, _) = (programs.read_safetensors(p) for p in (model, half, whole))
        self.assertEqual(was, same)
        self.assertEqual([meta[k] for k in ("format", "model", "encoding", "step")],
                         [meta_now[k] for k in ("format", "model", "encoding", "step")])
        self.assertLess(half.stat().st_size, 0.6 * model.stat().st_size)
        for name, (kind, shape, data) in was.items():
            numbers = struct.unpack(f"<{len(data) // 4}f", data)
            if not name.startswith("rotary"):
                kind, data = "F16", struct.pack(f"<{len(numbers)}e", *numbers)
            self.assertEqual(now[name], (kind, shape, data), name)
        losses = [json.loads(run("paeval", m, self.tokens, "--json", "--precision", "fp32"))["loss"]
                  for m in (self.run_dir, half)]
        self.assertAlmostEqual(*losses, places=3)
        for status, says, arguments in ((2, "nothing else with --export",
                                         (self.run_dir, self.tokens, "--export", half)),
                                        (2, "--half needs --export", (self.run_dir, self.tokens, "--half")),
                                        (2, "expected one of --json, --logits and --export, found two",
                                         (self.run_dir, "--json", "--export", half)),
                                        (2, "expected another file than the model", (model, "--export", model))):
            self.refused("paeval", status, says, *arguments)

    def test_logits_spare_what_is_read(self):
        x, model, config = self.out("x.safetensors"), self.out("m.safetensors"), self.out("c.ini")
        save(x, {"x": ("I64", [1, CONTEXT], [1] * CONTEXT)})
        shutil.copy(self.run_dir / "latest" / "model.safetensors", model)
        shutil.copy(self.at / "c.ini", config)
        for name, file in (("x-link", x), ("m-link", model)):
            self.out(name).symlink_to(file)
        before = [p.read_bytes() for p in (x, model, config)]
        for what, path in (("the windows", x), ("the windows", self.out("x-link")), ("the model", model),
                           ("the model", self.out("m-link")),
                           ("--config", config)):
            self.refused("paeval", 2, f"--logits: expected another file than {what}, found {path}", model, x,
                         "--logits", path, "--config", config)
        self.assertEqual([p.read_bytes() for p in (x, model, config)], before)
        self.assertTrue(self.out("x-link").is_symlink() and self.out("m-link").is_symlink())


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main()
