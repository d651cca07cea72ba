"""How fast requests may be sent: limits that the caller sets, and pauses that a provider asks for."""

import collections
import json
import time
from typing import Any, Deque, List, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import DeadlineExceeded
from asimov_sync.forking import ForkSafeLock
from asimov_sync.inference.request import Request

__all__ = ["Pause", "RateLimit", "Slot", "estimated_tokens", "wait_until"]

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

    One limit may be shared by several clients. Requests that have to wait are sent in the order in which they came. A
    request counts for an estimate of its input's tokens (a token for every four characters) until its reply tells how many
    it took, in and out. A request that is larger than the whole limit is sent when nothing else counts. Every attempt counts.
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


def wait_until(moment: float, cancellation: Cancellation, deadline: Optional[float], provider: str) -> None:
    """Sleep until a `time.monotonic()` moment. Cancelled, or DeadlineExceeded at once if the deadline comes first."""
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
