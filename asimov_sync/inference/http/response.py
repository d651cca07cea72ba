"""One HTTP request and its response: sent, read as its bytes arrive, and given up at any moment.

`iter_content` of requests and urllib3's `read` wait until they have what they asked for, which on a body without chunks is the
whole buffer or the end; `read1` of the reader below them returns what is there.
"""

import functools
import http.client
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

from asimov_sync.cancellation import Cancellation, Registration
from asimov_sync.concurrency.timers import Timer, timers
from asimov_sync.errors import AsimovError, InferenceError
from asimov_sync.inference.http.connect import dial

if TYPE_CHECKING:
    from asimov_sync.inference.http.transport import HttpTransport

__all__ = ["Exchange", "sending", "tell_socket"]

READ_BYTES = 65536
ERROR_BYTES = 65536
"""How much of an error's body is read."""
DRAIN_SECONDS = 0.25
"""How long the end of a body is waited for when its last event was seen, so that the connection can be used again."""
LONGEST_SECONDS = 1e6
"""The longest time-out that is set, more than a week; sockets take no more than 2^31 milliseconds."""

_here = threading.local()  # .exchange: what this thread sends just now


def sending() -> "Optional[Exchange]":
    """The exchange that this thread sends just now."""
    return getattr(_here, "exchange", None)


def tell_socket(sock: Any) -> None:
    """Tell the exchange that this thread sends which socket it goes over; None where it is still to be made."""
    exchange = sending()
    if exchange is not None and sock is not None:
        exchange.on_socket(sock)


