#!/usr/bin/env python3
"""A robot pianist plays duets with paserve, checks what it hears and measures how soon it hears it.

    bench/duet.py [--turns N | --minutes M] [--robots N] [--seed S] [--chords N] [--listen S] PASERVE [its arguments]

A turn: the robot plays a phrase of 4 to --chords chords, waits a moment, hands over, waits for the first note and
listens for about --listen seconds; then it plays again. It prints, over all turns, the time from the handover to the
arrival of the first note, how far ahead of their time notes arrive, and how many come late. It exits with 1 where
something is wrong, whatever the time it took: a turn without an answer, an error, keys out of order or never
released, notes of the model outside its turns, keys of the robot's that the server's record lacks.
"""
import argparse
import base64
import json
import os
import queue
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE = 300  # seconds for a reply, on a machine however slow


class Page:
    """What the browser's page is to the server: a WebSocket."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port))
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lock = threading.Lock()
        self.file = self.s.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        self.s.sendall(f"GET /socket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
                       "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                       f"Sec-WebSocket-Key: {key}\r\n\r\n".encode())
        while self.file.readline() != b"\r\n":
            pass

    def frame(self, code, payload):
        size = bytes([128 | len(payload)]) if len(payload) < 126 else bytes([254]) + struct.pack(">H", len(payload))
        with self.lock:
            self.s.sendall(bytes([128 | code]) + size + bytes(4) + payload)  # the mask is 0

    def say(self, **message):
        self.frame(1, json.dumps(message).encode())

    def hear(self):
        """The next message, None at the end."""
        while head := self.file.read(2):
            size = head[1] & 127
            if size > 125:
                size = struct.unpack(">H" if size == 126 else ">Q", self.file.read(2 if size == 126 else 8))[0]
            payload = self.file.read(size)
            if head[0] & 15 == 9:  # a ping; without the pong the server hangs up after 90 s
                self.frame(10, payload)
            if head[0] & 15 == 1:
                return json.loads(payload)
        return None


def keys_of(message):
    return list(zip(*[iter(message["keys"])] * 4))


class Robot:
    def __init__(self, port, options, seed):
        self.page, self.options, self.rng = Page(port), options, random.Random(seed)
        self.latency, self.ahead, self.wrong = [], [], []
        self.played, self.turns = [], []  # (second, pitch, velocity); (handover, takeover)
        self.turn, self.asked, self.began, self.silent = 0, None, None, False
        self.events = queue.Queue()
        self.record = []
        self.page.say(do="hello", session="")
        self.page.say(do="duet", temperature=0.9, seed=seed)
        threading.Thread(target=self.listen, daemon=True).start()

    def now(self):
        return time.monotonic() - self.began

    def listen(self):
        while m := self.page.hear():
            if m["is"] == "error":
                self.wrong.append("error: " + m["text"])
            elif m["is"] == "keys":
                self.take_keys(m)
            elif m["is"] in ("loaded", "done"):
                if m["is"] == "loaded":
                    self.silent = True
                self.events.put(m["is"])

    def take_keys(self, m):
        if self.turn < 0:  # the record, or what was under way as the robot took over
            self.record += keys_of(m)
            if self.silent:
                self.wrong.append(f"turn {len(self.turns)}: keys while the robot plays")
            return
        arrived = self.now()
        for step, _, velocity, model in keys_of(m):
            if not (velocity and model) or m["turn"] != self.turn:
                continue
            if self.asked is not None:
                self.latency.append(arrived - self.asked)
                self.asked = None
                self.events.put("answer")
            self.ahead.append(step / 100 - arrived)

    def wait(self, what):
        try:
            while self.events.get(timeout=PATIENCE) != what:
                pass
        except queue.Empty:
            self.wrong.append(f"turn {len(self.turns)}: no {what} within {PATIENCE} s")

    def key(self, pitch, velocity):
        if self.began is None:
            self.began = time.monotonic()
        self.played.append((self.now(), pitch, velocity))
        self.page.say(do="key", time=self.played[-1][0], pitch=pitch, velocity=velocity)

    def phrase(self):
        pitch = self.rng.randrange(48, 72)
        for i in range(self.rng.randrange(4, self.options.chords + 1)):
            chord = sorted({pitch, pitch - self.rng.choice([0, 3, 4, 7, 12])})
            for p in chord:
                self.key(p, self.rng.randrange(40, 100))
            if i == 0:  # what was under way comes before the record, and then nothing until the handover
                self.page.say(do="take", take=0)
            time.sleep(self.rng.choice([0.1, 0.15, 0.2, 0.3]))
            for p in chord:
                self.key(p, 0)
            pitch = max(40, min(88, pitch + self.rng.choice([-5, -2, -1, 1, 2, 3, 4])))
        self.wait("loaded")

    def play(self):
        end = time.monotonic() + 60 * self.options.minutes
        number = 0
        while number < self.options.turns if self.options.turns else time.monotonic() < end:
            number += 1
            self.turn = -1
            first = len(self.played)
            self.phrase()
            if self.turns:
                self.turns[-1][1] = self.played[first][0]
            time.sleep(self.rng.uniform(0.05, 1.2))
            self.silent = False
            self.turn, self.asked = number, self.now()
            self.turns.append([self.asked, None])
            self.page.say(do="answer", time=self.asked, turn=number)
            self.wait("answer")
            time.sleep(self.options.listen * self.rng.uniform(0.4, 1.6))
        self.turn = -1
        self.turns[-1][1] = self.now()
        self.page.say(do="stop", time=self.turns[-1][1])
        self.wait("done")
        self.record = []
        self.page.say(do="take", take=0)
        self.wait("loaded")
        self.check(self.record)

    def check(self, record):
        """The server's record against what the robot did."""
        mine = [key[:3] for key in record if not key[3]]
        if len(mine) != len(self.played) or any(abs(a[0] - 100 * b[0]) > 1 or a[1:] != b[1:]
                                                for a, b in zip(mine, self.played)):
            self.wrong.append("the robot's keys are not those of the record")
        if any(a[0] > b[0] for a, b in zip(record, record[1:])):
            self.wrong.append("the record's keys are not in order")
        down = set()
        for step, pitch, velocity, model in record:
            if (pitch in down) == (velocity > 0):
                self.wrong.append(f"second {step / 100}: pitch {pitch} is {'struck' if velocity else 'released'} twice")
            (down.add if velocity else down.discard)(pitch)
            if model and not any(100 * a - 1 <= step <= 100 * b + 1 for a, b in self.turns):
                self.wrong.append(f"second {step / 100}: the model plays in the robot's turn")
        if down:
            self.wrong.append(f"pitches {sorted(down)} are never released")


