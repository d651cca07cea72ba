"""HTTP over requests; the only file that imports it: sessions, connections, and what their errors amount to.

Two things that requests does not do by itself:

- *A caller that is blocked can be freed.* Closing a response from another thread does not wake its reader (measured); shutting
  its socket down does. So the connections made here tell their exchange which socket it is on.
- *No key in an error.* Every exception of requests holds the request, and with it the key; what is raised here holds, as
  its cause, only the innermost error of the operating system or the HTTP parser.
"""

import http.client
import http.cookiejar
import logging
import re
import socket
import ssl
import threading
import time
import weakref
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.errors import (
    AsimovError,
    Cancelled,
    ConnectionFailed,
    ConnectTimeout,
    DeadlineExceeded,
    IdleTimeout,
)
from asimov_sync.inference.http.response import Exchange, sending, tell_socket
from asimov_sync.inference.request import Timeout

__all__ = ["HttpTransport", "Session"]

Session = requests.Session


class _Told:
    """A connection that tells the exchange of its thread which socket it uses, from the first moment on."""

    sock: Any
    exchange: "Optional[weakref.ref[Exchange]]" = None
    """Whose the connection is, from there until it is back in its pool."""

    def _new_conn(self) -> Any:
        exchange = sending()
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
        self._tell()

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        self._tell()  # a connection that was kept alive; its socket is None where it is still to connect
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def _tell(self) -> None:
        exchange = sending()
        self.exchange = None if exchange is None else weakref.ref(exchange)
        tell_socket(self.sock)


class _ToldHTTPConnection(_Told, HTTPConnection):
    pass


class _ToldHTTPSConnection(_Told, HTTPSConnection):
    pass


class _LettingGo:
    """A pool whose connections are nobody's any more before others may take them.

    urllib3 puts a connection back by itself, at the end of a body that it decodes or of a redirect.
    """

    def _put_conn(self, conn: Any) -> None:
        exchange = conn.exchange() if getattr(conn, "exchange", None) is not None else None
        if exchange is not None:
            conn.exchange = None
            exchange.let_go()
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTPPool(_LettingGo, urllib3.HTTPConnectionPool):
    ConnectionCls = _ToldHTTPConnection


class _HTTPSPool(_LettingGo, urllib3.HTTPSConnectionPool):
    ConnectionCls = _ToldHTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
_KEEPALIVE: List[Tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
for _name, _seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
    if hasattr(socket, _name):
        _KEEPALIVE.append((socket.IPPROTO_TCP, getattr(socket, _name), _seconds))
_SOCKET_OPTIONS = list(HTTPConnection.default_socket_options) + _KEEPALIVE


class _Adapter(requests.adapters.HTTPAdapter):
    """Makes connections with TCP keepalive on."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **kwargs)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, socket_options=_SOCKET_OPTIONS, **kwargs)


class HttpTransport:
    """Sends POST requests, each on a session that no other thread uses meanwhile; safe in a forked child.

    proxies: by scheme, as requests takes them; where none are given, those of the environment. session: one that the
    application brings, which then every request goes through; what it is set to (proxies, certificates, hooks) holds.
    certificates: a file of authorities that are trusted in place of the usual ones.
    """

    FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
    """What the layers below raise: theirs, the socket's, and ValueError for a closed file or a header that cannot be one."""

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
        self._start()
        reset_after_fork(self)

    def _start(self) -> None:
        # Guards the list of sessions that nobody uses. Re-entrant: the garbage collector may close a stream anywhere.
        self._lock = threading.RLock()
        self._free: List[requests.Session] = []

    def reset(self) -> None:
        """Start without connections, in a forked child: the parent's are not to be shared, not the application's either."""
        self._start()
        if self._brought is not None:
            for adapter in self._brought.adapters.values():
                if isinstance(adapter, requests.adapters.HTTPAdapter):
                    # What pickle does: as it was set up, with new pools.
                    adapter.__setstate__(adapter.__getstate__())  # type: ignore[attr-defined]
            _have_told(self._brought)

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
        _have_told(session)
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

    def proxy_failure(self, session_proxies: Mapping[str, str]) -> Optional[ConnectionFailed]:
        """The error for a proxy whose address has no host, in the arguments, the session or the environment; None if
        each has one."""
        proxies = dict(getproxies(), **dict(session_proxies, **self.proxies))
        proxies.pop("no", None)  # no_proxy, which is not an address
        wrong = sorted(name for name, address in proxies.items() if _lacks_host(address))
        if not wrong:
            return None
        # Not the address itself: it may hold a password.
        message = f"the address of the proxy for {wrong[0]!r} has no host"
        return ConnectionFailed(message, provider=self._provider, should_retry=False)

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


def _lacks_host(address: str) -> bool:
    try:
        return not urlsplit(address if "//" in address else "//" + address).hostname
    except ValueError:
        return True


def _without_query(record: logging.LogRecord) -> bool:
    """Remove the query from the addresses in a log record of urllib3: some servers take the key there."""
    if sending() is not None and isinstance(record.args, tuple):
        record.args = tuple(_QUERY.sub("?…", one) if isinstance(one, str) else one for one in record.args)
    return True


_QUERY = re.compile(r"\?\S+")
logging.getLogger("urllib3.connectionpool").addFilter(_without_query)


def _have_told(session: requests.Session) -> None:
    """Have the connections of a session tell their socket, those to its proxies too, where they are the usual ones."""
    for adapter in session.adapters.values():
        if isinstance(adapter, requests.adapters.HTTPAdapter) and _has_told(adapter.poolmanager):
            managers, adapter.proxy_manager = adapter.proxy_manager, _ProxyManagers()
            for proxy, manager in managers.items():
                adapter.proxy_manager[proxy] = manager


class _ProxyManagers(Dict[str, Any]):
    """An adapter's managers of pools, by proxy: an adapter adds one when it first uses the proxy."""

    def __setitem__(self, proxy: str, manager: Any) -> None:
        _has_told(manager)
        super().__setitem__(proxy, manager)


def _has_told(manager: Any) -> bool:
    """Have the connections of a manager's pools tell; False where they do already, or are not the usual ones (SOCKS)."""
    if manager.pool_classes_by_scheme != urllib3.poolmanager.pool_classes_by_scheme:
        return False
    manager.pool_classes_by_scheme = _POOLS
    manager.clear()
    return True


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
