"""One HTTP exchange at a time, over requests; the only file that imports it.

Three things that requests does not do by itself:

- *A reader that is blocked can be freed.* Closing a response from another thread does not wake its reader (measured); shutting
  its socket down does. So the connections made here tell their exchange which socket it is on.
- *Bytes are handed on when they arrive.* `iter_content` and urllib3's `read` wait until they have what they asked for, which
  on a body without chunks is the whole buffer or the end; `read1` returns what is there.
- *No key in an error.* Every exception of requests holds the request, and with it the key; what is raised here holds, as
  its cause, only the innermost error of the operating system or the HTTP parser.
"""

import functools
import http.client
import http.cookiejar
import os
import socket
import ssl
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import (
    AsimovError,
    Cancelled,
    ConnectionFailed,
    ConnectTimeout,
    DeadlineExceeded,
    IdleTimeout,
    InferenceError,
)
from asimov_sync.forking import renew_in_child
from asimov_sync.inference.dialling import dial
from asimov_sync.inference.request import Timeout
from asimov_sync.workers import alarms

__all__ = ["Exchange", "HttpTransport", "Session"]

Session = requests.Session

READ_BYTES = 65536
ERROR_BYTES = 65536
"""How much of an error's body is read."""
DRAIN_SECONDS = 0.25
"""How long the end of a body is waited for when its last event was seen, so that the connection can be used again."""

_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
"""What the layers below raise: theirs, the socket's, and ValueError for a closed file or a header that cannot be one."""

_sending = threading.local()  # .exchange: what this thread sends just now


class _Told:
    """A connection that tells the exchange of its thread which socket it uses, from the first moment on."""

    sock: Any

    def _new_conn(self) -> Any:
        exchange = getattr(_sending, "exchange", None)
        me: Any = self
        if exchange is None:  # an application's session, at the application's own work
            return super()._new_conn()  # type: ignore[misc]
        try:
            host = getattr(me, "_dns_host", me.host)
            return exchange.dialled(host, me.port, me.source_address, me.socket_options or ())
        except socket.timeout as error:
            raise urllib3.exceptions.ConnectTimeoutError(me, "timed out") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(me, "no connection: {}".format(error)) from error

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _on_socket(self.sock)

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        _on_socket(self.sock)  # a connection that was kept alive; None where it is still to connect
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]


def _on_socket(sock: Any) -> None:
    exchange = getattr(_sending, "exchange", None)
    if exchange is not None and sock is not None:
        exchange.on_socket(sock)


class _ToldHTTPConnection(_Told, HTTPConnection):
    pass


