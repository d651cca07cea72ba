"""Rate limits: reserved slots, and clients that wait for a slot or a Retry-After."""

import threading
import time

import pytest
from hypothesis import given, strategies as st

from asimov_sync import (
    Cancellation,
    Cancelled,
    DeadlineExceeded,
    RateLimit,
    RateLimitError,
    Timeout,
)
from asimov_sync.concurrency.clock import clock as library_clock
from asimov_sync.inference import rate_limit
from asimov_sync.inference.rate_limit import MINUTE, Pause, wait_for_slot
from asimov_sync.testing import Failure, ScriptedInferenceClient

from ..tiers import suite
from ..waiting import Background, wait_for

# A fake clock: in 64ths of a second, which floats add without error.
MOMENTS = st.integers(0, 64 * 90).map(lambda ticks: ticks / 64.0)
ARRIVALS = st.lists(
    st.tuples(MOMENTS, st.integers(1, 120), st.integers(0, 9)), min_size=1, max_size=60
)


def keeps_limits(slots, requests, tokens):
    """Return whether no window of sixty seconds exceeds the limits."""
    for first in slots:
        window = [slot for slot in slots if first.moment <= slot.moment < first.moment + MINUTE]
        if requests is not None and len(window) > requests:
            return False
        if tokens is not None and sum(slot.tokens for slot in window) > tokens and len(window) > 1:
            return False
    return True


@given(
    arrivals=ARRIVALS,
    requests=st.none() | st.integers(1, 5),
    tokens=st.none() | st.integers(1, 200),
)
def test_slots(arrivals, requests, tokens):
    """No sixty seconds exceed the limits, except for one oversized request. Slots are in order."""
    limit = RateLimit(requests_per_minute=requests, tokens_per_minute=tokens)
    now, slots = 1000.0, []
    for pause, size, given_back in arrivals:
        now += pause / 10
        slot = limit.take(now, size)
        assert slot.moment >= now
        assert not slots or slot.moment >= slots[-1].moment
        slots.append(slot)
        future = [slot for slot in slots if slot.moment > now]
        if future and not given_back:
            limit.give_back(future[0])
            slots.remove(future[0])
    assert keeps_limits(slots, requests, tokens)


@given(arrivals=ARRIVALS, requests=st.integers(1, 5))
def test_no_unnecessary_wait(arrivals, requests):
    """A request waits only if the last sixty seconds are full, until the oldest is a minute old."""
    limit, now, slots = RateLimit(requests_per_minute=requests), 1000.0, []
    for pause, _, _ in arrivals:
        now += pause / 10
        slots.append(limit.take(now, 0).moment)
        expected = now if len(slots) <= requests else max(now, slots[-1 - requests] + MINUTE)
        assert slots[-1] == expected


def test_keeps_limits_detects_violations():
    """keeps_limits detects a limiter that allows one request too many."""
    limit = RateLimit(requests_per_minute=3)
    assert not keeps_limits([limit.take(1000.0, 1) for _ in range(3)], 2, None)
    assert not keeps_limits([limit.take(2000.0, 60) for _ in range(2)], None, 100)


def test_the_usage_replaces_the_estimate():
    """The estimate of a request counts until its reply reports the usage."""
    limit = RateLimit(tokens_per_minute=100)
    first = limit.take(0.0, 90)
    assert limit.take(1.0, 50).moment == 60.0
    limit = RateLimit(tokens_per_minute=100)
    first = limit.take(0.0, 90)
    first.tokens = 10
    assert limit.take(1.0, 50).moment == 1.0
    limit, now = RateLimit(tokens_per_minute=1000), library_clock.monotonic()
    client = ScriptedInferenceClient(["hello"], rate_limit=limit)
    left = 1000 - client.generate("x" * 400).usage.total_tokens
    assert next_moment(limit, left) < now + 50 < next_moment(limit, left + 1)


def next_moment(limit, tokens=1):
    """Return the moment of the next slot for a number of tokens, without taking it."""
    slot = limit.take(library_clock.monotonic(), tokens)
    limit.give_back(slot)
    return slot.moment


def test_an_invalid_limit():
    """A limit below one request is a ValueError; the repr shows the limits."""
    with pytest.raises(ValueError, match="requests_per_minute must be at least 1, not 0"):
        RateLimit(requests_per_minute=0)
    with pytest.raises(ValueError, match="tokens_per_minute"):
        RateLimit(tokens_per_minute=-1)
    limit = RateLimit(requests_per_minute=5)
    assert repr(limit) == "RateLimit(requests_per_minute=5, tokens_per_minute=None)"


# Clients


def test_clients_share_a_limit(serve):
    """Clients that share a limit share its slots. A cancellation ends a wait for a slot."""
    limit = RateLimit(requests_per_minute=2)
    first, server = serve(lambda body: "hello", {"rate_limit": limit})
    second, other = serve(lambda body: "hello", {"rate_limit": limit})
    first.generate("x")
    second.generate("x")
    for client in (first, second, first.with_options(temperature=0)):
        token, before = Cancellation(), next_moment(limit)
        call = Background(client.generate, "x", cancellation=token)
        wait_for(lambda: next_moment(limit) > before)
        token.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            call.result(5)
        assert next_moment(limit) == before
    assert (len(server.requests), len(other.requests)) == (1, 1)


