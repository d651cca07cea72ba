"""A loopback HTTP server that sends given bytes in given pieces: whole, held, cut, or reset."""

import json
import socket
import struct
import threading

from ..waiting import DEADLINE, Background

TLS_HANDSHAKE = b"\x16"  # the first byte of TLS


class RawResponse:
    """A response of the server.

    pieces: its body.
    framing: "chunked", a chunk for each piece; "chunk", one chunk of `length` bytes in which the
        connection ends early; "length", a content-length; or "close", the end of the connection.
    length: the announced length, if it is not the real one.
    hold: number of pieces after which the server waits until it is closed (-1: before the headers).
    pause: seconds before the headers.
    reset: reset the connection at the end.
    """

    def __init__(
        self,
        *pieces,
        status=200,
        headers=None,
        framing="chunked",
        length=None,
        hold=None,
        pause=0,
        reset=False,
    ):
        self.pieces = pieces
        self.status = status
        self.headers = dict(headers or {})
        self.framing = framing
        self.length = sum(map(len, pieces)) if length is None else length
        self.hold = hold
        self.pause = pause
        self.reset = reset

    def writes(self):
        """Return the bytes of each write.

        Each piece is one write. Chunks are all in a single write, because clients read them one by
        one in any case.
        """
        headers = dict({"content-type": "application/json"}, **self.headers)
        if self.framing in ("chunked", "chunk"):
            headers["transfer-encoding"] = "chunked"
        elif self.framing == "length":
            headers["content-length"] = str(self.length)
        else:
            headers["connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} Said"] + [
            f"{name}: {value}" for name, value in headers.items()
        ]
        head = "\r\n".join(lines + ["", ""]).encode("latin-1")
        pieces = list(self.pieces[: self.hold])
        if self.framing == "chunked":
            chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
            return [
                b"".join(
                    [head]
                    + chunks
                    + ([] if self.hold is not None or self.reset else [b"0\r\n\r\n"])
                )
            ]
        return [head + b"%x\r\n" % self.length if self.framing == "chunk" else head] + pieces

    def keeps_alive(self):
        """Return whether the connection accepts another request."""
        if self.hold is not None or self.reset or self.framing in ("chunk", "close"):
            return False
        return self.length == sum(map(len, self.pieces))


class ReceivedRequest:
    """A received request. headers: with lower-case names."""

    def __init__(self, line, headers, body):
        self.method, self.path, _ = line.split(" ")
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body.decode())


class ByteServer:
    """Answers requests with the given responses, in order; the last one answers all later requests.

    A TLS handshake does not count as a request. It is answered in plain text.
    """

    def __init__(self, *responses):
        self.requests = []
        self.connections = 0
        self.holding = threading.Event()  # set while an answer is held
        self._responses = list(responses)
        self._closed = threading.Event()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()  # guards the attributes below
        self._open = set()
        self._waiting = 1  # number of threads that wait for a connection
        self._serving = [Background(self._serve)]

    def set_responses(self, *responses):
        """Use these responses for the next requests; the last one answers all later requests."""
        self._responses = list(responses)

    def _serve(self):
        """Serve connections one by one; start another thread if none is left to accept the next."""
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
            pass  # the client closed the connection

    def _answer(self, connection, received):
        """Answer a request; returns whether the connection accepts another one."""
        if received.peek(1).startswith(TLS_HANDSHAKE):
            connection.sendall(b"HTTP/1.1 400 No TLS\r\n\r\n")
            return False
        line = received.readline().decode().strip()
        if not line:
            return False
        headers = {}
        for header in iter(lambda: received.readline().decode().strip(), ""):
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        # Read the whole request: closing a socket with unread bytes resets it.
        self.requests.append(
            ReceivedRequest(line, headers, received.read(int(headers["content-length"])))
        )
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        if response.hold != -1:
            self._closed.wait(response.pause)
            for data in response.writes():
                connection.sendall(data)
        if response.hold is not None:
            self.holding.set()
            self._closed.wait(DEADLINE)
        elif response.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return response.keeps_alive()

    def close(self):
        """Stop the server; a held response ends."""
        with self._lock:
            self._closed.set()
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed
        for _ in self._serving:
            socket.create_connection(self._listener.getsockname()).close()
        for thread in self._serving:
            thread.result()
        self._listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
