"""A loopback HTTP server that answers with given bytes, in given pieces; whole, held, cut, or reset."""

import json
import socket
import struct
import threading

from ..waiting import DEADLINE, Background

HANDSHAKE = b"\x16"  # how TLS begins


class Answer:
    """A response. pieces: its body. hold: after how many pieces (-1: before the headers) the server waits until it is closed.

    framing: "chunked", a chunk for each piece; "chunk", one chunk of `length` bytes, and the end of the connection before that
    of the chunk; "length"; or "close", no framing but the end of the connection. length: what content-length, or that chunk,
    says, where not the truth. pause: how many seconds the server thinks before the headers. reset: whether the connection is
    reset at the end.
    """

    def __init__(self, *pieces, status=200, headers=None, framing="chunked", length=None, hold=None, pause=0, reset=False):
        self.pieces = pieces
        self.status = status
        self.headers = dict(headers or {})
        self.framing = framing
        self.length = sum(map(len, pieces)) if length is None else length
        self.hold = hold
        self.pause = pause
        self.reset = reset

    def writes(self):
        """What is written, one after the other: a piece each; chunks at once, for a client reads each by itself anyway."""
        told = dict({"content-type": "application/json"}, **self.headers)
        if self.framing in ("chunked", "chunk"):
            told["transfer-encoding"] = "chunked"
        elif self.framing == "length":
            told["content-length"] = str(self.length)
        else:
            told["connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} Said"] + ["{}: {}".format(*header) for header in told.items()]
        head = "\r\n".join(lines + ["", ""]).encode("latin-1")
        pieces = list(self.pieces[: self.hold])
        if self.framing == "chunked":
            chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
            return [b"".join([head] + chunks + ([] if self.hold is not None or self.reset else [b"0\r\n\r\n"]))]
        return [head + b"%x\r\n" % self.length if self.framing == "chunk" else head] + pieces

    def leaves_the_connection(self):
        """Whether another request may follow on the connection."""
        if self.hold is not None or self.reset or self.framing in ("chunk", "close"):
            return False
        return self.length == sum(map(len, self.pieces))


class Sent:
    """A request that came. headers: lower-case names."""

    def __init__(self, line, headers, body):
        self.method, self.path, _ = line.split(" ")
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body.decode())


class ByteServer:
    """Answers the requests that come with the answers it was given, in their order; the last one answers all the others.

    A TLS handshake is no request: it is answered in plain text.
    """

    def __init__(self, *answers):
        self.requests = []
        self.connections = 0
        self.holding = threading.Event()  # set while an answer is held
        self._answers = list(answers)
        self._closed = threading.Event()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()  # guards what follows
        self._open = set()
        self._waiting = 1  # how many threads wait for a connection
        self._serving = [Background(self._serve)]

    def answer_with(self, *answers):
        """Answer the next requests with these; the last one answers all the others."""
        self._answers = list(answers)

    def _serve(self):
        """Serve connections, one after the other; start another thread where none would wait for the next connection."""
        while True:
            connection, _ = self._listener.accept()
            with self._lock:
                if self._closed.is_set():
                    connection.close()
                    return
                self.connections += 1
                self._open.add(connection)
                self._waiting -= 1
                if not self._waiting:
                    self._waiting += 1
                    self._serving.append(Background(self._serve))
            self._converse(connection)
            with self._lock:
                self._open.remove(connection)
                self._waiting += 1

    def _converse(self, connection):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, connection.makefile("rb") as received:
                while self._answer(connection, received):
                    pass
        except OSError:
            pass  # the client had enough

    def _answer(self, connection, received):
        """Answer a request; whether another may follow."""
        if received.peek(1).startswith(HANDSHAKE):
            connection.sendall(b"HTTP/1.1 400 No TLS\r\n\r\n")
            return False
        line = received.readline().decode().strip()
        if not line:
            return False
        headers = {}
        for header in iter(lambda: received.readline().decode().strip(), ""):
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        # The whole of the request: closing a socket with unread bytes resets it, and the answer may be lost.
        self.requests.append(Sent(line, headers, received.read(int(headers["content-length"]))))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer.hold != -1:
            self._closed.wait(answer.pause)
            for data in answer.writes():
                connection.sendall(data)
        if answer.hold is not None:
            self.holding.set()
            self._closed.wait(DEADLINE)
        elif answer.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return answer.leaves_the_connection()

    def close(self):
        """End; what is held is let go."""
        with self._lock:
            self._closed.set()
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed
        for _ in self._serving:
            socket.create_connection(self._listener.getsockname()).close()
        for one in self._serving:
            one.result()
        self._listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