class Exchange:
    """One request and its response. `close()` it; until then a cancellation frees whoever waits on it.

    status, headers (lower-case names): of the response, once `send` has returned. complete: the reader's word on whether it
    has seen all it wants, so that the connection may be used again once the body's last bytes are read.
    """

    def __init__(
        self,
        transport: "HttpTransport",
        session: Any,
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float],
    ) -> None:
        self.status = 0
        self.headers: Dict[str, str] = {}
        self.complete: Callable[[], bool] = bool
        self._transport = transport
        self._session: Any = session
        self._cancellation = cancellation
        self._deadline = deadline
        moments = [moment for moment in (deadline, cancellation.deadline) if moment is not None]
        self._end = min(moments, default=None)  # of the exchange, whatever has come by then
        self._idle = idle
        self._response: Any = None
        # Guards _socket: it is shut down only while it is this exchange's. Re-entrant: a signal handler may cancel.
        self._lock = threading.RLock()
        self._socket: Optional[socket.socket] = None
        self._young: Optional[socket.socket] = None  # a second handle on a socket whose connection is still being made
        self._received = 0
        self._length: Optional[int] = None  # of the body, where it was announced
        self._aborted = False
        self._pid = os.getpid()
        self._registration: Optional[Registration] = None
        self._alarm: Optional[Timer] = None

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send the request, and wait for the status and headers."""
        timeout = self._transport.timeout
        idle = self._seconds(self._idle)
        connect = self._seconds(timeout.connect)
        failure: Optional[AsimovError] = None
        # Here and not where it is made: whoever sends it closes it, whatever happens from now on (Ctrl-C, say).
        self._registration = self._cancellation.on_cancel(self.abort)
        if self._end is not None:
            # Bytes that trickle in hit no socket's time-out, in the headers least of all.
            self._alarm = timers.call_at(self._end, self.abort)
        outer = sending()  # one whose session's hook, or auth, asks a model itself
        _here.exchange = self
        try:
            self._cancellation.raise_if_cancelled()
            session = self._session
            response = session.post(
                url,
                data=body,
                headers=headers,
                # A password from ~/.netrc would take the place of the key.
                auth=None if session.auth else _unchanged,
                # The session's own are said once more, because requests prefers those of the environment to them.
                proxies=dict(session.proxies, **self._transport.proxies) or None,
                verify=self._transport.certificates or session.verify,
                stream=True,
                timeout=(connect, idle),
                allow_redirects=False,
            )
            if self._socket is None:  # an adapter of the application's own
                tell_socket(getattr(getattr(response.raw, "_connection", None), "sock", None))
        except self._transport.FAILURES as error:
            # There is one where a hook of the application's session calls raise_for_status.
            response = getattr(error, "response", None)
            if response is None:
                connected = self._socket is not None
                failure = self._transport.failure(error, self._cancellation, self._deadline, self._idle, connected)
        except TypeError:  # what requests raises for the address of a proxy that has no host
            failure = self._transport.proxy_failure(self._session.proxies)
            if failure is None:
                raise
        finally:
            _here.exchange = outer
        if failure is not None:
            raise failure  # outside of the except, so that the original is not its context
        self._response = response
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        if not (self._chunked or self._compressed):
            self._length = _announced(self.headers.get("content-length"))

    def _seconds(self, limit: Optional[float]) -> Optional[float]:
        """How long the next wait may take: the limit, or what is left of the call's or the cancellation's time."""
        left = None if self._end is None else self._end - time.monotonic()
        return _settable(min([seconds for seconds in (limit, left) if seconds is not None], default=None))

    @property
    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def _compressed(self) -> bool:
        return self.headers.get("content-encoding", "identity") != "identity"

    @property
    def delimited(self) -> bool:
        """Whether the end of the body is announced, by a length or a last chunk, and not just the connection's end."""
        return self._chunked or "content-length" in self.headers

    def dialled(self, host: str, port: int, source: Optional[Tuple[str, int]], options: Any) -> socket.socket:
        """Connect, unless the exchange is over before."""
        sock = dial(host, port, self._seconds(self._transport.timeout.connect), lambda: self._aborted, source, options)
        # A TLS handshake takes the socket's handle away from whoever holds the object; a second one reaches it all the same.
        try:
            with self._lock:
                self._young = sock.dup()
                aborted = self._aborted
        except BaseException:
            sock.close()
            raise
        if aborted:
            self.abort()
        return sock

    def on_socket(self, sock: Any) -> None:
        """Remember the socket that it goes over."""
        with self._lock:
            # TLS inside of TLS, as through a proxy of https, is no socket, but has one.
            self._socket = getattr(sock, "socket", sock)
            young, self._young = self._young, None
            aborted = self._aborted
        if young is not None:
            young.close()
        # urllib3 leaves the time-out of the connect on it while the request is sent, and a long body takes its time.
        self._limit(self._seconds(self._idle))
        if aborted:
            self.abort()

    def let_go(self) -> None:
        """Forget the socket, which goes back to where others may take it."""
        # urllib3 sends the next request with the time-out that it finds, and that of a drain is short.
        self._limit(_settable(self._idle))
        with self._lock:
            self._socket = None

    def abort(self) -> None:
        """Free whoever waits for the response or its body; they find the connection at its end."""
        with self._lock:
            self._aborted = True
            if self._pid != os.getpid():
                return  # a fork's copy is the parent's connection, too
            for sock in (self._socket, self._young):
                if sock is not None:
                    try:
                        # The plain socket's method: an SSLSocket's own drops its TLS state under the reader's feet.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
                    except OSError:
                        pass  # the other side was faster

    def chunks(self) -> Iterator[bytes]:
        """The body's bytes as they arrive. Raises as `send`; a body that is not `delimited` may end early unnoticed."""
        read = self._reader()
        while True:
            # Before Python 3.12 http.client's read1 does not count, and would wait for more than was announced.
            chunk = read() if self._length is None or self._received < self._length else b""
            self._received += len(chunk)
            if not chunk:
                self._cancellation.raise_if_cancelled()
                if self._deadline is not None and self._aborted:
                    raise self._transport.too_late()
                if self._length is not None and self._received < self._length:
                    raise self._transport.cut(self._length - self._received)
                self._keep()
                return
            yield chunk
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise self._transport.too_late()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def refusal(self) -> bytes:
        """The body of an error, as far as it comes and is worth reading: the status alone says what is wrong."""
        data = b""
        try:
            for chunk in self.chunks():
                data += chunk
                if len(data) > ERROR_BYTES:
                    break
        except InferenceError:
            pass
        return data

    def _reader(self) -> Callable[[], bytes]:
        """A function that reads the next bytes of the body, b"" at its end; called for each event: what stays is done here.

        A cancellation without a deadline is known by `_aborted`, and the socket keeps the bound that it has.
        """
        assert self._response is not None
        raw: Any = self._response.raw
        source: Callable[[int], bytes] = raw._fp.read1
        if self._compressed:
            source = functools.partial(raw.read, decode_content=True)
        idle = self._idle
        timed = self._end is not None
        self._limit(self._seconds(idle))

        def read() -> bytes:
            failure = None
            try:
                if timed or self._aborted:
                    self._cancellation.raise_if_cancelled()
                    self._limit(self._seconds(idle))
                return source(READ_BYTES)
            except self._transport.FAILURES as error:
                failure = self._transport.failure(error, self._cancellation, self._deadline, self._idle, True)
            raise failure

        return read

    def _limit(self, seconds: Optional[float]) -> None:
        """Bound the next read."""
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.settimeout(seconds)
                except OSError:
                    pass  # it is closed; the read will say so

    def _keep(self) -> None:
        """The body was read to its end: leave the connection to the next request."""
        if self.status < 200:
            return  # the response itself is still to come, and must not be taken for the answer to another request
        if self._response is not None:
            self.let_go()
            raw: Any = self._response.raw
            raw._fp.close()  # only http.client's reader: it does not know that this was all
            raw.release_conn()
            self._response = None
            self._give_back()

    def _give_back(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._transport.give_back(session)

    def _drained(self) -> bool:
        """Whether the rest of a complete body came at once; nothing is lost if it did not."""
        if self._response is None or "close" in self.headers.get("connection", ""):
            return False
        try:
            self._limit(DRAIN_SECONDS)
            raw: Any = self._response.raw
            return self._received == self._length or not raw._fp.read1(READ_BYTES)
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def close(self) -> None:
        """Give up the response; the connection is closed unless its body was read to the end."""
        try:
            if self._registration is not None:
                self._registration.remove()
            if self._alarm is not None:
                self._alarm.cancel()
            if self.complete() and not self._aborted and self._drained():
                self._keep()
        finally:  # Ctrl-C may strike while the end of the body is waited for
            self._give_up()

    def _give_up(self) -> None:
        """Close what was not kept."""
        response, self._response = self._response, None
        with self._lock:
            sock, self._socket = self._socket, None
            young, self._young = self._young, None
        if young is not None:
            young.close()
        if response is not None:
            response.close()
        elif sock is not None:  # Ctrl-C, or a hook of the application's, struck before the response came out of requests
            # Its close() would wait for that of the response, which nobody has.
            number = sock.detach()
            if number != -1:
                socket.close(number)
        self._give_back()

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def _announced(length: Optional[str]) -> Optional[int]:
    return int(length) if length is not None and length.isdecimal() else None


def _settable(seconds: Optional[float]) -> Optional[float]:
    """A time-out that a socket can be set to: one that has passed still is one, and one without an end is none."""
    return None if seconds is None or seconds > LONGEST_SECONDS else max(0.001, seconds)


def _unchanged(request: Any) -> Any:
    return request
