"""paserve on plain sockets: who may connect, damaged and hostile input, sessions, duets, a clean end."""
import functools
import glob
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import serve
import tiny
import websocket

CORPUS = pathlib.Path(__file__).parent.parent / "fuzz/corpus/midi"


class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.at = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = serve.checkpoint(cls.at)

    def setUp(self):
        self.server = serve.Server(self.model, self.at / self._testMethodName, "--no-sound")
        self.port = self.server.port
        self.addCleanup(self.end)

    def end(self):
        """Every test ends with a server that still answers, and one that stops as asked."""
        if self.server.process.poll() is None:
            self.assertEqual(websocket.get(self.port, "/")[0], 200)
            self.stop()

    def stop(self, how=signal.SIGTERM):
        status, out, err, left = self.server.stop(how)
        self.assertEqual((status, err, left), (0, "", []))
        return out

    def connect(self, session=""):
        s = websocket.Socket(self.port)
        self.addCleanup(s.close)
        s.say(do="hello", session=session)
        welcome = s.receive()
        self.assertEqual(welcome["is"], "session")
        return s, welcome

    def upload(self, s, seconds=8):
        s.frame(2, serve.piece(seconds))
        return s.until("loaded")

    def closed(self, s):
        with self.assertRaises((websocket.Closed, ConnectionError)) as caught:
            while True:
                s.receive()
        return caught.exception.args

    def error(self, s, **message):
        s.say(**message)
        answer = s.receive()
        self.assertEqual(answer["is"], "error", answer)
        return answer["text"]

    # ---- who may connect

    def test_pages(self):
        status, head, body = websocket.get(self.port, "/")
        self.assertEqual(status, 200)
        self.assertIn(b"<title>Duet</title>", body)
        self.assertIn("default-src 'none'", head)
        pages = pathlib.Path(__file__).parents[2] / "host/serve/page"
        for page in pages.glob("*.*"):
            self.assertEqual(websocket.get(self.port, "/" + page.name.replace("index.html", ""))[0], 200, page)
        for path in ("/piano.pcm", "/../paserve.c", "/%2e%2e/etc/passwd", "/page.js/", "/" + "a" * 3000):
            self.assertIn(websocket.get(self.port, path)[0], (403, 404, 414), path)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            status, head, _ = websocket.get(self.port, "/", method=method)
            self.assertEqual(status, 405, method)
            self.assertIn("allow: GET, HEAD", head)
        _, head, _ = websocket.get(self.port, "/")
        self.assertEqual(websocket.get(self.port, "/", method="HEAD"), (200, head, b""))
        self.assertEqual(websocket.get(self.port, "/none", method="HEAD")[::2], (404, b""))
        self.assertEqual(websocket.get(self.port, "/", host="example.com", method="HEAD")[::2], (403, b""))

    def test_other_hosts_and_origins_are_refused(self):
        for host in ("example.com", f"example.com:{self.port}", "127.0.0.1:1", f"127.0.0.1.example.com:{self.port}"):
            self.assertEqual(websocket.get(self.port, "/", host=host)[0], 403, host)
            with self.assertRaises((websocket.Refused, websocket.Closed), msg=host):
                websocket.Socket(self.port, host=host)
        for origin in ("", "null", "http://example.com", "http://127.0.0.1", f"https://127.0.0.1:{self.port}",
                       f"http://localhost:{self.port}", f"http://127.0.0.1:{self.port}.example.com"):
            with self.assertRaises((websocket.Refused, websocket.Closed), msg=origin):
                websocket.Socket(self.port, origin=origin)
        websocket.Socket(self.port, host=f"localhost:{self.port}").close()

    def test_no_other_protocol(self):
        """Else its requests would come before it is known who asks."""
        http2 = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"
        for wanted in (http2, "Connection: Upgrade\r\nUpgrade: TLS/1.0"):
            for host in (f"127.0.0.1:{self.port}", "example.com"):
                answer = websocket.ask(self.port, f"GET / HTTP/1.1\r\nHost: {host}\r\n{wanted}\r\n\r\n")
                self.assertNotIn(b" 101 ", answer)
                self.assertNotIn(b" 200 ", answer)
        for first in ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                      "CONNECT example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n"):
            self.assertNotIn(b" 200 ", websocket.ask(self.port, first))

    def test_other_machines_need_the_token(self):
        server = serve.Server(self.model, self.at / "other", "--no-sound", "--listen", "127.0.0.2")
        self.addCleanup(server.stop)
        at, token = {"address": "127.0.0.2"}, server.token
        self.assertRegex(token, r"^[0-9a-f]{32}$")
        self.assertIsNone(self.server.token)
        status, head, _ = websocket.get(server.port, f"/?token={token}", **at)
        self.assertEqual(status, 200)
        cookie = f"paserve-{server.port}={token}"
        self.assertIn(f"set-cookie: {cookie}; HttpOnly; SameSite=Strict; Path=/", head)
        self.assertEqual(websocket.get(server.port, "/page.js", cookie=f"a=b; {cookie}", **at)[0], 200)
        websocket.Socket(server.port, cookie=cookie, **at).close()
        name = f"paserve-{server.port}"
        for others in (f"{name}=old; {cookie}", f"my-{name}=1; {cookie}", f"a=b\r\nCookie: {cookie}",
                       f"{cookie}\r\nCookie: a=b", f"{name}=old\r\nCookie: a=b; {cookie}; c=d"):
            self.assertEqual(websocket.get(server.port, "/page.js", cookie=others, **at)[0], 200, others)
        wrong = token[:-1] + "g"
        for path, other in (("/", ""), (f"/?token={wrong}", ""), (f"/?token={token}0", ""), ("/?token=", ""),
                            ("/", f"paserve-{server.port}={wrong}"), ("/", f"paserve-{server.port}={token}0"),
                            ("/page.js", ""), ("/", f"paserve={token}"), ("/", f"my-{cookie}"),
                            ("/", f"a={cookie}"), ("/", f"paserve-{server.port}\r\nCookie: ={token}")):
            status, head, _ = websocket.get(server.port, path, cookie=other, **at)
            self.assertEqual((status, "set-cookie" in head), (403, False), (path, other))
            with self.assertRaises((websocket.Refused, websocket.Closed), msg=other):
                websocket.Socket(server.port, cookie=other, **at)
        with self.assertRaises((websocket.Refused, websocket.Closed)):
            websocket.Socket(server.port, cookie=cookie, origin="http://example.com", **at)
        with self.assertRaises(ConnectionRefusedError):
            websocket.get(server.port, "/")

    # ---- hostile input

    def test_messages_that_are_none(self):
        for text in (b"", b"{", b"[]", b"null", b'"hello"', b"{}", b'{"do":"sing"}', b'{"do":1}', b'{"do":"hello"}',
                     b'{"do":"hello","session":"zz"}', b'{"do":"hello","session":"","more":1}',
                     b'{"do":"duet","temperature":"hot","seed":1}',
                     b'{"do":"duet","temperature":1e999,"seed":1}', b'{"do":"key","time":0,"pitch":128,"velocity":1}',
                     b'{"do":"key","time":-1,"pitch":60,"velocity":1}',
                     b'{"do":"key","time":0,"pitch":60.5,"velocity":1}',
                     b'{"do":"duet","temperature":1,"seed":1,"density":5}',
                     b'{"do":"continue","take":0,"at":0,"seconds":5,"temperature":1,"seed":1,"number":5}',
                     b'{"do":"how","temperature":1}', b'{"do":"answer","time":0,"turn":1,"density":1}',
                     b'{"do":"midi","take":-1}', b'{"do":"midi","take":0,"take":1}', b"[" * 900,
                     b'{"do":"midi","take":' + b"9" * 400 + b"}", b'{"do":"hello","session":""} x',
                     b'{"do":"hello","session":""}{"do":"hello","session":""}', b'{"do":"hello","session":""}\0',
                     b'{"do":"hello\0","session":""}', b'{"do":"hello\\u0000","session":""}',
                     b'{"do":"hello","session":"\\u0000zz"}', b'{"do":"hello","session\0x":""}',
                     b"x" * 2000):
            s, _ = self.connect()
            s.frame(1, text)
            self.assertEqual(self.closed(s)[0], 1009 if len(text) > 1024 else 1008, text)
        s, _ = self.connect()
        s.frame(1, b' {"do" : "duet", "temperature": 1, "seed": 5e9 } \r\n')
        self.assertEqual(self.closed(s), (1008, "seed: expected a whole number from 0 to 4294967295"))
        s = websocket.Socket(self.port)
        s.frame(1, b' \t{"do" : "hello", "session": ""}\r\n ')
        self.assertEqual(s.receive()["is"], "session")
        s.close()

    def test_frames_that_are_none(self):
        rng = random.Random(1)
        s, _ = self.connect()
        s.frame(1, b"\xff\xfe")
        self.closed(s)
        for break_it in (lambda s: s.frame(1, b"x" * 10, length=1 << 62), lambda s: s.frame(11, b""),
                         lambda s: s.frame(9, b"x" * 126), lambda s: s.frame(2, b"x" * 5, length=100),
                         lambda s: s.frame(0, b"x"), lambda s: s.s.sendall(rng.randbytes(5000))):
            s, _ = self.connect()
            try:
                break_it(s)
            except OSError:
                pass
            s.close()

    def test_upload_too_large(self):
        for whole in (True, False):
            s, _ = self.connect()
            part = b"x" * (1 << 16)
            try:
                if whole:
                    s.frame(2, part * 17)
                else:
                    for i in range(17):
                        s.frame(2 if i == 0 else 0, part, final=False)
                self.assertEqual(self.closed(s)[0], 1009)
            except ConnectionError:
                pass
        s, _ = self.connect()
        self.upload(s)

    def test_connections_that_say_nothing(self):
        """The server closes them."""
        idle = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(2)]
        idle[1].sendall(b"GET / HTTP/1.1\r\nHo")
        for s in idle:
            try:
                while s.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
            s.close()

    def test_uploads_are_read_without_a_fork(self):
        """A fork beside other threads may copy a lock that one of them holds."""
        s, _ = self.connect()
        self.upload(s)
        s.frame(2, b"MThd")
        self.assertEqual(s.receive()["is"], "error")
        self.assertEqual(self.faults_of_children(), 0)

    def faults_of_children(self):
        """The page faults of those that the server has waited for."""
        return int(pathlib.Path(f"/proc/{self.server.process.pid}/stat").read_text().rpartition(")")[2].split()[8])

    def test_uploads_that_end_early(self):
        for cut in (1, 100, 10000):
            s, _ = self.connect()
            s.frame(2, b"MThd" * (cut // 4 + 1), length=50000)
            s.close()

    def test_damaged_files_are_refused(self):
        s, _ = self.connect()
        rng, good = random.Random(2), serve.piece()
        files = [pathlib.Path(p).read_bytes() for p in sorted(glob.glob(f"{CORPUS}/*"))]
        self.assertGreater(len(files), 10)
        files += [b"", b"MThd", good[:len(good) // 2], b"\0" * 1000, b"RIFF....WAVE"]
        for _ in range(20):
            bad = bytearray(good)
            for _ in range(8):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            files.append(bytes(bad))
        refused = 0
        for file in files:
            s.frame(2, file)
            while (answer := s.receive())["is"] not in ("loaded", "error"):
                if answer["is"] == "take":
                    number = answer["take"]
            if answer["is"] == "error":
                refused += 1
                self.assertTrue(answer["text"])
                self.assertNotIn("/", answer["text"].split(":")[0])  # no path of the server's
            else:
                s.say(do="drop", take=number)
                s.until("dropped")
        self.assertGreater(refused, 4)
        self.upload(s)

    def test_requests_out_of_turn(self):
        s = websocket.Socket(self.port)
        s.say(do="duet", temperature=1, seed=1)
        self.assertIn("hello", s.receive()["text"])
        s.say(do="hello", session="")
        s.receive()
        self.assertIn("duet", self.error(s, do="key", time=0, pitch=60, velocity=1))
        self.assertIn("duet", self.error(s, do="answer", time=0, turn=1))
        self.assertIn("found 7", self.error(s, do="continue", take=7, at=0, seconds=5, temperature=1, seed=1))
        self.assertIn("found 0", self.error(s, do="midi", take=0))
        self.assertIn("found 0", self.error(s, do="page", take=0))
        self.assertIn("duet", self.error(s, do="how", temperature=1, density=1))
        s.say(do="stop", time=0)  # nothing to stop
        s.say(do="duet", temperature=1, seed=1)
        s.until("take")
        self.assertIn("play something first", self.error(s, do="answer", time=0, turn=1))
        self.assertIn("stop first", self.error(s, do="duet", temperature=1, seed=1))
        self.assertIn("stop first", self.error(s, do="drop", take=0))

    def test_a_flood_is_cut_off(self):
        s, _ = self.connect()
        self.upload(s, 60)
        try:
            for _ in range(20000):
                s.say(do="take", take=0)
        except ConnectionError:
            pass
        self.assertIn(self.closed(s)[0], (0, 1008, 104, 32))

    def test_a_burst_of_keys(self):
        """As a network that was held up brings them."""
        s, _ = self.connect()
        s.say(do="duet", temperature=1, seed=1)
        s.until("take")
        for _ in range(2):
            s.together([{"do": "key", "time": i / 100, "pitch": 40 + i // 2 % 30, "velocity": 70 * (i % 2 == 0)}
                        for i in range(600)])
        s.say(do="stop", time=6)
        s.until("done")
        s.say(do="take", take=0)
        self.assertEqual(len(self.keys(s.until("loaded"))), 1200)

    def test_slow_client(self):
        """It reads nothing: its replies are bounded, and others are served."""
        slow, _ = self.connect()
        self.upload(slow, 300)
        other, _ = self.connect()
        try:
            for _ in range(600):
                slow.say(do="take", take=0)
                time.sleep(0.002)
        except ConnectionError:
            pass
        self.upload(other)
        self.closed(slow)
        other.say(do="continue", take=0, at=8, seconds=2, temperature=1, seed=1)
        other.until("done")

    # ---- many

    def test_two_hundred_clients(self):
        """All are served, beside one that reads nothing, and others that break off or break the protocol."""
        clients = [self.connect() for _ in range(200)]
        self.assertEqual(len({welcome["session"] for _, welcome in clients}), 200)
        slow, _ = self.connect()
        self.upload(slow, 60)
        for i, (s, _) in enumerate(clients):
            s.frame(2, serve.piece())
            if i % 10:
                continue
            slow.say(do="take", take=0)
            for code, payload, length in ((2, b"MThd" * 100, 50000), (1, b"{", None), (11, b"", None)):
                bad, _ = self.connect()
                bad.frame(code, payload, length=length)
                bad.close()
        for s, _ in clients:
            s.until("loaded")
        for i, (s, _) in enumerate(clients):
            s.say(do="continue", take=0, at=8, seconds=1, temperature=1, seed=i, number=1 + i % 2)
        for i, (s, _) in enumerate(clients):
            for _ in range(1 + i % 2):
                s.until("done")

    def test_too_many_connections(self):
        clients, refused = [], 0
        for _ in range(270):
            try:
                clients.append(self.connect()[0])
            except (websocket.Closed, websocket.Refused, OSError):
                refused += 1
        self.assertEqual((len(clients), refused), (256, 14))
        for s in clients:
            s.close()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                self.connect()
                return
            except (websocket.Closed, OSError):
                time.sleep(0.1)
        self.fail("places are not freed")

    # ---- music

    def test_continue_and_branch(self):
        s, _ = self.connect()
        take, *_ = self.upload(s)
        self.assertEqual((take["given"], take["parent"]), (True, -1))
        s.say(do="continue", take=0, at=4, seconds=3, temperature=0.9, seed=5)
        said = s.until("done")
        self.assertEqual([said[0][k] for k in ("is", "take", "parent", "begins")], ["take", 1, 0, 400])
        self.assertEqual(said[-1]["number"], 700)
        first = self.keys(said)
        self.assertEqual([k for k in first if k[0] < 400 and k[3]], [])
        self.assertTrue(all(k[3] for k in first if k[0] > 400))
        self.assertEqual([k[0] for k in first], sorted(k[0] for k in first))
        self.assertEqual(sum(1 if k[2] else -1 for k in first), 0)  # all keys are up at the end
        s.say(do="continue", take=0, at=4, seconds=3, temperature=0.9, seed=5)
        self.assertEqual(self.keys(s.until("done")), first)  # the same seed
        s.say(do="continue", take=1, at=5, seconds=3, temperature=0.9, seed=6)
        branch = self.keys(s.until("done"))
        self.assertEqual([k for k in branch if k[0] < 500], [k for k in first if k[0] < 500])
        s.say(do="midi", take=3)
        s.until("midi")
        self.assertEqual(s.receive()[:4], b"MThd")

    def test_several_takes(self):
        """Together they are what they are one by one; each is complete; stop ends all."""
        s, _ = self.connect()
        self.upload(s)
        how = {"take": 0, "at": 4, "seconds": 3, "temperature": 0.9, "seed": 5}
        s.say(do="continue", number=3, density=2, **how)
        said = []
        for _ in range(3):
            said += s.until("done")
        takes = [m["take"] for m in said if m["is"] == "take"]
        self.assertEqual(takes, [1, 2, 3])
        self.assertEqual([m["number"] for m in said if m["is"] == "done"], [700] * 3)
        together = [self.keys([m for m in said if m.get("take") == take]) for take in takes]
        for keys in together:
            self.assertEqual([k for k in keys if k[0] < 400], [k for k in together[0] if k[0] < 400])
            self.assertEqual([k[0] for k in keys], sorted(k[0] for k in keys))
            self.assertEqual(sum(1 if k[2] else -1 for k in keys), 0)
            self.assertTrue(all(k[3] for k in keys if k[0] > 400))
        self.assertEqual(len({str(keys) for keys in together}), 3)
        s.say(do="continue", density=2, **how)
        self.assertEqual(self.keys(s.until("done")), together[0])
        s.say(do="continue", number=4, **(how | {"seconds": 600}))
        s.until("take")
        self.assertIn("stop first", self.refused(s, do="drop", take=7))
        s.say(do="stop", time=0)
        for _ in range(4):
            s.until("done")
        for take in range(8):
            s.say(do="drop", take=take)
            s.until("dropped")

    def test_several_takes_of_several_sessions(self):
        """One session's grow together, the others' one after another."""
        clients = [self.connect()[0] for _ in range(3)]
        for s in clients:
            self.upload(s)
            s.say(do="continue", take=0, at=8, seconds=5, temperature=1, seed=1, number=4)
        heard = []
        for s in clients:
            said = []
            for _ in range(4):
                said += s.until("done")
            heard.append([self.keys([m for m in said if m.get("take") == take]) for take in range(1, 5)])
        self.assertEqual(heard[1:], heard[:-1])  # the same seed
        self.assertEqual(len({str(keys) for keys in heard[0]}), 4)
        clients[0].say(do="continue", take=1, at=10, seconds=1, temperature=1, seed=1, number=2)
        clients[0].until("done")

    def test_density(self):
        s, _ = self.connect()
        self.upload(s)
        strokes = []
        for density in (0.25, 1, 4):
            s.say(do="continue", take=0, at=8, seconds=60, temperature=1, seed=2, density=density)
            strokes.append(sum(1 for k in self.keys(s.until("done")) if k[2] and k[3]))
        self.assertGreater(strokes[1], 1.2 * strokes[0])
        self.assertGreater(strokes[2], 1.2 * strokes[1])

    def test_full_take(self):
        """One message; then all else goes on."""
        s, welcome = self.connect()
        s.say(do="duet", temperature=1, seed=1)
        s.until("take")
        said = []
        for part in range(502):  # 50,200 notes
            s.together([{"do": "key", "time": part, "pitch": 28 + i // 2, "velocity": 70 * (i % 2 == 0)}
                        for i in range(200)])
            s.say(do="midi", take=9)  # the server has read so far
            while "found 9" not in (m := s.receive()).get("text", ""):
                said.append(m)
        s.say(do="answer", time=600, turn=1)
        s.say(do="stop", time=600)
        self.assertEqual([m["is"] for m in said], ["done", "error"])
        self.assertEqual(said[1]["text"], "a take holds at most 50000 notes")
        s.say(do="take", take=0)
        self.assertEqual(sum(1 if k[2] else -1 for k in self.keys(s.until("loaded"))), 0)
        how = {"do": "continue", "take": 0, "seconds": 3, "temperature": 0.9, "seed": 5}
        self.assertIn("earlier point", self.error(s, at=600, number=2, **how))
        s.say(at=498.99, **(how | {"seconds": 600}))  # a hundred notes fit
        answers = []
        while not answers or answers[-1]["is"] != "done":
            answers.append(s.receive())
        self.assertEqual(s.receive(), said[1])
        s.close()
        s, again = self.connect(welcome["session"])
        self.assertEqual(len(again["takes"]), 2)
        s.say(at=2, **how)
        s.until("done")
        self.assertEqual(len(self.stop().split("saved ")), 4)

    def test_page(self):
        s, _ = self.connect()
        self.upload(s)
        s.say(do="continue", take=0, at=4, seconds=3, temperature=0.9, seed=5)
        s.until("done")
        s.say(do="page", take=1)
        answer = s.receive()
        if answer["is"] == "error":
            self.skipTest(answer["text"])
        self.assertEqual((answer["is"], answer["take"]), ("page", 1))
        page = s.receive()
        self.assertEqual(len(page), answer["number"])
        self.assertTrue(page.startswith(b"<!doctype html>"))
        for part in (b"<h2 id=\"take0\">Take 2", b"data:audio/mpeg;base64,", b"download=\"Take 2.mid\"",
                     b"data-begins=\"4\"", b"<svg", b"<th scope=\"row\">primer", b">Take 2</a></th><td"):
            self.assertIn(part, page)

    def refused(self, s, **message):
        """The text of the error; other messages may come before it."""
        s.say(**message)
        while (answer := s.receive())["is"] != "error":
            pass
        return answer["text"]

    @staticmethod
    def keys(messages):
        flat = [n for m in messages if m["is"] == "keys" for n in m["keys"]]
        return [tuple(flat[i:i + 4]) for i in range(0, len(flat), 4)]

    def play(self, s, start=0.0):
        for i in range(12):
            s.say(do="key", time=start + i / 4, pitch=60 + i, velocity=70)
            s.say(do="key", time=start + i / 4 + 0.2, pitch=60 + i, velocity=0)
        return start + 3

    def test_duet(self):
        s, _ = self.connect()
        s.say(do="duet", temperature=0.9, seed=1)
        s.until("take")
        time = self.play(s)
        s.say(do="answer", time=time, turn=1)
        said = s.until("first")
        self.assertEqual({m["turn"] for m in said if m["is"] == "keys"}, {1})
        answer = self.keys(said)
        self.assertGreaterEqual(answer[0][0], 305)
        self.assertTrue(all(k[3] for k in answer))
        again = self.play(s, time + 1)  # takes the turn back
        s.say(do="answer", time=again, turn=2)
        while (m := s.receive())["is"] != "first" or m["number"] < 0:
            pass
        s.say(do="stop", time=again + 0.5)
        s.until("done")
        s.say(do="take", take=0)
        record = self.keys(s.until("loaded"))
        played = [k for k in record if not k[3]]
        self.assertEqual([k[:3] for k in played[:24]], [k for i in range(12) for k in
                                                        ((25 * i, 60 + i, 70), (25 * i + 20, 60 + i, 0))])
        self.assertEqual(len(played), 48)
        self.assertEqual([k for k in record if k[3] and 400 < k[0] < 700], [])  # the model waits while the player plays
        self.assertLessEqual(record[-1][0], 750)
        out = self.stop()
        self.assertIn("answers: 2; first note sent after the trigger: median", out)
        self.assertRegex(out, r"session \w{8}: answer of \d+ notes, \d+ of them late")
        self.assertRegex(out, r"answers' notes: \d+; late: \d+\n")
        self.assertEqual(len(list(self.server.folder.glob("*-1.mid"))), 1)

    def test_a_time_before_the_answer_keeps_what_was_played(self):
        for wrong in ({"do": "stop", "time": 0}, {"do": "key", "time": 0, "pitch": 90, "velocity": 1}):
            s, _ = self.connect()
            s.say(do="duet", temperature=0.9, seed=1)
            s.until("take")
            s.say(do="answer", time=self.play(s), turn=1)
            s.until("first")
            s.say(**wrong)
            s.say(do="stop", time=3)
            s.until("done")
            s.say(do="take", take=0)
            record = self.keys(s.until("loaded"))
            self.assertEqual(len([k for k in record if not k[3] and k[1] != 90]), 24, wrong)

    def test_held_keys_are_released_by_the_model(self):
        s, _ = self.connect()
        s.say(do="duet", temperature=0.9, seed=3)
        s.until("take")
        for i in range(8):
            s.say(do="key", time=i / 4, pitch=50 + i, velocity=70)  # and held
        s.say(do="answer", time=2.2, turn=1)
        for i in range(8):
            s.say(do="key", time=2.3, pitch=50 + i, velocity=0)
        s.until("margin")  # the model plays
        s.say(do="stop", time=600)
        s.until("done")
        s.say(do="take", take=0)
        record = self.keys(s.until("loaded"))
        self.assertEqual(sum(1 if k[2] else -1 for k in record), 0)
        self.assertEqual([k for k in record if not k[2] and not k[3] and k[0] < record[-1][0]], [])

    # ---- sessions

    def test_sessions_survive_a_reload(self):
        s, welcome = self.connect()
        self.upload(s)
        s.say(do="continue", take=0, at=8, seconds=2, temperature=1, seed=1)
        s.until("done")
        s.close()
        s, again = self.connect(welcome["session"])
        self.assertEqual(again["session"], welcome["session"])
        self.assertEqual([(t["take"], t["parent"]) for t in again["takes"]], [(0, -1), (1, 0)])
        other, _ = self.connect(welcome["session"])  # a second window takes over
        self.assertEqual(s.receive(), {"is": "elsewhere"})
        other.say(do="take", take=1)
        self.assertGreater(len(self.keys(other.until("loaded"))), 30)
        _, unknown = self.connect("0" * 32)
        self.assertNotEqual(unknown["session"], "0" * 32)

    def test_sessions_survive_a_restart(self):
        s, welcome = self.connect()
        self.upload(s)
        s.say(do="continue", take=0, at=8, seconds=2, temperature=1, seed=1, number=2)
        for _ in range(2):
            s.until("done")
        s.say(do="duet", temperature=0.9, seed=1)
        s.until("take")
        self.play(s)
        s.say(do="stop", time=4)
        s.until("done")
        s.say(do="drop", take=1)
        s.until("dropped")
        before = self.all_keys(s, (0, 2, 3))
        s.close()
        s, told = self.connect(welcome["session"])
        self.stop()
        for _ in range(2):  # what was read is saved again
            self.server = serve.Server(self.model, self.server.folder, "--no-sound")
            self.port = self.server.port
            s, again = self.connect(welcome["session"])
            self.assertEqual(again, told)
            self.assertEqual(self.all_keys(s, (0, 2, 3)), before)
            self.stop()
        self.server = serve.Server(self.model, self.server.folder, "--no-sound")
        self.port = self.server.port
        s, again = self.connect(welcome["session"])
        s.say(do="continue", take=2, at=9, seconds=1, temperature=1, seed=1)
        self.assertEqual(s.until("done")[0]["take"], 4)  # a number that none had
        for take in (0, 2, 3, 4):
            s.say(do="drop", take=take)
            s.until("dropped")
        self.stop()
        self.assertEqual(os.listdir(self.server.folder / "sessions"), [])

    def all_keys(self, s, takes):
        found = []
        for take in takes:
            s.say(do="take", take=take)
            found.append(self.keys(s.until("loaded")))
        return found

    def test_damaged_session_file(self):
        s, welcome = self.connect()
        self.upload(s)
        self.stop()
        path = self.server.folder / f"sessions/{welcome['session']}.safetensors"
        good = path.read_bytes()
        for damage in (b"", good[:len(good) // 2], good[:-1] + b"\xff", good.replace(b"session 1", b"session 9")):
            path.write_bytes(damage)
            server = serve.Server(self.model, self.server.folder, "--no-sound")
            s = websocket.Socket(server.port)
            s.say(do="hello", session=welcome["session"])
            self.assertNotEqual(s.receive()["session"], welcome["session"])
            self.assertIn(str(path), s.receive()["text"])
            self.upload(s)
            s.close()
            status, _, err, left = server.stop()
            self.assertEqual((status, err.count("\n"), left), (0, 1, []))
            self.assertEqual(path.read_bytes(), damage)

    def test_more_sessions_than_places(self):
        """Those that nobody uses go to files and come back."""
        sessions = []
        for i in range(260):
            s, welcome = self.connect()
            s.frame(2, serve.piece(1, i))
            s.until("loaded")
            sessions.append((welcome["session"], self.all_keys(s, [0])))
            s.close()
        self.assertGreater(len(os.listdir(self.server.folder / "sessions")), 3)
        for session, keys in sessions[:5] + sessions[-1:]:
            s, again = self.connect(session)
            self.assertEqual((again["session"], self.all_keys(s, [0])), (session, keys))
            s.close()

    def test_most_saved_sessions(self):
        folder = self.server.folder / "sessions"
        folder.mkdir()
        for i in range(1000):
            (folder / str(i)).touch()
        clients = []
        for _ in range(256):
            s, welcome = self.connect()
            s.frame(2, serve.piece(1))
            s.until("loaded")
            clients.append((s, welcome))
        clients[0][0].close()
        s = websocket.Socket(self.port)
        s.say(do="hello", session="")
        self.assertEqual(s.receive()["text"], f"the server is full: 1000 sessions are saved in {folder}, the most")
        s.say(do="hello", session=clients[0][1]["session"])
        self.assertEqual(len(s.receive()["takes"]), 1)  # nothing was lost
        s.close()
        for s, _ in clients:
            s.close()

    def test_full_memory(self):
        """A session has its share; sessions that nobody uses leave their memory to others."""
        s, welcome = self.connect()
        file = tiny.midi([(t / 20, t / 20 + 0.04, 48 + t % 24, 60) for t in range(49000)], 1)
        for _ in range(11):
            s.frame(2, file)
            s.until("loaded")
        s.frame(2, file)
        self.assertEqual(s.receive()["text"], "this file: this session is full; remove takes first")
        s.close()
        self.stop()
        folder = self.server.folder / "sessions"
        others = [folder / f"{i:032x}.safetensors" for i in range(9)]
        for other in others:
            shutil.copy(folder / f"{welcome['session']}.safetensors", other)
        self.server = serve.Server(self.model, self.server.folder, "--no-sound")
        self.port = self.server.port
        for other in others:
            self.assertFalse(others[0].exists() and other != others[0])
            s, again = self.connect(other.stem)
            self.assertEqual(again["session"], other.stem)
            other.unlink()
            s.close()
        self.assertTrue(others[0].exists())
        self.assertFalse(others[1].exists())
        s, again = self.connect(others[0].stem)
        self.assertEqual([t["keys"] for t in again["takes"]], [98000] * 11)

    def test_few_descriptors(self):
        """Clients leave enough of them to save, and the server waits without computing."""
        for most, starts in ((40, False), (70, True)):
            limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (most, most))
            if not starts:
                with self.assertRaisesRegex(AssertionError, "expected room for .* found 40; set it with ulimit -n"):
                    serve.Server(self.model, self.at / "few", "--no-sound", before=limit)
                continue
            server = serve.Server(self.model, self.at / "few", "--no-sound", before=limit)
            s = websocket.Socket(server.port)
            s.say(do="hello", session="")
            self.upload(s)
            s.say(do="continue", take=0, at=8, seconds=2, temperature=1, seed=1)
            s.until("done")
            others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
            for _ in range(3):  # by then it has accepted what it can
                self.upload(s)
            before = self.seconds(server)
            time.sleep(1)
            self.assertLess(self.seconds(server) - before, 0.5)
            s.say(do="midi", take=1)
            s.until("midi")
            self.assertEqual(s.receive()[:4], b"MThd")
            self.assertEqual(server.stop()[::2], (0, ""))
            self.assertEqual(len(list(server.folder.glob("*.mid"))), 1)
            for other in others:
                other.close()

    @staticmethod
    def seconds(server):
        fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_temporary_folder_that_goes(self):
        s, _ = self.connect()
        self.upload(s)
        for old in pathlib.Path(self.server.scratch.name).iterdir():
            shutil.rmtree(old)
        self.upload(s)
        s.say(do="midi", take=0)
        s.until("midi")
        s.receive()
        self.assertIn("found 9", self.error(s, do="drop", take=9))
        os.rmdir(self.server.scratch.name)  # nothing is left in it
        self.assertIn("cannot create the temporary folder", self.error(s, do="midi", take=0))
        os.mkdir(self.server.scratch.name)
        s.say(do="midi", take=0)
        s.until("midi")

    def test_stop_while_a_page_is_rendered(self):
        """Nothing can stop that; nobody waits for it."""
        s, _ = self.connect()
        s.frame(2, serve.piece(590))
        s.until("loaded")
        s.say(do="page", take=0)
        s.say(do="drop", take=9)
        if "found 9" not in (text := s.receive()["text"]):
            self.skipTest(text)
        scratch = pathlib.Path(self.server.scratch.name)
        while not any(scratch.iterdir()):  # it has begun
            time.sleep(0.01)
        s.say(do="continue", take=0, at=3, seconds=1, temperature=1, seed=1)
        s.until("done")
        before = self.seconds(self.server)
        self.server.process.send_signal(signal.SIGINT)
        _, status, used = os.wait4(self.server.process.pid, 0)
        self.server.process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(self.server.process.returncode, 0)
        self.assertLess(used.ru_utime + used.ru_stime - before, 3)  # of the processor; the page takes 15
        self.assertEqual(len(list(self.server.folder.glob("*.mid"))), 1)
        self.assertEqual(list(scratch.iterdir()), [])

    def test_stop_saves(self):
        s, welcome = self.connect()
        self.upload(s)
        s.say(do="continue", take=0, at=8, seconds=600, temperature=1, seed=1)
        s.until("take")
        out = self.stop(signal.SIGINT)  # while it computes
        files = sorted(os.listdir(self.server.folder))
        self.assertEqual(files, [f"{welcome['session'][:8]}-2.mid", "sessions"])  # what was given is not written again
        self.assertIn(f"saved {self.server.folder}/{files[0]}\n", out)
        self.assertGreater(len(tiny.events(self.server.folder / files[0])), 60)

    def test_takes_are_bounded(self):
        s, _ = self.connect()
        for _ in range(32):
            self.upload(s, 1)
        s.frame(2, serve.piece(1))
        self.assertEqual(s.receive()["text"], "this file: a session holds at most 32 takes; remove one first")
        s.say(do="drop", take=5)
        s.until("dropped")
        self.upload(s, 1)


class Options(unittest.TestCase):
    def test_first_line(self):
        """An address that can be opened, before the sound is rendered; and an empty TMPDIR."""
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            model = serve.checkpoint(at)
            for more in ((), ("--listen", "0.0.0.0")):
                server = serve.Server(model, at / "saved", *more, temporary="")
                path = f"/?token={server.token}" if more else "/"
                self.assertEqual(websocket.get(server.port, path, address=server.address)[0], 200)
                cookie = f"paserve-{server.port}={server.token}"
                s = websocket.Socket(server.port, address=server.address, cookie=cookie)
                s.say(do="hello", session="")
                piano = s.receive()["piano"]
                s.frame(2, serve.piece(1))
                s.until("loaded")
                if piano and not more:  # the samples come once they are rendered
                    status, _, samples = websocket.get(server.port, "/piano.pcm", address=server.address, cookie=cookie)
                    self.assertEqual(status, 200)
                    self.assertEqual(len(samples), 2 * piano["length"] * piano["pitches"] * len(piano["layers"]))
                    self.assertTrue(any(samples))
                s.close()
                self.assertEqual(server.stop()[0], 0)  # the second's samples may still be rendered

    def test_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            for says, *arguments in (("--port: expected 0 to 65535, found 70000", "--port", 70000),
                                     ("--streams", "--streams", 0),
                                     ("found 255.255.255.255", "--listen", "255.255.255.255"),
                                     ("found 224.0.0.1", "--listen", "224.0.0.1"),
                                     ("found 198.51.100.1", "--listen", "198.51.100.1"),
                                     ("found 'localhost'", "--listen", "localhost"),
                                     ("found 2 arguments", "a", "b"), ("nothing there", f"{folder}/none"),
                                     ("cannot open SoundFont", "--soundfont", f"{folder}/none.sf2")):
                self.assertIn(says, tiny.run("paserve", *arguments, status=2))

    def test_folder_that_cannot_be_written(self):
        """Before anybody plays."""
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            model = serve.checkpoint(at)
            (at / "file").touch()
            for bad in (at / "file", at / "file/x"):
                said = tiny.run("paserve", model, "--no-sound", "--port", 0, "--folder", bad, status=1)
                self.assertIn(f"{at}/file", said)

    def test_output_that_cannot_be_written(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder, open("/dev/full", "w") as full:
            at = pathlib.Path(folder)
            line = [serve.PASERVE, serve.checkpoint(at), "--no-sound", "--port", port, "--folder", at / "saved"]
            with subprocess.Popen([str(x) for x in line], stdout=full, stderr=subprocess.PIPE, text=True) as server:
                while server.poll() is None:
                    try:
                        websocket.get(port, "/")
                        server.send_signal(signal.SIGTERM)
                        break
                    except ConnectionError:
                        time.sleep(0.01)
                self.assertEqual(server.stderr.read(), "paserve: cannot write to standard output: an earlier write "
                                                       "failed (a full disk?)\n")
            self.assertEqual(server.returncode, 1)

    def test_port_in_use(self):
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            server = serve.Server(serve.checkpoint(at), at / "saved", "--no-sound")
            said = tiny.run("paserve", at / "run", "--no-sound", "--port", server.port, status=1)
            self.assertEqual(said, f"paserve: cannot listen on 127.0.0.1:{server.port}: Address already in use\n")
            server.stop()


if __name__ == "__main__":
    unittest.main()
