#!/usr/bin/env python3
"""What pagen makes of a primer's own file: its events stay as they are up to the cut, and the continuation follows on a
track of its own.

Two readers that are not ours compare files, where this Python has them: mido event by event, pretty_midi note by note
in seconds.
"""
import itertools
import math
import os
import struct
import subprocess
import unittest

from tiny import PREFIX, Program, command, events, midi, pieces, run, seconds, variable_length

try:
    import mido
except ImportError:
    mido = None
try:
    import pretty_midi
except ImportError:
    pretty_midi = None

NAME = "patrain continuation"


def chunk(name, data):
    return name + struct.pack(">I", len(data)) + data


def smf(kind, division, *tracks):
    header = chunk(b"MThd", struct.pack(">HHH", kind, len(tracks), division))
    return header + b"".join(chunk(b"MTrk", t + b"\0\xff\x2f\0") for t in tracks)


def at(delta, *event):
    return variable_length(delta) + bytes(event)


def text(kind, words):
    return bytes([0xFF, kind, len(words)]) + words.encode()


def tempo(beats):
    return bytes([0xFF, 0x51, 3]) + struct.pack(">I", round(6e7 / beats))[1:]


# Piano in two tracks and on two channels, drums, running status, pedal, sysex, text, a metre, two tempos. 480 ticks a
# quarter note: 120 bpm, and 90 from the third second on. It ends at 5 s with a key and the pedal held.
CONDUCTOR = (b"\0" + text(3, "A Title") + b"\0" + tempo(120) + b"\0\xff\x58\4\3\2\x18\x08" +
             at(2880, *tempo(90)) + b"\0" + text(1, "slower"))
RIGHT = (b"\0" + text(3, "Right") + b"\0\xf0\x05\x7e\x7f\x09\x01\xf7" + at(0, 0xC0, 1) + at(0, 0xB0, 7, 101) +
         at(0, 0x90, 60, 33) + at(480, 60, 0) + at(0, 64, 77) + at(480, 64, 0) + at(0, 0xB0, 64, 127) +
         at(0, 0x90, 67, 121) + at(240, 67, 0) + at(1200, 0xB0, 64, 0) + at(0, 0x90, 72, 50) + at(960, 72, 0) +
         at(0, 0xB0, 64, 90) + at(0, 0x90, 76, 99) + at(720, 76, 64))
LEFT = b"\0" + text(3, "Left") + at(0, 0x91, 36, 41) + at(2400, 0x81, 36, 5) + at(240, 0x91, 40, 42) + at(960, 40, 0)
DRUMS = b"".join(at(240, 0x99, 35 + i % 4, 70 + i) + at(60, 0x89, 35 + i % 4, 0) for i in range(14))
ONE = (b"\0" + text(3, "All") + at(0, 0x90, 60, 33) + at(480, 60, 0) + at(0, 0xB0, 64, 127) + at(0, 0x90, 64, 77) +
       at(480, 64, 0) + at(480, 0xB0, 64, 0) + at(0, 0x90, 67, 55) + b"\x83\x60" + tempo(60) + at(480, 0x90, 67, 0) +
       b"\0\xf7\x03\x43\x01\xf7")
FILES = {"one.mid": smf(0, 480, ONE), "many.mid": smf(1, 480, CONDUCTOR, RIGHT, LEFT, DRUMS)}
RMID = (b"LIST" + struct.pack("<I", 4) + b"INFO" +
        b"data" + struct.pack("<I", len(FILES["many.mid"])) + FILES["many.mid"])
FILES["riff.rmi"] = b"RIFF" + struct.pack("<I", 4 + len(RMID)) + b"RMID" + RMID


def messages(path, limit=math.inf):
    """For each track (tick, message) up to tick `limit`, without the end of the track."""
    data = path.read_bytes()
    if data[:4] == b"RIFF":
        path = path.with_suffix(".plain.mid")
        path.write_bytes(FILES["many.mid"])
    tracks = []
    for track in mido.MidiFile(path).tracks:
        ticks = itertools.accumulate(m.time for m in track)
        tracks.append([(tick, m.copy(time=0))
                       for tick, m in zip(ticks, track) if m.type != "end_of_track" and tick < limit])
    return tracks


class Primer(Program):
    def put(self, name, data):
        path = self.out(name)
        path.write_bytes(data)
        return path

    def neural_model(self):
        if not (self.at / "neural_run").exists():
            run("patrain", self.at / "c.ini", f"data.train={self.at}/neural/train.safetensors",
                f"data.validation={self.at}/neural/train.safetensors", "--run-dir", self.at / "neural_run")
        return self.at / "neural_run"

    def play(self, primer, out, *arguments, model=None, said=False):
        """pagen to out; what it says on stderr with `said`."""
        line = command("pagen", model or self.run_dir, "--primer", primer, "--output", self.out(out), *arguments)
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr if said else self.out(out)


