#!/usr/bin/env python3
"""What others wrote (names, metadata, settings, lists) never reaches a terminal or a log as control characters."""

import json
import os
import pathlib
import pty
import re
import subprocess
import unittest

import programs
from prep import PAPREP, midi

EVIL = "\x1b]0;owned\x07\x1b[2J\u009b31m\x7f\r\b\nsecond line"
BYTES = EVIL.encode() + b"\x9b31m\xff"  # and what is no UTF-8
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


class ForeignText(programs.WithCorpus):
    def said(self, *line, status=None):
        """All that a program prints on a terminal."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(list(line), stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, cwd=self.folder,
                                   env=programs.environment(TERM="dumb"))
        os.close(theirs)
        out = b""
        try:
            while part := os.read(ours, 65536):
                out += part
        except OSError:  # closed
            pass
        os.close(ours)
        code = process.wait()
        out = out.replace(b"\r\n", b"\n")  # the terminal's
        self.assertEqual(CONTROL.findall(out), [], out)
        try:
            out.decode()
        except UnicodeDecodeError as error:
            self.fail(f"{error}: {out}")
        self.assertTrue(out)
        self.assertGreaterEqual(code, 0)
        if status is not None:
            self.assertEqual(code, status, out)
        return out

    def patrain(self, *arguments, status=None):
        return self.said(programs.PATRAIN, *arguments, "--device", "cpu", status=status)

    def test_settings(self):
        for text in (b"[" + BYTES + b"]\n", b"[train]\n" + BYTES.replace(b"\n", b"") + b" = 3\n",
                     b"[train]\nsteps = " + BYTES.replace(b"\n", b""),
                     b"[data]\ntrain = " + BYTES.replace(b"\n", b"").replace(b"\r", b""), BYTES):
            (self.folder / "evil.ini").write_bytes(text)
            self.patrain("evil.ini")
        self.patrain(self.folder / "tiny.ini", b"train.steps=" + BYTES, status=2)
        self.patrain(self.folder / "tiny.ini", BYTES, status=2)
        self.patrain(self.folder / "tiny.ini", b"--" + BYTES, status=2)
        self.patrain(BYTES, status=2)

    def test_names(self):
        """A run whose every path is hostile, and its log."""
        name = BYTES.replace(b"\n", b"").replace(b"\r", b"")
        for kind in ("train", "validation"):
            (pathlib.Path(os.fsdecode(os.fsencode(self.folder) + b"/" + name + kind.encode()))).write_bytes(
                (self.folder / f"{kind}.safetensors").read_bytes())
        out = self.patrain(self.folder / "tiny.ini", b"data.train=" + name + b"train",
                           b"data.validation=" + name + b"validation", "train.steps=2", "--run-dir", name + b"run",
                           status=0)
        self.assertIn(rb"finished at step 2, loss ", out)
        self.assertIn(rb"\x1b]0;owned\x07", out)
        failed = pathlib.Path(os.fsdecode(os.fsencode(self.folder) + b"/" + name + b"failed"))
        failed.mkdir()
        os.mkfifo(failed / "metrics.jsonl")
        self.patrain(self.folder / "tiny.ini", "--run-dir", name + b"failed", status=1)
        for run in (failed, failed.parent / failed.name.replace("failed", "run")):
            log = (run / "train.log").read_bytes()
            self.assertIn(rb"\x1b]0;owned\x07", log)
            self.assertEqual(CONTROL.findall(log), [])
        self.patrain(self.folder / "tiny.ini", b"data.train=" + name + b"none", status=2)

    def test_metadata(self):
        tensors, meta = programs.read_safetensors(self.folder / "train.safetensors")
        for key in ("format", "encoding", "vocab"):
            programs.write_safetensors(self.folder / "evil", [(n, *t) for n, t in tensors.items()], meta | {key: EVIL})
            self.patrain(self.folder / "tiny.ini", f"data.train={self.folder}/evil", status=3)
        programs.write_safetensors(self.folder / "evil", [(n + EVIL, *t) for n, t in tensors.items()], meta)
        self.patrain(self.folder / "tiny.ini", f"data.train={self.folder}/evil", status=3)
        (self.folder / "evil").write_bytes(BYTES)
        self.patrain(self.folder / "tiny.ini", f"data.train={self.folder}/evil", status=3)
        self.patrain(self.folder / "tiny.ini", "--init", self.folder / "evil", "--run-dir", "new")

    def test_pieces_and_models(self):
        """Names of a corpus's pieces, of files, and what a model says of itself: paeval and pagen."""
        paeval, pagen = (os.path.join(os.environ["PA_BIN"], program) for program in ("paeval", "pagen"))
        if not (os.path.exists(paeval) and os.path.exists(pagen)):
            self.skipTest("not built")
        self.train("model", "train.steps=1", "log.eval_every=0")
        name, cpu = BYTES.replace(b"\n", b"").replace(b"\r", b""), ("--device", "cpu")
        evil = os.path.join(os.fsencode(self.folder), name + b".safetensors")
        tensors, meta = programs.read_safetensors(self.folder / "train.safetensors")
        count = len(json.loads(meta["names"]))
        programs.write_safetensors(os.fsdecode(evil), [(n, *t) for n, t in tensors.items()],
                                   meta | {"names": json.dumps([EVIL] * count)})
        for more in ((), ("--json",)):
            self.assertIn(rb"\x1b]0;owned" if not more else rb"\u001b]0;owned",
                          self.said(paeval, evil, "--copies", evil, *more, status=0))
            self.said(paeval, "model", evil, *cpu, *more, status=0)
            self.said(pagen, "model", "--primer", evil + b":0", "--output", name + b".mid", "--length-tokens", "8",
                      *cpu, *more, status=0)
        self.said(paeval, "model", name, *cpu, status=2)
        self.said(paeval, name, evil, *cpu, status=2)
        self.said(pagen, "model", "--primer", name, "--output", "x.mid", *cpu, status=2)
        self.said(pagen, "model", "--output", name + b"/x.mid", *cpu, status=1)
        self.said(pagen, "model", "--output", "x.mid", b"--" + name, *cpu, status=2)
        self.said(pagen, "model", "--output", "x.mid", b"--seed=" + name, *cpu, status=2)
        model = self.folder / "model/latest/model.safetensors"
        tensors, meta = programs.read_safetensors(model)
        for key in ("format", "model", "encoding"):
            programs.write_safetensors(self.folder / "evil", [(n, *t) for n, t in tensors.items()], meta | {key: EVIL})
            self.said(pagen, "evil", "--output", "x.mid", *cpu)
            self.said(paeval, "evil", evil, *cpu)

    def test_lists_and_files(self):
        music = self.folder / "music"
        music.mkdir()
        name = os.fsdecode(BYTES.replace(b"\n", b"").replace(b"\r", b"")[:60])
        (music / f"{name}.mid").write_bytes(midi())
        (music / f"{name}2.mid").write_bytes(b"nonsense")
        for text in (b"midi_filename,split\n" + BYTES.replace(b"\n", b"") + b",train\n", BYTES + b",split\n",
                     b"midi_filename,split\nx," + BYTES,
                     b'{"split": {"' + BYTES.replace(b"\n", b"") + b'": 1}, "midi_filename": {}}'):
            (self.folder / "list").write_bytes(text)
            self.said(PAPREP, music, "out", "--metadata", self.folder / "list")
        self.said(PAPREP, music, "out", status=0)
        self.assertEqual(CONTROL.findall((self.folder / "out/rejected.tsv").read_bytes()), [])
        self.said(PAPREP, "--events", music / f"{name}2.mid", status=3)


