"""A loopback server that stops responding at a given point and keeps its sockets open."""

import json
import selectors
import socket
import time

from ..waiting import Background

POINTS = ["connect", "handshake", "headers", "body"]
EVENTS = b"".join(
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    for event in (
        {
            "type": "message_start",
            "message": {"id": "m", "content": [], "usage": {"input_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "half"},
        },
    )
)


class SilentServer:
    """Stops responding in connect (its backlog is full), the TLS handshake, headers or body.

    reached: the `time.monotonic()` moments at which it stopped, one for each connection.
    """

    def __init__(self, point, body=EVENTS, content_type="text/event-stream"):
        self.point = point
        self.reached = []
        self._answer = (
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n"
            f"transfer-encoding: chunked\r\n\r\n{len(body):x}\r\n"
        ).encode() + body
        self._open = []
        self._closing = False
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._listener.listen(0 if point == "connect" else 16)
        if point == "connect":
            self._fill()
        else:
            self._serving = Background(self._serve)

    @property
    def url(self):
        return f"{'https' if self.point == 'handshake' else 'http'}://127.0.0.1:{self.address[1]}/"

    def _fill(self):
        """Fill the backlog, so that the next client waits in connect."""
        for _ in range(16):
            sock = socket.socket()
            self._open.append(sock)
            sock.setblocking(False)
            sock.connect_ex(self.address)
            with selectors.DefaultSelector() as selector:
                selector.register(sock, selectors.EVENT_WRITE)
                if not selector.select(0.3):
                    return
        raise AssertionError("the backlog does not become full")

    def _serve(self):
        while True:
            connection, _ = self._listener.accept()
            self._open.append(connection)
            if self._closing:
                return
            self._open.append(Background(self._stop_responding, connection))

    def _stop_responding(self, connection):
        data = connection.recv(65536)
        while self.point != "handshake" and b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        if self.point == "body":
            connection.sendall(self._answer)
        self.reached.append(time.monotonic())
        try:
            while connection.recv(
                65536
            ):  # a request's body, then nothing until the client disconnects
                pass
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._closing = True
        if self.point != "connect":
            socket.create_connection(self.address).close()
            self._serving.result()
        self._listener.close()
        for item in self._open:
            if isinstance(item, socket.socket):
                item.close()