class OwnFile(Primer):
    @unittest.skipUnless(mido, "needs mido")
    def test_every_event_up_to_the_cut_by_mido(self):
        for name, data in FILES.items():
            primer, cuts = self.put(name, data), [None, 1.23, 2.5] if name == "one.mid" else [None, 0.3, 1.5, 3.4, 4.7]
            for cut in cuts:
                out = self.play(primer, "out.mid", "--length-seconds", 3,
                                *(() if cut is None else ("--prime-seconds", cut)))
                was, now = mido.MidiFile(out), messages(out)
                self.assertEqual((was.type, was.ticks_per_beat, len(now)), (1, 480, len(messages(primer)) + 1))
                # ticks of 90 or 60 bpm from 3 s or 2 s on
                turn, ratio = (2, 480) if name == "one.mid" else (3, 720)
                limit = math.inf if cut is None else 960 * min(cut, turn) + ratio * max(0, cut - turn)
                for k, (old, new) in enumerate(zip(messages(primer, limit - 1), now)):
                    self.assertEqual(old, new[:len(old)], f"{name}, track {k}, cut at {cut}")
                    for tick, m in new[len(old):]:  # what is held is let go
                        end = max(t for track in messages(primer) for t, _ in track) if cut is None else limit
                        self.assertGreaterEqual(tick, end - 5)
                        self.assertTrue(m.type == "note_off"
                                        or (m.type == "control_change" and m.control == 64 and m.value == 0), m)
                begins, name_event, marker = 0, now[-1][0][1], next((t, m) for t, m in now[-1] if m.type == "marker")
                self.assertEqual((name_event.type, name_event.name, marker[1].text), ("track_name", NAME, NAME))
                if cut is not None:
                    self.assertAlmostEqual(marker[0], limit, delta=1)
                notes = [(t, m) for t, m in now[-1] if m.type in ("note_on", "note_off")]
                self.assertTrue(notes)
                self.assertTrue(all(t >= marker[0] for t, _ in notes))
                channels = {m.channel for track in now[:-1] for _, m in track if not m.is_meta and m.type != "sysex"}
                self.assertFalse(channels & {m.channel for _, m in notes})

    @unittest.skipUnless(pretty_midi, "needs pretty_midi")
    def test_every_note_up_to_the_cut_by_pretty_midi(self):
        for name in ("one.mid", "many.mid"):
            primer = self.put(name, FILES[name])
            for cut in (None, 1.23, 2.5):
                out = self.play(primer, "out.mid", "--length-seconds", 3,
                                *(() if cut is None else ("--prime-seconds", cut)))
                was, now = pretty_midi.PrettyMIDI(str(primer)), pretty_midi.PrettyMIDI(str(out))
                end = cut or math.inf
                key = lambda n: (n.start, n.pitch, n.velocity, min(n.end, end))
                old = sorted(key(n) for i in was.instruments for n in i.notes if n.start < end)
                new = sorted(key(n) for i in now.instruments if i.name != NAME for n in i.notes)
                # never released in the file, so that pretty_midi does not have it there
                held = [n for n in new if n[1] == 76]
                self.assertEqual(old, [n for n in new if n not in held])
                self.assertEqual(len(held), 2 if name == "many.mid" and cut is None else 0)
                self.assertTrue(any(i.name == NAME and i.notes for i in now.instruments))
                changes = [list(x) for x in zip(*was.get_tempo_changes()) if x[0] < end]
                self.assertEqual(changes, [list(x) for x in zip(*now.get_tempo_changes())])

    def test_pitches_and_times_go_on_in_the_file_s_tempo(self):
        """The continuation as --output of tokens and as a file's own track are the same music."""
        primer, common = self.put("many.mid", FILES["many.mid"]), ("--prime-seconds", 3.5, "--length-seconds", 6,
                                                                   "--seed", 4, "--precision", "fp32")
        tokens = pieces(self.play(primer, "t.safetensors", *common, "--without-primer"))[0]
        clock, expected = 0, []
        for t in tokens:
            clock += t - 255 if 256 <= t < 356 else 0
            if t < 128:
                expected.append((round(clock / 100, 2), t))
        for name, offset, arguments in (("with.mid", 3.5, ()), ("without.mid", 0, ("--without-primer",))):
            data, found = self.play(primer, name, *common, *arguments).read_bytes(), []
            track = data[data.rindex(b"MTrk") + 8:]
            for tick, event in raw_notes(track):
                time = (tick - (2880 if offset else 0)) / 720 + (3 if offset else 0)
                if event[0] >> 4 == 9:
                    found.append((round(time - offset, 2), event[1]))
            self.assertEqual(sorted(found), sorted(expected))
            self.assertIn(NAME.encode(), track)
        self.assertIn(tempo(90), track)  # of the cut, where time begins

    def test_several_takes_hold_the_whole_primer_each(self):
        primer = self.put("one.mid", FILES["one.mid"])
        self.play(primer, "w.mid", "--number", 2, "--length-seconds", 2)
        self.assertFalse(self.out("w.mid").exists())
        takes = [self.out(f"w-{k}.mid").read_bytes() for k in (1, 2)]
        own = 8 + len(ONE)
        for data in takes:
            self.assertEqual(data[14 + 8:14 + 8 + len(ONE)], ONE)
        self.assertEqual(takes[0][18:own], takes[1][18:own])
        self.assertNotEqual(*takes)

    def test_token_primers_have_no_file(self):
        out = self.play(f"{self.tokens}:0", "o.mid", "--length-tokens", 50)
        self.assertEqual(out.read_bytes()[8:14], struct.pack(">HHH", 0, 1, 500))

    def test_number_of_notes(self):
        said = run("pagen", self.run_dir, "--primer", self.primer, "--output", self.out("w.mid"), "--prime-seconds", 5,
                   "--length-seconds", 6)
        begun = [e for e in events(self.primer) if float(e[0]) < 4.995 and e[2] == "NOTE_ON"]
        both = [e for e in events(self.out("w.mid")) if e[2] == "NOTE_ON"]
        self.assertEqual([(e[0], e[3]) for e in both[:len(begun)]], [(e[0], e[3]) for e in begun])
        self.assertRegex(said, rf"primer +{len(begun)} +5\.0 ")
        self.assertRegex(said, rf"w\.mid +{len(both) - len(begun)}\b")
        self.assertRegex(said, r"\d+ tokens in [\d.]+ s, \d+ tokens/s")


