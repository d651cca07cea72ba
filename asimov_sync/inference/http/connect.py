"""Opens TCP connections in a way that another thread can abort at any moment.

`socket.create_connection` cannot be aborted: neither the resolver, which ignores the caller's
time-outs, nor a connect to an address that does not answer.
"""

import errno
import os
import selectors
import socket
from typing import Any, Callable, Iterable, List, Optional, Tuple

from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.pool import WorkerPool

__all__ = ["ConnectAborted", "connect"]

POLL_SECONDS = 0.05
"""Seconds between checks of a pending connect for an abort."""

_IN_PROGRESS = (
    0,
    errno.EINPROGRESS,
    errno.EWOULDBLOCK,
    errno.EALREADY,
    getattr(errno, "WSAEWOULDBLOCK", 0),
)
_resolvers = WorkerPool(None, name="asimov-resolver")


class ConnectAborted(OSError):
    """The caller no longer wants the connection."""


def connect(
    host: str,
    port: int,
    seconds: Optional[float],
    is_aborted: Callable[[], bool],
    source_address: Optional[Tuple[str, int]] = None,
    options: Iterable[Tuple[Any, ...]] = (),
) -> socket.socket:
    """Return a connected socket.

    seconds: time for the resolver and all addresses together; None for no limit. Each remaining
        address gets an equal part of the remaining time.
    is_aborted: polled while the connect is pending; the connect ends once it returns True.
    source_address: address to bind to.
    options: arguments of `setsockopt`, set before connecting.

    Raises socket.timeout after `seconds`, ConnectAborted, or OSError if no address answers.
    """
    end = None if seconds is None else clock.real() + seconds
    addresses = _resolve(host.strip("[]"), port, end, is_aborted)
    last_error: OSError = OSError(f"{host} has no address")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        share = None if end is None else (end - clock.real()) / (len(addresses) - index)
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            for option in options:
                sock.setsockopt(*option)
            if source_address:
                sock.bind(source_address)
            _connect_socket(sock, address, share, is_aborted)
            sock.settimeout(seconds)
            return sock
        except BaseException as error:  # close the socket on Ctrl-C, too
            if sock is not None:
                sock.close()
            if isinstance(error, ConnectAborted) or not isinstance(error, OSError):
                raise
            if error.errno is not None:
                error.filename = f"{host}:{port}"  # the error's text shows it: it may be a proxy
            last_error = error
    raise last_error


def _resolve(
    host: str, port: int, end: Optional[float], is_aborted: Callable[[], bool]
) -> List[Any]:
    """Return the addresses of a host.

    Names are resolved on another thread, because nothing can interrupt the resolver.
    """
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    answers: List[Any] = []
    answered = InterruptibleEvent()

    def look_up() -> None:
        try:
            answers.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
            answers.append(error)
        answered.set()

    _resolvers.submit(look_up)
    while not answered.wait(_poll_interval(end, is_aborted)):
        pass
    answer = answers[0]
    if isinstance(answer, UnicodeError):
        raise OSError(f"{host!r} cannot be the name of a host")
    if isinstance(answer, OSError):
        answer.filename = host
        raise answer
    return answer  # type: ignore[no-any-return]


def _connect_socket(
    sock: socket.socket, address: Any, seconds: Optional[float], is_aborted: Callable[[], bool]
) -> None:
    end = None if seconds is None else clock.real() + seconds
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error == 0:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while error in _IN_PROGRESS:
            if selector.select(_poll_interval(end, is_aborted)):
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error == 0:
                    return
    raise OSError(error, os.strerror(error))


def _poll_interval(end: Optional[float], is_aborted: Callable[[], bool]) -> float:
    """Return the seconds to wait before the next poll; raises if the time is up or if aborted."""
    if is_aborted():
        raise ConnectAborted("the connection is no longer wanted")
    if end is None:
        return POLL_SECONDS
    left = end - clock.real()
    if left <= 0:
        raise socket.timeout("timed out")
    return min(POLL_SECONDS, left)
