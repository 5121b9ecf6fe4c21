"""paserve's page in a headless Chromium: a file is opened, continued, heard and saved; a duet is played on the screen's
keys, the computer's and a stand-in for a MIDI keyboard. Exits with 77 where Chromium or paserve is missing.

The pictures of docs/duet.md: PA_PICTURES=docs/images PA_MODEL=piano PA_BIN=... test_duet.py Duet.test_pictures
"""
import base64
import os
import pathlib
import sys
import tempfile
import unittest

import serve
import tiny
import browser

PROGRAM = browser.find()
MIDI = """window.made = {}; navigator.requestMIDIAccess = async () => {
  const input = { name: 'Stand-in', onmidimessage: null };
  window.made.send = (...data) => input.onmidimessage({ data, timeStamp: performance.now() });
  return { inputs: new Map([['1', input]]), onstatechange: null };
};"""
PHRASE = """async (press, lift, ms = 90) => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  for (let i = 0; i < 16; i++) {
    const pitch = [48, 60, 64, 67, 72, 67, 64, 60][i % 8] + [0, 5][i >> 3];
    press(pitch, 56 + i % 5 * 9); await wait(ms); lift(pitch);
  }
}"""


class Duet(unittest.TestCase):
    """One server and one browser; each test opens a session of its own."""

    @classmethod
    def setUpClass(cls):
        cls.at = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = os.environ.get("PA_MODEL") or serve.checkpoint(cls.at)
        (cls.at / "mine.mid").write_bytes(serve.piece(6))
        (cls.at / "broken.mid").write_bytes(b"MThd\0\0\0\6")
        cls.server = serve.Server(cls.model, cls.at / "saved")
        cls.addClassCleanup(cls.server.stop)
        cls.b = browser.Browser(PROGRAM, 1200, 1000)
        cls.addClassCleanup(cls.b.close)
        cls.b.call("Page.addScriptToEvaluateOnNewDocument", source=MIDI)
        cls.b.call("DOM.enable")

    def setUp(self):
        self.open()
        self.b.run("sessionStorage.clear()")
        self.open()
        self.b.events.clear()

    def open(self, port=None):
        self.b.open(f"http://127.0.0.1:{port or self.server.port}/")
        self.b.wait("document.body.dataset.ready == 'true'")

    def click(self, what):
        self.b.run(f"document.querySelector({what!r}).click()")

    def choose(self, name):
        root = self.b.call("DOM.getDocument")["root"]["nodeId"]
        node = self.b.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.b.call("DOM.setFileInputFiles", nodeId=node, files=[str(self.at / name)])

    def status(self):
        return self.b.run("document.getElementById('status').textContent")

    def saved(self, press):
        """The bytes of the file that a click downloads."""
        self.b.run("""window.blobs = []; const make = URL.createObjectURL;
            URL.createObjectURL = b => { blobs.push(b); return make.call(URL, b); }; 0""")
        press()
        self.b.wait("blobs.length")
        return base64.b64decode(self.b.run("""new Promise(done => { const r = new FileReader();
            r.onload = () => done(r.result.split(',')[1]); r.readAsDataURL(blobs[0]); })"""))

    def start_duet(self):
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'listening'")

    def phrase(self, press="(p, v) => paserve.keys.press(p, v)", lift="p => paserve.keys.lift(p)", ms=90):
        self.b.run(f"({PHRASE})({press}, {lift}, {ms})")

    def answered(self):
        self.b.wait("paserve.state.mode == 'answering' && paserve.state.current.keys.some(k => k.model)")

    def test_open_continue_hear_save(self):
        self.choose("mine.mid")
        self.b.wait("paserve.state.takes.size == 1 && paserve.state.current")
        self.assertEqual(self.b.run("document.querySelector('#takes .name').textContent"), "mine.mid")
        self.click("#takes li button[aria-label^=Continue]")
        self.b.wait("paserve.state.takes.size == 2 && paserve.state.mode == 'playing'")
        self.b.wait("[...paserve.state.takes.values()][1].keys.filter(k => k.model).length > 20")
        self.b.wait("paserve.now() > 3 && paserve.state.player.played > 3")
        self.b.key(" ", "Space")
        self.b.wait("paserve.state.mode == 'idle'")
        self.b.wait("![...paserve.state.takes.values()][1].growing")
        self.assertAlmostEqual(self.b.run("paserve.state.current.end"), 36, delta=0.5)  # all of it
        at = self.b.run("paserve.state.at")
        self.b.key("ArrowLeft")
        self.assertAlmostEqual(self.b.run("paserve.state.at"), max(0, at - 5), delta=0.02)
        level = self.b.run("""paserve.render(paserve.state.current).then(sound =>
            Math.max(...[0, 1, 2].map(s => Math.sqrt(sound.getChannelData(0).slice(s * 44100, (s + 1) * 44100)
                .reduce((a, x) => a + x * x, 0) / 44100))))""")
        self.assertGreater(level, 0.01)  # louder than -40 dBFS
        midi = self.saved(lambda: self.click("#takes li.current button[aria-label^=MIDI]"))
        (self.at / "out.mid").write_bytes(midi)
        self.assertGreater(len(tiny.events(self.at / "out.mid")), 100)
        self.assertEqual(self.b.complaints(), [])

    def test_sound_file(self):
        self.choose("mine.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length")
        sound = self.saved(lambda: self.click("#takes li button[aria-label^=WAV]"))
        self.assertEqual((sound[:4], sound[8:12]), (b"RIFF", b"WAVE"))
        self.assertGreater(len(sound), 6 * 2 * 44100)
        self.assertGreater(len(set(sound[44:])), 100)

    def test_damaged_file(self):
        self.choose("broken.mid")
        self.b.wait("document.getElementById('status').classList.contains('error')")
        self.assertIn("this file: ", self.status())
        self.choose("mine.mid")
        self.b.wait("paserve.state.takes.size == 1")

    def test_duet_on_a_midi_keyboard(self):
        self.click("#midi-in")
        self.b.wait("document.getElementById('status').textContent.includes('Stand-in')")
        self.start_duet()
        self.phrase("(p, v) => made.send(0x90, p, v)", "p => made.send(0x80, p, 0)")
        self.b.run("made.send(0xb0, 67, 127)")  # the left pedal
        self.answered()
        self.b.wait("paserve.state.player.played > 0 && "
                    "paserve.state.current.keys.some(k => k.model && k.velocity && k.time < paserve.now())")
        self.b.run("made.send(0x90, 72, 80)")  # takes the turn back at once
        self.assertEqual(self.b.run("paserve.state.mode"), "listening")
        coming = "paserve.state.current.keys.filter(k => k.model && k.time > paserve.now()).length"
        self.assertEqual(self.b.run(coming), 0)
        self.b.run("made.send(0x90, 72, 0)")
        self.click("#answer")
        self.b.wait("paserve.state.latency.length == 2")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && "
                    "paserve.state.current.keys.filter(k => !k.model && k.velocity).length == 17 && "
                    "paserve.state.current.fresh === null")  # the server's record
        self.assertGreater(self.b.run("paserve.state.current.keys.filter(k => k.model).length"), 0)
        self.assertEqual(self.b.run("paserve.state.current.keys.reduce((n, k) => n + (k.velocity ? 1 : -1), 0)"), 0)
        self.assertEqual(self.b.complaints(), [])

    def test_pedal_holds(self):
        self.click("#midi-in")
        self.b.wait("document.getElementById('status').textContent.includes('Stand-in')")
        self.start_duet()
        self.b.run("made.send(0xb0, 64, 127); made.send(0x90, 60, 80); made.send(0x80, 60, 0); 0")
        self.assertEqual(self.b.run("paserve.state.current.keys.length"), 1)
        self.b.run("made.send(0xb0, 64, 0)")
        self.assertEqual(self.b.run("paserve.state.current.keys.length"), 2)

    def test_computer_keys_and_pause(self):
        self.start_duet()
        for key in "asdfghasdf":
            code = "Key" + key.upper()
            self.b.call("Input.dispatchKeyEvent", type="rawKeyDown", key=key, code=code)
            self.b.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)
        self.assertEqual(self.b.run("paserve.state.current.keys.filter(k => k.velocity).map(k => k.pitch)"),
                         [60, 62, 64, 65, 67, 69, 60, 62, 64, 65])
        self.answered()  # after a pause

    def test_screen_keys(self):
        x, y = self.b.run("""(() => { const r = paserve.keys.keys.get(64).getBoundingClientRect();
            return [r.x + r.width / 2, r.bottom - 5]; })()""")
        self.start_duet()
        for kind in ("mousePressed", "mouseReleased"):
            self.b.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        keys = self.b.run("paserve.state.current.keys.map(k => [k.pitch, k.velocity > 90])")
        self.assertEqual(keys, [[64, True], [64, False]])

    def test_reload(self):
        self.choose("mine.mid")
        self.b.wait("paserve.state.takes.size == 1")
        self.open()
        self.b.wait("paserve.state.takes.size == 1 && paserve.state.current && paserve.state.current.keys.length == 48")

    def test_server_that_stops(self):
        server = serve.Server(self.model, self.at / "other", "--no-sound")
        self.open(server.port)
        server.stop()
        self.b.wait("document.getElementById('status').textContent.includes('No connection')")

    def test_phone_and_less_motion(self):
        self.addCleanup(self.b.call, "Emulation.clearDeviceMetricsOverride")
        self.addCleanup(self.b.call, "Emulation.setEmulatedMedia", features=[])
        self.b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        self.b.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        self.open()
        self.assertEqual(self.b.run("document.documentElement.scrollWidth"), 390)
        self.assertGreaterEqual(self.b.run("paserve.keys.keys.size"), 25)
        heights = self.b.run("[...document.querySelectorAll('button')].map(b => b.offsetHeight).filter(h => h)")
        self.assertGreaterEqual(min(heights), 44)
        self.b.run("window.frames_seen = 0; const was = requestAnimationFrame; "
                   "window.requestAnimationFrame = f => { window.frames_seen++; return was(f); }; 0")
        self.choose("mine.mid")
        self.b.wait("paserve.state.current")
        self.click("#play")
        self.b.wait("paserve.now() > 1")
        self.assertLessEqual(self.b.run("window.frames_seen"), 1)

    @unittest.skipUnless("PA_PICTURES" in os.environ, "PA_PICTURES is not set")
    def test_pictures(self):
        """With PA_MODEL=piano."""
        folder = pathlib.Path(os.environ["PA_PICTURES"])
        self.start_duet()
        self.phrase(ms=170)
        self.answered()
        self.b.wait("paserve.now() > 9")
        self.b.screenshot(folder / "duet.png")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle'")
        self.click("#takes li button[aria-label^=Continue]")
        self.b.wait("paserve.state.takes.size == 2 && ![...paserve.state.takes.values()][1].growing")
        self.b.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        self.b.call("Emulation.setTouchEmulationEnabled", enabled=True)
        self.b.wait("paserve.now() > paserve.state.current.begins + 3")
        self.b.screenshot(folder / "duet-phone.png")


if __name__ == "__main__":
    if not PROGRAM:
        print("skipped: Chromium is not installed")
        sys.exit(77)
    unittest.main()
