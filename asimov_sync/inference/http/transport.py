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
from asimov_sync.inference.http.response import RequestOptions, Response
from asimov_sync.inference.request import Timeout

__all__ = ["HttpTransport", "Session"]


class HttpTransport:
    """Sends POST requests. Safe to use from several threads and in a forked child.

    Each request has a session that no other thread uses meanwhile, unless `session` is given.

    provider: the provider's name, for errors.
    timeout: limits of every request.
    proxies: by scheme, as requests takes them; default: those of the environment.
    session: the application's own session, used for every request with its own settings (proxies,
        certificates, hooks).
    certificates: file of trusted authorities, in place of the usual ones.
    """

    def __init__(
        self,
        provider: str,
        timeout: Timeout,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[Session] = None,
        certificates: Optional[str] = None,
    ) -> None:
        self._options = RequestOptions(provider, timeout, dict(proxies or {}), certificates)
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
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float] = None,
    ) -> Response:
        """Send a request and wait for the status and headers of its response.

        deadline: moment (`time.monotonic()`) at which the call's total time is over, or None.
        idle: seconds that replace timeout.idle for this request; default: timeout.idle.

        Raises ConnectionFailed, ConnectTimeout, IdleTimeout, DeadlineExceeded or Cancelled.
        """
        options = self._options
        if idle is not None:
            options = options._replace(timeout=options.timeout._replace(idle=idle))
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
        """Keep the session of a finished request for the next one."""
        if session is not self._user_session:
            with self._lock:
                self._idle.append(session)

    def close(self) -> None:
        """Close the idle connections; the next request opens a new one."""
        with self._lock:
            sessions, self._idle = self._idle, []
        for session in sessions:
            session.close()
