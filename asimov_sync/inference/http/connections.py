"""Connections of requests and urllib3 that register their socket with the current response.

Closing a response from another thread does not wake a thread that reads from it (measured);
shutting down its socket does. So a response has to know its socket, from the connect until the
connection returns to its pool.
"""

import abc
import http.cookiejar
import logging
import re
import socket
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Tuple

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

__all__ = [
    "Session",
    "SocketUser",
    "create_session",
    "current_response",
    "hide_queries_in_logs",
    "register_socket",
    "reset_connections",
    "set_current_response",
    "track_session",
]

Session = requests.Session

_local = threading.local()  # .response: the response that this thread is waiting for


class SocketUser(abc.ABC):
    """A response, as its connection sees it."""

    @abc.abstractmethod
    def open_socket(
        self, host: str, port: int, source: Optional[Tuple[str, int]], options: Any
    ) -> socket.socket:
        """Connect and return the socket."""

    @abc.abstractmethod
    def register_socket(self, sock: Any) -> None:
        """Use this socket from now on."""

    @abc.abstractmethod
    def detach_socket(self) -> None:
        """Forget the socket, because its connection returns to the pool."""


def current_response() -> Optional[SocketUser]:
    """Return the response whose request this thread is sending, or None."""
    return getattr(_local, "response", None)


@contextmanager
def set_current_response(response: SocketUser) -> Iterator[None]:
    """Make a response the current one of this thread.

    Nested use is possible: a session's hook or auth may call a model itself.
    """
    outer = current_response()
    _local.response = response
    try:
        yield
    finally:
        _local.response = outer


def register_socket(sock: Any) -> None:
    """Register a socket with the current response. None, a socket that is not open yet, is
    ignored.
    """
    response = current_response()
    if response is not None and sock is not None:
        response.register_socket(sock)


class TrackedConnection:
    """A connection that registers its socket with the current response, from the connect on."""

    sock: Any
    response: "Optional[weakref.ref[SocketUser]]" = None
    """The response that uses the connection, until the connection returns to its pool."""

    def _new_conn(self) -> Any:
        response = current_response()
        connection: Any = self
        if response is None:  # the application itself uses the session
            return super()._new_conn()  # type: ignore[misc]
        try:
            return response.open_socket(
                getattr(connection, "_dns_host", connection.host),
                connection.port,
                connection.source_address,
                connection.socket_options or (),
            )
        except socket.timeout as error:
            raise urllib3.exceptions.ConnectTimeoutError(connection, "timed out") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(
                connection, f"no connection: {error}"
            ) from error

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._register()

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        self._register()  # for a reused connection; a new one has no socket yet
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def _register(self) -> None:
        response = current_response()
        self.response = None if response is None else weakref.ref(response)
        register_socket(self.sock)


class _TrackedHTTPConnection(TrackedConnection, HTTPConnection):
    pass


class _TrackedHTTPSConnection(TrackedConnection, HTTPSConnection):
    pass


class TrackedPool:
    """A pool that detaches a connection's socket from its response before another request takes it.

    urllib3 itself returns a connection at the end of a redirect, or of a body that it decodes.
    """

    def _put_conn(self, conn: Any) -> None:
        response = conn.response() if getattr(conn, "response", None) is not None else None
        if response is not None:
            conn.response = None
            response.detach_socket()
        super()._put_conn(conn)  # type: ignore[misc]


class _TrackedHTTPPool(TrackedPool, urllib3.HTTPConnectionPool):
    ConnectionCls = _TrackedHTTPConnection


class _TrackedHTTPSPool(TrackedPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TrackedHTTPSConnection


_POOL_CLASSES = {"http": _TrackedHTTPPool, "https": _TrackedHTTPSPool}


def track_session(session: Session) -> None:
    """Make a session's adapters use tracked connections, to their proxies as well.

    An adapter that does not use the standard pool classes is not changed.
    """
    for adapter in session.adapters.values():
        if isinstance(adapter, requests.adapters.HTTPAdapter) and track_manager(
            adapter.poolmanager
        ):
            managers, adapter.proxy_manager = adapter.proxy_manager, _TrackedProxyManagers()
            for proxy, manager in managers.items():
                adapter.proxy_manager[proxy] = manager


def track_manager(manager: Any) -> bool:
    """Make a pool manager use tracked pools.

    Returns False if it already does, or does not use the standard pool classes (SOCKS).
    """
    if manager.pool_classes_by_scheme != urllib3.poolmanager.pool_classes_by_scheme:
        return False
    manager.pool_classes_by_scheme = _POOL_CLASSES
    manager.clear()
    return True


class _TrackedProxyManagers(Dict[str, Any]):
    """An adapter's pool managers by proxy. The adapter adds one when it first uses a proxy."""

    def __setitem__(self, proxy: str, manager: Any) -> None:
        track_manager(manager)
        super().__setitem__(proxy, manager)


_KEEPALIVE: List[Tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
for _name, _seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
    if hasattr(socket, _name):
        _KEEPALIVE.append((socket.IPPROTO_TCP, getattr(socket, _name), _seconds))
_SOCKET_OPTIONS = list(HTTPConnection.default_socket_options) + _KEEPALIVE


class _KeepaliveAdapter(requests.adapters.HTTPAdapter):
    """Opens connections with TCP keepalive on, so that a peer that vanished is noticed."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **kwargs)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, socket_options=_SOCKET_OPTIONS, **kwargs)


def create_session() -> Session:
    """Return a session with tracked connections, TCP keepalive, no retries and no cookies."""
    session = requests.Session()
    adapter = _KeepaliveAdapter(max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    track_session(session)
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    return session


def reset_connections(session: Session) -> None:
    """Give a session new connection pools, in a forked child, without closing the parent's."""
    for adapter in session.adapters.values():
        if isinstance(adapter, requests.adapters.HTTPAdapter):
            # As pickle does: the same settings, new pools.
            adapter.__setstate__(adapter.__getstate__())  # type: ignore[attr-defined]
    track_session(session)


def hide_queries_in_logs() -> None:
    """Remove the query of addresses from urllib3's log, because some servers expect the key in it.

    Only records of this library's own requests are changed. Calling it again changes nothing.
    """
    logging.getLogger("urllib3.connectionpool").addFilter(_remove_queries)


def _remove_queries(record: logging.LogRecord) -> bool:
    if current_response() is not None and isinstance(record.args, tuple):
        record.args = tuple(
            _QUERY.sub("?…", value) if isinstance(value, str) else value for value in record.args
        )
    return True


_QUERY = re.compile(r"\?\S+")
