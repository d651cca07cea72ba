"""One HTTP request and its response: sent, read as its bytes arrive, and aborted at any moment.

`iter_content` of requests and urllib3's `read` wait until they have the requested number of bytes;
for a body without chunks that is a full buffer or the end. `read1` of the reader below them
returns the bytes that are there.
"""

import functools
import http.client
import os
import socket
import threading
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from asimov_sync.cancellation import Cancellation, Registration
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.timers import Timer, timers
from asimov_sync.errors import AsimovError, InferenceError
from asimov_sync.inference.http.connect import connect
from asimov_sync.inference.http.connections import (
    Session,
    SocketUser,
    register_socket,
    set_current_response,
)
from asimov_sync.inference.http.errors import (
    FOREIGN_ERRORS,
    Target,
    deadline_error,
    proxy_error,
    translate_error,
    truncated_error,
)
from asimov_sync.inference.request import Timeout

__all__ = ["Response", "SendOptions"]

READ_BYTES = 65536
ERROR_BYTES = 65536
"""The number of bytes of an error's body that are read."""
DRAIN_SECONDS = 0.25
"""Seconds to wait for the end of a body after its last event, to keep the connection."""
MAX_TIMEOUT = 1e6
"""The longest socket time-out, in seconds (11 days). Sockets accept at most 2^31 milliseconds."""


class SendOptions(NamedTuple):
    """Settings of a request.

    target: its destination.
    timeout: its limits.
    proxies: addresses by scheme; they take precedence over those of the session and environment.
    certificates: file of trusted authorities; None for those of the session.
    """

    target: Target
    timeout: Timeout
    proxies: Mapping[str, str] = {}
    certificates: Optional[str] = None


