#!/usr/bin/env python3
"""What paprep takes from a folder: files, links, lists in CSV and JSON; what it skips and refuses."""

import os
import pathlib
import resource
import shutil
import struct
import subprocess
import unittest

from prep import PAPREP, Paprep, midi, read_tokens, tune


class Folders(Paprep):
    # ---- what a folder holds

    def test_skipped_files(self):
        for name in ("a.mid", "._a.mid", "b/._x.KAR", "notes.txt", "b/cover.jpg", "._notes.txt"):
            self.put(name)
        done = self.prepare("--strict")
        self.assertEqual(done.stderr,
                         "paprep: skipped 2 AppleDouble files (._*)\npaprep: skipped 3 files of other kinds\n")
        self.assertEqual(self.names()["train"], ["a.mid"])

    def test_links_end(self):
        self.put("18/a.mid")
        for i in range(18):  # each folder leads to the next twice: 2^18 ways to the piece
            (self.midi / f"{i:02}").mkdir()
            (self.midi / f"{i:02}/x").symlink_to(f"../{i + 1:02}")
            (self.midi / f"{i:02}/y").symlink_to(f"../{i + 1:02}")
        (self.midi / "18/back").symlink_to(self.midi)
        (self.midi / "18/self").symlink_to("self")
        os.link(self.midi / "18/a.mid", self.midi / "twin.mid")
        done = self.prepare("--strict", "--keep-duplicates")
        self.assertEqual(sum(len(n) for n in self.names().values()), 1)
        self.assertIn("further names of files and folders", done.stderr)

    def test_whatever_lies_in_a_folder(self):
        self.put("good.mid")
        self.put("empty.mid", b"")
        self.put("text.mid", b"hello, this is not a MIDI file at all")
        self.put("cut.mid", midi()[:-6])
        self.put("type2.mid", midi(kind=2))
        self.put("silent.mid", midi()[:14] + b"MTrk\0\0\0\4\0\xff\x2f\0")
        self.put("noise.mid", bytes(range(256)) * 40)
        self.put("tab\tand\nline.mid", b"")
        self.put("below/more.mid", tune(1))
        (self.midi / "folder.mid").mkdir()
        (self.midi / "below/loop").symlink_to(self.midi)
        (self.midi / "nowhere.mid").symlink_to("none")
        (self.midi / "link.mid").symlink_to("good.mid")
        os.mkfifo(self.midi / "pipe.mid")
        (self.midi / os.fsdecode(b"caf\xe9.mid")).write_bytes(tune(2))
        done = self.prepare()
        self.assertIn("9 of 12 files refused", done.stderr)
        self.assertIn("skipped 2 further names of files and folders", done.stderr)
        self.assertEqual(
            self.rejected(),
            {
                "cut.mid": "track 1, byte 29: expected the rest of an event, found the end of the file; "
                           "it is cut short",
                "empty.mid": "not a MIDI file: expected MThd at its start",
                "noise.mid": "not a MIDI file: expected MThd at its start",
                "nowhere.mid": "a link to nothing",
                "pipe.mid": "expected a regular file",
                "silent.mid": "no notes",
                "tab and line.mid": "not a MIDI file: expected MThd at its start",
                "text.mid": "not a MIDI file: expected MThd at its start",
                "type2.mid": "header: expected type 0 or 1, found 2",
            },
        )
        self.assertEqual(sorted(sum(self.names().values(), [])), ["below/more.mid", "café.mid", "good.mid"])

    def test_unreadable_files_and_folders(self):
        self.put("good.mid")
        self.put("secret.mid")
        self.put("closed/a.mid")
        (self.midi / "secret.mid").chmod(0)
        (self.midi / "closed").chmod(0)
        self.addCleanup((self.midi / "closed").chmod, 0o700)
        more = {}
        if os.geteuid() == 0:  # root reads everything
            program = self.folder / "paprep"
            shutil.copy(PAPREP, program)
            for path in (self.folder, self.midi, program):
                path.chmod(0o755)
            self.out.mkdir()
            os.chown(self.out, 65534, 65534)
            more = {"user": 65534, "group": 65534, "extra_groups": [], "executable": str(program)}
        done = subprocess.run([PAPREP, self.midi, self.out], capture_output=True, text=True, timeout=120, **more)
        self.assertEqual((done.returncode, self.names()["train"]), (1, ["good.mid"]))
        self.assertIn(f"midi: cannot read 2 of its files and folders; {self.out}/rejected.tsv names them\n",
                      done.stderr)
        self.assertEqual(self.rejected(),
                         {"closed": "Permission denied", "secret.mid": "cannot open: Permission denied"})

    @unittest.skipIf(b"__asan_init" in pathlib.Path(PAPREP).read_bytes(), "a sanitizer takes memory of its own")
    def test_little_memory(self):
        """A reader that gets none says nothing of its file."""
        for i in range(2):
            data = tune(i, 2000)
            events = data[22:-4] * 100 + data[-4:]
            self.put(f"{i}.mid", data[:18] + struct.pack(">I", len(events)) + events)
        short = 0
        for megabytes in (16, 32, 64, 1024):
            limit = (megabytes << 20, megabytes << 20)
            done = subprocess.run([PAPREP, self.midi, self.out, "--jobs", "2"], capture_output=True, text=True,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))
            if done.returncode == 0:  # it was enough
                self.assertEqual(self.rejected(), {})
            else:
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertFalse((self.out / "rejected.tsv").exists())
                short += "twice: is memory or time short?" in done.stderr
        self.assertGreater(short, 0)

    def test_strict(self):
        self.put("good.mid")
        self.put("bad.mid", b"")
        self.expect_error("--strict, and 1 files refused", "--strict", status=3)
        self.assertEqual(os.listdir(self.out), ["rejected.tsv"])
        (self.midi / "bad.mid").unlink()
        self.prepare("--strict")

    def test_a_refusal_leaves_earlier_token_files(self):
        def before():
            return {name: (self.out / name).read_bytes()
                    for name in ("train.safetensors", "validation.safetensors", "test.safetensors")}

        self.put("bad.mid", b"")
        self.expect_error("no file could be read; no token files written\n", status=3)
        self.put("good.mid")
        self.prepare()
        written = before()
        left = "no token files written; those of an earlier run are left as they were\n"
        self.expect_error("--strict, and 1 files refused; " + left, "--strict", status=3)
        self.put("good.mid", b"")
        self.expect_error("no file could be read; " + left, status=3)
        self.assertEqual(before(), written)
        self.assertEqual(sorted(self.rejected()), ["bad.mid", "good.mid"])
        (self.out / "train.safetensors").unlink()
        self.expect_error("no file could be read; " + left, status=3)

    def test_midi_neural_needs_a_pedal(self):
        self.put("pedal.mid", midi(pedal=True))
        self.put("none.mid")
        self.prepare("--encoding", "midi-neural")
        self.assertEqual(self.rejected(), {"none.mid": "no note of its 1 has a place in the midi-neural encoding"})
        tokens, meta = read_tokens(self.out / "train.safetensors")
        self.assertEqual(meta["encoding"], "midi-neural")
        self.assertEqual(tokens["tokens"], [356 + 16, 60, 305, 188])

    # ---- lists

    def test_csv(self):
        for name in ("a.mid", "b/b.mid", "c.mid", "unlisted.mid"):
            self.put(name)
        self.put_list(
            '\ufeffcomposer,midi_filename,title,split\r\n"Bach, J. S.",c.mid,"Prelude ""in C"", BWV\r\n846",test\r\n'
            "\r\nChopin,a.mid,Étude,train\r\nLiszt,b/b.mid,,validation\r\nLiszt,gone.mid,,train\r\nLiszt,a.mid,,test"
        )
        self.prepare()
        self.assertEqual(self.names(), {"train": ["a.mid"], "validation": ["b/b.mid"], "test": ["c.mid"]})
        self.assertEqual(self.rejected(),
                         {"a.mid": "listed twice", "gone.mid": "cannot open: No such file or directory"})

    def test_json(self):
        self.put("a.mid")
        self.put("b.mid")
        self.put_list('{"split": {"0": "train", "1": "test"}, "midi_filename": {"1": "b.mid", "0": "a.mid"}}',
                      "maestro-v9.json")
        self.prepare()
        self.assertEqual(self.names(), {"train": ["a.mid"], "validation": [], "test": ["b.mid"]})

    def test_metadata_option(self):
        self.put("a.mid")
        self.put_list("split,midi_filename\ntest,a.mid\n", "my list.csv")
        self.put_list("nonsense")
        self.prepare("--metadata", self.midi / "my list.csv")
        self.assertEqual(self.names()["test"], ["a.mid"])
        self.expect_error("cannot open none.csv: No such", "--metadata", "none.csv", status=2)

    def test_unlisted_files_are_told_of(self):
        for name in ("2004/a.mid", "b.mid", "notes.txt"):
            self.put(name)
        (self.midi / "dead.mid").symlink_to("none")
        self.put_list("split,midi_filename\ntrain,./2004//a.mid\ntrain,b.mid\ntest,gone.mid\n")
        path = self.midi / "maestro-v9.csv"
        refused = f"paprep: 1 of 3 files refused; {self.out}/rejected.tsv says why\n"
        self.put("b.mid", tune(1))
        self.assertEqual(self.prepare().stderr, refused)
        (self.midi / "also-b.mid").symlink_to("b.mid")
        self.assertEqual(self.prepare().stderr, refused)
        self.put("mine\x1b.MIDI", tune(2))
        self.assertEqual(self.prepare().stderr,
                         f"paprep: 1 MIDI file is not in {path} and is left out, mine .MIDI\n" + refused)
        more = ["2004/new.mid"] + [f"{i}.mid" for i in range(3000, 3020)]  # a folder gives them in any order
        for name in more:
            self.put(name)
        told = f"paprep: 22 MIDI files are not in {path} and are left out, 2004/new.mid the first\n"
        self.assertEqual(self.prepare().stderr, told + refused)
        self.assertEqual(self.names(), {"train": ["./2004//a.mid", "b.mid"], "validation": [], "test": []})
        self.assertEqual(list(self.rejected()), ["gone.mid"])
        other = self.folder / "other.csv"
        path.rename(other)
        self.assertEqual(self.prepare("--metadata", other).stderr, told.replace(str(path), str(other)) + refused)
        for name in ["mine\x1b.MIDI"] + more:
            (self.midi / name).unlink()
        self.assertEqual(self.prepare("--metadata", other).stderr, refused)
        self.assertNotIn("left out", self.prepare().stderr)

    def test_damaged_lists(self):
        self.put("a.mid")
        for text, message in (
            ("midi_file,split\na.mid,train\n",
             "maestro-v9.csv: line 1: expected a column midi_filename, found the columns midi_file,split"),
            ("midi_filename,Split\n",
             "maestro-v9.csv: line 1: expected a column split, found the columns midi_filename,Split"),
            ("", "maestro-v9.csv: line 1: expected a header, found an empty file"),
            # nothing before it is looked at
            ('""\n', "maestro-v9.csv: line 1: expected a column split, found the columns \n"),
            ("midi_filename,split\n", "maestro-v9.csv: expected .mid, .midi, .kar, .rmi or .smf files, found none"),
            ("midi_filename,split\na.mid,train\na.mid\n",
             "maestro-v9.csv: line 3: expected at least 2 fields, found 1"),
            ('midi_filename,split\n"x\ny",train\n"a.mid,train\n',
             "maestro-v9.csv: line 4: expected a closing quote, found the end of the file"),
            ("midi_filename,split\na.mid,dev\n",
             "maestro-v9.csv: line 2: split: expected train, validation or test, found 'dev'"),
            ("midi_filename,split\n,train\n", "maestro-v9.csv: line 2: midi_filename: expected a file, found nothing"),
        ):
            self.put_list(text)
            self.expect_error(message, status=3)
            self.assertFalse(self.out.exists())
        (self.midi / "maestro-v9.csv").unlink()
        for text, message in (
            ("{", "maestro-v9.json: expected JSON, found an error in it"),
            ("[]", "maestro-v9.json: expected an object split, as MAESTRO's list has it, found none"),
            ('{"split": {}}', "maestro-v9.json: expected an object midi_filename"),
            (f'{{"split": [{"0," * (1 << 20)}0]}}',
             "maestro-v9.json: expected at most 1048576 values in JSON, found 1048579"),
            ('{"split": {"0": "train"}, "midi_filename": {}}',
             "maestro-v9.json: row 0: expected texts for split and midi_filename"),
            ('{"split": {"0": "dev"}, "midi_filename": {"0": "a.mid"}}',
             "maestro-v9.json: row 0: split: expected train, validation or test, found 'dev'"),
            ('{"split": {"0": 1}, "midi_filename": {"0": "a.mid"}}',
             "maestro-v9.json: row 0: expected texts for split and midi_filename"),
        ):
            self.put_list(text, "maestro-v9.json")
            self.expect_error(message, status=3)

    def test_two_lists(self):
        self.put_list("", "maestro-v2.csv")
        self.put_list("", "maestro-v3.csv")
        self.expect_error("expected one list, found two; choose with --metadata", status=2)


if __name__ == "__main__":
    unittest.main()
