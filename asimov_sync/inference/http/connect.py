"""Making a TCP connection so that it can be given up at any moment; over plain sockets.

`socket.create_connection` cannot be interrupted from another thread: neither the resolver, whose own time-outs are no
caller's, nor a connect to an address that does not answer.
"""

import errno
import os
import queue
import selectors
import socket
import time
from typing import Any, Callable, Iterable, List, Optional, Tuple

from asimov_sync.concurrency.pool import WorkerPool

__all__ = ["GivenUp", "dial"]

LOOK_SECONDS = 0.05
"""How often a connect that goes on looks whether it was given up."""

_GOING_ON = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, getattr(errno, "WSAEWOULDBLOCK", 0))
_resolvers = WorkerPool(None, name="asimov-resolver")


class GivenUp(OSError):
    """The connection is no longer wanted."""


def dial(
    host: str,
    port: int,
    seconds: Optional[float],
    given_up: Callable[[], bool],
    source_address: Optional[Tuple[str, int]] = None,
    options: Iterable[Tuple[Any, ...]] = (),
) -> socket.socket:
    """A connected socket. OSError where there is none, socket.timeout after `seconds`, GivenUp when `given_up()` turns true.

    seconds: for the resolver and all addresses together; each address that is left gets an equal part of what is left.
    """
    end = None if seconds is None else time.monotonic() + seconds
    addresses = _resolved(host.strip("[]"), port, end, given_up)
    failure: OSError = OSError("{} has no address".format(host))
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        left = None if end is None else (end - time.monotonic()) / (len(addresses) - place)
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            for option in options:
                sock.setsockopt(*option)
            if source_address:
                sock.bind(source_address)
            _connect(sock, address, left, given_up)
            sock.settimeout(seconds)
            return sock
        except BaseException as error:  # Ctrl-C, too, leaves no socket
            if sock is not None:
                sock.close()
            if isinstance(error, GivenUp) or not isinstance(error, OSError):
                raise
            failure = error
    raise failure


def _resolved(host: str, port: int, end: Optional[float], given_up: Callable[[], bool]) -> List[Any]:
    """The addresses of a host. A name is looked up on another thread, because nothing can interrupt the resolver."""
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    answers: "queue.SimpleQueue[Any]" = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
            answers.put(error)

    _resolvers.submit(look_up)
    while True:
        try:
            answer = answers.get(timeout=_slice(end, given_up))
        except queue.Empty:
            continue
        if isinstance(answer, UnicodeError):
            raise OSError("{!r} cannot be the name of a host".format(host))
        if isinstance(answer, OSError):
            raise answer
        return answer  # type: ignore[no-any-return]


def _connect(sock: socket.socket, address: Any, seconds: Optional[float], given_up: Callable[[], bool]) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error == 0:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while error in _GOING_ON:
            if selector.select(_slice(end, given_up)):
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error == 0:
                    return
    raise OSError(error, os.strerror(error))


def _slice(end: Optional[float], given_up: Callable[[], bool]) -> float:
    """How long to wait at a stretch; socket.timeout or GivenUp when there is nothing more to wait for."""
    if given_up():
        raise GivenUp("the connection is no longer wanted")
    if end is None:
        return LOOK_SECONDS
    left = end - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return min(LOOK_SECONDS, left)