def quantile(values, share):
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def report(robots, took):
    latency, ahead, wrong = [[x for r in robots for x in getattr(r, what)] for what in ("latency", "ahead", "wrong")]
    turns = sum(len(r.turns) for r in robots)
    if len(latency) != turns:
        wrong.append(f"{turns} turns, {len(latency)} answers")
    print(f"{len(robots)} robot(s), {turns} turns, {took / 60:.1f} min, {len(ahead)} notes")
    if latency:
        late = [-a for a in ahead if a < 0]
        print(f"handover to the first note's arrival: median {1000 * statistics.median(latency):.1f} ms, "
              f"99 % {1000 * quantile(latency, 0.99):.1f} ms, most {1000 * max(latency):.1f} ms")
        print(f"notes arrive ahead of their time: median {statistics.median(ahead):.1f} s, "
              f"1 % {quantile(ahead, 0.01):.2f} s; late: {len(late)}, by {1000 * max(late, default=0):.0f} ms at most")
    for text in wrong:
        print("wrong:", text)
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description="A robot pianist plays duets with paserve and measures them.")
    parser.add_argument("--turns", type=int, default=0, help="turns to play (default: as --minutes says)")
    parser.add_argument("--minutes", type=float, default=1, help="time to play (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    parser.add_argument("--robots", type=int, default=1, help="duets at the same time (default: 1)")
    parser.add_argument("--chords", type=int, default=24, help="most chords of a phrase, 4 or more (default: 24)")
    parser.add_argument("--listen", type=float, default=5, help="mean seconds of an answer (default: 5)")
    parser.add_argument("line", nargs=argparse.REMAINDER, metavar="PASERVE", help="the program and its arguments")
    o = parser.parse_args()
    if not o.line:
        parser.error("expected PASERVE")
    with tempfile.TemporaryDirectory() as folder:
        line = [*o.line, "--port", "0", "--no-sound", "--folder", folder]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
            first = server.stdout.readline()
            if "http://127.0.0.1:" not in first:
                sys.exit(f"{o.line[0]} does not start")
            port = int(first.split("http://127.0.0.1:")[1].split("/")[0])
            said = []
            reader = threading.Thread(target=lambda: said.extend(server.stdout))  # a full pipe would stop the server
            reader.start()
            robots = [Robot(port, o, o.seed + i) for i in range(o.robots)]
            players = [threading.Thread(target=r.play) for r in robots]
            began = time.monotonic()
            for p in players:
                p.start()
            for p in players:
                p.join()
            took = time.monotonic() - began
            server.terminate()
            status = server.wait()
            reader.join()
    for text in said[-2:]:
        print("server:", text.strip())
    if status:
        print("wrong: the server ends with status", status)
    sys.exit(report(robots, took) or (1 if status else 0))


if __name__ == "__main__":
    main()
