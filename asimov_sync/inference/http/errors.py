"""Translates exceptions of requests, urllib3, http.client and sockets into this library's errors.

Every exception of requests holds the request, and with it the API key. The errors made here keep
only the innermost exception, of the operating system or the HTTP parser, as their cause.
"""

import http.client
import re
import socket
import ssl
from typing import Any, List, Mapping, NamedTuple, Optional
from urllib.parse import urlsplit
from urllib.request import getproxies

import requests
import urllib3

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.errors import (
    AsimovError,
    Cancelled,
    ConnectionFailed,
    ConnectTimeout,
    DeadlineExceeded,
    IdleTimeout,
)
from asimov_sync.inference.request import Timeout

__all__ = [
    "FOREIGN_ERRORS",
    "Target",
    "deadline_error",
    "proxy_error",
    "public_address",
    "translate_error",
    "truncated_error",
]

FOREIGN_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,  # a closed file, or a header that cannot be sent
)
"""The exceptions that sending and reading may raise, and that `translate_error` translates."""


class Target(NamedTuple):
    """The destination of a request, for its errors.

    provider: the provider's name.
    url: the whole address.
    model: the model that is asked.
    """

    provider: str
    url: str
    model: str

    def __str__(self) -> str:
        return f"{public_address(self.url)} for model {self.model}"


def public_address(url: str) -> str:
    """Return an address without its user, password, query and fragment, which may be secret."""
    return _CREDENTIALS.sub("//", _QUERY.sub("", url))


_QUERY = re.compile(r"[?#].*", re.DOTALL)
_CREDENTIALS = re.compile(r"//[^/]*@")


def deadline_error(target: Target, timeout: Timeout) -> DeadlineExceeded:
    """Return the error of a call that took longer than its total time."""
    return DeadlineExceeded(
        f"the call to {target} took longer than timeout.total, {timeout.total} s",
        provider=target.provider,
    )


def truncated_error(target: Target, missing: int) -> ConnectionFailed:
    """Return the error of a body that is `missing` bytes shorter than announced."""
    return ConnectionFailed(
        f"the response of {target} ended {missing} bytes early", provider=target.provider
    )


def proxy_error(target: Target, proxies: Mapping[str, str]) -> Optional[ConnectionFailed]:
    """Return the error of a proxy whose address has no host, or None if every address has one.

    proxies: addresses by scheme; they take precedence over those of the environment.
    """
    every = dict(getproxies(), **proxies)
    every.pop("no", None)  # no_proxy, which is not an address
    invalid = sorted(scheme for scheme, address in every.items() if _lacks_host(address))
    if not invalid:
        return None
    # Without the address itself: it may hold a password.
    return ConnectionFailed(
        f"the connection to {target} failed: "
        f"the address of the proxy for {invalid[0]!r} has no host",
        provider=target.provider,
        should_retry=False,
    )


def translate_error(
    error: BaseException,
    target: Target,
    timeout: Timeout,
    cancellation: Cancellation,
    deadline: Optional[float],
    connected: bool,
) -> AsimovError:
    """Return this library's error for one of FOREIGN_ERRORS, without the request in it.

    target: the destination of the request.
    timeout: the limits that applied.
    cancellation: if it is cancelled, the result is Cancelled, whatever the exception says.
    deadline: moment (`clock.monotonic()`) at which the call's total time is over, or None.
    connected: whether the connection was complete; a time-out before that is a ConnectTimeout.
    """
    reason = cancellation.reason
    if reason is not None:
        return Cancelled(reason)
    chain = _chain(error)
    root = next((link for link in reversed(chain) if _holds_no_request(link)), None)
    # urllib3 derives the error of a refused connection from its time-out.
    kinds = tuple(
        type(link) for link in chain if not isinstance(link, urllib3.exceptions.NewConnectionError)
    )
    timed_out = _any_subclass(kinds, _TIMEOUTS)
    translated: AsimovError
    if deadline is not None and clock.monotonic() >= deadline:
        translated = deadline_error(target, timeout)
    elif _any_subclass(kinds, _CONNECT_TIMEOUTS) or (timed_out and not connected):
        # Not connected: a TLS handshake, or a proxy, that does not answer.
        translated = ConnectTimeout(
            f"no connection to {target} within timeout.connect, {timeout.connect} s",
            provider=target.provider,
        )
    elif timed_out:
        translated = IdleTimeout(
            f"not a byte from {target} within timeout.idle, {timeout.idle} s",
            provider=target.provider,
        )
    elif root is None and _any_subclass(kinds, (ValueError,)):
        # The exception's own text shows the header's value, which may be a key.
        translated = ConnectionFailed(
            f"the request to {target} cannot be sent: check the address and the headers",
            provider=target.provider,
            should_retry=False,
        )
    else:
        shown = root or error
        text = _QUERY.sub("?…", str(shown)) if isinstance(shown, http.client.InvalidURL) else shown
        translated = ConnectionFailed(
            f"the connection to {target} failed: {type(shown).__name__}: {text}",
            provider=target.provider,
        )
    if root is not None:
        root.__cause__ = root.__context__ = None
        translated.__cause__ = root.with_traceback(None)
    return translated


_CONNECT_TIMEOUTS = (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)
_TIMEOUTS = (socket.timeout, requests.Timeout, urllib3.exceptions.TimeoutError)


def _any_subclass(kinds: Any, bases: Any) -> bool:
    return any(issubclass(kind, bases) for kind in kinds)


def _chain(error: BaseException) -> List[BaseException]:
    """Return an exception and all its causes, contexts and wrapped exceptions, outermost first."""
    chain: List[BaseException] = []
    pending: List[Any] = [error]
    while pending:
        link = pending.pop(0)
        # `reason` is an exception in urllib3, and a word in an SSLError.
        if isinstance(link, BaseException) and not any(link is seen for seen in chain):
            chain.append(link)
            pending += [link.__cause__, link.__context__, getattr(link, "reason", None)]
            pending += link.args
    return chain


def _holds_no_request(error: BaseException) -> bool:
    """Return whether an exception comes from the operating system, TLS or the HTTP parser."""
    if isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return False
    # urllib3's own, for a certificate of another host; its module differs between versions.
    if type(error).__name__ == "CertificateError":
        return True
    return isinstance(error, (OSError, ssl.SSLError, http.client.HTTPException))


def _lacks_host(address: str) -> bool:
    try:
        return not urlsplit(address if "//" in address else "//" + address).hostname
    except ValueError:
        return True
