"""paserve's page and its connection: reloads, a second window, a server that restarts, silence, the model's margin.
Exits with 77 where Chromium or paserve is missing."""
import re
import unittest

import duet
import serve
import websocket


class Connection(duet.Page):
    def says(self, what):
        self.b.wait(f"document.getElementById('status').textContent.includes({what!r})")

    def lose(self, then=""):
        """Ends the page's connection, does something without one, and waits for the next."""
        self.b.run(f"""new Promise(done => {{ window.old = paserve.state.socket; old.close();
            old.addEventListener('close', () => {{ {then}; done(); }}); }})""")
        self.b.wait("paserve.state.socket !== old && paserve.state.socket.readyState === WebSocket.OPEN")

    def test_second_window(self):
        """It has the session; the first says so, plays on without the server, and takes the session back when asked."""
        self.choose("mine.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length == 48")
        self.start_duet()
        self.phrase()
        first, second = self.b.tab()
        self.b.wait("window.paserve && document.body.dataset.ready == 'true'")
        self.b.wait("paserve.state.takes.size == 2 && [...paserve.state.takes.values()].every(t => t.keys.length)")
        self.b.session = first
        self.says("open in another window")
        self.assertEqual(self.b.run("paserve.state.mode"), "idle")
        self.b.run("paserve.keys.press(60, 80); paserve.keys.lift(60)")
        for what in ("#duet", "[data-take='0'] [data-act=Continue]", "[data-take='0'] [data-act=MIDI]"):
            self.assertTrue(self.b.run(f"document.querySelector({what!r}).disabled"), what)
        for take in (0, 1):
            self.b.run("made.started = 0")
            self.click(f"[data-take='{take}'] [data-act=Play]")
            self.b.wait(f"paserve.state.current.number == {take} && paserve.now() > 1 && made.started > 3")
        self.click("[data-take='1'] [data-act=Play]")
        self.b.session = second
        self.start_duet()  # undisturbed
        self.phrase()
        self.b.session = first
        self.click("#here")
        self.b.wait("document.body.dataset.ready == 'true' && paserve.state.takes.size == 3")
        self.assertEqual(self.status(), "Ready.")
        self.assertTrue(self.b.run("document.getElementById('here').hidden"))
        self.b.session = second
        self.says("open in another window")
        self.assertEqual(self.b.run("paserve.state.mode"), "idle")
        self.lose()  # and it does not take the session when it is connected again
        self.says("open in another window")
        self.b.run("close()")
        self.b.session = first
        self.start_duet()
        self.assertEqual(self.b.complaints(), [])

    def test_silence(self):
        """The server closes connections whose other end is dead, and keeps a page whose player only rests."""
        self.click("#pause")
        self.start_duet()
        self.phrase()
        self.b.run("window.socket = paserve.state.socket; 0")
        mute, gone = websocket.Socket(self.server.port), websocket.Socket(self.server.port)
        gone.say(do="hello", session="")
        for s in (mute, gone):  # they answer no ping
            try:
                while s.s.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
            s.close()
        self.assertTrue(self.b.run("paserve.state.socket === socket && socket.readyState === WebSocket.OPEN"))
        self.assertEqual(self.b.run("paserve.state.mode"), "listening")
        self.phrase()
        self.click("#answer")
        self.answered()
        self.assertEqual(self.b.complaints(), [])

    def test_margin(self):
        """How far the model is ahead: on the page, in the server's messages and in its log."""
        server = serve.Server(self.model, self.at / "margin", "--no-sound")
        self.open(server.port)
        self.click("#pause")
        # An audio clock that no busy machine holds up.
        self.b.run("""{ const { state, figures } = paserve, { onmessage } = state.socket;
            Object.defineProperty(paserve.context, 'currentTime', { get: () => performance.now() / 1000 });
            window.margins = [];
            state.socket.onmessage = event => {
              onmessage(event);
              const m = typeof event.data === 'string' ? JSON.parse(event.data) : {};
              if (m.is !== 'margin' || state.mode !== 'answering') return;
              figures();
              const shown = document.getElementById('figures').textContent.match(/model is ([0-9.]+) s (ahead|behind)/);
              margins.push([m.number, shown[1] * (shown[2] === 'ahead' ? 1 : -1)]);
            }; }""")
        self.start_duet()
        self.phrase()
        self.click("#answer")
        # The page's clock is ahead of the server's by the way there, and a message takes the way back: the quickest one
        # shows it. Figures are rounded to a tenth.
        self.b.wait("margins.length > 3 && paserve.state.trip.length && Math.min(...margins.map(([server, page]) => "
                    "server - page)) < paserve.state.trip[0] / 1000 + 0.11")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && paserve.state.current.fresh === null")
        margins = self.b.run("margins")
        out = server.stop()[1]
        self.assertGreater(min(server - page for server, page in margins), -0.11, margins)
        least = float(re.search(r"answer of \d+ notes, \d+ of them late; at least (-?[0-9.]+) s ahead", out)[1])
        self.assertLessEqual(least, min(server for server, _ in margins[1:]) + 0.1, margins)  # from a second on

    def test_reload(self):
        self.load()
        self.open()
        self.b.wait("paserve.state.takes.size == 1 && paserve.state.current && paserve.state.current.keys.length == 48")
        self.assertEqual(self.b.run("document.querySelector('#takes .name').textContent"), "mine.mid")

    def test_removed_take_of_a_lost_connection(self):
        """It is there again, and stays."""
        self.load()
        self.click("[data-act=Remove]")
        self.lose("window.then = performance.now()")
        self.b.wait("document.body.dataset.ready == 'true' && paserve.state.current")
        self.assertTrue(self.b.run("document.getElementById('undo').hidden"))
        self.b.wait("performance.now() > then + 9000")
        self.assertEqual(self.b.run("[...paserve.state.takes.values()].map(t => t.name)"), ["mine.mid"])
        self.assertEqual(self.b.run("document.querySelectorAll('#takes li').length"), 1)

    def test_playing_while_the_connection_returns(self):
        self.choose("long.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length == 960")
        self.lose("document.getElementById('play').click()")
        self.b.wait("document.body.dataset.ready == 'true' && paserve.state.current")
        self.assertEqual((self.b.run("paserve.state.mode"), self.status()), ("idle", "Ready."))
        self.assertGreater(self.b.run("paserve.state.at"), 0)
        self.click("#play")
        self.b.wait("/^0:(0[4-9]|[1-9])/.test(document.getElementById('time').textContent)")  # its clock runs
        self.assertEqual(self.b.complaints(), [])

    def test_server_that_restarts(self):
        server = serve.Server(self.model, self.at / "other", "--no-sound")
        self.open(server.port)
        self.load()
        self.b.run("paserve.state.at = 2")
        server.stop()
        self.says("No connection")
        self.assertTrue(self.b.run("document.getElementById('duet').disabled"))
        grounds = "['duet', 'answer'].map(id => getComputedStyle(document.getElementById(id)).backgroundColor)"
        self.assertEqual(len(set(self.b.run(grounds))), 1)  # it shows
        self.b.run("""window.tries = 0; const Was = WebSocket;
            window.WebSocket = class extends Was { constructor(...a) { super(...a); tries++; } }; 0""")
        self.click("#play")
        self.b.wait("tries > 1")
        self.assertEqual(self.b.run("paserve.state.mode"), "playing")  # what it has needs no server
        self.b.run("document.getElementById('play').click(); paserve.state.at = 2")
        server = serve.Server(self.model, self.at / "other", "--no-sound", "--port", str(server.port))
        self.addCleanup(server.stop)
        self.b.wait("document.body.dataset.ready == 'true'")
        self.assertFalse(self.b.run("document.getElementById('duet').disabled"))
        self.assertNotIn("No connection", self.status())
        self.b.wait("paserve.state.current && paserve.state.current.keys.length == 48")  # the takes are there again
        self.assertEqual(self.b.run("[paserve.state.takes.size, paserve.state.at, paserve.state.current.name]"),
                         [1, 2, "mine.mid"])
        self.start_duet()

    def test_server_that_restarts_with_another_token(self):
        """The page says where the new one stands, and has its takes again when that was opened."""
        listen = ("--no-sound", "--listen", "127.0.0.2")
        server = serve.Server(self.model, self.at / "listens", *listen)
        self.b.open(f"http://127.0.0.2:{server.port}/?token={server.token}")
        self.b.wait("document.body.dataset.ready == 'true'")
        self.load()
        server.stop()
        self.says("Is paserve running?")
        server = serve.Server(self.model, self.at / "listens", *listen, "--port", str(server.port))
        self.addCleanup(server.stop)
        self.says("new token")
        self.assertIn("terminal", self.status())
        self.b.open(f"http://127.0.0.2:{server.port}/?token={server.token}")
        self.b.wait("window.paserve && paserve.state.current && paserve.state.current.keys.length == 48")
        self.assertEqual(self.b.run("document.querySelector('#takes .name').textContent"), "mine.mid")


if __name__ == "__main__":
    unittest.main()
