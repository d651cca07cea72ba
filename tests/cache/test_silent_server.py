"""A silent server: connected or accepting connections, but not replying. Every call still ends."""

import signal
import socket
import threading
import time

import pytest
import redis

import asimov_sync.cache.limits
import asimov_sync.cache.redis_connection
import asimov_sync.cache.redis_store
from asimov_sync import CacheUnavailable, Cancellation, OutcomeUnknown, RedisCache
from asimov_sync.cache.limits import SocketUnblocker
from asimov_sync.errors import Cancelled

from ..redis_server import RedisServer, require_server
from ..tiers import by_tier, soak, suite
from ..waiting import Background, wait_for

BOUND = 0.5
"""Seconds after its time-out, deadline or cancellation by which a call must end."""

MARGIN = by_tier(1.5, 0.5)
"""Further seconds for a loaded machine; far less than the 20 s of CALL_SECONDS."""


@pytest.fixture
def server(tmp_path, redis_url):
    """A server that tests stop with SIGSTOP; it is resumed afterwards."""
    with RedisServer(require_server(), str(tmp_path)) as server:
        yield server
        server.signal(signal.SIGCONT)


def stop(server):
    """Stop the server, and check that it is silent."""
    server.signal(signal.SIGSTOP)
    with redis.Redis(host="127.0.0.1", port=server.port, socket_timeout=0.1, retry=None) as client:
        with pytest.raises(redis.TimeoutError):
            client.ping()


class Timed:
    """A call on its own thread, with its error and duration."""

    def __init__(self, function):
        self._call = Background(self._run, function)

    def _run(self, function):
        start = time.monotonic()
        try:
            return function(), time.monotonic() - start
        except Exception as error:
            return error, time.monotonic() - start

    def check(self, kind, seconds):
        """Check that the call raised this kind of error after `seconds`, or shortly later."""
        error, seconds_taken = self._call.result(seconds + 45)
        assert type(error) is kind, repr(error)
        assert seconds - 0.05 <= seconds_taken < seconds + BOUND + MARGIN, (
            f"{error} after {seconds_taken:.2f} s"
        )
        return error


def within(seconds, function):
    with Cancellation(timeout=seconds):
        return function()


def cancelled(seconds, function):
    token = Cancellation(parent=None)
    alarm = threading.Timer(seconds, token.cancel)
    alarm.start()
    try:
        return function(token)
    finally:
        alarm.join()


def open_client(url, connections):
    """Return a client whose pool holds this many open connections."""
    client = redis.Redis.from_url(url)
    barrier = threading.Barrier(connections)

    def use():
        with client.client() as alone:  # reserves a connection
            alone.ping()
            barrier.wait(20)

    for user in [Background(use) for _ in range(connections)]:
        user.result()
    return client


@suite
@pytest.mark.parametrize("connections", [16, pytest.param(0, marks=soak)])
def test_every_call_ends_in_time(server, monkeypatch, connections):
    """Every call to a stopped server ends in time.

    At its time-out: CacheUnavailable, or OutcomeUnknown if a message may be lost. At its deadline
    or cancellation: Cancelled. Without these: after CALL_SECONDS for the whole call. This
    holds for open and for new connections.
    """
    for module in (asimov_sync.cache.limits, asimov_sync.cache.redis_store):
        monkeypatch.setattr(module, "CALL_SECONDS", 4.0)
    with (
        open_client(server.url, connections) if connections else redis.Redis.from_url(server.url)
    ) as client:
        cache = RedisCache(client=client)
        cache.set("key", 1)
        blocked = Timed(lambda: cache.receive("blocked", timeout=3))
        with redis.Redis(host="127.0.0.1", port=server.port) as direct:
            wait_for(lambda: direct.info("clients")["blocked_clients"] == 1, "the blocked reader")
        stop(server)
        error_class = OutcomeUnknown if connections else CacheUnavailable
        calls = [
            (Timed(lambda: cache.receive("box", timeout=2)), CacheUnavailable, 2),
            (Timed(lambda: cache.get_message("box", timeout=2)), error_class, 2),
            (
                Timed(lambda: cancelled(1, lambda token: cache.receive("box", cancellation=token))),
                Cancelled,
                1,
            ),
            (
                Timed(
                    lambda: cancelled(1, lambda token: cache.get_message("box", cancellation=token))
                ),
                Cancelled,
                1,
            ),
            (Timed(lambda: within(1, lambda: cache.receive("box"))), Cancelled, 1),
            (Timed(lambda: within(1, lambda: cache.get("key"))), Cancelled, 1),
            (Timed(lambda: within(1, lambda: cache.set("key", 2))), Cancelled, 1),
            (Timed(lambda: within(1, lambda: cache.publish_to_mailbox("box", 2))), Cancelled, 1),
            (Timed(lambda: within(1, cache.keys)), Cancelled, 1),
            (blocked, CacheUnavailable, 3),
            (Timed(lambda: cache.get("key")), CacheUnavailable, 4),
            (Timed(lambda: cache.set("key", 3)), CacheUnavailable, 4),
            (Timed(lambda: cache.publish_to_mailbox("box", 3)), CacheUnavailable, 4),
            (Timed(lambda: cache.clear(everything=True)), CacheUnavailable, 4),
        ]
        for call, kind, seconds in calls:
            call.check(kind, seconds)


