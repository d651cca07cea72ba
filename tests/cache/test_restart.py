"""A server that is killed and restarted: acknowledged data is kept, and readers continue."""

import threading
import time

import pytest
import redis

from asimov_sync import CacheUnavailable, OutcomeUnknown, RedisCache

from ..tiers import suite
from ..waiting import DEADLINE, Background, wait_for

pytestmark = suite

UNKNOWN = (OutcomeUnknown, CacheUnavailable)


def run_id(server):
    """Return an id that changes with each start of the server."""
    with redis.Redis.from_url(server.url) as plain:
        return plain.info("server")["run_id"]


def blocked_readers(server):
    """Return how many clients of the server wait for a list."""
    with redis.Redis.from_url(server.url) as plain:
        return plain.info("clients")["blocked_clients"]


def test_restarts_under_load(durable_server):
    """Three kills under load lose no message whose publication returned.

    The same threads continue, and a message that is handled twice has a delivery count above 1.
    """
    server = durable_server
    stop = threading.Event()
    published = [[], []]
    handled, lock = [], threading.Lock()
    outages = []

    def produce(cache, part):
        number = 0
        while not stop.is_set():
            name = f"{part}-{number}"
            try:
                cache.publish_to_mailbox("box", name, message_id=name)
            except UNKNOWN as error:
                outages.append(error)
                stop.wait(0.02)
                continue  # publish it again: the id prevents a duplicate
            published[part].append(name)
            number += 1

    def consume(cache):
        while True:
            try:
                delivery = cache.receive("box", lease=1.0)
            except UNKNOWN as error:  # a first read from a dead server fails at once
                outages.append(error)
                stop.wait(0.02)
                continue
            if delivery.message == "end":
                delivery.ack()
                return
            with lock:
                handled.append((delivery.message, delivery.deliveries))
            try:
                delivery.ack()
            except UNKNOWN as error:
                outages.append(error)

    with RedisCache(url=server.url, default_prefix="app", max_deliveries=100) as cache:
        consumers = [Background(consume, cache) for _ in range(3)]
        producers = [Background(produce, cache, part) for part in range(2)]
        lives = {run_id(server)}
        for _ in range(3):
            before = [len(names) for names in published]
            wait_for(
                lambda: all(len(names) > count + 50 for names, count in zip(published, before)),
                "the load",
            )
            failures = len(outages)
            server.kill()
            wait_for(lambda: len(outages) > failures, "the outage to be noticed")
            server.start()
            lives.add(run_id(server))
        before = [len(names) for names in published]
        wait_for(
            lambda: all(len(names) > count + 50 for names, count in zip(published, before)),
            "the load",
        )
        stop.set()
        for producer in producers:
            producer.result()
        acknowledged = set(published[0]) | set(published[1])
        wait_for(
            lambda: acknowledged <= {name for name, _ in handled},
            "every message that was published",
        )
        wait_for(lambda: cache.mailbox_length("box") == 0, "the end of the last lease")
        for number in range(3):
            cache.publish_to_mailbox("box", "end", message_id=f"end-{number}")
        for consumer in consumers:
            consumer.result()
        assert cache.dead_letters("box") == []
    assert len(lives) == 4, "the server was not restarted three times"
    first = [name for name, deliveries in handled if deliveries == 1]
    assert len(first) == len(set(first)), "a message was delivered twice for the first time"
    # A producer may have been stopped after its message was written to disk.
    assert len({name for name, _ in handled} - acknowledged) <= 2


@pytest.mark.parametrize("method", ["receive", "get_message"])
def test_blocked_reader_survives_a_restart(durable_server, method):
    """A reader that waits through a restart receives the next message."""
    server = durable_server
    with RedisCache(url=server.url) as cache:
        reading = Background(getattr(cache, method), "box")
        wait_for(lambda: blocked_readers(server) == 1, "the reader's wait")
        first = run_id(server)
        server.kill()
        with pytest.raises(CacheUnavailable):
            cache.get("key")
        server.start()
        assert run_id(server) != first
        assert reading.thread.is_alive()
        with RedisCache(url=server.url) as other:
            other.publish_to_mailbox("box", "after")
        result = reading.result()
        assert (result.message if method == "receive" else result) == "after"


def test_timeout_during_an_outage(durable_server):
    """A read whose time-out passes during an outage raises CacheUnavailable, not None."""
    server = durable_server
    with RedisCache(url=server.url) as cache:
        reading = Background(cache.receive, "box", timeout=1.0)
        wait_for(lambda: blocked_readers(server) == 1, "the reader's wait")
        server.kill()
        with pytest.raises(CacheUnavailable):
            reading.result()


@pytest.mark.parametrize("call", ["receive", "get_message"])
def test_first_read_fails_at_once(durable_server, call):
    """A first read from a server that is down raises at once, whatever its time-out."""
    durable_server.kill()
    with RedisCache(url=durable_server.url) as cache:
        start = time.monotonic()
        with pytest.raises(CacheUnavailable):
            getattr(cache, call)("box")
        assert time.monotonic() - start < DEADLINE / 4