class Closed(programs.WithCorpus):
    def test_a_reader_that_ends(self):
        """A reader that closes its pipe is no error, and the work is finished."""
        (self.folder / "music").mkdir()
        (self.folder / "music/a.mid").write_bytes(midi())
        for line in ([PAPREP, self.folder / "music", self.folder / "out"], [PAPREP, "--help"],
                     [programs.PATRAIN, "--print-config", "--help=man"]):
            ours, theirs = os.pipe()
            os.close(ours)
            done = subprocess.run(line, stdout=theirs, stderr=subprocess.PIPE, text=True)
            os.close(theirs)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue((self.folder / "out/train.safetensors").exists())


class NoName(programs.WithCorpus):
    def test_configurations_that_name_no_run(self):
        text = (self.folder / "tiny.ini").read_text()
        for name in (".ini", "..ini", "...ini"):
            (self.folder / name).write_text(text)
        for what in ("<(cat tiny.ini)", "/dev/stdin < tiny.ini", ".ini", "..ini", "...ini"):
            line = f"{programs.PATRAIN} --device cpu {what}"
            done = subprocess.run(["bash", "-c", line], cwd=self.folder, capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, f"{line}: {done.stderr}")
            self.assertRegex(done.stderr, r"^patrain: --run-dir: expected one, since \S+ does not name a run\n$")
        self.assertFalse((self.folder / "runs").exists() and any((self.folder / "runs").glob("[0-9.]*")))
        line = f"{programs.PATRAIN} --device cpu --run-dir piped <(cat tiny.ini) train.steps=2"
        done = subprocess.run(["bash", "-c", line], cwd=self.folder, capture_output=True, text=True,
                              env=programs.environment())
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_settings_that_cannot_be_read(self):
        self.assertEqual(programs.train(self.folder, "damaged", "train.steps=2", "log.eval_every=0").returncode, 0)
        (self.folder / "damaged/config.ini").write_text("[train\n")
        done = programs.train(self.folder, "damaged", "train.steps=3", "log.eval_every=0")
        self.assertIn("warning: this start's settings replace those of the last, which can't be read: ", done.stderr)

    def test_a_maximum(self):
        done = programs.train(self.folder, "most", "train.steps=1e300")
        self.assertIn(
            'train.steps: expected a whole number of at least 0 and at most 9007199254740991, found "1e300"\n',
            done.stderr)


if __name__ == "__main__":
    unittest.main()
