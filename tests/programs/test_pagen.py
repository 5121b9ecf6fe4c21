#!/usr/bin/env python3
"""pagen, run as a program on a tiny checkpoint that patrain makes here from made-up pieces (tiny.py).

What pagen makes of a primer's own file is in test_primer.py.
"""
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import time
import unittest
from pathlib import Path

import programs
from test_train_files import tree
from tiny import CONTEXT, LATENTS, PREFIX, Program, command, events, pieces, run, save, seconds


PRELUDE = Path(__file__).resolve().parent.parent.parent / "examples/prelude.mid"


class Generate(Program):
    def test_same_seed_same_music(self):
        arguments = ("--length-tokens", 3 * CONTEXT)
        a, b, c = self.generate("a.safetensors", *arguments), self.generate("b.safetensors", *arguments), self.generate(
            "c.safetensors", *arguments, "--seed", 2)
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
        made = self.generate("g.safetensors", "--greedy", "--long-notes", "--free-density", "--prime-tokens", PREFIX + refill,
                             "--refill", refill, "--length-tokens", 24)[0]
        self.assertEqual(piece, pieces(self.tokens)[0])
        tokens, opened = piece[:PREFIX + refill] + made, 0
        for i in range(PREFIX + refill, len(tokens)):
            if i - opened > CONTEXT:
                opened = i - PREFIX - refill
            save(self.out("x.safetensors"), {"tokens": ("U16", [i - opened], tokens[opened:i])})
            run("paeval", self.run_dir, self.out("x.safetensors"), "--logits", self.out("l.safetensors"), "--precision",
                "fp32")
            last = list(programs.read_numbers(self.out("l.safetensors"))[0]["logits"][-390:])
            down = {t % 128 for n, t in enumerate(tokens[:i]) if t < 128 and t + 128 not in tokens[n:i]}
            for key in range(128):  # as the keys of a keyboard are
                if key in down:
                    last[key], last[128 + key] = -1e30, math.log(math.exp(last[key]) + math.exp(last[128 + key]))
                else:
                    last[128 + key] = -1e30
            self.assertEqual(tokens[i], max(range(388), key=lambda v: last[v]), f"token {i}")
        self.assertGreater(opened, 0)

    def test_density_of_the_primer(self):
        """Half a dozen seconds of it; the model's weights are random, so it plays at another density."""
        music = ("--prime-seconds", 6, "--length-tokens", 300, "--seed", 4)
        rates = []
        for option in ([], ["--free-density"]):
            out = self.out("density.safetensors")
            said = run("pagen", self.run_dir, "--primer", PRELUDE, "--output", out,
                       "--without-primer", "--precision", "fp32", "--json", *music, *option)
            summary = json.loads(said)
            self.assertEqual(summary["sampling"]["free_density"], bool(option))
            made = pieces(out)[0]
            rates.append(sum(t < 128 for t in made) / seconds(made))
        primer = summary["primer"]["features"]["notes_per_second"]
        self.assertLess(abs(math.log(rates[0] / primer)), abs(math.log(rates[1] / primer)), (rates, primer))

    def test_lengths(self):
        whole = pieces(self.tokens)[0]
        made = self.generate("s.safetensors", "--length-seconds", 4, "--prime-seconds", 3)[0]
        self.assertTrue(4 <= seconds(made) <= 14)
        out = self.out("w.safetensors")
        run("pagen", self.run_dir, "--primer", f"{self.tokens}:0", "--output", out, "--length-tokens", 40,
            "--prime-seconds", 3, "--precision", "fp32")
        both = pieces(out)[0]
        primer = both[:-40]
        self.assertEqual(primer[:-1], whole[:len(primer) - 1])
        self.assertEqual(seconds(primer), 3)  # the last pause ends there
        self.assertGreater(seconds(whole[:len(primer)]), 3)
        same = min(40, len(made)) - 1
        self.assertEqual(both[-40:][:same], made[:same])  # a MIDI file and its tokens are the same primer
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
                    "tokens": ("U16", [5], [60, 300, 188, 388, 61])},
             {k: meta[k] for k in ("format", "encoding", "vocab", "split", "names")})
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

    def test_from_nothing(self):
        for name in ("a", "b"):
            run("pagen", self.run_dir, "--output", self.out(name + ".safetensors"), "--length-tokens", 80, "--number",
                3, "--precision", "fp32")
        a = pieces(self.out("a.safetensors"))
        self.assertEqual(a, pieces(self.out("b.safetensors")))
        for p in a:
            self.assertEqual(len(p), 80)
            self.assertTrue(356 <= p[0] < 388)
        self.assertEqual(len({tuple(p) for p in a}), 3)

    def start(self, out, **more):
        """pagen, playing for hours."""
        trace = out.with_name("playing")
        process = subprocess.Popen(command("pagen", self.run_dir, "--primer", self.primer, "--output", out,
                                           "--length-tokens", 1 << 30),
                                   env=os.environ | {"PATRAIN_TRACE": str(trace)},
                                   **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more})
        table = trace.with_name("playing-token.json")  # is written when it has played five tokens
        while not table.exists() and process.poll() is None:
            time.sleep(0.05)
        table.unlink(missing_ok=True)
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
        done = subprocess.run(command("pagen", self.run_dir, "--output", self.out("results.mid"), "--length-tokens", 5),
                              stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
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
        high = {name: b"".join(data[i + 2:i + 4] for i in range(0, len(data), 4))
                for name, (_, _, data) in tensors.items()}
        programs.write_safetensors(narrow,
                                   [(name, "BF16", shape, high[name]) for name, (_, shape, _) in tensors.items()], meta)
        zeros = {name: b"".join(b"\0\0" + h[i:i + 2] for i in range(0, len(h), 2)) for name, h in high.items()}
        programs.write_safetensors(wide, [(name, "F32", shape, zeros[name]) for name, (_, shape, _) in tensors.items()],
                                   meta)
        made = []
        for model in (wide, narrow):
            run("pagen", model, "--primer", self.primer, "--output", self.out("x.safetensors"), "--length-tokens", 60,
                "--precision", "fp32")
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
            run("pagen", self.run_dir, "--primer", f"{primer['.SAFETENSORS']}{suffix}", "--output",
                self.out("e.safetensors"), *common)
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
        for what, path, *more in (("the model", self.out("m.mid"), "--number", 3),
                                  ("the primer", tokens, "--primer", tokens),
                                  ("the primer", tokens, "--primer", f"{tokens}:1"),
                                  ("--config", config, "--config", config)):
            for checkpoint in (run_dir, model):
                self.refused("pagen", 2, f"--output: expected another file than {what}, found", checkpoint, "--output",
                             path, "--length-tokens", 5, *more)
        self.assertEqual([p.read_bytes() for p in (model, tokens, config)], before)
        self.assertFalse(self.out("m-1.mid").exists())

    def test_output_spares_runs(self):
        """Any file of a run or a checkpoint, by any name; elsewhere tokens replace tokens alone."""
        run_dir, copy = self.out("run"), self.out("copy")
        shutil.copytree(self.run_dir, run_dir, symlinks=True)
        shutil.copytree(run_dir / "latest", copy)
        for path in (run_dir / "samples/step-00000003.mid", run_dir / "x.html", run_dir / "x.svg", run_dir / "x.wav",
                     copy / "x.mid"):
            path.write_bytes(b"mine")
        self.out("link.safetensors").symlink_to(run_dir / "latest/state.safetensors")
        before = tree(self.at)
        none = self.out("none.mid")
        spared = "expected a new file or one outside run directories, found"
        for option, path in (("output", run_dir / "latest/model.safetensors"),
                             ("output", run_dir / "best/state.safetensors"), ("output", copy / "state.safetensors"),
                             ("output", copy / "model.safetensors"), ("output", copy / "x.mid"),
                             ("output", self.out("link.safetensors")),
                             ("output", run_dir / "samples/step-00000003.mid"), ("html", run_dir / "x.html"),
                             ("piano-roll", run_dir / "x.svg"), ("wav", run_dir / "x.wav")):
            more = () if option == "output" else ("--output", none)
            self.refused("pagen", 2, f"pagen: --{option}: {spared} {path}\n", self.run_dir, f"--{option}", path, *more,
                         "--length-tokens", 5)
        for option in ("export", "logits"):
            for path in (run_dir / "config.ini", run_dir / "latest/state.safetensors"):
                self.refused("paeval", 2, f"paeval: --{option}: {spared} {path}\n", self.run_dir,
                             *(() if option == "export" else (self.tokens,)), f"--{option}", path)
        self.assertEqual(tree(self.at), before)
        other, empty = self.out("other.safetensors"), self.out("empty.safetensors")
        shutil.copy(run_dir / "latest/model.safetensors", other)
        empty.touch()
        self.refused("pagen", 2, f"pagen: --output: expected a new file or tokens to replace, found {other}\n",
                     self.run_dir, "--output", other)
        for path in (empty, empty, run_dir / "samples/mine.mid"):
            run("pagen", self.run_dir, "--output", path, "--length-tokens", 5)

    def test_what_is_written_before_an_error(self):
        shim = os.environ | {"LD_PRELOAD": os.environ["PA_SHIM"],
                             "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}  # fontconfig's own
        for option, value, fails, left in (("--number", 4, "o-3.mid", "; 2 of 4 files are written\n"),
                                           ("--piano-roll", self.out("r.svg"), "r.svg",
                                            "; the continuations are written\n")):
            line = command("pagen", self.run_dir, "--output", self.out("o.mid"), "--length-tokens", 5, option, value)
            done = subprocess.run(line, env=shim | {"FAILING_FS": f"rename:{self.out(fails)}:1:5"}, text=True,
                                  capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertTrue(done.stderr.endswith(left), done.stderr)
        self.assertEqual([self.out(f"o-{k}.mid").exists() for k in range(1, 5)], [True, True, False, False])
        self.assertTrue(events(self.out("o.mid")))

    def test_files_of_several_takes_appear_together(self):
        """An error before the first rename, or a kill, leaves the files of an earlier run."""
        names = [f"t-{k}.mid" for k in range(1, 5)]
        for fails, status, new, whole in (("fsync:t-3.mid:1:5", 1, 0, 0),  # whole: finished files beside them
                                          ("rename:t-1.mid:1:kill", -9, 0, 4),
                                          ("rename:t-4.mid:1:kill", -9, 3, 1)):
            with self.subTest(fails):
                for name in names:
                    self.out(name).write_bytes(b"an earlier run's")
                done = subprocess.run(
                    command("pagen", self.run_dir, "--output", self.out("t.mid"), "--length-tokens", 5, "--number", 4),
                    env=os.environ | {"LD_PRELOAD": os.environ["PA_SHIM"], "FAILING_FS": fails,
                                      "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"},
                    text=True, capture_output=True, timeout=60)
                self.assertEqual(done.returncode, status, done.stderr)
                kept = [self.out(name).read_bytes() == b"an earlier run's" for name in names]
                self.assertEqual(kept, [False] * new + [True] * (4 - new))
                beside = list(self.at.glob(self.out("t-*.tmp.*").name))
                self.assertEqual(len(beside), whole)
                for path in beside:
                    self.assertEqual(path.read_bytes()[-4:], b"\0\xff\x2f\0")  # as MIDI ends
                    path.unlink()

    def test_other_encoding(self):
        shutil.copy(self.at / "c.ini", self.out("c.ini"))
        run("patrain", self.out("c.ini"), f"data.train={self.at}/neural/train.safetensors",
            f"data.validation={self.at}/neural/train.safetensors", "--run-dir", self.out("run"))
        self.refused("pagen", 3, "expected midi-neural", self.out("run"), "--primer", self.tokens, "--output",
                     self.out("x.mid"))
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
        text = json.dumps({**header,
                           "__metadata__": {k: v for k, v in header["__metadata__"].items() if "crc32c" not in k}},
                          separators=(",", ":")).encode()
        broken.write_bytes(struct.pack("<Q", size) + text.ljust(size) + data[8 + size:])
        self.refused("pagen", 1, ["token 1 of stream 0", "logits: expected finite numbers, found"], broken, "--output",
                     self.out("x.mid"))
        self.refused("paeval", 1, "expected a finite loss, found", broken, self.tokens)
        self.assertFalse(self.out("x.mid").exists())

    def test_refuses(self):
        base = (self.run_dir, "--primer", self.primer)
        good, own = (*base, "--output", self.out("x.mid")), self.out("own.mid")
        shutil.copy(self.primer, own)
        meta, empty = programs.read_numbers(self.tokens)[1], self.out("empty.safetensors")
        save(empty, {"offsets": ("I64", [1], [0]), "notes": ("I64", [0], []), "seconds": ("F32", [0], []),
                     "tokens": ("U16", [0], [])},
             {k: meta[k] for k in ("format", "encoding", "vocab", "split", "names")})
        for status, says, arguments in (
                (2, "expected --output", base),
                (2, "--output: expected a name in .mid", (*base, "--output", "x.wav")),
                (1, "nowhere", (*base, "--output", self.at / "nowhere" / "x.mid")),
                (2, "expected another file than the primer", (self.run_dir, "--primer", own, "--output", own)),
                (2, "none.mid", (self.run_dir, "--primer", self.at / "none.mid", "--output", self.out("x.mid"))),
                (3, "c.ini", (self.run_dir, "--primer", self.at / "c.ini", "--output", self.out("x.mid"))),
                (3, "empty.safetensors: expected a piece, found none",
                 (self.run_dir, "--primer", empty, "--output", self.out("x.mid"))),
                (2, "expected a piece below 3, found 9",
                 (self.run_dir, "--primer", f"{self.tokens}:9", "--output", self.out("x.mid"))),
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
            done = subprocess.run(command("pagen", *good, "--length-tokens", 5), stdout=full, stderr=subprocess.PIPE,
                                  text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output", done.stderr)

    def test_help(self):
        for program in ("paeval", "pagen"):
            self.assertIn("Example", run(program, "--help"))
            self.assertRegex(run(program, "--version"), rf"^{program} \d")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main()