@suite
def test_cancelled_increment_is_caused_by_outcome_unknown(server):
    """The Cancelled of a call that must not be repeated has an OutcomeUnknown as its cause."""
    with RedisCache(url=server.url) as cache:
        cache.increment("counter")
        stop(server)
        error = Timed(lambda: within(0.5, lambda: cache.increment("counter"))).check(Cancelled, 0.5)
        assert isinstance(error.__cause__, OutcomeUnknown)


@suite
def test_cleanup_after_cancellation(server):
    """A call that begins after the cancellation works if the server replies, and ends soon."""
    with RedisCache(url=server.url) as cache:
        cache.publish_to_mailbox("box", 1)
        delivery = cache.receive("box")
        with Cancellation() as token:
            token.cancel()
            delivery.release()
            assert cache.peek("box") == [1]
            stop(server)
            start = time.monotonic()
            with pytest.raises(Cancelled):
                delivery.release()
            assert time.monotonic() - start < BOUND + MARGIN


@suite
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_connecting_is_bounded(scheme, monkeypatch):
    """Connecting to a server that accepts and stays silent ends in time.

    With TLS or a login, it ends after CONNECT_SECONDS, or at the call's deadline if that is sooner.
    """
    monkeypatch.setattr(asimov_sync.cache.redis_connection, "CONNECT_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        url = f"{scheme}://user:password@127.0.0.1:{listener.getsockname()[1]}"
        with RedisCache(url=url) as cache:
            Timed(lambda: within(0.2, lambda: cache.get("key"))).check(Cancelled, 0.2)
            Timed(lambda: cache.increment("counter")).check(CacheUnavailable, 0.5)


def test_late_cancellation_callback(redis_url, unique):
    """A callback that runs after its call has ended does not disturb the connection.

    The connection serves another call by then.
    """
    with redis.Redis.from_url(redis_url, client_name=unique) as client, redis.Redis.from_url(
        redis_url
    ) as direct:

        def connections():
            return sorted(
                one["id"]
                for one in direct.client_list()
                if one["name"] == unique and one["cmd"] == "blpop"
            )

        cache = RedisCache(client=client, default_prefix=unique)
        token, reached, release = Cancellation(parent=None), threading.Event(), threading.Event()
        token.on_cancel(lambda: (reached.set(), release.wait(20)))
        first = Background(cache.receive, "first", cancellation=token)
        before = []
        wait_for(lambda: before.extend(connections()) or before, "the first reader's wait")
        cancelling = Background(token.cancel)
        assert reached.wait(20)
        cache.publish_to_mailbox("first", 1)  # wakes the reader, which notices its cancellation
        with pytest.raises(Cancelled):
            first.result()
        second = Background(cache.receive, "second")
        wait_for(connections, "the second reader's wait")
        third = Background(cache.receive, "third")
        waiting = []

        def both_wait():  # False while a reader is between two waits
            waiting[:] = connections()
            return len(waiting) == 2

        wait_for(both_wait, "the third reader's wait")
        assert before[0] in waiting, "the connection does not serve another call"
        release.set()
        cancelling.result()
        # A connection that was shut down would be replaced by one with another id.
        wait_for(lambda: connections() == waiting, "the same connections")
        for name, reader in (("second", second), ("third", third)):
            cache.publish_to_mailbox(name, 2)
            assert reader.result().message == 2
        cache.clear()


def test_socket_unblocker():
    """SocketUnblocker shuts its socket down, and does nothing after the end of its call."""
    one, other = socket.socketpair()
    with one, other:
        over = SocketUnblocker(one, 0.0)
        assert over.end() is True
        over()
        other.send(b"x")
        assert one.recv(1) == b"x"
        current = SocketUnblocker(one, 0.0)
        current()
        assert one.recv(1) == b""
        assert current.end() is False
