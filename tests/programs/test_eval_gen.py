#!/usr/bin/env python3
"""paeval and pagen, run as programs on a tiny checkpoint that patrain makes here from made-up pieces (tiny.py).

What pagen makes of a primer's own file is in test_primer.py.
"""
import json
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
import unittest
from pathlib import Path

import programs
from tiny import CONTEXT, LATENTS, PREFIX, Program, command, events, midi, pieces, run, run_plain, save, seconds

NAMES = ["NOTE_ON", "NOTE_OFF", "TIME_SHIFT", "VELOCITY"]


class Eval(Program):
    def measure(self, *arguments):
        return json.loads(run("paeval", self.run_dir, self.tokens, "--precision", "fp32", "--json", *arguments))

    def test_counts_and_sums(self):
        files = pieces(self.tokens)
        r = self.measure()
        self.assertEqual(r["tokens"], sum(len(p) - 1 for p in files))
        self.assertEqual((r["pieces"], r["stride"], r["context"], r["prefix"]), (len(files), LATENTS // 2, CONTEXT, PREFIX))
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
        meta = {k: meta[k] for k in ("format", "encoding", "vocab", "split")} | {"names": json.dumps([str(i) for i in range(len(files))])}
        save(path, {"offsets": ("I64", [len(offsets)], offsets), "notes": ("I64", [len(files)], [9] * len(files)),
                    "seconds": ("F32", [len(files)], [5.0] * len(files)), "tokens": ("U16", [offsets[-1]], sum(files, []))}, meta)
        return path

    def nats(self, model, files):
        """Sums over tokens of each piece, by a run for each."""
        done = [json.loads(run("paeval", model, self.save_pieces("one.safetensors", [p]), "--precision", "fp32", "--json")) for p in files]
        self.assertEqual([r["tokens"] for r in done], [len(p) - 1 for p in files])
        self.assertEqual({r["loss_error"] for r in done}, {None})  # one piece says nothing of others
        return [r["loss"] * r["tokens"] for r in done]

    def check_estimate(self, found, sums, files):
        """The ratio estimator of docs/metrics.md, here by its definition."""
        tokens = [len(p) - 1 for p in files]
        mean, n = sum(sums) / sum(tokens), len(files)
        error = math.sqrt(n / (n - 1) * sum((y - mean * x) ** 2 for x, y in zip(tokens, sums))) / sum(tokens)
        for name, expected in (("loss", mean), ("loss_error", error), ("loss_low", mean - 4.3027 * error), ("loss_high", mean + 4.3027 * error)):
            self.assertAlmostEqual(found[name], expected, places=5, msg=name)

    def test_interval_and_baseline(self):
        """Against sums of runs on single pieces; the baseline has other windows and is scored on the same tokens."""
        files, other = pieces(self.tokens), self.at / "other"
        self.assertEqual(len(files), 3)
        run("patrain", self.at / "c.ini", "--run-dir", other, "model.context=48", "model.prefix=16", "train.seed=2", "train.steps=2")
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
        self.assertIn("difference  {loss:+.4f} a token, {loss_low:+.4f} to {loss_high:+.4f}".format(**r["difference"]), text)
        same = self.measure("--baseline", self.run_dir)["difference"]
        self.assertEqual([same[k] for k in ("loss", "loss_error", "loss_low", "loss_high")], [0, 0, 0, 0])
        run("patrain", self.at / "c.ini", "--run-dir", self.at / "neural-run", f"data.train={self.at}/neural/train.safetensors",
            f"data.validation={self.at}/neural/validation.safetensors")
        self.refused("paeval", 3, ["expected midi-neural, that of", "found performance"], self.run_dir, self.tokens, "--baseline", self.at / "neural-run")
        for option in ("--logits", "--export"):
            given = (self.run_dir,) if option == "--export" else (self.run_dir, self.tokens)
            self.refused("paeval", 2, f"expected --baseline or {option}, found both", *given, "--baseline", other, option, self.out("x.safetensors"))

    def test_positions_and_contexts(self):
        """Rows by position: differences of sums over beginnings of the pieces."""
        files, r = pieces(self.tokens), self.measure()
        sums, counts = [0.0], [0]
        for end in (16, 64, 256, 1024):
            beginnings = [p[:end + 1] for p in files]
            one = json.loads(run("paeval", self.run_dir, self.save_pieces("b.safetensors", beginnings), "--precision", "fp32", "--json"))
            sums.append(one["loss"] * one["tokens"])
            counts.append(one["tokens"])
        self.assertEqual([(x["from"], x["to"]) for x in r["positions"]], [(1, 16), (17, 64), (65, 256), (257, 1024)])
        for i, row in enumerate(r["positions"]):
            self.assertEqual(row["tokens"], counts[i + 1] - counts[i])
            self.assertAlmostEqual(row["loss"], (sums[i + 1] - sums[i]) / row["tokens"], places=4)
        self.assertEqual([(x["from"], x["to"], x["tokens"]) for x in r["contexts"]], [(1, CONTEXT, r["tokens"])])
        self.assertAlmostEqual(r["contexts"][0]["loss"], r["loss"], places=6)
        self.assertRegex(run("paeval", self.run_dir, self.tokens, "--precision", "fp32"), rf"17-64 +{counts[2] - counts[1]} ")

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
        run("paeval", self.run_dir, self.out("x.safetensors"), "--logits", self.out("l.safetensors"), "--precision", "fp32", "--batch", 1)
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
        self.refused("paeval", 3, ["neural/validation.safetensors", "expected performance", "found midi-neural"], self.run_dir,
                     at / "neural" / "validation.safetensors")
        self.refused("paeval", 2, f"stride: expected 1 to {LATENTS}", self.run_dir, self.tokens, "--stride", LATENTS + 1)
        self.refused("paeval", 2, "--stride: expected 1", self.run_dir, self.tokens, "--stride", -1)
        self.refused("paeval", 2, "--batch: expected 1 to 4096, found 0", self.run_dir, self.tokens, "--batch", 0)
        self.refused("paeval", 2, "nowhere", at / "nowhere", self.tokens)
        self.refused("paeval", 2, "nowhere", self.run_dir, at / "nowhere")
        self.refused("paeval", 2, "found 1 arguments", self.run_dir)
        self.refused("paeval", 2, "found two", self.run_dir, self.tokens, "--json", "--logits", x)
        for shape, values, says in (([1, CONTEXT + 1], [1] * (CONTEXT + 1), f"windows of {PREFIX + 1} to {CONTEXT} tokens, found 1 of {CONTEXT + 1}"),
                                    ([1, PREFIX], [1] * PREFIX, f"found 1 of {PREFIX}"),
                                    ([0, CONTEXT], [], "found 0 of"),
                                    ([PREFIX + 1], [1] * PREFIX + [390], f"x[{PREFIX}]: expected an id below 390, found 390"),
                                    ([1, 1, CONTEXT], [1] * CONTEXT, "3 dimensions"),
                                    ([PREFIX + 1], [1] * PREFIX + [-1], "found -1")):
            save(x, {"x": ("I64", shape, values)})
            self.refused("paeval", 3, ["x.safetensors: x", says], self.run_dir, x, "--logits", self.out("l.safetensors"))
        save(x, {"y": ("I64", [1], [1])})
        self.refused("paeval", 3, "expected a tensor x (B, M) or tokens", self.run_dir, x, "--logits", self.out("l.safetensors"))
        self.assertFalse(self.out("l.safetensors").exists())
        meta = programs.read_numbers(self.tokens)[1]
        save(x, {"offsets": ("I64", [2], [0, 1]), "notes": ("I64", [1], [1]), "seconds": ("F32", [1], [1.0]), "tokens": ("U16", [1], [60])},
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
        self.assertEqual([meta[k] for k in ("format", "model", "encoding", "step")], [meta_now[k] for k in ("format", "model", "encoding", "step")])
        self.assertLess(half.stat().st_size, 0.6 * model.stat().st_size)
        for name, (kind, shape, data) in was.items():
            numbers = struct.unpack(f"<{len(data) // 4}f", data)
            expected = (kind, shape, data) if name.startswith("rotary") else ("F16", shape, struct.pack(f"<{len(numbers)}e", *numbers))
            self.assertEqual(now[name], expected, name)
        losses = [json.loads(run("paeval", m, self.tokens, "--json", "--precision", "fp32"))["loss"] for m in (self.run_dir, half)]
        self.assertAlmostEqual(*losses, places=3)
        for status, says, arguments in ((2, "nothing else with --export", (self.run_dir, self.tokens, "--export", half)),
                                        (2, "--half needs --export", (self.run_dir, self.tokens, "--half")),
                                        (2, "expected one of --json, --logits and --export, found two", (self.run_dir, "--json", "--export", half)),
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
        for what, path in (("the windows", x), ("the windows", self.out("x-link")), ("the model", model), ("the model", self.out("m-link")),
                           ("--config", config)):
            self.refused("paeval", 2, f"--logits: expected another file than {what}, found {path}", model, x, "--logits", path, "--config", config)
        self.assertEqual([p.read_bytes() for p in (x, model, config)], before)
        self.assertTrue(self.out("x-link").is_symlink() and self.out("m-link").is_symlink())


class Generate(Program):
    def test_same_seed_same_music(self):
        arguments = ("--length-tokens", 3 * CONTEXT)
        a, b, c = self.generate("a.safetensors", *arguments), self.generate("b.safetensors", *arguments), self.generate("c.safetensors", *arguments, "--seed", 2)
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)
        self.assertEqual(len(a[0]), 3 * CONTEXT)
        for name in ("x", "y"):
            run("pagen", self.run_dir, "--primer", self.primer, "--output", self.out(name + ".mid"), *arguments)
        self.assertEqual(self.out("x.mid").read_bytes(), self.out("y.mid").read_bytes())

    def test_a_continuation_is_the_same_in_any_company(self):
        many = self.generate("many.safetensors", "--length-tokens", 100, "--number", 10)  # two rounds of five
        self.assertEqual(len({tuple(p) for p in many}), 10)
        self.assertEqual(many[:1], self.generate("one.safetensors", "--length-tokens", 100))
        self.assertEqual(many[:3], self.generate("three.safetensors", "--length-tokens", 100, "--number", 3))

    def test_greedy_is_what_the_logits_say(self):
        """Cached decoding against whole forward passes, across windows."""
        piece, refill = pieces(self.tokens)[0], 30
        made = self.generate("g.safetensors", "--greedy", "--long-notes", "--prime-tokens", PREFIX + refill, "--refill", refill, "--length-tokens", 24)[0]
        self.assertEqual(piece, pieces(self.tokens)[0])
        tokens, opened = piece[:PREFIX + refill] + made, 0
        for i in range(PREFIX + refill, len(tokens)):
            if i - opened > CONTEXT:
                opened = i - PREFIX - refill
            save(self.out("x.safetensors"), {"tokens": ("U16", [i - opened], tokens[opened:i])})
            run("paeval", self.run_dir, self.out("x.safetensors"), "--logits", self.out("l.safetensors"), "--precision", "fp32")
            last = list(programs.read_numbers(self.out("l.safetensors"))[0]["logits"][-390:])
            down = {t % 128 for n, t in enumerate(tokens[:i]) if t < 128 and t + 128 not in tokens[n:i]}
            for key in range(128):  # as the keys of a keyboard are
                if key in down:
                    last[key], last[128 + key] = -1e30, math.log(math.exp(last[key]) + math.exp(last[128 + key]))
                else:
                    last[128 + key] = -1e30
            self.assertEqual(tokens[i], max(range(388), key=lambda v: last[v]), f"token {i}")
        self.assertGreater(opened, 0)

    def test_lengths(self):
        whole = pieces(self.tokens)[0]
        made = self.generate("s.safetensors", "--length-seconds", 4, "--prime-seconds", 3)[0]
        self.assertAlmostEqual(seconds(made), 4, places=9)
        out = self.out("w.safetensors")
        run("pagen", self.run_dir, "--primer", f"{self.tokens}:0", "--output", out, "--length-tokens", 40, "--prime-seconds", 3, "--precision", "fp32")
        both = pieces(out)[0]
        primer = both[:-40]
        self.assertEqual(primer[:-1], whole[:len(primer) - 1])
        self.assertEqual(seconds(primer), 3)  # the last pause ends there
        self.assertGreater(seconds(whole[:len(primer)]), 3)
        self.assertEqual(both[-40:][:len(made) - 1], made[:40][:-1])  # a MIDI file and its tokens are the same primer
        run("pagen", self.run_dir, "--primer", f"{self.tokens}:1", "--output", out, "--length-tokens", 7)
        self.assertEqual(pieces(out)[0][:-7], pieces(self.tokens)[1])  # the whole primer by default
        self.assertEqual(pieces(self.ended(out)), [[60, 300, 188, 388, 61]])
        run("pagen", self.run_dir, "--primer", self.ended(out), "--output", out, "--length-tokens", 7)
        self.assertEqual(pieces(out)[0][:-7], [60, 300, 188])  # what a piece's END closes still precedes it
        t, meta = programs.read_numbers(out)
        self.assertEqual((meta["encoding"], meta["split"], len(t["seconds"])), ("performance", "generated", 1))
        self.assertIn("ended.safetensors, continuation 1", meta["names"])

    def ended(self, like):
        path, meta = self.out("ended.safetensors"), programs.read_numbers(like)[1]
        save(path, {"offsets": ("I64", [2], [0, 5]), "notes": ("I64", [1], [1]), "seconds": ("F32", [1], [0.4]),
                    "tokens": ("U16", [5], [60, 300, 188, 388, 61])}, {k: meta[k] for k in ("format", "encoding", "vocab", "split", "names")})
        return path

    def test_a_primer_that_ends_with_a_strike(self):
        """Its last note is its own, though the continuation begins at the same time."""
        whole = pieces(self.tokens)[0]
        cut = next(i for i in range(100, len(whole)) if whole[i] < 128) + 1
        common = ("--primer", f"{self.tokens}:0", "--prime-tokens", cut, "--length-tokens", 300, "--precision", "fp32")
        said = run("pagen", self.run_dir, "--output", self.out("o.mid"), *common, "--without-primer")
        run("pagen", self.run_dir, "--output", self.out("t.safetensors"), *common)
        tokens, began, now, notes = pieces(self.out("t.safetensors"))[0], {}, 0, [0, 0]
        for i, t in enumerate(tokens):
            now += t - 255 if 256 <= t < 356 else 0
            if t < 128:
                self.assertNotIn(t, began)  # a key that sounds is not struck
                began[t] = (now, i >= cut)
            elif t < 256:
                at, own = began.pop(t - 128)  # and one that does not is not released
                notes[own] += now > at
        for at, own in began.values():  # what still sounds is ended at the end
            notes[own] += now > at
        self.assertEqual(sum(e[2] == "NOTE_ON" for e in events(self.out("o.mid"))), notes[1])
        self.assertRegex(said, rf"primer +{notes[0]}\b")
        self.assertRegex(said, rf"o\.mid +{notes[1]}\b")

    def test_a_long_primer_is_measured_at_its_end(self):
        """Stuck for 300 notes, which are not among its last 65536; what those repeat, they may have begun to repeat before."""
        rng, out, long = random.Random(5), self.out("o.mid"), self.out("long.mid")
        pitches = [30 + i % 50 for i in range(300)] + [80 + rng.randrange(40) for _ in range(19700 + 65536)]
        pitches[19900:20100] = pitches[9900:10100]
        for count, longest, told in ((20000 + 65536, r"20\d", True), (65536, "250", False)):
            track = b"".join(bytes([5, 0x90, p, 64, 5, 0x80, p, 0]) for p in pitches[:count]) + b"\x00\xff\x2f\x00"
            long.write_bytes(b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500) + b"MTrk" + struct.pack(">I", len(track)) + track)
            said = run("pagen", self.run_dir, "--primer", long, "--output", out, "--length-tokens", 20)
            self.assertRegex(said, rf"primer +{count} +[68]5\d\.\d +100\.0 .* 0\.[1-9] % +{longest}\n")
            self.assertEqual("the columns from pitches on are of the last 65536" in said, told)

    def test_from_nothing(self):
        for name in ("a", "b"):
            run("pagen", self.run_dir, "--output", self.out(name + ".safetensors"), "--length-tokens", 80, "--number", 3, "--precision", "fp32")
        a = pieces(self.out("a.safetensors"))
        self.assertEqual(a, pieces(self.out("b.safetensors")))
        for p in a:
            self.assertEqual(len(p), 80)
            self.assertTrue(356 <= p[0] < 388)
        self.assertEqual(len({tuple(p) for p in a}), 3)

    def start(self, out, **more):
        """pagen, playing for hours."""
        process = subprocess.Popen(command("pagen", self.run_dir, "--primer", self.primer, "--output", out, "--length-tokens", 1 << 30),
                                   **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more})
        # Its caches are taken and it plays once it has used some processor time.
        ticks = os.sysconf("SC_CLK_TCK")
        for _ in range(600):
            used = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / ticks
            if used > 0.3 or process.poll() is not None:
                break
            time.sleep(0.05)
        return process

    def assert_stopped(self, process, out):
        said, told = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, told)
        self.assertIn("stopped on request", told)
        self.assertGreater(int(re.search(r"(\d+) tokens in", said)[1]), 0)
        self.assertTrue(events(out))
        self.assertEqual([p.name for p in self.at.glob(out.name + "*")], [out.name])

    def test_interrupt_writes_what_there_is(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            out = self.out(f"{number}.mid")
            process = self.start(out)
            process.send_signal(number)
            self.assert_stopped(process, out)

    def test_hangups(self):
        """A terminal that closes sends SIGHUP more than once; under nohup it is ignored."""
        out = self.out("often.mid")
        process = self.start(out)
        for _ in range(20):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
        self.assert_stopped(process, out)
        out = self.out("nohup.mid")
        process = self.start(out, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
        self.assert_stopped(process, out)

    def test_readers_that_go_away(self):
        reader, writer = os.pipe()
        os.close(reader)
        for name, lost in (("progress.mid", ["stderr"]), ("all.mid", ["stdout", "stderr"])):
            process = self.start(self.out(name), **{stream: writer for stream in lost})
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 75)
            self.assertTrue(events(self.out(name)))
        done = subprocess.run(command("pagen", self.run_dir, "--output", self.out("results.mid"), "--length-tokens", 5), stdout=writer,
                              stderr=subprocess.PIPE, text=True, timeout=60)
        os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(events(self.out("results.mid")))

    def test_checkpoint_by_any_of_its_names(self):
        copy, made = self.out("copy"), []
        shutil.copytree(self.run_dir, copy, symlinks=True)
        for link in ("latest", "best"):  # which not every copy has
            (copy / link).unlink(missing_ok=True)
        for name in (self.run_dir, self.run_dir / "latest", self.run_dir / "latest/model.safetensors", copy):
            run("pagen", name, "--output", self.out("x.safetensors"), "--length-tokens", 30, "--precision", "fp32")
            made.append(pieces(self.out("x.safetensors")))
        self.assertEqual(made, [made[0]] * 4)

    def test_checkpoints_of_other_types(self):
        """Weights in BF16 play as the same numbers in float32 do, with the settings that the file carries."""
        tensors, meta = programs.read_safetensors(self.run_dir / "latest" / "model.safetensors")
        wide, narrow = self.out("wide.safetensors"), self.out("narrow.safetensors")
        high = {name: b"".join(data[i + 2:i + 4] for i in range(0, len(data), 4)) for name, (_, _, data) in tensors.items()}
        programs.write_safetensors(narrow, [(name, "BF16", shape, high[name]) for name, (_, shape, _) in tensors.items()], meta)
        zeros = {name: b"".join(b"\0\0" + h[i:i + 2] for i in range(0, len(h), 2)) for name, h in high.items()}
        programs.write_safetensors(wide, [(name, "F32", shape, zeros[name]) for name, (_, shape, _) in tensors.items()], meta)
        made = []
        for model in (wide, narrow):
            run("pagen", model, "--primer", self.primer, "--output", self.out("x.safetensors"), "--length-tokens", 60, "--precision", "fp32")
            made.append(pieces(self.out("x.safetensors")))
        self.assertEqual(*made)

    def test_extensions_in_any_case(self):
        common = ("--length-tokens", 20, "--number", 2, "--precision", "fp32")
        primer = {kind: self.out("primer" + kind) for kind in (".Mid", ".SAFETENSORS")}
        shutil.copy(self.primer, primer[".Mid"])
        shutil.copy(self.tokens, primer[".SAFETENSORS"])
        for name in ("a.MID", "b.Midi", "c.SafeTensors", "d.safetensors"):
            run("pagen", self.run_dir, "--primer", primer[".Mid"], "--output", self.out(name), *common)
        for name in ("a-1.MID", "a-2.MID", "b-1.Midi", "b-2.Midi"):
            self.assertEqual(self.out(name).read_bytes()[:4], b"MThd")
        self.assertEqual(pieces(self.out("c.SafeTensors")), pieces(self.out("d.safetensors")))
        for suffix in ("", ":0"):
            run("pagen", self.run_dir, "--primer", f"{primer['.SAFETENSORS']}{suffix}", "--output", self.out("e.safetensors"), *common)
            self.assertEqual(pieces(self.out("e.safetensors")), pieces(self.out("d.safetensors")))

    def test_output_spares_what_is_read(self):
        run_dir, tokens, config = self.out("run"), self.out("t.safetensors"), self.out("c.mid")
        shutil.copytree(self.run_dir, run_dir, symlinks=True)
        shutil.copy(self.tokens, tokens)
        shutil.copy(self.at / "c.ini", config)
        model = run_dir / "latest" / "model.safetensors"
        self.out("link.safetensors").symlink_to(model)
        os.link(model, self.out("m-2.mid"))
        before = [p.read_bytes() for p in (model, tokens, config)]
        for what, path, *more in (("the model", model), ("the model", run_dir.resolve() / os.readlink(run_dir / "best") / model.name),
                                  ("the model", self.out("link.safetensors")), ("the model", self.out("m.mid"), "--number", 3),
                                  ("the primer", tokens, "--primer", tokens), ("the primer", tokens, "--primer", f"{tokens}:1"),
                                  ("--config", config, "--config", config)):
            for checkpoint in (run_dir, model):
                self.refused("pagen", 2, f"--output: expected another file than {what}, found", checkpoint, "--output", path, "--length-tokens", 5,
                             *more)
        self.assertEqual([p.read_bytes() for p in (model, tokens, config)], before)
        self.assertFalse(self.out("m-1.mid").exists())

    def test_other_encoding(self):
        shutil.copy(self.at / "c.ini", self.out("c.ini"))
        run("patrain", self.out("c.ini"), f"data.train={self.at}/neural/train.safetensors", f"data.validation={self.at}/neural/train.safetensors",
            "--run-dir", self.out("run"))
        self.refused("pagen", 3, "expected midi-neural", self.out("run"), "--primer", self.tokens, "--output", self.out("x.mid"))
        neural = self.at / "neural" / "validation.safetensors"
        if pieces(neural) and pieces(neural)[0]:
            run("pagen", self.out("run"), "--primer", neural, "--output", self.out("x.mid"), "--length-tokens", 50)
            self.assertTrue(self.out("x.mid").exists())

    def test_broken_checkpoint(self):
        """Weights that are not finite make no music and no loss, but a message."""
        path = self.run_dir / "latest" / "model.safetensors"
        data = bytearray(path.read_bytes())
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        begin, _ = header["to_logits.weight"]["data_offsets"]
        struct.pack_into("<f", data, 8 + size + begin, math.nan)
        broken = self.out("m.safetensors")
        broken.write_bytes(data)
        self.refused("pagen", 3, "m.safetensors", broken, "--output", self.out("x.mid"))  # found by the checksum
        text = json.dumps({**header, "__metadata__": {k: v for k, v in header["__metadata__"].items() if "crc32c" not in k}},
                          separators=(",", ":")).encode()
        broken.write_bytes(struct.pack("<Q", size) + text.ljust(size) + data[8 + size:])
        self.refused("pagen", 1, ["token 1 of stream 0", "logits: expected finite numbers, found"], broken, "--output", self.out("x.mid"))
        self.refused("paeval", 1, "expected a finite loss, found", broken, self.tokens)
        self.assertFalse(self.out("x.mid").exists())

    def test_refuses(self):
        base = (self.run_dir, "--primer", self.primer)
        good, own = (*base, "--output", self.out("x.mid")), self.out("own.mid")
        shutil.copy(self.primer, own)
        meta, empty = programs.read_numbers(self.tokens)[1], self.out("empty.safetensors")
        save(empty, {"offsets": ("I64", [1], [0]), "notes": ("I64", [0], []), "seconds": ("F32", [0], []), "tokens": ("U16", [0], [])},
             {k: meta[k] for k in ("format", "encoding", "vocab", "split", "names")})
        for status, says, arguments in (
                (2, "expected --output", base),
                (2, "--output: expected a name in .mid", (*base, "--output", "x.wav")),
                (1, "nowhere", (*base, "--output", self.at / "nowhere" / "x.mid")),
                (2, "expected another file than the primer", (self.run_dir, "--primer", own, "--output", own)),
                (2, "none.mid", (self.run_dir, "--primer", self.at / "none.mid", "--output", self.out("x.mid"))),
                (3, "c.ini", (self.run_dir, "--primer", self.at / "c.ini", "--output", self.out("x.mid"))),
                (3, "empty.safetensors: expected a piece, found none", (self.run_dir, "--primer", empty, "--output", self.out("x.mid"))),
                (2, "expected a piece below 3, found 9", (self.run_dir, "--primer", f"{self.tokens}:9", "--output", self.out("x.mid"))),
                (2, "expected --primer", (self.run_dir, "--output", self.out("x.mid"), "--prime-seconds", 3)),
                (2, "found 2 arguments", (*good, "more")),
                (2, "found both", (*good, "--with-primer", "--without-primer")),
                (2, "found both", (*good, "--prime-seconds", 3, "--prime-tokens", 3)),
                (2, "--prime-seconds", (*good, "--prime-seconds", 0)),
                (2, "--length-tokens: expected 1", (*good, "--length-tokens", 0)),
                (2, "--length-seconds: expected", (*good, "--length-seconds", -1)),
                (2, "--number: expected 1", (*good, "--number", 0)),
                (2, "--seed: expected 0", (*good, "--seed", -1)),
                (2, "pagen: --temperature: expected 0 (greedy) to 100, found -1", (*good, "--temperature", -1)),
                (2, "--top-p: expected more than 0", (*good, "--top-p", 0)),
                (2, "--min-p: expected 0 to 1", (*good, "--min-p", 2)),
                (2, "--top-k: expected 0 to 390", (*good, "--top-k", 391)),
                (2, "--repetition-penalty: expected 0.01", (*good, "--repetition-penalty", 0)),
                (2, f"--refill: expected 1 to {LATENTS}", (*good, "--refill", LATENTS + 1)),
                (2, "unknown option --mp4", (*good, "--mp4", "x.mp4"))):
            self.refused("pagen", status, says, *arguments)
        self.assertFalse(self.out("x.mid").exists())
        self.assertEqual(own.read_bytes(), self.primer.read_bytes())
        with open("/dev/full", "w") as full:
            done = subprocess.run(command("pagen", *good, "--length-tokens", 5), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output", done.stderr)

    def test_help(self):
        for program in ("paeval", "pagen"):
            self.assertIn("Example", run(program, "--help"))
            self.assertRegex(run(program, "--version"), rf"^{program} \d")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main()