class Response(SocketUser):
    """One request and its response. Call `send`, read the body, and `close`.

    Until it is closed, a cancellation or the deadline wakes the thread that waits for it.

    session: sends the request.
    options: settings of the request.
    give_back: called once with the session when the response no longer needs it.
    deadline: moment (`clock.monotonic()`) at which the call's total time is over, or None.

    Attributes, once `send` has returned: status, and headers with lower-case names.
    is_body_done: set by the reader; returns whether it has all it needs. The connection can then
        be kept once the last bytes of the body are read.
    """

    def __init__(
        self,
        session: Session,
        options: SendOptions,
        give_back: Callable[[Session], None],
        cancellation: Cancellation,
        deadline: Optional[float],
    ) -> None:
        self.status = 0
        self.headers: Dict[str, str] = {}
        self.is_body_done: Callable[[], bool] = bool
        self._session: Optional[Session] = session
        self._options = options
        self._give_back = give_back
        self._cancellation = cancellation
        self._deadline = deadline
        ends = [moment for moment in (deadline, cancellation.deadline) if moment is not None]
        self._end = min(ends, default=None)  # when to abort, even if bytes still arrive
        self._idle = options.timeout.idle
        self._response: Any = None
        # Guards _socket, which may be shut down only while this response owns it. Re-entrant:
        # a signal handler may cancel.
        self._lock = threading.RLock()
        self._socket: Optional[socket.socket] = None
        self._connecting_socket: Optional[socket.socket] = None  # a second handle, see open_socket
        self._received = 0
        self._length: Optional[int] = None  # of the body, if it was announced
        self._aborted = False
        self._pid = os.getpid()
        self._registration: Optional[Registration] = None
        self._alarm: Optional[Timer] = None

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send the request and wait for the status and headers."""
        error: Optional[AsimovError] = None
        # Registered here and not in __init__: a caller of send() also calls close(), even if it is
        # interrupted by Ctrl-C.
        self._registration = self._cancellation.on_cancel(self.abort)
        if self._end is not None:
            # Bytes that trickle in, above all in the headers, do not trip a socket's time-out.
            self._alarm = timers.call_at(self._end, self.abort)
        try:
            with set_current_response(self):
                response = self._post(url, headers, body)
        except FOREIGN_ERRORS as caught:
            # There is a response if a hook of the application's session calls raise_for_status.
            response = getattr(caught, "response", None)
            if response is None:
                error = self._translate(caught, connected=self._socket is not None)
        except TypeError:  # raised by requests for a proxy whose address has no host
            error = proxy_error(self._options.target, self._proxies())
            if error is None:
                raise
        if error is not None:
            raise error  # outside of the except, so that the original is not its context
        self._response = response
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        if not (self._chunked or self._compressed):
            self._length = _parse_length(self.headers.get("content-length"))

    def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Any:
        assert self._session is not None
        session: Any = self._session
        idle = self._seconds(self._idle)
        connect_seconds = self._seconds(self._options.timeout.connect)
        self._cancellation.raise_if_cancelled()
        response = session.post(
            url,
            data=body,
            headers=headers,
            # A password from ~/.netrc would replace the key.
            auth=None if session.auth else _keep_headers,
            # The session's proxies are passed explicitly: requests would prefer the environment's.
            proxies=self._proxies() or None,
            verify=self._options.certificates or session.verify,
            stream=True,
            timeout=(connect_seconds, idle),
            allow_redirects=False,
        )
        if self._socket is None:  # the application's own adapter, without tracked connections
            register_socket(getattr(getattr(response.raw, "_connection", None), "sock", None))
        return response

    def _proxies(self) -> Dict[str, str]:
        session: Any = self._session
        return dict(session.proxies, **self._options.proxies)

    def _translate(self, error: BaseException, connected: bool) -> AsimovError:
        target, timeout = self._options.target, self._options.timeout
        return translate_error(
            error, target, timeout, self._cancellation, self._deadline, connected
        )

    def _seconds(self, limit: Optional[float]) -> Optional[float]:
        """Return the time-out of the next wait: `limit`, or the remaining time if it is shorter."""
        left = None if self._end is None else self._end - clock.monotonic()
        limits = [seconds for seconds in (limit, left) if seconds is not None]
        return _socket_timeout(min(limits, default=None))

    @property
    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def _compressed(self) -> bool:
        return self.headers.get("content-encoding", "identity") != "identity"

    @property
    def length_known(self) -> bool:
        """Return whether the end of the body is marked, by a length or a last chunk.

        Otherwise the body ends when the connection does, and a lost connection looks the same.
        """
        return self._chunked or "content-length" in self.headers

    def open_socket(
        self, host: str, port: int, source: Optional[Tuple[str, int]], options: Any
    ) -> socket.socket:
        """Connect and return the socket; an abort of the response aborts the connect."""
        seconds = self._seconds(self._options.timeout.connect)
        sock = connect(host, port, seconds, lambda: self._aborted, source, options)
        # A TLS handshake takes the handle out of this socket object. A duplicate handle still
        # reaches the connection, so that an abort can shut it down.
        try:
            with self._lock:
                self._connecting_socket = sock.dup()
                aborted = self._aborted
        except BaseException:
            sock.close()
            raise
        if aborted:
            self.abort()
        return sock

    def register_socket(self, sock: Any) -> None:
        """Use this socket: `abort` shuts it down."""
        with self._lock:
            # TLS inside TLS, as through an https proxy, is not a socket but wraps one.
            self._socket = getattr(sock, "socket", sock)
            connecting, self._connecting_socket = self._connecting_socket, None
            aborted = self._aborted
        if connecting is not None:
            connecting.close()
        # urllib3 would send the request with the time-out of the connect; a long body takes longer.
        self._set_timeout(self._seconds(self._idle))
        if aborted:
            self.abort()

    def detach_socket(self) -> None:
        """Forget the socket, because its connection returns to the pool."""
        # urllib3 sends the next request with the socket's time-out, which a drain has shortened.
        self._set_timeout(_socket_timeout(self._idle))
        with self._lock:
            self._socket = None

    def abort(self) -> None:
        """Wake the thread that waits for the response or its body; it sees a closed connection."""
        with self._lock:
            self._aborted = True
            if self._pid != os.getpid():
                return  # a forked child's copy is the parent's connection, too
            for sock in (self._socket, self._connecting_socket):
                if sock is not None:
                    try:
                        # Not SSLSocket.shutdown, which discards the TLS state that the reader uses.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
                    except OSError:
                        pass  # the peer has closed it already

    def chunks(self) -> Iterator[bytes]:
        """Yield the body's bytes as they arrive.

        Raises the errors of `HttpTransport.post`. Without `length_known`, a body that ends early
        looks complete.
        """
        read = self._make_reader()
        while True:
            # Before Python 3.12 http.client's read1 ignores the announced length and would wait
            # for more.
            more = self._length is None or self._received < self._length
            chunk = read() if more else b""
            self._received += len(chunk)
            if not chunk:
                self._cancellation.raise_if_cancelled()
                if self._deadline is not None and self._aborted:
                    raise deadline_error(self._options.target, self._options.timeout)
                if self._length is not None and self._received < self._length:
                    raise truncated_error(self._options.target, self._length - self._received)
                self._reuse()
                return
            yield chunk
            if self._deadline is not None and clock.monotonic() >= self._deadline:
                raise deadline_error(self._options.target, self._options.timeout)

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks())

    def error_body(self) -> bytes:
        """Return the body of an error: all of it, or its beginning of at least ERROR_BYTES.

        A body that breaks off is returned as far as it arrived, since the status names the error.
        """
        data = b""
        try:
            for chunk in self.chunks():
                data += chunk
                if len(data) > ERROR_BYTES:
                    break
        except InferenceError:
            pass
        return data

    def _make_reader(self) -> Callable[[], bytes]:
        """Return a function that reads the next bytes of the body, b"" at its end.

        It runs once for each event, so everything constant is prepared here. Without a deadline,
        `_aborted` reports a cancellation and the socket keeps its time-out.
        """
        assert self._response is not None
        raw: Any = self._response.raw
        source: Callable[[int], bytes] = raw._fp.read1
        if self._compressed:
            source = functools.partial(raw.read, decode_content=True)
        idle = self._idle
        timed = self._end is not None
        self._set_timeout(self._seconds(idle))

        def read() -> bytes:
            try:
                if timed or self._aborted:
                    self._cancellation.raise_if_cancelled()
                    self._set_timeout(self._seconds(idle))
                return source(READ_BYTES)
            except FOREIGN_ERRORS as caught:
                error = self._translate(caught, connected=True)
            raise error

        return read

    def _set_timeout(self, seconds: Optional[float]) -> None:
        """Set the time-out of the next read."""
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.settimeout(seconds)
                except OSError:
                    pass  # closed; the read will raise

    def _reuse(self) -> None:
        """Keep the connection of a body that was read to its end for the next request."""
        if self.status < 200:
            return  # the final response is still to come; the next request must not receive it
        if self._response is not None:
            self.detach_socket()
            raw: Any = self._response.raw
            raw._fp.close()  # only http.client's reader, which has not noticed the end
            raw.release_conn()
            self._response = None
            self._return_session()

    def _return_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._give_back(session)

    def _drain(self) -> bool:
        """Read the rest of a complete body. Returns False if it does not arrive at once."""
        if self._response is None or "close" in self.headers.get("connection", ""):
            return False
        try:
            self._set_timeout(DRAIN_SECONDS)
            raw: Any = self._response.raw
            return self._received == self._length or not raw._fp.read1(READ_BYTES)
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def close(self) -> None:
        """Release the response. Its connection is closed unless the body was read to its end."""
        try:
            if self._registration is not None:
                self._registration.remove()
            if self._alarm is not None:
                self._alarm.cancel()
            if self.is_body_done() and not self._aborted and self._drain():
                self._reuse()
        finally:  # Ctrl-C may arrive during the drain
            self._discard()

    def _discard(self) -> None:
        """Close the connection unless it was kept, and return the session."""
        response, self._response = self._response, None
        with self._lock:
            sock, self._socket = self._socket, None
            connecting, self._connecting_socket = self._connecting_socket, None
        if connecting is not None:
            connecting.close()
        if response is not None:
            response.close()
        elif sock is not None:  # Ctrl-C or an application's hook interrupted session.post
            # sock.close() would wait for the response's own close, and the response is lost.
            number = sock.detach()
            if number != -1:
                socket.close(number)
        self._return_session()

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def _parse_length(length: Optional[str]) -> Optional[int]:
    return int(length) if length is not None and length.isdecimal() else None


def _socket_timeout(seconds: Optional[float]) -> Optional[float]:
    """Return a time-out that sockets accept: at least 1 ms, and None for more than MAX_TIMEOUT."""
    return None if seconds is None or seconds > MAX_TIMEOUT else max(0.001, seconds)


def _keep_headers(request: Any) -> Any:
    return request
