"""Writes a response to a connection, with its framing and faults.

It writes the status line and the headers itself, because some faults concern them.
"""

import http.client
import select
import socket
import struct
import threading
import time
from typing import Callable, NoReturn, Optional

from asimov_sync.testing.request_log import ServedRequest
from asimov_sync.testing.responses import Response

__all__ = ["BeforeEvent", "ClientGone", "ConnectionCut", "ResponseWriter"]

POLL_SECONDS = 0.02
"""Seconds between two checks whether the client is still connected, while the server waits."""

WRITE_PAUSE_SECONDS = 0.0001
"""Seconds between two small writes, so that the client can receive them one by one."""

BeforeEvent = Callable[[ServedRequest, int], Optional[threading.Event]]
"""Called as `before_event(request, number)` before each event. May return an Event to wait for."""


class ConnectionCut(Exception):
    """The script cuts the connection here. reset: with a TCP reset."""

    def __init__(self, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class ClientGone(Exception):
    """The client disconnected while the server waited, or the server is closing."""


class ResponseWriter:
    """Writes one response and logs its progress and its faults on the request.

    connection: the client's socket.
    request: the request to update.
    response: the response to write.
    closing: set when the server closes; ends every wait.
    """

    def __init__(
        self,
        connection: socket.socket,
        request: ServedRequest,
        response: Response,
        closing: threading.Event,
    ) -> None:
        self._connection = connection
        self._request = request
        self._response = response
        self._fault = response.fault
        self._closing = closing
        self._chunked = response.framing == "chunked"
        self._body_bytes = 0  # written so far

    def write(self, before_event: Optional[BeforeEvent]) -> None:
        """Write the whole response.

        before_event: called before each event of a stream, or None.

        Raises ConnectionCut if the script cuts the connection, ClientGone if the client disconnects
        while the server waits, and OSError if it disconnects during a write.
        """
        fault, response = self._fault, self._response
        is_stream = response.error_event is not None
        self._write_head()
        for number, piece in enumerate(response.pieces):
            if fault.stall == number:
                self._stall()
            if before_event is not None and is_stream:
                event = before_event(self._request, number)
                if event is not None:
                    self._wait(event)
            if fault.error_at == number and response.error_event is not None:
                self._log_fault("error_at", number)
                self._write_piece(response.error_event, is_last=False)
                break
            self._write_piece(piece, is_last=number == len(response.pieces) - 1)
            self._request.sent += 1
        if self._chunked:
            if fault.cut_at == self._body_bytes:
                self._cut()
            self._write(b"0\r\n\r\n")

    def _write_head(self) -> None:
        fault, response = self._fault, self._response
        if fault.stall == "headers":
            self._stall()
        if fault.cut_at == "headers":
            self._cut()
        for name in ("write_bytes", "framing"):
            if getattr(fault, name) is not None:
                self._log_fault(name, getattr(fault, name))
        headers = dict(response.headers)
        if response.framing is None:
            headers["content-length"] = str(sum(map(len, response.pieces)))
        elif self._chunked:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["connection"] = "close"
        reason = http.client.responses.get(response.status, "Unknown")
        lines = [f"HTTP/1.1 {response.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._write("\r\n".join(lines + ["", ""]).encode("latin-1"))

    def _write_piece(self, data: bytes, is_last: bool) -> None:
        chunk_head = b"%x\r\n" % len(data) if self._chunked else b""
        chunk_tail = b"\r\n" if self._chunked else b""
        cut_at = self._fault.cut_at
        if isinstance(cut_at, int) and cut_at < self._body_bytes + len(data):
            before_cut = data[: cut_at - self._body_bytes]
            if before_cut:  # the chunk's head still announces the full length
                self._write(chunk_head + before_cut)
            self._cut()
        self._body_bytes += len(data)
        # Set before the write: a client that has read everything may check it at once.
        self._request.whole = is_last
        try:
            self._write(chunk_head + data + chunk_tail)
        except BaseException:
            self._request.whole = False
            raise

    def _write(self, data: bytes) -> None:
        size = self._fault.write_bytes
        if size is None:
            self._connection.sendall(data)
            return
        for start in range(0, len(data), size):
            self._connection.sendall(data[start : start + size])
            time.sleep(WRITE_PAUSE_SECONDS)

    def _cut(self) -> NoReturn:
        self._log_fault("cut_at", self._fault.cut_at)
        if self._fault.reset:
            self._request.faults.append("reset")
            # With a linger time of 0, closing the socket resets the connection (see socket(7)).
            linger = struct.pack("ii", 1, 0)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise ConnectionCut(self._fault.reset)

    def _stall(self) -> None:
        self._log_fault("stall", self._fault.stall)
        self._wait(threading.Event())

    def _log_fault(self, name: str, value: object) -> None:
        self._request.faults.append(f"{name}={value}")

    def _wait(self, event: threading.Event) -> None:
        while not event.wait(POLL_SECONDS):
            if self._closing.is_set() or _is_disconnected(self._connection):
                raise ClientGone()


def _is_disconnected(connection: socket.socket) -> bool:
    """Return whether the client closed the connection, even if data it sent is unread."""
    if hasattr(select, "POLLRDHUP"):  # Linux
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)
        return bool(poll.poll(0))
    readable, _, _ = select.select([connection], [], [], 0)
    # SSLSocket.recv() does not support MSG_PEEK; the plain socket's does.
    return bool(readable) and not socket.socket.recv(connection, 1, socket.MSG_PEEK)