class _ToldHTTPSConnection(_Told, HTTPSConnection):
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _ToldHTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _ToldHTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
_KEEPALIVE: List[Tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
for _name, _seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
    if hasattr(socket, _name):
        _KEEPALIVE.append((socket.IPPROTO_TCP, getattr(socket, _name), _seconds))


class _Adapter(requests.adapters.HTTPAdapter):
    """Makes connections that tell their socket, with TCP keepalive on, and retries nothing."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = list(HTTPConnection.default_socket_options) + _KEEPALIVE
        super().init_poolmanager(*args, socket_options=options, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class HttpTransport:
    """Sends POST requests, each on a session that no other thread uses meanwhile; safe in a forked child.

    proxies: by scheme, as requests takes them; where none are given, those of the environment. session: one that the
    application brings, which then every request goes through; what it is set to (proxies, certificates, hooks) holds.
    certificates: a file of authorities that are trusted in place of the usual ones.
    """

    def __init__(
        self,
        provider: str,
        timeout: Timeout,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[requests.Session] = None,
        certificates: Optional[str] = None,
    ) -> None:
        self._provider = provider
        self.timeout = timeout
        self.proxies = dict(proxies or {})
        self.certificates = certificates
        self._brought = session
        if session is not None:
            _have_told(session)
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Start without connections, as in a forked child: the parent's are not to be shared."""
        self._lock = threading.Lock()  # guards the list of sessions that nobody uses
        self._free: List[requests.Session] = []

    def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float] = None,
    ) -> "Exchange":
        """Send a request and wait for the status and headers of its response.

        deadline: the `time.monotonic()` moment at which the call has taken its total time. idle: seconds in place of
        timeout.idle, for this exchange alone. Raises ConnectionFailed, ConnectTimeout, IdleTimeout, DeadlineExceeded, or
        Cancelled.
        """
        exchange = Exchange(self, self._session(), cancellation, deadline, self.timeout.idle if idle is None else idle)
        try:
            exchange.send(url, headers, body)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _session(self) -> requests.Session:
        if self._brought is not None:
            return self._brought
        with self._lock:
            if self._free:
                return self._free.pop()
        session = requests.Session()
        adapter = _Adapter(max_retries=0)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        return session

    def give_back(self, session: requests.Session) -> None:
        """Take a session whose exchange is over, for the next one."""
        if session is not self._brought:
            with self._lock:
                self._free.append(session)

    def close(self) -> None:
        """Close the connections that nobody uses; the next request opens a new one."""
        with self._lock:
            free, self._free = self._free, []
        for session in free:
            session.close()

    def too_late(self) -> DeadlineExceeded:
        """The error of a call whose total time is over."""
        return DeadlineExceeded(
            "the call took longer than timeout.total, {} s".format(self.timeout.total), provider=self._provider
        )

    def cut(self, missing: int) -> ConnectionFailed:
        """The error of a body that is shorter than was announced."""
        return ConnectionFailed("the response ended {} bytes early".format(missing), provider=self._provider)

    def failure(
        self,
        error: BaseException,
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float],
        connected: bool,
    ) -> AsimovError:
        """What an exception of requests, urllib3, http.client or the socket amounts to; without the request in it."""
        reason = cancellation.reason
        if reason is not None:
            return Cancelled(reason)
        chain = _chain(error)
        root = next((link for link in reversed(chain) if _harmless(link)), None)
        # urllib3 counts a refused connection among the time-outs.
        kinds = [type(link) for link in chain if not isinstance(link, urllib3.exceptions.NewConnectionError)]
        connecting = any(issubclass(kind, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)) for kind in kinds)
        timed_out = any(
            issubclass(kind, (socket.timeout, requests.Timeout, urllib3.exceptions.TimeoutError)) for kind in kinds
        )
        failure: AsimovError
        if deadline is not None and time.monotonic() >= deadline:
            failure = self.too_late()
        elif connecting or (timed_out and not connected):  # a TLS handshake, or a proxy, that does not answer
            failure = ConnectTimeout(
                "no connection within timeout.connect, {} s".format(self.timeout.connect), provider=self._provider
            )
        elif timed_out:
            failure = IdleTimeout("not a byte within timeout.idle, {} s".format(idle), provider=self._provider)
        elif root is None and any(issubclass(kind, ValueError) for kind in kinds):
            # An address or a header that cannot be sent. Its text shows the header's value, which may be a key.
            failure = ConnectionFailed(
                "the request cannot be sent: look at the address and the headers", provider=self._provider
            )
        else:
            failure = ConnectionFailed(
                "the connection failed: {}: {}".format(type(root or error).__name__, root or error), provider=self._provider
            )
        if root is not None:
            root.__cause__ = root.__context__ = None
            failure.__cause__ = root.with_traceback(None)
        return failure


