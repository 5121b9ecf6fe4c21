#!/usr/bin/env python3
"""scripts/chorales.py on scores written here: what it reads of MusicXML, how it splits, that what it writes is sound
MIDI."""
import csv
import importlib.util
import io
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

SCRIPT = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts" / "chorales.py"
spec = importlib.util.spec_from_file_location("chorales", SCRIPT)
chorales = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chorales)
Q = chorales.QUARTER


def note(step, octave, duration, inside="", after="", before=""):
    pitch = f"<pitch><step>{step}</step>{inside}<octave>{octave}</octave></pitch>"
    return f"<note>{before}{pitch}<duration>{duration}</duration>{after}</note>"


def rest(duration):
    return f"<note><rest/><duration>{duration}</duration></note>"


def packed(parts, names=("Soprano", "Alto", "Tenor", "Bass")):
    """A .mxl file's bytes. parts: for each voice, a list of the inner text of its measures (two divisions a
    quarter)."""
    listed = "".join(f'<score-part id="P{i}"><part-name>{name}</part-name></score-part>'
                     for i, name in enumerate(names))
    bodies = ""
    for i, measures in enumerate(parts):
        first = "<attributes><divisions>2</divisions></attributes>"
        inner = "".join(f"<measure>{'' if m else first}{text}</measure>" for m, text in enumerate(measures))
        bodies += f'<part id="P{i}">{inner}</part>'
    score = f"<score-partwise><part-list>{listed}</part-list>{bodies}</score-partwise>"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mimetype", "application/vnd.recordare.musicxml")
        archive.writestr("META-INF/container.xml",
                         '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles></container>')
        archive.writestr("score.xml", score)
    return stream.getvalue()


def filler(measures, quarters=4):
    """Alto, tenor and bass of whole notes beneath a soprano of as many measures."""
    return [[note(step, octave, 2 * quarters)] * measures for step, octave in (("E", 4), ("G", 3), ("C", 3))]


def voice(score, number):
    return [(n.start / Q, n.end / Q, n.pitch) for n in score.notes if n.voice == number]


def chorale(seed, measures=8):
    """A random soprano in quarters over filler."""
    rng = random.Random(seed)
    line = ["".join(note(rng.choice("CDEFGAB"), 5, 2) for _ in range(4)) for _ in range(measures)]
    return packed([line, *filler(measures)])


def read_midi(data):
    """(start ms, end ms, pitch, velocity) of a type-0 file, by a reader that shares nothing with the writer."""
    assert data[:14] == b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500), data[:14]
    assert data[14:18] == b"MTrk" and struct.unpack(">I", data[18:22])[0] == len(data) - 22
    at, now, open_notes, notes, ended = 22, 0, {}, [], False
    while at < len(data):
        delta = 0
        while True:
            byte = data[at]
            at += 1
            delta = delta << 7 | byte & 127
            if byte < 128:
                break
        now += delta
        status = data[at]
        if status == 0xFF:
            ended = data[at + 1] == 0x2F
            at += 3 + data[at + 2]
        elif status == 0xC0:
            at += 2
        else:
            pitch, velocity = data[at + 1], data[at + 2]
            if status == 0x90:
                assert pitch not in open_notes, "a key is struck that is still down"
                open_notes[pitch] = now, velocity
            else:
                assert status == 0x80
                start, struck = open_notes.pop(pitch)
                notes.append((start, now, pitch, struck))
            at += 3
    assert ended and not open_notes
    return notes


