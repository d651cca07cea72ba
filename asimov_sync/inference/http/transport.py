"""HTTP over requests: sends POST requests and keeps the sessions between them."""

import threading
from typing import List, Mapping, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.inference.http.connections import (
    Session,
    create_session,
    hide_queries_in_logs,
    reset_connections,
    track_session,
)
from asimov_sync.inference.http.errors import Target
from asimov_sync.inference.http.response import Response, SendOptions
from asimov_sync.inference.request import Request

__all__ = ["HttpTransport", "Session"]


class HttpTransport:
    """Sends POST requests. Safe to use from several threads and in a forked child.

    Each request has a session that no other thread uses meanwhile, unless `session` is given.

    provider: the provider's name, for errors.
    proxies: by scheme, as requests takes them; default: those of the environment.
    session: the application's own session, used for every request with its own settings (proxies,
        certificates, hooks).
    certificates: file of trusted authorities, in place of the usual ones.
    """

    def __init__(
        self,
        provider: str,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[Session] = None,
        certificates: Optional[str] = None,
    ) -> None:
        self._provider = provider
        self._proxies = dict(proxies or {})
        self._certificates = certificates
        self._closed = False
        self._user_session = session
        hide_queries_in_logs()
        if session is not None:
            track_session(session)
        self._start()
        reset_after_fork(self)

    def _start(self) -> None:
        # Guards the list of idle sessions. Re-entrant: the garbage collector may close a stream
        # at any point.
        self._lock = threading.RLock()
        self._idle: List[Session] = []

    def reset(self) -> None:
        """Start without connections in a forked child, which must not share the parent's."""
        self._start()
        if self._user_session is not None:
            reset_connections(self._user_session)

    def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        request: Request,
        cancellation: Cancellation,
        deadline: Optional[float],
    ) -> Response:
        """Send a request and wait for the status and headers of its response.

        request: the request that `body` encodes, with the time-outs.
        deadline: moment (`clock.monotonic()`) at which the call's total time is over, or None.

        Raises ConnectionFailed, ConnectTimeout, IdleTimeout, DeadlineExceeded or Cancelled.
        """
        target = Target(self._provider, url, request.model)
        options = SendOptions(target, request.timeout, self._proxies, self._certificates)
        response = Response(self._take_session(), options, self._give_back, cancellation, deadline)
        try:
            response.send(url, headers, body)
        except BaseException:
            response.close()
            raise
        return response

    def _take_session(self) -> Session:
        if self._user_session is not None:
            return self._user_session
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return create_session()

    def _give_back(self, session: Session) -> None:
        """Keep the session of a finished request for the next one; close it after `close`."""
        if session is self._user_session:
            return
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                return
        session.close()

    def close(self) -> None:
        """Close the idle connections, and those of later requests when they end."""
        with self._lock:
            self._closed = True
            sessions, self._idle = self._idle, []
        for session in sessions:
            session.close()
