"""When a request may be sent: the caller's rate limits, and pauses that a provider asks for."""

import collections
import json
from typing import Any, Deque, List, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import DeadlineExceeded
from asimov_sync.inference.request import Request
from asimov_sync.instrumentation import Activity

__all__ = ["Pause", "RateLimit", "Reservation", "estimate_tokens", "wait_for_slot"]

logger = get_logger("asimov_sync.inference")

MINUTE = 60.0

_lock = ForkSafeLock()  # guards the reservations of every limit, and the end of every pause


class Reservation:
    """A request's slot in a rate limit.

    moment: the `clock.monotonic()` moment at which the request may be sent.
    tokens: how many tokens it counts for: an estimate, until its reply reports the usage.
    """

    __slots__ = ("moment", "tokens")

    def __init__(self, moment: float, tokens: int) -> None:
        self.moment = moment
        self.tokens = tokens


class RateLimit:
    """Limits the requests and the tokens in any sixty seconds.

    requests_per_minute: the most requests, at least 1; None for no limit.
    tokens_per_minute: the most tokens, input and output, at least 1; None for no limit.

    Several clients may share one limit. Every attempt counts. Waiting requests are sent in order of
    arrival; if a provider's Retry-After delays a request meanwhile, it queues again. A request
    counts with an estimate of its input's tokens (one for every four characters) until its reply
    reports the actual number. A request that exceeds the whole limit is sent once nothing else
    counts.
    """

    def __init__(
        self,
        *,
        requests_per_minute: Optional[int] = None,
        tokens_per_minute: Optional[int] = None,
    ) -> None:
        for name, limit in (
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
        ):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, not {limit}")
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._reservations: Deque[Reservation] = collections.deque()  # sorted by moment

    def take(self, now: float, tokens: int) -> Reservation:
        """Reserve the next free slot for a request; its moment is `now` or later."""
        with _lock.lock:
            reservations = self._reservations
            while reservations and reservations[0].moment <= now - MINUTE:
                reservations.popleft()
            moment = max(now, reservations[-1].moment) if reservations else now
            limit = self.requests_per_minute
            if limit is not None and len(reservations) >= limit:
                moment = max(moment, reservations[-limit].moment + MINUTE)
            if self.tokens_per_minute is not None:
                moment = max(moment, self._earliest(moment, tokens, self.tokens_per_minute))
            reservation = Reservation(moment, tokens)
            reservations.append(reservation)
            return reservation

    def give_back(self, reservation: Reservation) -> None:
        """Remove the reservation of a request that was not sent, which frees its slot."""
        with _lock.lock:
            if reservation in self._reservations:
                self._reservations.remove(reservation)

    def _earliest(self, moment: float, tokens: int, limit: int) -> float:
        """Return the first moment, from `moment` on, at which the tokens fit. Holds the lock."""
        counted: List[Reservation] = [
            reservation
            for reservation in self._reservations
            if reservation.moment > moment - MINUTE
        ]
        total = sum(reservation.tokens for reservation in counted)
        for reservation in counted:
            if total + tokens <= limit:
                break
            total -= reservation.tokens
            moment = reservation.moment + MINUTE
        return moment

    def __repr__(self) -> str:
        return (
            f"RateLimit(requests_per_minute={self.requests_per_minute}, "
            f"tokens_per_minute={self.tokens_per_minute})"
        )


class Pause:
    """The moment until which a client sends nothing, because the provider sent a Retry-After."""

    def __init__(self) -> None:
        self.until = float("-inf")

    def extend(self, until: float) -> None:
        """Pause until this `clock.monotonic()` moment, unless the pause is already longer."""
        with _lock.lock:
            self.until = max(self.until, until)


def wait_for_slot(
    pause: Pause,
    limit: Optional[RateLimit],
    tokens: int,
    cancellation: Cancellation,
    deadline: Optional[float],
    provider: str,
) -> Optional[Reservation]:
    """Wait until a request may be sent: after the pause, and when the limit has a slot.

    pause: the client's pause.
    limit: the client's rate limit, or None.
    tokens: how many tokens the request counts for.
    cancellation: interrupts the wait.
    deadline: the `clock.monotonic()` moment by which the request must be sent; None for none.
    provider: the provider's name, for the error.

    Returns the reservation; None without a limit. Raises Cancelled if the wait is cancelled, and
    DeadlineExceeded, without waiting, if the slot is after the deadline. The reservation is then
    removed.
    """
    while True:
        _wait_out(pause, cancellation, deadline, provider)
        if limit is None:
            return None
        reservation = limit.take(clock.monotonic(), tokens)
        keep = False
        try:
            _wait_until(reservation.moment, cancellation, deadline, provider)
            keep = pause.until <= clock.monotonic()  # another thread may have extended the pause
        finally:
            if not keep:
                limit.give_back(reservation)
        if keep:
            return reservation


def _wait_out(
    pause: Pause, cancellation: Cancellation, deadline: Optional[float], provider: str
) -> None:
    while pause.until > clock.monotonic():  # the pause may be extended during the wait
        _wait_until(pause.until, cancellation, deadline, provider)


def _wait_until(
    moment: float, cancellation: Cancellation, deadline: Optional[float], provider: str
) -> None:
    if deadline is not None and moment >= deadline and moment > clock.monotonic():
        raise DeadlineExceeded(
            "the rate limit allows the request only after the deadline (timeout.total)",
            provider=provider,
        )
    seconds = moment - clock.monotonic()
    if seconds <= 0:
        return
    logger.info("rate limit: a request to %s waits for %.1f s", provider, seconds)
    with Activity("rate limit", moment):
        while seconds > 0:
            cancellation.wait(seconds)
            cancellation.raise_if_cancelled()
            seconds = moment - clock.monotonic()


def estimate_tokens(request: Request) -> int:
    """Return a rough count of a request's input tokens: one for every four characters of JSON."""
    contents = [message.content for message in request.messages]
    parts: Any = [contents, request.system, request.tools]
    return max(1, len(json.dumps(parts, ensure_ascii=False, default=str)) // 4)
