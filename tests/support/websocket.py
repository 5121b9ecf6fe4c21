"""A WebSocket client on a plain socket, which can also break the protocol."""
import base64
import json
import os
import socket
import struct

PATIENCE = 300  # seconds without a byte; samples are rendered slowly under a sanitizer on a busy machine


def get(port, path, host=None, method="GET", address="127.0.0.1", cookie=""):
    """Status, head and body of a request."""
    with socket.create_connection((address, port), timeout=PATIENCE) as s:
        host = host or f"{address}:{port}"
        cookie = cookie and f"Cookie: {cookie}\r\n"
        s.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{cookie}Connection: close\r\n\r\n".encode())
        answer = b""
        while part := s.recv(1 << 16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


def ask(port, text, address="127.0.0.1"):
    """All that comes back until the server closes."""
    answer = b""
    with socket.create_connection((address, port), timeout=PATIENCE) as s:
        s.sendall(text.encode())
        while part := s.recv(1 << 16):
            answer += part
    return answer


class Refused(Exception):
    """The server's status in place of a WebSocket."""


class Closed(Exception):
    """The server closed: status and reason."""


class Socket:
    def __init__(self, port, host=None, origin=None, address="127.0.0.1", cookie=""):
        host = host or f"{address}:{port}"
        self.rest = b""
        self.s = socket.create_connection((address, port), timeout=PATIENCE)
        origin = f"http://{host}" if origin is None else origin
        lines = [f"GET /socket HTTP/1.1\r\nHost: {host}", "Upgrade: websocket", "Connection: Upgrade",
                 "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode()]
        lines += [f"Origin: {origin}"] if origin else []
        lines += [f"Cookie: {cookie}"] if cookie else []
        self.s.sendall("\r\n".join(lines + ["", ""]).encode())
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.some()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            self.s.close()
            raise Refused(int(head.split()[1]))

    def some(self):
        part = self.s.recv(1 << 16)
        if not part:
            self.s.close()
            raise Closed(0, "")
        return part

    def frame(self, code, payload, final=True, masked=True, length=None):
        self.s.sendall(self.framed(code, payload, final, masked, length))

    @staticmethod
    def framed(code, payload, final=True, masked=True, length=None):
        n = len(payload) if length is None else length
        head = bytes([(128 if final else 0) | code])
        mask = 128 if masked else 0
        head += bytes([mask | n]) if n < 126 else bytes([mask | 126]) + struct.pack(">H", n) if n < 65536 else \
            bytes([mask | 127]) + struct.pack(">Q", n)
        key = os.urandom(4)
        pad = (key * (len(payload) // 4 + 1))[:len(payload)]
        body = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")
        return head + key + body if masked else head + payload

    def say(self, **message):
        self.frame(1, json.dumps(message).encode())

    def together(self, messages):
        """Several that arrive at once."""
        self.s.sendall(b"".join(self.framed(1, json.dumps(m).encode()) for m in messages))

    def exactly(self, n):
        while len(self.rest) < n:
            self.rest += self.some()
        part, self.rest = self.rest[:n], self.rest[n:]
        return part

    def receive(self):
        """The next message: a dictionary, or bytes."""
        whole, kind = b"", 0
        while True:
            first, n = self.exactly(2)
            n &= 127
            if n > 125:
                size = ">H" if n == 126 else ">Q"
                n = struct.unpack(size, self.exactly(struct.calcsize(size)))[0]
            payload = self.exactly(n)
            code = first & 15
            if code == 8:
                raise Closed(struct.unpack(">H", payload[:2])[0] if payload else 0, payload[2:].decode())
            if code == 9:
                self.frame(10, payload)
            if code >= 8:
                continue
            kind, whole = code or kind, whole + payload
            if first & 128:
                return json.loads(whole) if kind == 1 else whole

    def until(self, what):
        """Messages up to one that `is` what."""
        found = []
        while True:
            found.append(self.receive())
            if isinstance(found[-1], dict):
                if found[-1]["is"] == what:
                    return found
                if found[-1]["is"] == "error":
                    raise AssertionError(found[-1]["text"])

    def close(self):
        self.s.close()
