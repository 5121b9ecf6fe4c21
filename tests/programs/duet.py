"""paserve's page in a headless Chromium, for tests: one server and one browser, with a stand-in for Web MIDI. Exits
with 77 where Chromium or paserve is missing."""
import base64
import os
import pathlib
import sys
import tempfile
import unittest

import serve
import browser

PROGRAM = browser.find()
if not PROGRAM:
    print("skipped: Chromium is not installed")
    sys.exit(77)

MIDI = """window.made = { sent: [], started: 0 };
navigator.requestMIDIAccess = async () => {
  const input = { id: 'in', type: 'input', name: 'Stand-in', state: 'connected', onmidimessage: null };
  const loop = { id: 'loop', type: 'input', name: 'Midi Through Port-0', state: 'connected', onmidimessage: null };
  const output = { id: 'out', type: 'output', name: 'Stand-in piano', state: 'connected',
    send(data, at = performance.now()) {
      if (this.state === 'disconnected') throw new DOMException('unplugged', 'InvalidStateError');
      made.sent.push({ data: [...data], at, ahead: at - performance.now() });
    },
    clear() { this.send([]); } };
  const access = { inputs: new Map([['in', input], ['loop', loop]]), outputs: new Map([['out', output]]) };
  made.send = (...data) => input.onmidimessage({ data, timeStamp: performance.now() });
  made.set = (port, state) => { port.state = state; access.onstatechange({ port }); };
  return Object.assign(made, { input, loop, output }) && access;
};
for (const { prototype } of [AudioBufferSourceNode, OscillatorNode]) {
  const start = prototype.start;
  prototype.start = function (...when) {
    made.started++;
    return start.apply(this, when);
  };
}"""
PHRASE = """async (press, lift, ms = 90) => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  for (let i = 0; i < 16; i++) {
    const pitch = [48, 60, 64, 67, 72, 67, 64, 60][i % 8] + [0, 5][i >> 3];
    press(pitch, 56 + i % 5 * 9); await wait(ms); lift(pitch);
  }
}"""


class Page(unittest.TestCase):
    """One server and one browser; each test opens a session of its own."""

    @classmethod
    def setUpClass(cls):
        cls.at = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = os.environ.get("PA_MODEL") or serve.checkpoint(cls.at)
        (cls.at / "mine.mid").write_bytes(serve.piece(6))
        (cls.at / "long.mid").write_bytes(serve.piece(120))
        (cls.at / "broken.mid").write_bytes(b"MThd\0\0\0\6")
        cls.server = serve.Server(cls.model, cls.at / "saved")
        cls.addClassCleanup(cls.server.stop)
        cls.b = browser.Browser(PROGRAM, 1200, 1000)
        cls.addClassCleanup(cls.b.close)
        cls.b.call("Page.addScriptToEvaluateOnNewDocument", source=MIDI)
        cls.b.call("DOM.enable")

    def setUp(self):
        self.open()
        self.b.run("sessionStorage.clear(); localStorage.clear()")
        self.open()
        self.b.events.clear()

    def open(self, port=None):
        self.b.open(f"http://127.0.0.1:{port or self.server.port}/")
        self.b.wait("document.body.dataset.ready == 'true'", 300)  # samples are rendered slowly on a busy machine

    def click(self, what):
        self.b.run(f"document.querySelector({what!r}).click()")

    def choose(self, name):
        root = self.b.call("DOM.getDocument")["root"]["nodeId"]
        node = self.b.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.b.call("DOM.setFileInputFiles", nodeId=node, files=[str(self.at / name)])

    def status(self):
        return self.b.run("document.getElementById('status').textContent")

    def saved(self, press):
        """The bytes of the file that a click downloads; its name is window.saved."""
        self.b.run("""{ window.blobs = []; const make = URL.createObjectURL, go = HTMLAnchorElement.prototype.click;
            URL.createObjectURL = b => { blobs.push(b); return make.call(URL, b); };
            HTMLAnchorElement.prototype.click = function () { window.saved = this.download; go.call(this); }; }""")
        press()
        self.b.wait("blobs.length", 240)  # a page is rendered at a low priority
        return base64.b64decode(self.b.run("""new Promise(done => { const r = new FileReader();
            r.onload = () => done(r.result.split(',')[1]); r.readAsDataURL(blobs[0]); })"""))

    def connect(self):
        self.click("#connect")
        self.b.wait("document.getElementById('status').textContent.includes('Stand-in')")

    def mouse(self, x, y, *more):
        """Presses there, moves to the other points and releases."""
        self.b.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for x, y in more:
            self.b.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left")
        self.b.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def middle(self, what):
        """Of an element, where it is seen."""
        return self.b.run(f"""(e => {{
            e.scrollIntoView({{ block: 'center' }});
            const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({what!r}))""")

    def click_by_mouse(self, what):
        self.mouse(*self.middle(what))

    def load(self):
        self.choose("mine.mid")
        self.b.wait("paserve.state.takes.size == 1 && paserve.state.current && paserve.state.current.keys.length == 48")

    def start_duet(self):
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'listening'")

    def phrase(self, press="(p, v) => paserve.keys.press(p, v)", lift="p => paserve.keys.lift(p)", ms=90):
        self.b.run(f"({PHRASE})({press}, {lift}, {ms})")

    def answered(self):
        self.b.wait("paserve.state.mode == 'answering' && paserve.state.current.keys.some(k => k.model)")