def raw_notes(track):
    """(tick, bytes) of a track of ours that has no running status."""
    i, tick = 0, 0
    while i < len(track):
        delta = 0
        while True:
            delta = delta << 7 | track[i] & 127
            i += 1
            if track[i - 1] < 128:
                break
        tick += delta
        size = 3 + track[i + 2] if track[i] == 0xFF else 2 if track[i] >> 4 == 0xC else 3
        if track[i] >> 4 in (8, 9):
            yield tick, track[i:i + size]
        i += size


class Cut(Primer):
    def test_to_the_step(self):
        """A note from 0 to 2 s and one from 2 to 3 s, cut at 1.9 s: 1.9 s of primer, and nothing begins before its
        end."""
        primer = self.put("p.mid", midi([(0, 2, 60, 64), (2, 3, 64, 64)], 4))
        for model, on in ((self.run_dir, 60), (self.neural_model(), 60)):
            for cut in (0.07, 1.0, 1.9, 1.99, 2.0):
                length = ("--prime-seconds", cut, "--length-tokens", 40)
                made = pieces(self.play(primer, "t.safetensors", *length, model=model))[0][:-40]
                self.assertAlmostEqual(seconds(made), cut, places=9)
                self.assertEqual([t for t in made if t < 128], [on])
                data = self.play(primer, "o.mid", *length, model=model).read_bytes()
                for tick, event in raw_notes(data[data.rindex(b"MTrk") + 8:]):
                    self.assertGreaterEqual(tick, round(1000 * cut))
                own = data[22:data.rindex(b"MTrk")]
                self.assertEqual([(t, e[1]) for t, e in raw_notes(own) if e[0] == 0x90], [(0, 60)])

    def test_after_tokens(self):
        """A chord that is cut in two: its first note is the primer's, and is in the file though the file's own events
        end before it."""
        primer = self.put("p.mid", midi([(0, 1, 50, 64)] + [(1, 2, p, 64) for p in (60, 64, 67)], 3))
        whole = pieces(self.play(primer, "w.safetensors", "--length-tokens", 1))[0]
        cut = whole.index(60) + 1
        made = pieces(self.play(primer, "t.safetensors", "--prime-tokens", cut, "--length-tokens", 60))[0]
        self.assertEqual(made[:cut], whole[:cut])
        data = self.play(primer, "o.mid", "--prime-tokens", cut, "--length-tokens", 60).read_bytes()
        border = data.rindex(b"MTrk")
        self.assertEqual([(t, e[1]) for t, e in raw_notes(data[22:border]) if e[0] == 0x90], [(0, 50)])
        self.assertIn((1000, 60), [(t, e[1]) for t, e in raw_notes(data[border + 8:]) if e[0] >> 4 == 9])

    def test_behind_a_drifting_clock(self):
        """midi-neural rounds each pause by itself: 200 of 14 ms are 2 s. The continuation still begins behind the
        file's music."""
        primer = self.put("p.mid", midi([(0.014 * i, 0.014 * (i + 1), 40 + i % 40, 64) for i in range(200)], 4))
        made = pieces(self.play(primer, "t.safetensors", "--length-tokens", 40, model=self.neural_model()))[0][:-40]
        self.assertLess(seconds(made), 2.5)
        data = self.play(primer, "o.mid", "--length-tokens", 200, model=self.neural_model()).read_bytes()
        border = data.rindex(b"MTrk")
        self.assertEqual(sum(e[0] == 0x90 for _, e in raw_notes(data[22:border])), 200)
        begun = [t for t, e in raw_notes(data[border + 8:]) if e[0] >> 4 == 9]
        self.assertTrue(begun and min(begun) >= 2800)

    def test_at_the_beginning(self):
        late = self.put("late.mid", midi([(5.4, 6, 60, 64), (6, 7, 64, 64)], 8))
        for cut in (0.5, 5.4):
            self.refused("pagen", 2, "--prime-seconds: expected more than 5.40, where the music of", self.run_dir,
                         "--primer", late, "--output", self.out("o.mid"), "--prime-seconds", cut)
        said = self.play(late, "o.mid", "--prime-seconds", 6.5, "--length-tokens", 30, said=True)
        self.assertIn("late.mid: music begins at 0:05\n", said)
        data = self.out("o.mid").read_bytes()
        self.assertTrue(all(tick >= 6500 for tick, _ in raw_notes(data[data.rindex(b"MTrk") + 8:])))
        tokens = pieces(self.play(late, "t.safetensors", "--prime-seconds", 6.5, "--length-tokens", 30))[0]
        self.assertAlmostEqual(seconds(tokens[:-30]), 1.1, places=9)  # from the first note on

    def test_a_last_chord_that_is_never_released(self):
        chord = (at(0, 0xB0, 64, 127) + at(0, 0x90, 60, 64) + at(480, 60, 0) + at(0, 0xB0, 64, 0) +
                 at(0, 0x90, 64, 64) + at(0, 67, 64))
        primer = self.put("live.mid", smf(0, 480, chord + at(960, 0xB0, 7, 100)))
        said = self.play(primer, "o.mid", "--length-tokens", 5, said=True)
        self.assertIn("live.mid: 2 notes never released, sounding to the end of the file\n", said)
        said = self.play(self.at / "midi" / "1.mid", "p.mid", "--length-tokens", 5, said=True)
        self.assertNotIn("never released", said)

    def test_a_key_and_a_pedal_held_over_the_cut(self):
        """60 is down and 62 sounds by the pedal: both sound on until the model ends them, and are let go in the
        file."""
        notes = [(0, 3, 60, 64), (1.1, 1.2, 62, 64), (3, 4, 64, 64)]
        primer = self.put("p.mid", midi(notes, 5))  # pedal down for the first half of each second
        out = self.play(primer, "o.mid", "--prime-seconds", 1.4, "--length-seconds", 5)
        file = self.play(primer, "t.safetensors", "--prime-seconds", 1.4, "--length-seconds", 5)
        tokens, clock, ends = pieces(file)[0], 0, {}
        for t in tokens:
            clock += t - 255 if 256 <= t < 356 else 0
            if 128 <= t < 256:
                ends.setdefault(t - 128, clock)
        data = out.read_bytes()
        own, pedal = data[22:data.rindex(b"MTrk")], []
        offs = {e[1]: t for t, e in raw_notes(own) if e[0] == 0x80 or e[2] == 0}
        self.assertEqual(offs[60], 10 * ends.get(60, clock))
        self.assertEqual(offs[62], 1200)
        i = own.rindex(b"\xb0\x40\x00")  # the pedal is lifted when 62 ends
        self.assertGreater(i, own.rindex(b"\x90\x3e"))
        self.assertGreaterEqual(ends.get(62, clock), 140)


