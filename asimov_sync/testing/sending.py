"""Sends one response on a connection, with the framing and the faults that are asked for.

It writes the status line and the headers itself: how they are written is what some faults are about.
"""

import http.client
import select
import socket
import struct
import threading
import time
from typing import Callable, NoReturn, Optional

from asimov_sync.testing.answering import Response
from asimov_sync.testing.served import ServedRequest

__all__ = ["Cut", "Gone", "Sender"]

LOOK_SECONDS = 0.02
"""How often a server that waits looks whether its client is still there."""

PAUSE_SECONDS = 0.0001
"""How long after a small write the next one follows, so that the client can find them one by one."""

Gate = Callable[[ServedRequest, int], Optional[threading.Event]]
"""Asked before each event of a stream whether there is something to wait for."""


class Cut(Exception):
    """The script wants the connection to end here; reset: with a TCP reset."""

    def __init__(self, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class Gone(Exception):
    """The client has closed its connection while the server waited, or the server is about to."""


class Sender:
    """Sends a response, and notes on its request what went out, and which faults were carried out."""

    def __init__(
        self, connection: socket.socket, request: ServedRequest, response: Response, closing: threading.Event
    ) -> None:
        self._connection = connection
        self._request = request
        self._response = response
        self._fault = response.fault
        self._closing = closing
        self._chunked = response.framing == "chunked"
        self._written = 0  # of the body, in bytes

    def send(self, before_event: Optional[Gate]) -> None:
        """Send it all. Raises Cut, Gone, or an OSError where the client is gone."""
        fault, response = self._fault, self._response
        if response.error is None:  # not a stream
            before_event = None
        self._head()
        for number, piece in enumerate(response.pieces):
            if fault.stall == number:
                self._stall()
            gate = before_event(self._request, number) if before_event is not None else None
            if gate is not None:
                self._wait(gate)
            if fault.error_at == number and response.error is not None:
                self._note("error_at", number)
                self._piece(response.error, last=False)
                break
            self._piece(piece, last=number == len(response.pieces) - 1)
            self._request.sent += 1
        if self._chunked:
            if fault.cut_at == self._written:
                self._cut()
            self._write(b"0\r\n\r\n")

    def _head(self) -> None:
        fault, response = self._fault, self._response
        if fault.stall == "headers":
            self._stall()
        if fault.cut_at == "headers":
            self._cut()
        for name in ("write_bytes", "framing"):
            if getattr(fault, name) is not None:
                self._note(name, getattr(fault, name))
        told = "HTTP/1.1 {} {}\r\n".format(response.status, http.client.responses.get(response.status, "Unknown"))
        headers = dict(response.headers)
        if response.framing is None:
            headers["content-length"] = str(sum(map(len, response.pieces)))
        else:
            headers.update({"transfer-encoding": "chunked"} if self._chunked else {"connection": "close"})
        told += "".join("{}: {}\r\n".format(name, value) for name, value in headers.items())
        self._write(told.encode("latin-1") + b"\r\n")

    def _piece(self, data: bytes, last: bool) -> None:
        start = b"%x\r\n" % len(data) if self._chunked else b""
        cut_at = self._fault.cut_at
        if isinstance(cut_at, int) and cut_at < self._written + len(data):
            left = data[: cut_at - self._written]
            if left:  # of a chunk, its length is announced in full
                self._write(start + left)
            self._cut()
        self._written += len(data)
        # Before it goes out: whoever has read all of it finds it noted.
        self._request.whole = last
        try:
            self._write(start + data + (b"\r\n" if self._chunked else b""))
        except BaseException:
            self._request.whole = False
            raise

    def _write(self, data: bytes) -> None:
        step = self._fault.write_bytes
        if step is None:
            self._connection.sendall(data)
            return
        for start in range(0, len(data), step):
            self._connection.sendall(data[start : start + step])
            time.sleep(PAUSE_SECONDS)

    def _cut(self) -> NoReturn:
        self._note("cut_at", self._fault.cut_at)
        if self._fault.reset:
            self._request.faults.append("reset")
            # Lingering for no time at all: closing the socket resets the connection (socket(7)).
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Cut(self._fault.reset)

    def _stall(self) -> None:
        self._note("stall", self._fault.stall)
        self._wait(threading.Event())

    def _note(self, name: str, value: object) -> None:
        self._request.faults.append("{}={}".format(name, value))

    def _wait(self, event: threading.Event) -> None:
        while not event.wait(LOOK_SECONDS):
            if self._closing.is_set() or _hung_up(self._connection):
                raise Gone()


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection, read or unread what it sent before."""
    if hasattr(select, "POLLRDHUP"):  # Linux
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)
        return bool(poll.poll(0))
    readable, _, _ = select.select([connection], [], [], 0)
    # A TLS socket does not peek, the one beneath it does.
    return bool(readable) and not socket.socket.recv(connection, 1, socket.MSG_PEEK)
