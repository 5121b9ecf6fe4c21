#!/usr/bin/env python3
"""What pagen makes beside MIDI: sound, a piano roll, a page; and that a wrong name is refused before any work. Exits
with 77 where the build lacks the libraries or no SoundFont is installed."""
import array
import base64
import os
import pathlib
import subprocess
import sys
import unittest
import wave

from tiny import BIN, Program, command, run

SKIPPED = subprocess.run([BIN / "test_page", "/dev/null/x"], capture_output=True, check=False).returncode == 77


class Show(Program):
    def setUp(self):
        self.folder_of_test = self.out("files")
        self.folder_of_test.mkdir()

    def file(self, name):
        return self.folder_of_test / name

    def files(self):
        return {path.name for path in self.folder_of_test.iterdir()}

    def pagen(self, *arguments, status=0, **options):
        return run("pagen", self.run_dir, "--primer", self.primer, "--prime-seconds", 5, "--length-seconds", 3,
                   "--output", self.file("out.mid"), *arguments, status=status, **options)

    def seconds(self, name):
        with wave.open(str(self.file(name))) as sound:
            return sound.getnframes() / sound.getframerate()

    def left(self, name):
        """The left channel in 16 bits."""
        with wave.open(str(self.file(name))) as sound:
            frames = sound.readframes(sound.getnframes())
        return array.array("h", b"".join(frames[i + 1 : i + 3] for i in range(0, len(frames), 6)))

    def test_all_of_it(self):
        kinds = ("wav", "flac", "ogg", "mp3")
        options = [word for kind in (*kinds, "html") for word in ("--" + kind, self.file("x." + kind))]
        self.pagen("--number", 2, "--top-p", 0.95, "--piano-roll", self.file("x.svg"), *options)
        self.assertEqual(self.files(), {"out-1.mid", "out-2.mid", "x.svg", "x.html"} |
                         {f"x-{k}.{kind}" for k in (1, 2) for kind in kinds})
        page = self.file("x.html").read_text()
        self.assertIn("1.mid, continued", page)
        self.assertRegex(page, r'<p class="facts">Model \S+, step \d+\. Seed 1, temperature 0\.9, top-p 0\.95\.</p>')
        for row in ("primer", '<a href="#take0">out-1.mid</a>', '<a href="#take1">out-2.mid</a>', "pianists"):
            self.assertIn(f'<tr><th scope="row">{row}</th>', page)
        self.assertEqual(page.count("data:audio/midi;base64,"), 2)
        self.assertEqual(page.count('data-begins="5"'), 2)
        self.assertEqual([page.count(f'<p class="remark">rank {k} of 2, distance ') for k in (1, 2)], [1, 1])
        self.assertIn("</svg>", self.file("x.svg").read_text())
        self.assertGreater(self.seconds("x-2.wav"), 7.9)
        for k in (1, 2):
            self.assertIn(base64.b64encode(self.file(f"x-{k}.mp3").read_bytes()).decode(), page)

    def test_pedal_of_the_primer(self):
        """A grey bar a press, up to where the primer is cut."""
        pedal = b"".join(b"\x83\x60\xb0\x40" + bytes([value]) for value in (127, 0, 90, 0, 64, 0, 127, 0))  # every 0.5 s
        track = b"\0\x90\x3c\x50" + pedal + b"\x83\x60\x80\x3c\0" + b"\0\xff\x2f\0"
        primer = self.file("pedal.mid")
        primer.write_bytes(b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + len(track).to_bytes(4, "big") + track)
        for options, bars in (([], 4), (["--prime-seconds", 1.7], 2), (["--without-primer"], 0)):
            run("pagen", self.run_dir, "--primer", primer, "--length-seconds", 3, "--output", self.file("out.mid"),
                "--piano-roll", self.file("x.svg"), *options)
            self.assertEqual(self.file("x.svg").read_text().count("rgb(55%,57%,60%)"), bars, options)

    def test_sound_without_the_primer_begins_with_the_continuation(self):
        self.pagen("--wav", self.file("both.wav"))
        self.pagen("--without-primer", "--wav", self.file("continuation.wav"))
        self.assertAlmostEqual(self.seconds("both.wav") - self.seconds("continuation.wav"), 5, delta=0.3)

    def test_soundfont(self):
        """The one that is named sounds: a part of it can't."""
        installed = next(pathlib.Path("/usr/share").glob("sound*/**/*.sf[23]"))
        self.file("other.sf3").symlink_to(installed)
        self.pagen("--soundfont", self.file("other.sf3"), "--wav", self.file("x.wav"))
        self.assertGreater(max(self.left("x.wav")), 1000)
        with installed.open("rb") as font:
            self.file("part.sf3").write_bytes(font.read(5000))
        error = self.pagen("--soundfont", self.file("part.sf3"), "--wav", self.file("x.wav"), status=3)
        self.assertIn(f"cannot load SoundFont {self.file('part.sf3')}; the continuations are written", error)

    def output(self, device):
        """An environment whose default audio output is this of ALSA."""
        config = self.file("asound.conf")
        config.write_text(device)
        return {"ALSA_CONFIG_PATH": config, "PULSE_SERVER": "unix:/nowhere"}

    def test_play(self):
        played = self.file("played.raw")
        environment = self.output("pcm.!default {\n type file\n slave.pcm { type null }\n"
                                  f' file "{played}"\n format raw\n}}\n')
        self.pagen("--play", "--without-primer", "--wav", self.file("x.wav"), env=environment)
        left = array.array("h", played.read_bytes())[::2]
        loud = [sum(sample > 500 for sample in sound) for sound in (self.left("x.wav"), left)]
        self.assertGreater(loud[0], 1000)
        self.assertAlmostEqual(*loud, delta=0.01 * loud[0])  # dithered

    def test_play_without_an_output_is_refused_before_any_work(self):
        self.assertIn("no audio output found", self.pagen("--play", env=self.output(""), status=2))
        self.assertEqual(self.files(), {"asound.conf"})

    def test_files_of_several_takes_appear_together(self):
        """The second take's sound can't be written: neither is the first one's."""
        done = subprocess.run(
            command("pagen", self.run_dir, "--output", self.file("out.mid"), "--length-tokens", 5, "--number", 2,
                    "--wav", self.file("x.wav"), "--piano-roll", self.file("x.svg"), "--html", self.file("x.html")),
            env=os.environ | {"LD_PRELOAD": os.environ["PA_SHIM"], "FAILING_FS": "fsync:x-2.wav:1:5",
                              "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"},
            text=True, capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(f"cannot write {self.file('x-2.wav')}: Input/output error; the continuations are written\n",
                      done.stderr)
        self.assertEqual(self.files(), {"out-1.mid", "out-2.mid"})

    def test_wrong_names_are_refused_before_any_work(self):
        rows = [(["--wav", "x.mp3"], 2, "--wav: expected a name in .wav"),
                (["--html", "x.txt"], 2, "--html: expected a name in .html"),
                (["--piano-roll", "x.pdf"], 2, "--piano-roll: expected a name in .png or .svg"),
                (["--piano-roll", self.file("x.svg"), "--number", 97], 2,
                 "--piano-roll: expected at most 96 continuations"),
                (["--number", 2, "--wav", "x"], 2, "--wav: expected a name in .wav"),
                (["--ogg", self.file("none/x.ogg")], 1, "none/x.ogg"),
                (["--soundfont", self.primer, "--wav", self.file("x.wav")], 2, "not a SoundFont"),
                (["--soundfont", self.primer], 2, "--soundfont, found none")]
        for options, status, words in rows:
            with self.subTest(options):
                self.assertIn(words, self.pagen(*options, status=status))
                self.assertEqual(self.files(), set())


if __name__ == "__main__":
    if SKIPPED:
        print("skipped: built without cairo or sound, or no SoundFont is installed")
        sys.exit(77)
    unittest.main()
