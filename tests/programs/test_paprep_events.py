#!/usr/bin/env python3
"""paprep --events prints tokens as text; paprep --decode turns them into MIDI."""

import os
import struct
import unittest

from prep import PAPREP, Paprep, midi


class Events(Paprep):
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
        expected = [["0.00", "371", "VELOCITY 15"], ["0.00", "61", "NOTE_ON 61"], ["0.00", "280", "TIME_SHIFT 0.25 s"],
                    ["0.25", "189", "NOTE_OFF 61"]]
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
            (drum, "performance", "only drums: 1 note on channel 10 and no other"),
        ):
            self.put("a.mid", track(events))
            done = self.run_paprep("--events", self.midi / "a.mid", "--encoding", encoding, status=3)
            self.assertEqual(self.split_events(done.stdout)[1], [])
            self.assertEqual(done.stderr, f"paprep: {self.midi}/a.mid: {reason}\n")
        self.put("a.mid")
        self.assertEqual(self.run_paprep("--events", self.midi / "a.mid").stderr, "")

    def test_events_of_chosen_programs(self):
        events = (b"\0\xc0\x05\0\x90\x3c\x40\0\xc1\x28\0\x91\x48\x40\0\x99\x24\x40"
                  b"\x60\x80\x3c\0\0\x81\x48\0\0\x89\x24\0\0\xff\x2f\0")
        self.put("a.mid", midi()[:14] + b"MTrk" + struct.pack(">I", len(events)) + events)
        for programs, pitches in (("0-7", ["60"]), ("40", ["72"]), ("all", ["60", "72"])):
            header, events = self.split_events(
                self.run_paprep("--events", self.midi / "a.mid", "--programs", programs).stdout)
            self.assertEqual([line.split()[3] for line in events if "NOTE_ON" in line], pitches)
            self.assertIn("# 3 notes, programs 5, 40", header)
            self.assertIn("# 1 of them drums", header)
            self.assertEqual("# 1 of programs that --programs leaves out" in header, programs != "all")
        done = self.run_paprep("--events", self.midi / "a.mid", "--programs", "8", status=3)
        self.assertIn("a.mid: no note of the programs asked for: 2 are of others and 1 are drums", done.stderr)
        done = self.run_paprep("--events", self.midi / "a.mid", "--programs", "0-128", status=2)
        self.assertIn("--programs: expected numbers from 0 to 127 such as 0-7,24, or all; found '0-128'", done.stderr)
        done = self.run_paprep("--events", self.midi / "a.mid", "--programs", "0", "--encoding", "midi-neural",
                               status=2)
        self.assertIn("--programs needs --encoding performance", done.stderr)

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

    def test_behind_the_end_of_a_track(self):
        events = b"\0\x90\x3c\x40\x64\x80\x3c\0\0\xff\x2f\0\0\x90\x40\x40"
        self.put("a.mid", midi()[:14] + b"MTrk" + struct.pack(">I", len(events)) + events)
        for option in [], ["--lenient"]:
            header, _ = self.split_events(self.run_paprep("--events", self.midi / "a.mid", *option).stdout)
            self.assertIn("# 3 bytes behind End of Track left out", header)
            self.assertFalse([line for line in header if "mended" in line])
        self.assertIn("paprep: 3 bytes behind End of Track left out in 1 file\n", self.prepare().stderr)

    def test_sostenuto(self):
        events = b"\0\x90\x3c\x40\x64\xb0\x42\x7f\x64\x80\x3c\0\x64\xb0\x42\0\0\xff\x2f\0"
        self.put("a.mid", midi()[:14] + b"MTrk" + struct.pack(">I", len(events)) + events)
        for option, word, seconds in (([], "ignored", "0.20"), (["--sostenuto"], "applied", "0.30")):
            header, events = self.split_events(self.run_paprep("--events", self.midi / "a.mid", *option).stdout)
            self.assertIn(f"# sostenuto pedal: 2 messages, {word}", header)
            self.assertEqual(events[-1].split()[0], seconds)
        for option, end in (([], ", ignored (--sostenuto applies it)"), (["--sostenuto"], ", applied")):
            self.assertIn(f"paprep: 2 messages of the sostenuto pedal in 1 file{end}\n", self.prepare(*option).stderr)

    def test_decode(self):
        self.put("a.mid", midi(60, 250))
        self.put("b.mid", midi(70, 750))
        self.prepare()
        tokens, again = self.out / "train.safetensors", self.folder / "again.mid"
        for piece, (pitch, ms) in enumerate([(60, 250), (70, 750)]):
            self.run_paprep("--decode", tokens, again, "--piece", piece)
            self.put("c.mid", midi(pitch, ms))
            self.assertEqual(self.run_paprep("--events", again).stdout,
                             self.run_paprep("--events", self.midi / "c.mid").stdout)
        done = self.run_paprep("--decode", tokens, again, "--piece", 2, status=2)
        self.assertIn("--piece: expected 0 to 1, found 2", done.stderr)
        done = self.run_paprep("--decode", tokens, again, "--piece", -1, status=2)
        self.assertIn("--piece: expected 0 to 1, found -1", done.stderr)
        self.run_paprep("--decode", tokens, again)
        self.put("c.mid", midi(60, 250))
        self.assertEqual(self.run_paprep("--events", again).stdout,
                         self.run_paprep("--events", self.midi / "c.mid").stdout)
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