class Kinds(Primer):
    def test_damaged_primers_are_read_and_said(self):
        whole = midi([(0, 1, 60, 64), (1, 2, 64, 64), (2, 3, 67, 64)], 4)
        cut = self.put("cut.mid", whole[:-20])
        said = self.play(cut, "o.mid", "--length-tokens", 20, said=True)
        self.assertIn("cut.mid: damaged: track 1", said)
        self.assertTrue(events(self.out("o.mid")))
        self.refused("pagen", 3, "cut short", self.run_dir, "--primer", cut, "--output", self.out("o.mid"), "--strict")

    def test_other_parts_play_to_their_end(self):
        late = b"".join(at(480, 0x99, 38, 90) + at(480, 0x89, 38, 0) for _ in range(8))
        primer = self.put("late.mid", smf(1, 480, CONDUCTOR, LEFT, late))
        played = self.play(primer, "o.mid", "--length-tokens", 20).read_bytes()
        self.assertIn(late + b"\0\xff\x2f\0", played)

    def test_held_on_another_port(self):
        port = [at(0, 0xFF, 0x21, 1, p) for p in (0, 1)]
        held = (port[0] + at(0, 0x90, 60, 80) + at(0, 0xB0, 64, 127) +
                port[1] + at(240, 0x90, 64, 80) + at(1680, 0x80, 64, 0))
        primer = self.put("ports.mid", smf(0, 480, held))
        played = self.play(primer, "o.mid", "--prime-seconds", 1, "--length-tokens", 9).read_bytes()
        track = played[:played.index(NAME.encode())]
        for release in (0x80, 60, 64), (0xB0, 64, 0):
            before = track[:track.rindex(bytes(release))]
            self.assertGreater(before.rfind(bytes([0xFF, 0x21, 1, 0])), before.rfind(bytes([0xFF, 0x21, 1, 1])),
                               release)

    def test_after_a_fade(self):
        fade = (at(0, 0xB0, 7, 100) + at(0, 0x90, 60, 80) + at(960, 0x80, 60, 0) +
                at(0, 0x90, 64, 80) + at(0, 0xB0, 7, 0) + at(960, 0x80, 64, 0))
        played = self.play(self.put("fade.mid", smf(0, 480, fade)), "o.mid", "--length-tokens", 9).read_bytes()
        self.assertIn(bytes([0xB1, 7, 100]), played[played.index(NAME.encode()):])

    def test_programs(self):
        primer = self.put("many.mid", smf(1, 480, CONDUCTOR, RIGHT, at(0, 0xC1, 40) + LEFT))
        tokens = [pieces(self.play(primer, "t.safetensors", "--length-tokens", 9, *more))[0][:-9]
                  for more in ((), ("--programs", "0-7"))]
        self.assertIn(36, tokens[0])
        self.assertNotIn(36, tokens[1])
        self.assertIn(60, tokens[1])
        output = ("--output", self.out("o.mid"))
        for says, arguments in (("expected --primer", (self.run_dir, *output, "--programs", "0-7")),
                                ("--programs needs a MIDI file",
                                 (self.run_dir, *output, "--primer", self.tokens, "--programs", "0-7")),
                                ("--strict needs a MIDI file",
                                 (self.run_dir, *output, "--primer", self.tokens, "--strict")),
                                ("--sostenuto needs a model of the performance encoding, found midi-neural",
                                 (self.neural_model(), *output, "--primer", primer, "--sostenuto"))):
            self.refused("pagen", 2, says, *arguments)

    def test_a_short_primer_is_said(self):
        said = self.play(self.put("p.mid", midi([(0, 1, 60, 64)], 2)), "o.mid", "--length-tokens", 20, said=True)
        self.assertRegex(said, r"pagen: short primer: 1\.5 s, \d tokens; the model was trained to look back over at least "
                               rf"{PREFIX} ")
        self.assertNotIn("short primer", self.play(self.primer, "o.mid", "--length-tokens", 20, said=True))

    def test_wrong_kinds_of_file_are_named(self):
        audio = self.put("a.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0")
        torch = self.put("m.pt", b"PK\x03\x04" + bytes(26) + b"m/data.pkl" + bytes(100))
        output = ("--output", self.out("o.mid"))
        for status, says, arguments in (
                (3, "found a MIDI file; the model comes first: pagen MODEL --primer",
                 (self.primer, "--primer", self.run_dir, *output)),
                (3, "found a MIDI file; the model comes first", (self.primer, *output)),
                (3, "a.wav: expected a MIDI file, found audio; audio must be transcribed to MIDI first",
                 (self.run_dir, "--primer", audio, *output)),
                (3, "m.pt: expected a safetensors file, found a PyTorch checkpoint; convert it with "
                    "scripts/import_checkpoint.py",
                 (torch, "--primer", self.primer, *output))):
            self.refused("pagen", status, says, *arguments)
        self.refused("paprep", 3, "audio must be transcribed to MIDI first", "--events", audio)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main()