def test_a_deadline_comes_first(serve):
    """A request whose slot is after its deadline fails at once and gives its slot back."""
    limit = RateLimit(requests_per_minute=1)
    client, server = serve(
        lambda body: "hello", {"rate_limit": limit, "timeout": Timeout(total=20)}
    )
    client.generate("x")
    for _ in range(50):
        with pytest.raises(DeadlineExceeded, match="rate limit"):
            client.generate("x")
    assert limit.take(time.monotonic(), 1).moment < time.monotonic() + MINUTE
    assert len(server.requests) == 1


@suite
def test_requests_wait_their_turn(serve, monkeypatch):
    """Five requests at one a "minute" take four of them, on any threads."""
    monkeypatch.setattr(rate_limit, "MINUTE", 0.1)
    client, server = serve(lambda body: "hello", {"rate_limit": RateLimit(requests_per_minute=1)})
    start = time.monotonic()
    for asking in [Background(client.generate, str(number)) for number in range(5)]:
        asking.result()
    assert time.monotonic() - start >= 0.4
    assert len(server.requests) == 5


def test_each_attempt_counts(serve, monkeypatch):
    """A retried request takes a second slot."""
    monkeypatch.setattr(rate_limit, "MINUTE", 0.2)
    answers = [Failure(529, "overloaded_error", headers={"retry-after-ms": "1"}), "hello"]
    client, server = serve(answers, {"rate_limit": RateLimit(requests_per_minute=1)})
    start = time.monotonic()
    client.generate("x")
    assert time.monotonic() - start >= 0.2
    assert len(server.requests) == 2


# What a provider asks for


def test_a_429_pauses_every_thread(serve, clock):
    """After a 429 with Retry-After, the client and its copies send nothing until that moment."""
    seen, lock = [], threading.Lock()

    def model(body):
        with lock:
            seen.append(library_clock.monotonic())
            return (
                Failure(429, "rate_limit_error", headers={"retry-after": "40"})
                if len(seen) == 1
                else "hello"
            )

    client, server = serve(model)
    first = Background(client.generate, "x")
    clock.block_until(1)
    twin = client.with_options(temperature=0)
    asking = [Background(one.generate, "y") for one in (client, twin) for _ in range(4)] + [first]
    counting = Background(client.count_tokens, "y", cancellation=Cancellation(timeout=0.05))
    with pytest.raises(Cancelled):
        counting.result()
    clock.block_until(9)
    clock.advance(40)
    assert [one.result().text for one in asking] == ["hello"] * 9
    assert len(seen) == 10 and min(seen[1:]) >= seen[0] + 40


def test_long_retry_after(serve):
    """No request waits for a Retry-After above one minute; the error holds the seconds."""
    client, server = serve(
        [Failure(429, "rate_limit_error", headers={"retry-after": "3600"}), "hello"]
    )
    with pytest.raises(RateLimitError) as caught:
        client.generate("x")
    assert caught.value.retry_after == 3600
    assert client.generate("x").text == "hello"


def test_extended_pause(clock):
    """A request that waits for a pause also waits for its extension."""
    pause, now = Pause(), library_clock.monotonic()
    pause.extend(now + 100)
    call = Background(wait_for_slot, pause, None, 0, Cancellation(), None, "test")
    clock.block_until(1)
    pause.extend(now + 400)
    pause.extend(now + 300)  # shorter ones change nothing
    clock.advance(350)
    call.thread.join(0.02)
    assert call.thread.is_alive()
    clock.advance(50)
    call.result()


def test_a_pause_while_waiting_for_a_slot(clock):
    """A request that waits for a slot also waits for a new pause, then takes a new slot."""
    pause, limit, now = Pause(), RateLimit(requests_per_minute=1), library_clock.monotonic()
    limit.take(now - MINUTE + 20, 1)
    call = Background(wait_for_slot, pause, limit, 1, Cancellation(), None, "test")
    clock.block_until(1)
    pause.extend(now + 500)
    clock.advance(490)
    call.thread.join(0.02)
    assert call.thread.is_alive()
    clock.advance(10)
    slot = call.result()
    assert slot.moment >= now + 500
    assert next_moment(limit) == slot.moment + MINUTE


def test_a_pause_after_the_deadline():
    """If the pause ends after the deadline, DeadlineExceeded is raised without waiting."""
    pause, limit = Pause(), RateLimit(requests_per_minute=1)
    pause.extend(time.monotonic() + 30)
    with pytest.raises(DeadlineExceeded):
        wait_for_slot(pause, limit, 1, Cancellation(), time.monotonic() + 10, "test")
    assert next_moment(limit) <= library_clock.monotonic()
