"""paserve on plain sockets: who may connect, damaged and hostile input, sessions, duets, a clean end."""
import glob
import os
import pathlib
import random
import signal
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
        self.assertEqual(websocket.get(self.port, "/", method="POST")[0], 405)

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
        wrong = token[:-1] + "g"
        for path, other in (("/", ""), (f"/?token={wrong}", ""), (f"/?token={token}0", ""), ("/?token=", ""),
                            ("/", f"paserve-{server.port}={wrong}"), ("/", f"paserve-{server.port}={token}0"),
                            ("/page.js", ""), ("/", f"paserve={token}")):
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
                     b'{"do":"midi","take":' + b"9" * 400 + b"}",
                     b"x" * 2000):
            s, _ = self.connect()
            s.frame(1, text)
            self.assertEqual(self.closed(s)[0], 1009 if len(text) > 1024 else 1008, text)

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
                     b"data-begins=\"4\"", b"<svg"):
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
        self.assertIn("another window", s.receive()["text"])
        other.say(do="take", take=1)
        self.assertGreater(len(self.keys(other.until("loaded"))), 30)
        _, unknown = self.connect("0" * 32)
        self.assertNotEqual(unknown["session"], "0" * 32)

    def test_stop_saves(self):
        s, welcome = self.connect()
        self.upload(s)
        s.say(do="continue", take=0, at=8, seconds=600, temperature=1, seed=1)
        s.until("take")
        out = self.stop(signal.SIGINT)  # while it computes
        files = os.listdir(self.server.folder)
        self.assertEqual(files, [f"{welcome['session'][:8]}-2.mid"])  # what was given is not written again
        self.assertIn(f"saved {self.server.folder}/{files[0]}\n", out)
        self.assertGreater(len(tiny.events(self.server.folder / files[0])), 60)

    def test_takes_are_bounded(self):
        s, _ = self.connect()
        for _ in range(32):
            self.upload(s, 1)
        s.frame(2, serve.piece(1))
        self.assertIn("32 takes", s.receive()["text"])
        s.say(do="drop", take=5)
        s.until("dropped")
        self.upload(s, 1)


class Options(unittest.TestCase):
    def test_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            for says, *arguments in (("--port: expected 0 to 65535, found 70000", "--port", 70000),
                                     ("--streams", "--streams", 0),
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

    def test_port_in_use(self):
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            server = serve.Server(serve.checkpoint(at), at / "saved", "--no-sound")
            said = tiny.run("paserve", at / "run", "--no-sound", "--port", server.port, status=1)
            self.assertEqual(said, f"paserve: cannot listen on 127.0.0.1:{server.port}: Address already in use\n")
            server.stop()


if __name__ == "__main__":
    unittest.main()
