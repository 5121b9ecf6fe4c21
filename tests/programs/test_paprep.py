"""paprep as a user runs it: folders and lists of every kind, what is refused, exit statuses and messages, tokens back to MIDI."""

import csv
import fcntl
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import programs

PAPREP = os.path.join(os.environ["PA_BIN"], "paprep")


def midi(pitch=60, ms=500, kind=0, pedal=False):
    """A type 0 file of one note, a tick a millisecond."""
    down, up = (b"\0\xb0\x40\x7f", b"\x83\x60\xb0\x40\0") if pedal else (b"", b"")
    delta = bytes([0x80 | ms >> 7, ms & 127])
    events = down + bytes([0, 0x90, pitch, 64]) + delta + bytes([0x80, pitch, 0]) + up + b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, kind, 1, 500, b"MTrk", len(events)) + events


def tune(seed, notes=8, up=0, later=0):
    """A melody like no other with another seed; transposed by `up`, and its beginning moved by `later` ms."""
    draw = random.Random(seed)
    events = b""
    for i in range(notes):
        wait = 0 if i else later
        pitch = draw.randrange(30, 90) + up
        events += bytes([0x80 | wait >> 7, wait & 127, 0x90, pitch, 64, draw.randrange(50, 120), 0x80, pitch, 0])
    events += b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, 500, b"MTrk", len(events)) + events


def read_tokens(path):
    tensors, meta = programs.read_numbers(path)
    return tensors, meta | {"names": json.loads(meta["names"])}


