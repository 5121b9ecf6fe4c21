#!/usr/bin/env python3
"""paprep as a user runs it: usage, splits, copies, large corpora, full disks. Folders and lists are in
test_paprep_folders.py."""

import csv
import fcntl
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import time
import unittest

import programs
from prep import PAPREP, Paprep, midi, read_tokens, tune


class Sets(Paprep):
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
            ([self.folder / "none", self.out], f"cannot open folder {self.folder}/none: No such file or directory"),
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
            (folder, "MIDI_DIR OUT_DIR",
             ("--encoding", "--metadata", "--jobs", "--strict", "--keep-duplicates", "--part-bytes", *reading)),
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
                self.assertEqual(done.stderr, f"paprep: {option[0]} needs {belongs}, found {mode}\n")
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
        self.assertIn("empty: too few files for this split", table[2])
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
        self.assertIn("paprep: 1 of these in another split than the piece that they repeat\n", done.stderr)

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
        self.assertEqual(sorted(self.files()), ["duplicates.tsv", "rejected.tsv"] +
                         [f"{s}.safetensors" for s in ("test", "train", "validation")])
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
        train = [programs.PATRAIN, config, f"data.train={self.out}/train.safetensors",
                 f"data.validation={self.out}/validation.safetensors", "train.steps=1", "--run-dir",
                 self.folder / "run", "--fresh"]
        self.assertEqual(subprocess.run(train, capture_output=True, timeout=120).returncode, 0)
        for i in range(40, 50):
            self.put(f"{i}.mid", tune(i, notes=40))
        self.prepare()
        self.assertEqual(subprocess.run(train, capture_output=True, timeout=120).returncode, 0)
        (self.out / "validation.safetensors").write_bytes(old)
        done = subprocess.run(train, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr,
                         "validation.safetensors: expected the set of .*/train.safetensors, [0-9a-f]{16}, found "
                         "[0-9a-f]{16}: run paprep again")

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
        # Bytes per file: 76 in three tables, 32 for its name, 24 for its inode, some 80 for its path in the batch that
        # is read, 28 in its part, four times its name in the header: 290, and never two thirds of that are held at
        # once. Its tokens take over 1,600.
        self.assertGreater(tokens, 4 * 400 * (many - few))
        self.assertLess(grown, 400 * (many - few))

    def test_what_a_killed_run_left(self):
        """Known by the marker in its folder, not by the folder's name."""
        self.put("a.mid")
        mine = {self.out / name for name in (".paprep", ".paprep-0123456789abcdef", ".paprep-fedcba9876543210")}
        for folder in mine:
            folder.mkdir(parents=True)
            (folder / ".owner").write_text("paprep 0123456789abcdee 1\n")
        left = self.out / ".paprep-0123456789abcdee"
        shutil.copytree(self.out / ".paprep", left)
        (left / "train-00001-of-00002.safetensors").write_text("half")
        self.prepare()
        self.assertEqual(set(self.out.glob(".*")), mine)

    def test_what_a_killed_run_left_without_locks(self):
        """Its marker is not written to any more, as a living one's is."""
        self.put("a.mid")

        def start(*faults):
            shim = {"LD_PRELOAD": os.environ["PA_SHIM"], "FAILING_FS": ",".join((f"flock:{self.out}:1+:37", *faults)),
                    "ASAN_OPTIONS": "verify_asan_link_order=0"}
            return subprocess.Popen([PAPREP, self.midi, self.out], env=os.environ | shim, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)

        living = start(f"rename:{self.out}/train:1:hang")
        self.addCleanup(living.kill)
        while not list(self.out.glob(".paprep-*/train.safetensors")):
            self.assertIsNone(living.poll())
            time.sleep(0.01)
        (own,) = self.out.glob(".paprep-*")
        self.assertEqual(start(f"rename:{self.out}/train:1:kill").wait(timeout=60), -9)
        self.assertEqual(len(list(self.out.glob(".paprep-*"))), 2)
        self.assertEqual(start().wait(timeout=60), 0)
        self.assertEqual(list(self.out.glob(".paprep-*")), [own])
        living.kill()
        living.wait()
        self.assertEqual(start().wait(timeout=60), 0)
        self.assertEqual(list(self.out.glob(".paprep-*")), [])

    def test_killed_between_its_files(self):
        """Whatever it leaves is one set, or refused by all who read it."""
        for i in range(40):
            self.put(f"{i}.mid", tune(i))
        small = ("--part-bytes", "300")
        self.prepare(*small)
        old = self.folder / "old"
        self.out.rename(old)
        for i in range(40):
            self.put(f"{i}.mid", tune(100 + i))
        self.prepare(*small)

        def sets():
            return {read_tokens(path)[1]["set"] for path in self.out.glob("*.safetensors")}

        mixed = kept = 0
        (self.folder / "c.ini").write_text(
            f"[model]\ncontext = 32\nprefix = 4\n[data]\ntrain = {self.out}/train*.safetensors\nvalidation =\n")
        calls = [("rename", 1), ("rename", 2), ("rename", 8), ("unlink", 1), ("unlink", 3)]
        for call, n in calls:
            shutil.rmtree(self.out)
            shutil.copytree(old, self.out)
            more = () if call == "rename" else ("--part-bytes", "1000000")  # fewer files than before
            env = os.environ | {"LD_PRELOAD": os.environ["PA_SHIM"], "FAILING_FS": f"{call}:{self.out}/t:{n}:kill",
                                "ASAN_OPTIONS": "verify_asan_link_order=0"}
            line = [PAPREP, self.midi, self.out, *(more or small)]
            status = subprocess.run(line, env=env, capture_output=True, timeout=60).returncode
            done = subprocess.run([programs.PATRAIN, self.folder / "c.ini", "--dry-run", "--device", "cpu"],
                                  capture_output=True, text=True, timeout=60)
            found = len(sets())
            if found > 1:
                mixed += 1
                self.assertEqual(status, -9)
                self.assertEqual(done.returncode, 3, f"{call} {n}: {done.stderr}")
                self.assertIn(": run paprep again\n", done.stderr)
            else:
                kept += 1
                self.assertEqual(done.returncode, 0, f"{call} {n}: {done.stderr}")
        self.assertGreater(mixed, 2)
        self.assertGreater(kept, 0)

    def test_two_runs_into_one_folder(self):
        self.put("a.mid")
        self.prepare()
        folder = os.open(self.out, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        self.expect_error("out: another paprep is writing to it", status=1)
        fcntl.flock(folder, fcntl.LOCK_UN)
        self.prepare()

    # ---- where nothing can be written

    def test_unwritable_output(self):
        self.put("a.mid")
        self.out.write_text("a file")
        self.expect_error("out", status=1)
        self.run_paprep(self.midi, "/proc/none/out", status=1)
        self.assertIn("expected the name of a folder, found an empty one",
                      self.run_paprep(self.midi, "", status=2).stderr)

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
        self.assertIn("cannot write to standard output: Bad file descriptor",
                      self.prepare(status=1, preexec_fn=lambda: os.close(1)).stderr)


if __name__ == "__main__":
    unittest.main()