class Reading(unittest.TestCase):
    def read(self, *arguments, **keywords):
        return chorales.read_score("score", packed(*arguments, **keywords))

    def test_pitches_durations_and_accidentals(self):
        soprano = [note("C", 5, 2) + note("F", 5, 1, inside="<alter>1</alter>") +
                   note("B", 4, 5, inside="<alter>-1</alter>")]
        self.assertEqual(voice(self.read([soprano, *filler(1)]), 0), [(0, 1, 72), (1, 1.5, 78), (1.5, 4, 70)])

    def test_ties_join_across_bars_and_repeated_notes_do_not(self):
        soprano = [note("C", 5, 8, after='<tie type="start"/>'),
                   note("C", 5, 4, after='<tie type="stop"/>') + note("C", 5, 4)]
        self.assertEqual(voice(self.read([soprano, *filler(2)]), 0), [(0, 6, 72), (6, 8, 72)])

    def test_transposing_part(self):
        horn = ["<attributes><transpose><chromatic>-5</chromatic><octave-change>-1</octave-change></transpose>"
                "</attributes>" + note("C", 6, 8)]
        self.assertEqual(voice(self.read([horn, *filler(1)]), 0), [(0, 4, 67)])

    def test_grace_notes_are_left_out(self):
        soprano = ["<note><grace/><pitch><step>D</step><octave>5</octave></pitch></note>" + note("C", 5, 8)]
        self.assertEqual(voice(self.read([soprano, *filler(1)]), 0), [(0, 4, 72)])

    def test_chords_and_backup(self):
        soprano = [note("C", 5, 8) + note("A", 5, 8, before="<chord/>") + "<backup><duration>4</duration></backup>" +
                   note("B", 5, 4)]
        self.assertEqual(voice(self.read([soprano, *filler(1)]), 0), [(0, 4, 72), (0, 4, 81), (2, 4, 83)])

    def test_first_ending_is_left_out_of_all_voices(self):
        first = '<barline><ending number="1" type="start"/></barline>'
        second = '<barline><ending number="2" type="start"/></barline>'
        soprano = [note("C", 5, 8), first + note("D", 5, 8), second + note("E", 5, 8)]
        score = self.read([soprano, *filler(3)])
        self.assertEqual(voice(score, 0), [(0, 4, 72), (4, 8, 76)])
        self.assertEqual(score.bars, [0, 4 * Q])

    def test_bars_without_voices_are_left_out(self):
        parts = [[note("C", 5, 8), rest(8), note("D", 5, 8)]] + [[note(s, 3, 8), rest(8), note(s, 3, 8)] for s in "GEC"]
        self.assertEqual(voice(self.read(parts), 0), [(0, 4, 72), (4, 8, 74)])

    def test_short_part_does_not_drift(self):
        soprano = [note("C", 5, 2), note("D", 5, 8)]  # its first bar lacks three rests
        self.assertEqual(voice(self.read([soprano, *filler(2)]), 0), [(0, 1, 72), (4, 8, 74)])

    def test_shared_key_is_struck_once(self):
        parts = [[note("E", 4, 4) + note("F", 4, 4)], [note("E", 4, 8)], [note("G", 3, 8)], [note("C", 3, 8)]]
        score = self.read(parts)
        self.assertEqual([n for n in score.notes if n.pitch == 64], [(0, 4 * Q, 64, 0)])

    def test_fermatas_hold_the_last_chord(self):
        held = "<notations><fermata/></notations>"
        parts = [[note("C", 5, 4) + note("D", 5, 4, after=held)], [note("E", 4, 6) + note("D", 4, 2, after=held)],
                 *filler(1)[1:]]
        self.assertEqual(self.read(parts).fermatas, [(3 * Q, 4 * Q)])

    def test_other_instruments_are_left_out_and_scores_without_four_voices_refused(self):
        horn, voices = [note("C", 6, 8)], [[note("C", 5, 8)], *filler(1)]
        score = self.read([horn, *voices], names=("Horn 1", "Soprano\rOboe", "Alto", "Tenor", "Bass\rContinuo"))
        self.assertEqual([n.pitch for n in score.notes if n.voice == 0], [72])
        self.assertIsNone(self.read([horn], names=("Piano",)))