class Paprep(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.midi, self.out = self.folder / "midi", self.folder / "out"
        self.midi.mkdir()

    def put(self, name, data=None):
        path = self.midi / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(midi() if data is None else data)

    def put_list(self, text, name="maestro-v9.csv"):
        (self.midi / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def run_paprep(self, *arguments, status=0, **more):
        done = subprocess.run([PAPREP, *map(str, arguments)], capture_output=True, text=True, timeout=120, **more)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def prepare(self, *arguments, status=0, **more):
        return self.run_paprep(self.midi, self.out, *arguments, status=status, **more)

    def expect_error(self, message, *arguments, status, **more):
        done = self.prepare(*arguments, status=status, **more)
        self.assertIn(message, done.stderr)
        return done

    def rejected(self):
        with open(self.out / "rejected.tsv", newline="", encoding="latin-1") as f:
            rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
        self.assertEqual(rows[0], ["file", "reason"])
        return dict(rows[1:])

    def names(self):
        return {s: read_tokens(self.out / f"{s}.safetensors")[1]["names"] for s in ("train", "validation", "test")}

    # ---- usage

    def test_help_and_version(self):
        text = self.run_paprep("--help").stdout
        for word in ("--encoding performance|midi-neural", "(default: performance)", "Example", "--jobs N"):
            self.assertIn(word, text)
        self.assertEqual(self.run_paprep("--version").stdout, "paprep 0.1.0\n")

    def test_wrong_usage(self):
        for arguments, message in (
            ([], "expected MIDI_DIR and OUT_DIR, found 0 arguments"),
            (["a"], "expected MIDI_DIR and OUT_DIR, found 1 arguments"),
            (["a", "b", "c"], "expected MIDI_DIR and OUT_DIR, found 3 arguments"),
            (["--encodng", "x", "a", "b"], "unknown option --encodng (did you mean --encoding?)"),
            (["--encoding", "remi", "a", "b"], "--encoding: expected performance|midi-neural, found 'remi'"),
            (["--jobs", "0", "a", "b"], "--jobs: expected 1 to 256, found 0"),
            (["--jobs", "-5", "a", "b"], "--jobs: expected 1 to 256, found -5"),
            (["--jobs", "-1", "a", "b"], "--jobs: expected 1 to 256, found -1"),
            (["--part-bytes", "0", "a", "b"], "--part-bytes: expected at least 1, found 0"),
            (["--jobs", "many", "a", "b"], "--jobs: expected a whole number, found 'many'"),
            (["--events", "a", "--decode", "b"], "expected --events or --decode, found both"),
            (["--events", "a", "b"], "expected nothing but --events FILE.mid, found 1 arguments"),
            (["--decode", "a"], "expected --decode TOKENS OUT.mid, found 0 arguments"),
            ([self.folder / "none", self.out], "none: expected a folder of MIDI files, found: No such file or directory"),
            ([PAPREP, self.out], "paprep: expected a folder of MIDI files, found a file"),
        ):
            done = self.run_paprep(*arguments, status=2)
            self.assertIn(message, done.stderr)
            self.assertEqual(done.stdout, "")
        self.assertFalse(self.out.exists())

    def test_options_of_another_mode(self):
        self.put("a.mid")
        self.prepare()
        tokens, again = self.out / "train.safetensors", self.folder / "again.mid"
        folder, events, decode = (self.midi, self.out), ("--events", self.midi / "a.mid"), ("--decode", tokens, again)
        before, reading = tokens.read_bytes(), ("--programs", "--lenient", "--sostenuto")
        for arguments, mode, allowed in (
            (folder, "MIDI_DIR OUT_DIR", ("--encoding", "--metadata", "--jobs", "--strict", "--keep-duplicates", "--part-bytes", *reading)),
            (events, "--events", ("--encoding", *reading)),
            (decode, "--decode", ("--piece",)),
        ):
            for option, belongs in (
                (("--encoding", "performance"), "MIDI_DIR OUT_DIR or --events"),
                (("--metadata", "x.csv"), "MIDI_DIR OUT_DIR"),
                (("--jobs", "-1"), "MIDI_DIR OUT_DIR"),
                (("--strict",), "MIDI_DIR OUT_DIR"),
                (("--keep-duplicates",), "MIDI_DIR OUT_DIR"),
                (("--part-bytes", "5"), "MIDI_DIR OUT_DIR"),
                (("--programs", "0"), "MIDI_DIR OUT_DIR or --events"),
                (("--lenient",), "MIDI_DIR OUT_DIR or --events"),
                (("--sostenuto",), "MIDI_DIR OUT_DIR or --events"),
                (("--piece", "0"), "--decode"),
            ):
                if option[0] in allowed:
                    continue
                done = self.run_paprep(*arguments, *option, status=2)
                self.assertEqual(done.stderr, f"paprep: {option[0]}: expected with {belongs}, found with {mode}\n")
                self.assertEqual(done.stdout, "")
        self.assertEqual(tokens.read_bytes(), before)
        self.assertFalse(again.exists())
        self.run_paprep(*events, "--encoding", "performance")
        self.run_paprep(*decode, "--piece", "0")

    # ---- any folder

    def test_folder_without_midi_files(self):
        self.put("readme.txt", b"")
        self.expect_error("midi: expected .mid, .midi, .kar, .rmi or .smf files, found none", status=3)

    def test_nothing_readable(self):
        self.put("a.mid", b"no")
        self.expect_error("no file could be read", status=3)
        self.assertEqual(os.listdir(self.out), ["rejected.tsv"])
        self.assertEqual(self.rejected(), {"a.mid": "not a MIDI file: expected MThd at its start"})

    def test_a_file_of_each_kind(self):
        for i, name in enumerate(("chopin/étude.mid", "chopin/ballade.MIDI", "日本/歌.KAR", "x.rmi", "y.Smf")):
            self.put(name, midi(60 + i, 500))
        table = self.prepare("--keep-duplicates").stdout.splitlines()  # one note is like another
        self.assertEqual(table[0].split(), ["split", "pieces", "notes", "hours", "tokens", "tokens/note", "dropped"])
        self.assertEqual(table[1].split(), ["train", "5", "5", "0.00", "20", "4.000", "0"])
        self.assertIn("empty: no file belongs to it", table[2])
        self.assertEqual(table[4].split()[:3], ["all", "5", "5"])
        tokens, meta = read_tokens(self.out / "train.safetensors")
        self.assertEqual(meta["names"], ["chopin/ballade.MIDI", "chopin/étude.mid", "x.rmi", "y.Smf", "日本/歌.KAR"])
        self.assertEqual((meta["encoding"], meta["split"], meta["vocab"]), ("performance", "train", "390"))
        self.assertEqual(tokens["tokens"], [t for p in (61, 60, 63, 64, 62) for t in (356 + 15, p, 305, 128 + p)])
        self.assertEqual(tokens["offsets"], [0, 4, 8, 12, 16, 20])
        self.assertEqual((tokens["seconds"], tokens["notes"]), ([0.5] * 5, [1] * 5))
        self.assertEqual(read_tokens(self.out / "test.safetensors")[0]["offsets"], [0])
        self.assertEqual(self.rejected(), {})

    def test_same_bytes_whatever_the_jobs(self):
        for i in range(40):
            self.put(f"{i}.mid", tune(i % 35))
        found = []
        for jobs in (1, 2, 40):
            self.prepare("--jobs", jobs)
            found.append(self.files())
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0], found[2])

    # ---- splits

    def test_splits_are_stable(self):
        for i in range(300):
            self.put(f"{i}.mid", tune(i))
        self.prepare()
        before = self.names()
        self.assertTrue(240 <= len(before["train"]) <= 295 and before["validation"] and before["test"])
        for i in range(300, 400):
            self.put(f"{i}.mid", tune(i))
        self.prepare()
        for split, names in self.names().items():
            self.assertTrue(set(before[split]) <= set(names))

    def test_a_small_folder_gets_validation(self):
        moved = 0
        for first in range(0, 200, 20):
            for i in range(20):
                self.put(f"{i:02}.mid", tune(first + i))
            done, names = self.prepare(), self.names()
            self.assertTrue(names["train"] and names["validation"])
            self.assertEqual(len(sum(names.values(), [])), 20)
            told = re.findall("paprep: no piece fell to validation: (.*) moved there", done.stderr)
            moved += len(told)
            if told:
                self.assertEqual(names["validation"], told)
        self.assertTrue(2 <= moved <= 6)  # of ten folders 0.95^20 = 0.36 have none of their own

    def test_two_pieces_and_one(self):
        for seed in range(40):  # whatever splits they fall into
            self.put("a.mid", tune(2 * seed))
            self.put("b.mid", tune(2 * seed + 1))
            self.prepare()
            self.assertEqual([len(n) for n in self.names().values()], [1, 1, 0])
        (self.midi / "b.mid").unlink()
        for seed in range(40):
            self.put("a.mid", tune(seed))
            self.prepare()
            self.assertEqual([len(n) for n in self.names().values()], [1, 0, 0])

    # ---- duplicates

    def duplicates(self):
        with open(self.out / "duplicates.tsv", newline="", encoding="utf-8") as f:
            rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
        self.assertEqual(rows[0], ["file", "like", "how"])
        return rows[1:]

    def split_of(self):
        return {name: split for split, names in self.names().items() for name in names}

    def test_copies_are_left_out(self):
        for i in range(40):
            for copy in "abcdefgh":
                self.put(f"{copy}/{copy}{i}.mid", tune(i))
        done = self.prepare()
        self.assertIn("paprep: left out 280 identical pieces\n", done.stderr)
        self.assertEqual(sorted(self.split_of()), sorted(f"a/a{i}.mid" for i in range(40)))
        self.assertEqual(len(self.duplicates()), 280)
        self.assertIn(["c/c7.mid", "a/a7.mid", "identical"], self.duplicates())
        done = self.prepare("--keep-duplicates", "--strict")
        self.assertIn("paprep: kept 280 identical pieces\n", done.stderr)
        split = self.split_of()
        self.assertEqual(len(split), 320)
        self.assertEqual(set(split.values()), {"train", "validation", "test"})
        for i in range(40):
            self.assertEqual(len({split[f"{copy}/{copy}{i}.mid"] for copy in "abcdefgh"}), 1)

    def test_the_same_notes_moved_or_transposed(self):
        for i in range(60):
            self.put(f"{i}.mid", tune(i))
            self.put(f"{i}-up.mid", tune(i, up=5))
            self.put(f"{i}-later.mid", tune(i, later=1234))
        done = self.prepare()
        self.assertIn("paprep: 120 pieces have the notes of another, moved, stretched or transposed\n", done.stderr)
        split = self.split_of()
        self.assertEqual(len(split), 180)
        self.assertEqual(set(split.values()), {"train", "validation", "test"})
        for i in range(60):
            self.assertEqual(split[f"{i}.mid"], split[f"{i}-up.mid"])
            self.assertEqual(split[f"{i}.mid"], split[f"{i}-later.mid"])
        self.assertIn(["7.mid", "7-later.mid", "moved, stretched or transposed"], self.duplicates())
        self.put("another.mid", tune(7, notes=9))  # one note more is other music
        self.prepare()
        self.assertEqual(len(self.duplicates()), 120)

    def test_a_list_keeps_its_splits(self):
        for name, data in (("a.mid", tune(1)), ("b.mid", tune(1)), ("c.mid", tune(1, up=3)), ("d.mid", tune(2))):
            self.put(name, data)
        self.put_list("split,midi_filename\ntrain,a.mid\nvalidation,b.mid\ntrain,c.mid\ntest,d.mid\n")
        done = self.prepare()
        self.assertEqual(self.names(), {"train": ["a.mid", "c.mid"], "validation": ["b.mid"], "test": ["d.mid"]})
        self.assertIn("paprep: kept 1 identical piece\n", done.stderr)
        self.assertIn("paprep: 1 of these in another split than the first of their like\n", done.stderr)

    # ---- large corpora

    def files(self):
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def test_parts(self):
        for i in range(100):
            self.put(f"{i:03}.mid", tune(i, notes=8 + i % 5))
        self.prepare()
        whole = {split: read_tokens(self.out / f"{split}.safetensors") for split in ("train", "validation", "test")}
        done = self.prepare("--part-bytes", 1000)
        for split, (tensors, meta) in whole.items():
            parts = sorted(self.out.glob(f"{split}*"))
            numbers = [f"{split}-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
            self.assertEqual([part.name for part in parts], numbers if len(parts) > 1 else [f"{split}.safetensors"])
            found = [read_tokens(part) for part in parts]
            for name in ("tokens", "seconds", "notes"):
                self.assertEqual(sum((t[name] for t, _ in found), []), tensors[name])
            self.assertEqual(sum((m["names"] for _, m in found), []), meta["names"])
            for t, m in found:
                self.assertTrue(t["offsets"][0] == 0 and 2 * len(t["tokens"]) + 20 * len(t["notes"]) <= 1000)
                self.assertEqual(m["set"], found[0][1]["set"])
        self.assertGreater(len(list(self.out.glob("train*"))), 5)
        self.assertIn(f"files of train: {self.out}/train-*.safetensors\n", done.stderr)
        self.prepare("--part-bytes", 1)
        self.assertEqual(len(list(self.out.glob("train*"))), len(whole["train"][1]["names"]))
        self.prepare()
        self.assertEqual(sorted(self.files()), ["duplicates.tsv", "rejected.tsv"] + [f"{s}.safetensors" for s in ("test", "train", "validation")])
        sets = {read_tokens(self.out / f"{s}.safetensors")[1]["set"] for s in whole}
        self.assertEqual(sets, {whole["train"][1]["set"]})
        self.put("more.mid", tune(1000))
        self.prepare()
        self.assertNotEqual(read_tokens(self.out / "train.safetensors")[1]["set"], whole["train"][1]["set"])

    def test_an_old_set_beside_a_new_one(self):
        for i in range(40):
            self.put(f"{i}.mid", tune(i, notes=40))
        self.prepare()
        old = (self.out / "validation.safetensors").read_bytes()
        config = self.folder / "tiny.ini"
        config.write_text(programs.TINY)
        train = [programs.PATRAIN, config, f"data.train={self.out}/train.safetensors", f"data.validation={self.out}/validation.safetensors", "train.steps=1", "--run-dir", self.folder / "run", "--fresh"]
        self.assertEqual(subprocess.run(train, capture_output=True, timeout=120).returncode, 0)
        for i in range(40, 50):
            self.put(f"{i}.mid", tune(i, notes=40))
        self.prepare()
        self.assertEqual(subprocess.run(train, capture_output=True, timeout=120).returncode, 0)
        (self.out / "validation.safetensors").write_bytes(old)
        done = subprocess.run(train, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr, "validation.safetensors: expected the set of .*/train.safetensors, [0-9a-f]{16}, found [0-9a-f]{16}: run paprep again")

    @unittest.skipIf(b"__asan_init" in pathlib.Path(PAPREP).read_bytes(), "a sanitizer takes memory of its own")
    def test_memory_does_not_grow_with_the_tokens(self):
        def peak():  # ru_maxrss begins with this process's own
            done, most = subprocess.Popen([PAPREP, self.midi, self.out, "--jobs", "2"], stdout=subprocess.DEVNULL), 0
            while done.poll() is None:
                with open(f"/proc/{done.pid}/status") as f:
                    found = re.search(r"VmHWM:\s*(\d+) kB", f.read())
                most = max(most, int(found[1]) * 1024 if found else 0)
                time.sleep(0.002)
            self.assertEqual(done.returncode, 0)
            return most

        few, many, notes = 200, 4000, 600
        for i in range(few):
            self.put(f"{i}.mid", tune(i, notes))
        before = peak()
        for i in range(few, many):
            self.put(f"{i}.mid", tune(i, notes))
        grown = peak() - before
        tokens = sum(path.stat().st_size for path in self.out.glob("*.safetensors"))
        # Bytes per file: 76 in three tables, 32 for its name, 24 for its inode, some 80 for its path in the batch that is read, 28 in its
        # part, four times its name in the header: 290, and never two thirds of that are held at once. Its tokens take over 1,600.
        self.assertGreater(tokens, 4 * 400 * (many - few))
        self.assertLess(grown, 400 * (many - few))

    def test_what_a_killed_run_left(self):
        self.put("a.mid")
        (self.out / ".paprep").mkdir(parents=True)
        (self.out / ".paprep/train-00001-of-00002.safetensors").write_text("half")
        self.prepare()
        self.assertEqual(sorted(self.files()), ["duplicates.tsv", "rejected.tsv", "test.safetensors", "train.safetensors", "validation.safetensors"])

    def test_two_runs_into_one_folder(self):
        self.put("a.mid")
        self.prepare()
        folder = os.open(self.out, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        self.expect_error("out: another paprep is writing to it", status=1)
        fcntl.flock(folder, fcntl.LOCK_UN)
        self.prepare()

    # ---- what a folder holds

    def test_skipped_files(self):
        for name in ("a.mid", "._a.mid", "b/._x.KAR", "notes.txt", "b/cover.jpg", "._notes.txt"):
            self.put(name)
        done = self.prepare("--strict")
        self.assertEqual(done.stderr, "paprep: skipped 2 AppleDouble files (._*)\npaprep: skipped 3 files of other kinds\n")
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
                "cut.mid": "track 1, byte 29: expected the rest of an event, found the end of the file; it is cut short",
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
        self.assertIn(f"midi: cannot read 2 of its files and folders; {self.out}/rejected.tsv names them\n", done.stderr)
        self.assertEqual(self.rejected(), {"closed": "Permission denied", "secret.mid": "cannot open: Permission denied"})

    def test_strict(self):
        self.put("good.mid")
        self.put("bad.mid", b"")
        self.expect_error("--strict, and 1 files refused", "--strict", status=3)
        self.assertEqual(os.listdir(self.out), ["rejected.tsv"])
        (self.midi / "bad.mid").unlink()
        self.prepare("--strict")

    def test_a_refusal_leaves_earlier_token_files(self):
        def before():
            return {name: (self.out / name).read_bytes() for name in ("train.safetensors", "validation.safetensors", "test.safetensors")}

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
        self.assertEqual(self.rejected(), {"a.mid": "listed twice", "gone.mid": "cannot open: No such file or directory"})

    def test_json(self):
        self.put("a.mid")
        self.put("b.mid")
        self.put_list('{"split": {"0": "train", "1": "test"}, "midi_filename": {"1": "b.mid", "0": "a.mid"}}', "maestro-v9.json")
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
        self.assertEqual(self.prepare().stderr, f"paprep: 1 MIDI file is not in {path} and is left out, mine .MIDI\n" + refused)
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
            ("midi_file,split\na.mid,train\n", "maestro-v9.csv: line 1: expected a column midi_filename, found the columns midi_file,split"),
            ("midi_filename,Split\n", "maestro-v9.csv: line 1: expected a column split, found the columns midi_filename,Split"),
            ("", "maestro-v9.csv: line 1: expected a header, found an empty file"),
            ('""\n', "maestro-v9.csv: line 1: expected a column split, found the columns \n"),  # nothing before it is looked at
            ("midi_filename,split\n", "maestro-v9.csv: expected .mid, .midi, .kar, .rmi or .smf files, found none"),
            ("midi_filename,split\na.mid,train\na.mid\n", "maestro-v9.csv: line 3: expected at least 2 fields, found 1"),
            ('midi_filename,split\n"x\ny",train\n"a.mid,train\n', "maestro-v9.csv: line 4: expected a closing quote, found the end of the file"),
            ("midi_filename,split\na.mid,dev\n", "maestro-v9.csv: line 2: split: expected train, validation or test, found 'dev'"),
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
            ('{"split": {"0": "train"}, "midi_filename": {}}', "maestro-v9.json: row 0: expected texts for split and midi_filename"),
            ('{"split": {"0": "dev"}, "midi_filename": {"0": "a.mid"}}', "maestro-v9.json: row 0: split: expected train, validation or test, found 'dev'"),
            ('{"split": {"0": 1}, "midi_filename": {"0": "a.mid"}}', "maestro-v9.json: row 0: expected texts for split and midi_filename"),
        ):
            self.put_list(text, "maestro-v9.json")
            self.expect_error(message, status=3)

    def test_two_lists(self):
        self.put_list("", "maestro-v2.csv")
        self.put_list("", "maestro-v3.csv")
        self.expect_error("expected one list, found two; choose with --metadata", status=2)

    # ---- where nothing can be written

    def test_unwritable_output(self):
        self.put("a.mid")
        self.out.write_text("a file")
        self.expect_error("out", status=1)
        self.run_paprep(self.midi, "/proc/none/out", status=1)
        self.assertIn("expected the name of a folder, found an empty one", self.run_paprep(self.midi, "", status=2).stderr)

    def test_full_disk(self):
        for i in range(400):
            self.put(f"{i}.mid", tune(i))

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        done = self.prepare(status=1, preexec_fn=limit)
        self.assertIn("cannot write the temporary file of tokens", done.stderr)
        self.assertEqual(os.listdir(self.out), [])

    def test_full_standard_output(self):
        self.put("a.mid")
        with open("/dev/full", "w") as full:
            done = subprocess.run([PAPREP, self.midi, self.out], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write to standard output: No space left on device", done.stderr)
        self.assertIn("cannot write to standard output: Bad file descriptor", self.prepare(status=1, preexec_fn=lambda: os.close(1)).stderr)

    # ---- looking at tokens

    @staticmethod
    def split_events(text):
        lines = text.splitlines()
        return [line for line in lines if line.startswith("#")], [line for line in lines if not line.startswith("#")]

    def test_events(self):
        self.put("a.mid", midi(61, 250))
        done = self.run_paprep("--events", self.midi / "a.mid")
        header, events = self.split_events(done.stdout)
        self.assertEqual(
            header,
            [
                "# format 0, 1 track, 500 ticks a quarter note",
                "# tempo 120 bpm, 0 changes",
                "# sustain pedal: 0 messages",
                "# 1 note, programs 0",
                "# 0:00.25 long, music begins at 0:00.00",
            ],
        )
        expected = [["0.00", "371", "VELOCITY 15"], ["0.00", "61", "NOTE_ON 61"], ["0.00", "280", "TIME_SHIFT 0.25 s"], ["0.25", "189", "NOTE_OFF 61"]]
        self.assertEqual([line.split(None, 2) for line in events], expected)
        done = self.run_paprep("--events", PAPREP, status=3)
        self.assertIn("paprep: not a MIDI file: expected MThd at its start", done.stderr)

    def test_events_of_a_file_without_notes(self):
        def track(events):
            return midi()[:14] + b"MTrk" + struct.pack(">I", len(events) + 4) + events + b"\0\xff\x2f\0"

        pedal, drum = b"\0\xb0\x40\x7f\x60\xb0\x40\0", b"\0\x99\x28\x40\x60\x89\x28\0"
        for events, encoding, reason in (
            (b"", "performance", "no notes"),
            (pedal, "performance", "no notes"),
            (pedal, "midi-neural", "no notes"),
            (drum, "performance", "only drums: all of its 1 notes are on channel 10"),
        ):
            self.put("a.mid", track(events))
            done = self.run_paprep("--events", self.midi / "a.mid", "--encoding", encoding, status=3)
            self.assertEqual(self.split_events(done.stdout)[1], [])
            self.assertEqual(done.stderr, f"paprep: {self.midi}/a.mid: {reason}\n")
        self.put("a.mid")
        self.assertEqual(self.run_paprep("--events", self.midi / "a.mid").stderr, "")

    def test_events_of_chosen_programs(self):
        events = b"\0\xc0\x05\0\x90\x3c\x40\0\xc1\x28\0\x91\x48\x40\0\x99\x24\x40\x60\x80\x3c\0\0\x81\x48\0\0\x89\x24\0\0\xff\x2f\0"
        self.put("a.mid", midi()[:14] + b"MTrk" + struct.pack(">I", len(events)) + events)
        for programs, pitches in (("0-7", ["60"]), ("40", ["72"]), ("all", ["60", "72"])):
            header, events = self.split_events(self.run_paprep("--events", self.midi / "a.mid", "--programs", programs).stdout)
            self.assertEqual([line.split()[3] for line in events if "NOTE_ON" in line], pitches)
            self.assertIn("# 3 notes, programs 5, 40", header)
            self.assertIn("# 1 of them drums", header)
            self.assertEqual("# 1 of programs that --programs leaves out" in header, programs != "all")
        done = self.run_paprep("--events", self.midi / "a.mid", "--programs", "8", status=3)
        self.assertIn("a.mid: no note of the programs asked for: 2 are of others and 1 are drums", done.stderr)
        done = self.run_paprep("--events", self.midi / "a.mid", "--programs", "0-128", status=2)
        self.assertIn("--programs: expected numbers from 0 to 127 such as 0-7,24, or all; found '0-128'", done.stderr)
        done = self.run_paprep("--events", self.midi / "a.mid", "--programs", "0", "--encoding", "midi-neural", status=2)
        self.assertIn("--programs: expected with --encoding performance, found with midi-neural", done.stderr)

    def test_damaged_files(self):
        self.put("a.mid", midi(60)[:-7])
        self.put("b.mid", midi(61).replace(b"\x90\x3d\x40", b"\x90\x3d\xc8"))
        self.put("c.mid", midi(62))
        self.expect_error("2 of 3 files refused", status=0)
        self.assertEqual(self.rejected()["b.mid"], "track 1, byte 25: expected a data byte below 128, found 0xc8")
        done = self.prepare("--lenient", "--strict")
        self.assertIn("paprep: 2 damaged places mended in 2 files\n", done.stderr)
        self.assertIn("paprep: 1 note never released in 1 file\n", done.stderr)
        header, _ = self.split_events(self.run_paprep("--events", self.midi / "b.mid", "--lenient").stdout)
        self.assertEqual(header[-1], "# 1 mended: track 1, byte 25: a data byte of 200; read as 127")

    def test_sostenuto(self):
        events = b"\0\x90\x3c\x40\x64\xb0\x42\x7f\x64\x80\x3c\0\x64\xb0\x42\0\0\xff\x2f\0"
        self.put("a.mid", midi()[:14] + b"MTrk" + struct.pack(">I", len(events)) + events)
        for option, word, seconds in (([], "ignored", "0.20"), (["--sostenuto"], "applied", "0.30")):
            header, events = self.split_events(self.run_paprep("--events", self.midi / "a.mid", *option).stdout)
            self.assertIn(f"# sostenuto pedal: 2 messages, {word}", header)
            self.assertEqual(events[-1].split()[0], seconds)

    def test_decode(self):
        self.put("a.mid", midi(60, 250))
        self.put("b.mid", midi(70, 750))
        self.prepare()
        tokens, again = self.out / "train.safetensors", self.folder / "again.mid"
        for piece, (pitch, ms) in enumerate([(60, 250), (70, 750)]):
            self.run_paprep("--decode", tokens, again, "--piece", piece)
            self.put("c.mid", midi(pitch, ms))
            self.assertEqual(self.run_paprep("--events", again).stdout, self.run_paprep("--events", self.midi / "c.mid").stdout)
        done = self.run_paprep("--decode", tokens, again, "--piece", 2, status=2)
        self.assertIn("--piece: expected 0 to 1, found 2", done.stderr)
        done = self.run_paprep("--decode", tokens, again, "--piece", -1, status=2)
        self.assertIn("--piece: expected 0 to 1, found -1", done.stderr)
        self.run_paprep("--decode", tokens, again)
        self.put("c.mid", midi(60, 250))
        self.assertEqual(self.run_paprep("--events", again).stdout, self.run_paprep("--events", self.midi / "c.mid").stdout)
        done = self.run_paprep("--decode", self.out / "test.safetensors", again, status=3)
        self.assertIn("test.safetensors: expected a piece, found none", done.stderr)
        done = self.run_paprep("--decode", self.midi / "a.mid", again, status=3)
        self.assertIn('a.mid: expected a safetensors file, found one that begins with "MThd\\x00', done.stderr)
        self.run_paprep("--decode", tokens, "/proc/none/x.mid", status=1)

    def test_decode_spares_its_input(self):
        self.put("a.mid")
        self.prepare()
        tokens, link, twin = self.out / "train.safetensors", self.folder / "link.mid", self.folder / "twin.mid"
        link.symlink_to(tokens)
        os.link(tokens, twin)
        before = tokens.read_bytes()
        for arguments in ((tokens, tokens), (tokens, link), (link, tokens), (tokens, twin)):
            done = self.run_paprep("--decode", *arguments, status=2)
            self.assertIn(f"OUT.mid: expected another file than the token file, found {arguments[1]}\n", done.stderr)
            self.assertEqual((tokens.read_bytes(), link.is_symlink(), twin.samefile(tokens)), (before, True, True))


if __name__ == "__main__":
    unittest.main()
