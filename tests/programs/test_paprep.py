"""paprep as a user runs it: folders and lists of every kind, what is refused, exit statuses and messages, tokens back to MIDI."""

import csv
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

import programs

PAPREP = os.path.join(os.environ["PA_BIN"], "paprep")


def midi(pitch=60, ms=500, kind=0, pedal=False):
    """A type 0 file of one note, a tick a millisecond."""
    down, up = (b"\0\xb0\x40\x7f", b"\x83\x60\xb0\x40\0") if pedal else (b"", b"")
    delta = bytes([0x80 | ms >> 7, ms & 127])
    events = down + bytes([0, 0x90, pitch, 64]) + delta + bytes([0x80, pitch, 0]) + up + b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, kind, 1, 500, b"MTrk", len(events)) + events


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
        before = tokens.read_bytes()
        for arguments, mode, allowed in (
            (folder, "MIDI_DIR OUT_DIR", ("--encoding", "--metadata", "--jobs", "--strict")),
            (events, "--events", ("--encoding",)),
            (decode, "--decode", ("--piece",)),
        ):
            for option, belongs in (
                (("--encoding", "performance"), "MIDI_DIR OUT_DIR or --events"),
                (("--metadata", "x.csv"), "MIDI_DIR OUT_DIR"),
                (("--jobs", "-1"), "MIDI_DIR OUT_DIR"),
                (("--strict",), "MIDI_DIR OUT_DIR"),
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
        self.expect_error("midi: expected .mid or .midi files, found none", status=3)

    def test_nothing_readable(self):
        self.put("a.mid", b"no")
        self.expect_error("no file could be read", status=3)
        self.assertEqual(os.listdir(self.out), ["rejected.tsv"])
        self.assertEqual(self.rejected(), {"a.mid": "not a MIDI file: expected MThd at its start"})

    def test_three_files_are_for_training(self):
        for name in ("chopin/étude.mid", "chopin/ballade.MIDI", "日本/歌.MID"):
            self.put(name)
        table = self.prepare().stdout.splitlines()
        self.assertEqual(table[0].split(), ["split", "pieces", "notes", "hours", "tokens", "tokens/note", "dropped"])
        self.assertEqual(table[1].split(), ["train", "3", "3", "0.00", "12", "4.000", "0"])
        self.assertIn("empty: no file belongs to it", table[2])
        self.assertEqual(table[4].split()[:3], ["all", "3", "3"])
        tokens, meta = read_tokens(self.out / "train.safetensors")
        self.assertEqual(meta["names"], ["chopin/ballade.MIDI", "chopin/étude.mid", "日本/歌.MID"])
        self.assertEqual((meta["encoding"], meta["split"], meta["vocab"]), ("performance", "train", "390"))
        self.assertEqual(tokens["tokens"], [356 + 15, 60, 305, 188] * 3)
        self.assertEqual(tokens["offsets"], [0, 4, 8, 12])
        self.assertEqual((tokens["seconds"], tokens["notes"]), ([0.5] * 3, [1] * 3))
        self.assertEqual(read_tokens(self.out / "test.safetensors")[0]["offsets"], [0])
        self.assertEqual(self.rejected(), {})

    def test_splits_are_stable(self):
        for i in range(300):
            self.put(f"{i}.mid")
        self.prepare()
        before = self.names()
        self.assertTrue(240 <= len(before["train"]) <= 295 and before["validation"] and before["test"])
        for i in range(300, 400):
            self.put(f"{i}.mid")
        self.prepare()
        for split, names in self.names().items():
            self.assertTrue(set(before[split]) <= set(names))

    def test_same_bytes_whatever_the_jobs(self):
        for i in range(40):
            self.put(f"{i}.mid", midi(i, 500 + i))
        found = []
        for jobs in (1, 2, 40):
            self.prepare("--jobs", jobs)
            found.append([(self.out / f"{s}.safetensors").read_bytes() for s in ("train", "validation", "test")])
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0], found[2])

    def test_whatever_lies_in_a_folder(self):
        self.put("good.mid")
        self.put("empty.mid", b"")
        self.put("text.mid", b"hello, this is not a MIDI file at all")
        self.put("cut.mid", midi()[:-6])
        self.put("type2.mid", midi(kind=2))
        self.put("silent.mid", midi()[:14] + b"MTrk\0\0\0\4\0\xff\x2f\0")
        self.put("noise.mid", bytes(range(256)) * 40)
        self.put("tab\tand\nline.mid", b"")
        self.put("below/more.mid")
        (self.midi / "folder.mid").mkdir()
        (self.midi / "below/loop").symlink_to(self.midi)
        (self.midi / "nowhere.mid").symlink_to("none")
        (self.midi / "link.mid").symlink_to("good.mid")
        os.mkfifo(self.midi / "pipe.mid")
        (self.midi / os.fsdecode(b"caf\xe9.mid")).write_bytes(midi())
        done = self.prepare()
        self.assertIn("10 of 14 files refused", done.stderr)
        self.assertEqual(
            self.rejected(),
            {
                "below/loop": "a link that leads back to a folder above it",
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
        self.assertEqual(sorted(sum(self.names().values(), [])), ["below/more.mid", "café.mid", "good.mid", "link.mid"])

    @unittest.skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable_files_and_folders(self):
        self.put("good.mid")
        self.put("secret.mid")
        self.put("closed/a.mid")
        (self.midi / "secret.mid").chmod(0)
        (self.midi / "closed").chmod(0)
        self.addCleanup((self.midi / "closed").chmod, 0o700)
        self.prepare()
        self.assertEqual(self.rejected(), {"closed": "cannot read the folder", "secret.mid": "cannot open: Permission denied"})

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
        self.assertEqual(self.prepare().stderr, refused)
        (self.midi / "also-b.mid").symlink_to("b.mid")
        self.assertEqual(self.prepare().stderr, refused)
        self.put("mine\x1b.MIDI")
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
            ("midi_filename,split\n", "maestro-v9.csv: expected .mid or .midi files, found none"),
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
            self.put(f"{i}.mid")

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        done = self.prepare(status=1, preexec_fn=limit)
        self.assertIn("train.safetensors", done.stderr)
        self.assertFalse([name for name in os.listdir(self.out) if "train" in name])

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