class Splitting(unittest.TestCase):
    def test_transpositions_of_a_tune_are_one_family(self):
        scores = [chorales.read_score(str(i), chorale(i)) for i in range(6)]
        moved = scores[2]._replace(name="moved", notes=[n._replace(pitch=n.pitch + 3) for n in scores[2].notes])
        families = sorted(map(sorted, chorales.families([*scores, moved])))
        self.assertEqual(families, [[0], [1], [2, 6], [3], [4], [5]])

    def test_no_tune_is_in_two_splits(self):
        scores = [chorales.read_score(f"{i}{copy}", chorale(i)) for i in range(60) for copy in "ab"]
        names = chorales.split(scores)
        for i in range(60):
            self.assertEqual(names[2 * i], names[2 * i + 1])
        for name, enough in chorales.HELD_OUT.items():
            self.assertIn(names.count(name), (enough, enough + 1))


class Playing(unittest.TestCase):
    def setUp(self):
        self.score = chorales.read_score("score", chorale(1))
        self.played = chorales.perform(self.score, 0, random.Random("score 0"))

    def test_every_note_is_played_within_its_bounds(self):
        self.assertEqual(sorted(n[2] for n in self.played), sorted(n.pitch for n in self.score.notes))
        for start, end, _, velocity in self.played:
            self.assertGreaterEqual(start, 0)
            self.assertGreater(end, start)
            self.assertTrue(24 <= velocity <= 110)

    def test_soprano_sings_out(self):
        loud = [v for _, _, pitch, v in self.played if pitch >= 72]
        soft = [v for _, _, pitch, v in self.played if pitch < 72]
        self.assertGreater(sum(loud) / len(loud), sum(soft) / len(soft) + 5)

    def test_midi_holds_the_performance(self):
        notes = read_midi(chorales.midi(self.played))
        self.assertEqual(sorted(notes),
                         sorted((round(1000 * start), round(1000 * end), *rest) for start, end, *rest in self.played))

    def test_variable_length_numbers(self):
        for number, text in ((0, "00"), (127, "7f"), (128, "8100"), (16383, "ff7f"), (16384, "818000")):
            self.assertEqual(chorales.variable_length(number).hex(), text)


class Program(unittest.TestCase):
    def run_script(self, *arguments):
        return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)

    def test_writes_the_same_corpus_twice(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "scores").mkdir()
            for i in range(50):
                (folder / "scores" / f"bwv{i}.mxl").write_bytes(chorale(i))
            trees = []
            for out in ("one", "two"):
                done = self.run_script(folder / out, "--corpus", folder / "scores", "--keys", "-1", "1")
                self.assertEqual(done.returncode, 0, done.stderr)
                trees.append({p.relative_to(folder / out): p.read_bytes() for p in (folder / out).rglob("*.*")})
            self.assertEqual(trees[0], trees[1])
            with open(folder / "one" / "chorales.csv", newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            listed = {pathlib.Path(row["midi_filename"]) for row in rows} | {pathlib.Path("chorales.csv")}
            self.assertEqual(listed, set(trees[0]))
            splits = {row["canonical_title"]: set() for row in rows}
            for row in rows:
                splits[row["canonical_title"]].add(row["split"])
                notes = read_midi(trees[0][pathlib.Path(row["midi_filename"])])
                self.assertAlmostEqual(float(row["duration"]), max(n[1] for n in notes) / 1000, delta=0.002)
            self.assertTrue(all(len(found) == 1 for found in splits.values()))
            self.assertEqual(len(rows), sum(3 if found == {"train"} else 1 for found in splits.values()))

    def test_says_what_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_script(folder + "/out", "--corpus", folder)
            self.assertEqual(done.returncode, 1)
            self.assertIn("no four-part score among the 0 .mxl files", done.stderr)
            self.assertEqual(self.run_script(folder + "/out", "--keys", "3", "1").returncode, 2)


if __name__ == "__main__":
    unittest.main()
