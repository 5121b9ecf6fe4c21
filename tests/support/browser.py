"""A headless Chromium over its debugging pipe, with the standard library only."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

# Of all text that shows, what has a contrast under 4.5 with its ground.
CONTRAST = """(() => {
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const linear = x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; // WCAG 2.2, relative luminance
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = colour(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c;
  } return [255, 255, 255]; };
  return [...document.body.querySelectorAll('*')]
    .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => { const a = light(colour(getComputedStyle(e).color)), b = light(ground(e));
      return [e.id || e.className || e.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
    .filter(([, contrast]) => contrast < 4.5);
})()"""


def find():
    """Path of a Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    def __init__(self, program, width=1200, height=800):
        to_read, self.to_write = os.pipe()
        self.to_read, to_write = os.pipe()
        self.folder = tempfile.mkdtemp(prefix="patrain-browser-")

        def connect():  # Chromium reads from 3 and writes to 4
            a, b = os.dup(to_read), os.dup(to_write)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio",
             "--remote-debugging-pipe", f"--user-data-dir={self.folder}", f"--window-size={width},{height}",
             "--autoplay-policy=no-user-gesture-required", "about:blank"],
            preexec_fn=connect, close_fds=False, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest, self.number, self.events, self.session = b"", 0, [], None
        self.show(self.call("Target.createTarget", url="about:blank")["targetId"])

    def show(self, target):
        """All that follows is about that tab."""
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(domain + ".enable")

    def tabs(self):
        self.session, asked = None, self.session
        found = {t["targetId"] for t in self.call("Target.getTargets")["targetInfos"]}
        self.session = asked
        return found

    def tab(self):
        """Shows a tab that the page opens of itself, with a copy of its sessionStorage. Returns both tabs' sessions."""
        first, before = self.session, self.tabs()
        self.call("Runtime.evaluate", expression="void open(location.href)", userGesture=True)
        while not (new := self.tabs() - before):
            pass
        self.show(new.pop())
        return first, self.session

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.to_write)
        os.close(self.to_read)
        shutil.rmtree(self.folder, ignore_errors=True)

    def receive(self):
        while b"\0" not in self.rest:
            part = os.read(self.to_read, 1 << 20)
            if not part:
                raise EOFError("the browser ended")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **arguments):
        self.number += 1
        message = {"id": self.number, "method": method, "params": arguments}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path):
        self.call("Page.navigate", url=path if path.startswith("http:") else "file://" + os.path.abspath(path))
        self.wait("document.readyState == 'complete'")

    def run(self, script):
        """The value of an expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.05)
        return value

    def key(self, key, code=None):
        for kind in ("keyDown" if key == "Enter" else "rawKeyDown", "keyUp"):
            text = {"text": "\r"} if kind == "keyDown" else {}  # without it Enter presses no button
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key,
                      windowsVirtualKeyCode={" ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
                                             "ArrowDown": 40, "Tab": 9, "Enter": 13}[key], **text)

    def complaints(self):
        """What the page wrote as errors and warnings."""
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(what["exceptionDetails"])
            elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
                found.append(what["args"])
            elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                found.append(what["entry"])
        return found

    def requests(self):
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def screenshot(self, path, whole=True):
        """Of the whole page, or of what the window shows."""
        import base64
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
