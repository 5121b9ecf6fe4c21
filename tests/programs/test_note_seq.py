#!/usr/bin/env python3
"""`performance` against note_seq (Magenta) on random files: paprep reads the file with its tracks, note_seq reads its
merge to one track by mido, because its own reader takes tempo and pedal by track. The files hold what both read alike:
no program changes, ports or drums; every key is released; every channel that has a pedal has notes.

Skipped (exit 77) where note_seq cannot be imported. PA_BIN is the folder of patrain's programs.
"""

import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import mido
    import note_seq
    from note_seq import performance_lib, sequences_lib
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

PAPREP = os.path.join(os.environ["PA_BIN"], "paprep")
FILES, TRACKS, CHANNELS, PITCHES = 200, 4, (0, 3, 12), range(60, 65)
FIRST = {performance_lib.PerformanceEvent.NOTE_ON: 0, performance_lib.PerformanceEvent.NOTE_OFF: 128,
         performance_lib.PerformanceEvent.TIME_SHIFT: 255, performance_lib.PerformanceEvent.VELOCITY: 355}


def draw_event(draw):
    channel, kind = draw.choice(CHANNELS), draw.randrange(20)
    if kind < 8:
        return mido.Message("note_on", channel=channel, note=draw.choice(PITCHES), velocity=draw.randrange(128))
    if kind < 13:
        return mido.Message("note_off", channel=channel, note=draw.choice(PITCHES))
    if kind < 18:
        control, value = draw.choice((64, 64, 64, 64, 66, 67, 7)), draw.choice((0, 63, 64, 127))
        return mido.Message("control_change", channel=channel, control=control, value=value)
    return mido.MetaMessage("set_tempo", tempo=draw.randrange(200000, 1500000))


def draw_file(draw):
    """Type 1: events of every kind in any track, in moments of up to four events a track."""
    file = mido.MidiFile(type=1, ticks_per_beat=draw.choice((96, 384, 480)))
    tracks = [[] for _ in range(TRACKS)]
    tick = 0
    for channel in CHANNELS:
        tracks[0].append((0, mido.Message("note_on", channel=channel, note=50, velocity=64)))
        tracks[0].append((9, mido.Message("note_off", channel=channel, note=50)))
    for _ in range(draw.randrange(1, 25)):
        tick += draw.choice((1, 5, draw.randrange(10, 400)))
        for track in tracks:
            track += [(tick, draw_event(draw)) for _ in range(draw.randrange(5))]
    last = tick + draw.randrange(10, 300)
    for channel in CHANNELS:
        tracks[-1] += [(last, mido.Message("note_off", channel=channel, note=note)) for note in PITCHES]
    if draw.randrange(2):  # a pedal that is never lifted ends at its last message
        down = mido.Message("control_change", channel=3, control=64, value=127)
        tracks[1] += [(last + 50, down), (last + 100, down)]
    for events in tracks:
        at, track = 0, mido.MidiTrack()
        for tick, message in sorted(events, key=lambda e: e[0]):
            track.append(message.copy(time=tick - at))
            at = tick
        file.tracks.append(track)
    return file


def magenta(path):
    sequence = sequences_lib.apply_sustain_control_changes(note_seq.midi_file_to_note_sequence(str(path)))
    quantized = sequences_lib.quantize_note_sequence_absolute(sequence, 100)
    events = performance_lib.Performance(quantized, num_velocity_bins=32, max_shift_steps=100)
    return [FIRST[e.event_type] + e.event_value for e in events]


def paprep(path):
    found = subprocess.run([PAPREP, "--events", str(path)], capture_output=True, text=True, check=True)
    return [int(line.split()[1]) for line in found.stdout.splitlines() if not line.startswith("#")]


class NoteSeq(unittest.TestCase):
    def test_a_file_is_what_note_seq_makes_of_its_merge(self):
        draw = random.Random(1)
        with tempfile.TemporaryDirectory() as folder:
            path, merged = Path(folder, "file.mid"), Path(folder, "merged.mid")
            for number in range(FILES):
                file = draw_file(draw)
                file.save(path)
                one = mido.MidiFile(type=0, ticks_per_beat=file.ticks_per_beat)
                one.tracks.append(mido.merge_tracks(file.tracks))
                one.save(merged)
                self.assertEqual(paprep(path), magenta(merged), f"file {number}")


if __name__ == "__main__":
    unittest.main()