class Exchange:
    """One request and its response. `close()` it; until then a cancellation frees whoever waits on it.

    status, headers (lower-case names): of the response, once `send` has returned. complete: the reader's word on whether it
    has seen all it wants, so that the connection may be used again once the body's last bytes are read.
    """

    def __init__(
        self,
        transport: HttpTransport,
        session: requests.Session,
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float],
    ) -> None:
        self.status = 0
        self.headers: Dict[str, str] = {}
        self.complete: Callable[[], bool] = bool
        self._transport = transport
        self._session: Optional[requests.Session] = session
        self._cancellation = cancellation
        self._deadline = deadline
        self._idle = idle
        self._response: Optional[requests.Response] = None
        self._lock = threading.Lock()  # guards _socket: it is shut down only while it is this exchange's
        self._socket: Optional[socket.socket] = None
        self._young: Optional[socket.socket] = None  # a second handle on a socket whose connection is still being made
        self._received = 0
        self._length: Optional[int] = None  # of the body, where it was announced
        self._aborted = False
        self._pid = os.getpid()
        self._registration = cancellation.on_cancel(self.abort)
        moments = [moment for moment in (deadline, cancellation.deadline) if moment is not None]
        # Bytes that trickle in hit no socket's time-out, in the headers least of all.
        self._alarm = alarms.call_at(min(moments), self.abort) if moments else None

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send the request, and wait for the status and headers."""
        timeout = self._transport.timeout
        idle = self._seconds(self._idle)
        connect = self._seconds(timeout.connect)
        failure = None
        _sending.exchange = self
        try:
            self._cancellation.raise_if_cancelled()
            assert self._session is not None
            response = self._session.post(
                url,
                data=body,
                headers=headers,
                # A password from ~/.netrc would take the place of the key.
                auth=None if self._session.auth else _unchanged,
                proxies=self._transport.proxies or None,
                verify=self._transport.certificates,
                stream=True,
                timeout=(connect, idle),
                allow_redirects=False,
            )
            self._response = response
            self.status = response.status_code
            self.headers = {name.lower(): value for name, value in response.headers.items()}
            if not (self._chunked or self._compressed):
                self._length = _announced(self.headers.get("content-length"))
            if self._socket is None:  # an adapter of the application's own
                _on_socket(getattr(getattr(response.raw, "_connection", None), "sock", None))
        except _FAILURES as error:
            connected = self._socket is not None
            failure = self._transport.failure(error, self._cancellation, self._deadline, self._idle, connected)
        finally:
            _sending.exchange = None
        if failure is not None:
            raise failure  # outside of the except, so that the original is not its context

    def _seconds(self, limit: Optional[float]) -> Optional[float]:
        """How long the next wait may take: the limit, or what is left of the call's or the cancellation's time."""
        moments = [moment for moment in (self._deadline, self._cancellation.deadline) if moment is not None]
        left = max(0.001, min(moments) - time.monotonic()) if moments else None
        given = [seconds for seconds in (limit, left) if seconds is not None and seconds != float("inf")]
        return min(given, default=None)

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
        with self._lock:
            self._young = sock.dup()
            aborted = self._aborted
        if aborted:
            self.abort()
        return sock

    def on_socket(self, sock: socket.socket) -> None:
        """Remember the socket that it goes over."""
        with self._lock:
            self._socket = sock
            young, self._young = self._young, None
            aborted = self._aborted
        if young is not None:
            young.close()
        # urllib3 leaves the time-out of the connect on it while the request is sent, and a long body takes its time.
        self._limit(self._seconds(self._idle))
        if aborted:
            self.abort()

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
        timed = self._deadline is not None or self._cancellation.deadline is not None
        self._limit(self._seconds(idle))

        def read() -> bytes:
            failure = None
            try:
                if timed or self._aborted:
                    self._cancellation.raise_if_cancelled()
                    self._limit(self._seconds(idle))
                return source(READ_BYTES)
            except _FAILURES as error:
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
        response, self._response = self._response, None
        if response is not None:
            with self._lock:
                self._socket = None
            raw: Any = response.raw
            raw._fp.close()  # only http.client's reader: it does not know that this was all
            raw.release_conn()
            if self._session is not None:
                self._transport.give_back(self._session)
                self._session = None

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
        self._registration.remove()
        if self._alarm is not None:
            self._alarm.cancel()
        if self.complete() and not self._aborted and self._drained():
            self._keep()
        response, self._response = self._response, None
        with self._lock:
            self._socket = None
            young, self._young = self._young, None
        if young is not None:
            young.close()
        if response is not None:
            response.close()
        session, self._session = self._session, None
        if session is not None:
            self._transport.give_back(session)

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def _have_told(session: requests.Session) -> None:
    """Have the connections of an application's session tell their socket, too, where they are the usual ones."""
    for adapter in session.adapters.values():
        manager = getattr(adapter, "poolmanager", None)
        if getattr(manager, "pool_classes_by_scheme", None) == urllib3.poolmanager.pool_classes_by_scheme:
            manager.pool_classes_by_scheme = _POOLS  # type: ignore[union-attr]
            manager.clear()  # type: ignore[union-attr]


def _announced(length: Optional[str]) -> Optional[int]:
    return int(length) if length is not None and length.isdigit() else None


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _chain(error: BaseException) -> List[BaseException]:
    """An exception and everything it was caused by or wraps, the outermost first."""
    chain: List[BaseException] = []
    pending: List[Any] = [error]
    while pending:
        link = pending.pop(0)
        # urllib3's `reason` is an exception, and that of an SSLError is a word.
        if isinstance(link, BaseException) and not any(link is seen for seen in chain):
            chain.append(link)
            pending += [link.__cause__, link.__context__, getattr(link, "reason", None)]
            pending += link.args
    return chain


def _harmless(error: BaseException) -> bool:
    """Whether an exception is of the operating system, TLS or the HTTP parser, and so holds neither request nor headers."""
    if isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return False
    if type(error).__name__ == "CertificateError":  # urllib3's own, of a host that does not match; its home has moved about
        return True
    return isinstance(error, (OSError, ssl.SSLError, http.client.HTTPException))
