"""How fast requests may be sent: limits that the caller sets, and pauses that a provider asks for."""

import collections
import json
import time
from typing import Any, Deque, List, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.errors import DeadlineExceeded
from asimov_sync.inference.request import Request

__all__ = ["Pause", "RateLimit", "Slot", "admitted", "estimated_tokens"]

MINUTE = 60.0

_slots = ForkSafeLock()  # guards every limit's slots, and every pause's end


class Slot:
    """A request's place in time: the `time.monotonic()` moment at which it may be sent, and the tokens it counts for."""

    __slots__ = ("moment", "tokens")

    def __init__(self, moment: float, tokens: int) -> None:
        self.moment = moment
        self.tokens = tokens


class RateLimit:
    """At most so many requests, and so many tokens, in any sixty seconds; None for no limit.

    One limit may be shared by several clients. Requests that have to wait are sent in the order in which they came; one that
    a provider's Retry-After holds up meanwhile takes its place anew. A request counts for an estimate of its input's tokens
    (a token for every four characters) until its reply tells how many it took, in and out. A request that is larger than
    the whole limit is sent when nothing else counts. Every attempt counts.
    """

    def __init__(self, requests_per_minute: Optional[int] = None, tokens_per_minute: Optional[int] = None) -> None:
        for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if limit is not None and limit < 1:
                raise ValueError("{} is 1 at least, not {}".format(name, limit))
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._taken: Deque[Slot] = collections.deque()  # in the order of their moments

    def take(self, now: float, tokens: int) -> Slot:
        """The next free slot for a request of so many tokens; its moment may be `now` or later."""
        with _slots.lock:
            while self._taken and self._taken[0].moment <= now - MINUTE:
                self._taken.popleft()
            moment = max(now, self._taken[-1].moment) if self._taken else now
            limit = self.requests_per_minute
            if limit is not None and len(self._taken) >= limit:
                moment = max(moment, self._taken[-limit].moment + MINUTE)
            if self.tokens_per_minute is not None:
                moment = max(moment, self._room(moment, tokens, self.tokens_per_minute))
            slot = Slot(moment, tokens)
            self._taken.append(slot)
            return slot

    def give_back(self, slot: Slot) -> None:
        """Take a slot out again whose request was not sent: no later request has to wait for it."""
        with _slots.lock:
            if slot in self._taken:
                self._taken.remove(slot)

    def _room(self, moment: float, tokens: int, limit: int) -> float:
        """From when on so many tokens have room, `moment` at the earliest. Holds the lock."""
        counting: List[Slot] = [slot for slot in self._taken if slot.moment > moment - MINUTE]
        total = sum(slot.tokens for slot in counting)
        for slot in counting:
            if total + tokens <= limit:
                break
            total -= slot.tokens
            moment = slot.moment + MINUTE
        return moment

    def __repr__(self) -> str:
        return "RateLimit(requests_per_minute={}, tokens_per_minute={})".format(
            self.requests_per_minute, self.tokens_per_minute
        )


class Pause:
    """The moment until which a client's requests wait, because the provider asked one of them to."""

    def __init__(self) -> None:
        self.until = float("-inf")

    def extend(self, until: float) -> None:
        """Wait until this `time.monotonic()` moment, if that is later than what was asked for before."""
        with _slots.lock:
            self.until = max(self.until, until)


def admitted(
    pause: Pause, limit: Optional[RateLimit], tokens: int, cancellation: Cancellation, deadline: Optional[float], provider: str
) -> Optional[Slot]:
    """Wait until a request may be sent: until the pause is over, and the limit, where there is one, has a slot.

    Cancelled, or DeadlineExceeded at once if the deadline comes first; the slot is then given back.
    """
    while True:
        _wait_out(pause, cancellation, deadline, provider)
        if limit is None:
            return None
        slot = limit.take(time.monotonic(), tokens)
        sent = False
        try:
            _wait_until(slot.moment, cancellation, deadline, provider)
            sent = pause.until <= time.monotonic()  # another thread may have been told to wait in the meantime
        finally:
            if not sent:
                limit.give_back(slot)
        if sent:
            return slot


def _wait_out(pause: Pause, cancellation: Cancellation, deadline: Optional[float], provider: str) -> None:
    while pause.until > time.monotonic():  # it may be extended while it is waited for
        _wait_until(pause.until, cancellation, deadline, provider)


def _wait_until(moment: float, cancellation: Cancellation, deadline: Optional[float], provider: str) -> None:
    if deadline is not None and moment >= deadline and moment > time.monotonic():
        raise DeadlineExceeded("the rate limit lets the request go only after the deadline (timeout.total)", provider=provider)
    while True:
        seconds = moment - time.monotonic()
        if seconds <= 0:
            return
        cancellation.wait(seconds)
        cancellation.raise_if_cancelled()


def estimated_tokens(request: Request) -> int:
    """A rough count of what a request's input takes: a token for every four characters of its JSON."""
    told: Any = [[message.content for message in request.messages], request.system, request.tools]
    return max(1, len(json.dumps(told, ensure_ascii=False, default=str)) // 4)
