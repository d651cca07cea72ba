"""Mailboxes on every backend: leases, fences and dead letters, with a clock that stands still."""

import threading
import time

import pytest

from asimov_sync import Cancellation, Cancelled, Letter, RedisCache
from asimov_sync.cache.store import ACKNOWLEDGED_SECONDS
from asimov_sync.testing import count_callbacks

from ..tiers import suite, within
from ..waiting import Background, wait_for
from .conftest import FEW_BACKENDS


def test_ack_removes_the_message(cache, clock):
    """A received message is leased; ack() removes it and may be repeated."""
    cache.publish_to_mailbox("box", {"a": 1}, message_id="one")
    delivery = cache.receive("box", timeout=0, lease=10)
    assert (delivery.message, delivery.id, delivery.deliveries) == ({"a": 1}, "one", 1)
    assert cache.receive("box", timeout=0) is None
    assert cache.peek("box") == []
    assert cache.mailbox_length("box") == 1
    assert delivery.ack() is True
    assert delivery.ack() is True
    assert cache.mailbox_length("box") == 0
    clock.pass_by(11)
    assert cache.receive("box", timeout=0) is None


def test_expired_lease_redelivers(cache, clock):
    """An expired message is redelivered before newer ones, with its delivery count."""
    cache.publish_to_mailbox("box", "first")
    cache.publish_to_mailbox("box", "second")
    assert cache.receive("box", timeout=0, lease=10).message == "first"
    clock.pass_by(9.9)
    assert cache.receive("box", timeout=0, lease=10).message == "second"
    clock.pass_by(0.2)
    redelivered = cache.receive("box", timeout=0, lease=10)
    assert (redelivered.message, redelivered.deliveries) == ("first", 2)
    clock.pass_by(30)
    assert [cache.receive("box", timeout=0).message for _ in range(2)] == ["second", "first"]


def test_simultaneous_expiry_keeps_the_order(cache, clock):
    """Messages whose leases end together are redelivered in the order of delivery."""
    for number in range(6):
        cache.publish_to_mailbox("box", number)
    for _ in range(6):
        cache.receive("box", timeout=0, lease=1)
    clock.pass_by(2)
    assert cache.peek("box", 9) == list(range(6))
    assert [cache.receive("box", timeout=0).message for _ in range(6)] == list(range(6))


def test_stale_ack_is_refused(cache, clock):
    """ack() returns False, and removes nothing, after another reader took the message."""
    cache.publish_to_mailbox("box", 1)
    stale = cache.receive("box", timeout=0, lease=1)
    clock.pass_by(2)
    holder = cache.receive("box", timeout=0, lease=100)
    assert stale.ack() is False
    stale.release()
    assert stale.extend() is False
    assert cache.mailbox_length("box") == 1
    assert cache.receive("box", timeout=0) is None
    assert holder.ack() is True
    assert stale.ack() is False


def test_late_ack_counts_if_nobody_took_the_message(cache, clock):
    """After its lease has ended, ack() still succeeds until another reader takes over."""
    cache.publish_to_mailbox("box", 1)
    delivery = cache.receive("box", timeout=0, lease=1)
    clock.pass_by(2)
    assert delivery.ack() is True
    assert cache.mailbox_length("box") == 0


def test_stale_ack_after_republication(cache, clock):
    """A stale ack() fails even if the same id was acknowledged and published again."""
    cache.publish_to_mailbox("box", "old", message_id="id")
    stale = cache.receive("box", timeout=0, lease=1)
    clock.pass_by(2)
    assert cache.receive("box", timeout=0, lease=1).ack() is True
    clock.pass_by(ACKNOWLEDGED_SECONDS + 1)
    cache.publish_to_mailbox("box", "new", message_id="id")
    assert stale.ack() is False
    holder = cache.receive("box", timeout=0, lease=100)
    assert (holder.message, holder.deliveries) == ("new", 1)
    assert stale.ack() is False
    assert cache.mailbox_length("box") == 1
    assert holder.ack() is True


def test_stale_ack_after_clear(cache, clock):
    """Clearing a mailbox does not restart its fences."""
    cache.publish_to_mailbox("box", "old", message_id="id")
    stale = cache.receive("box", timeout=0, lease=100)
    cache.clear()
    assert stale.ack() is False
    clock.pass_by(0.001)
    cache.publish_to_mailbox("box", "new", message_id="id")
    holder = cache.receive("box", timeout=0, lease=100)
    assert stale.ack() is False
    assert cache.mailbox_length("box") == 1
    assert holder.ack() is True


def test_message_id_is_delivered_once(cache, clock):
    """An id is ignored while it is ready, leased or remembered; later it is a new message."""
    for _ in range(2):
        cache.publish_to_mailbox("box", "first", message_id="id")
    delivery = cache.receive("box", timeout=0, lease=10)
    cache.publish_to_mailbox("box", "second", message_id="id")
    assert delivery.ack() is True
    cache.publish_to_mailbox("box", "third", message_id="id")
    clock.pass_by(ACKNOWLEDGED_SECONDS - 1)
    cache.publish_to_mailbox("box", "fourth", message_id="id")
    assert cache.receive("box", timeout=0) is None
    clock.pass_by(2)
    cache.publish_to_mailbox("box", "fifth", message_id="id")
    assert cache.get_message("box", timeout=0) == "fifth"
    cache.publish_to_mailbox("box", "sixth", message_id="id")
    assert cache.get_message("box", timeout=0) is None


def test_extend(cache, clock):
    """extend() sets a later end of the lease."""
    cache.publish_to_mailbox("box", 1)
    delivery = cache.receive("box", timeout=0, lease=10)
    clock.pass_by(9)
    assert delivery.extend() is True
    clock.pass_by(9)
    assert cache.receive("box", timeout=0) is None
    assert delivery.extend(100) is True
    clock.pass_by(99)
    assert cache.receive("box", timeout=0) is None
    clock.pass_by(2)
    assert cache.receive("box", timeout=0).deliveries == 2
    assert delivery.extend() is False


def test_release(cache, clock):
    """A released message is the next that is read, at once."""
    cache.publish_to_mailbox("box", "first")
    cache.publish_to_mailbox("box", "second")
    cache.receive("box", timeout=0, lease=100).release()
    assert cache.peek("box", 5) == ["first", "second"]
    redelivered = cache.receive("box", timeout=0, lease=100)
    assert (redelivered.message, redelivered.deliveries) == ("first", 2)
    assert redelivered.ack() is True


def test_dead_letters(make_cache, backend):
    """After max_deliveries a message is a dead letter; put_back() makes it new."""
    cache = make_cache(max_deliveries=2)
    for name in ("a", "b"):
        cache.publish_to_mailbox("box", name, message_id=name)
    for _ in range(2):
        deliveries = [cache.receive("box", timeout=0, lease=100) for _ in range(2)]
        for delivery in reversed(deliveries):
            delivery.release()
    assert cache.receive("box", timeout=0) is None
    assert cache.dead_letters("box") == [Letter("a", "a", 2), Letter("b", "b", 2)]
    assert cache.mailbox_length("box") == 0
    cache.publish_to_mailbox("box", "again", message_id="a")
    assert cache.receive("box", timeout=0) is None
    assert cache.put_back("box", "nobody") == 0
    assert cache.put_back("box", "b") == 1
    assert [message.id for message in cache.dead_letters("box")] == ["a"]
    redelivered = cache.receive("box", timeout=0, lease=100)
    assert (redelivered.message, redelivered.deliveries) == ("b", 1)
    redelivered.ack()
    assert cache.put_back("box") == 1
    assert cache.get_message("box", timeout=0) == "a"
    assert cache.put_back("box") == 0


def test_dead_letters_with_generated_ids(make_cache):
    """put_back() accepts the generated id of a letter."""
    cache = make_cache(max_deliveries=1)
    cache.publish_to_mailbox("box", "a")
    cache.receive("box", timeout=0, lease=100).release()
    assert cache.receive("box", timeout=0) is None
    (message,) = cache.dead_letters("box")
    assert cache.put_back("box", message.id) == 1
    assert cache.receive("box", timeout=0).id == message.id


def test_peek_and_length(cache, clock):
    """peek() takes nothing and skips leased messages; mailbox_length() counts them."""
    for number in range(5):
        cache.publish_to_mailbox("box", number)
    cache.receive("box", timeout=0, lease=10)
    assert cache.peek("box") == [1]
    assert cache.peek("box", 3) == [1, 2, 3]
    assert cache.peek("box", 0) == []
    assert cache.mailbox_length("box") == 5
    clock.pass_by(11)
    assert cache.peek("box", 10) == [0, 1, 2, 3, 4]
    assert cache.peek("nothing") == [] and cache.mailbox_length("nothing") == 0


@suite
@pytest.mark.parametrize("backend", FEW_BACKENDS, indirect=True)
def test_expired_lease_wakes_a_reader(cache):
    """A blocked reader receives a message when another reader's lease on it ends."""
    cache.publish_to_mailbox("box", 1)
    cache.receive("box", timeout=0, lease=0.3)
    start = time.monotonic()
    delivery = cache.receive("box", timeout=15)
    assert delivery.deliveries == 2
    assert 0.1 < time.monotonic() - start < 5


@suite
@pytest.mark.parametrize("method", ["publish", "release", "put back"])
def test_ready_message_wakes_a_reader(make_cache, method):
    """Publishing, releasing and putting back wake a blocked reader well within a second."""
    cache = make_cache(max_deliveries=1 if method == "put back" else 5)
    if method != "publish":
        cache.publish_to_mailbox("box", 1)
        held = cache.receive("box", timeout=0, lease=100)
    if method == "put back":
        held.release()
        assert cache.receive("box", timeout=0) is None
    token = Cancellation()
    reading = Background(cache.receive, "box", cancellation=token)
    wait_for(lambda: count_callbacks(token), "the reader's wait")
    threading.Event().wait(0.05)
    start = time.monotonic()
    {
        "publish": lambda: cache.publish_to_mailbox("box", 1),
        "release": lambda: held.release(),
        "put back": lambda: cache.put_back("box"),
    }[method]()
    assert reading.result().message == 1
    assert time.monotonic() - start < within(0.5)


@suite
def test_cancelled_reader_loses_no_message(cache):
    """A message that arrives while its reader is cancelled goes to the next one."""
    for number in range(20):
        token = Cancellation()
        reading = Background(cache.receive, "box", cancellation=token, lease=100)
        wait_for(lambda: count_callbacks(token))
        publishing = Background(cache.publish_to_mailbox, "box", number)
        token.cancel()
        publishing.result()
        try:
            delivery = reading.result()
        except Cancelled:
            delivery = cache.receive("box", timeout=5, lease=100)
        assert delivery is not None and delivery.message == number
        assert delivery.ack() is True
    assert cache.mailbox_length("box") == 0


@suite
@pytest.mark.parametrize("backend", FEW_BACKENDS, indirect=True)
def test_empty_mailbox_causes_no_busy_waiting(cache):
    """After hundreds of messages, waiting on the empty mailbox takes no CPU time."""
    for number in range(200):
        cache.publish_to_mailbox("box", number)
    for _ in range(200):
        assert cache.receive("box", timeout=5).ack()
    start = time.process_time()
    assert cache.receive("box", timeout=0.3) is None
    assert time.process_time() - start < 0.25


def test_invalid_arguments(cache):
    """A lease is above zero, an id is text, a time-out is not negative."""
    with pytest.raises(ValueError, match="lease"):
        cache.receive("box", lease=0)
    cache.publish_to_mailbox("box", 1)
    with pytest.raises(ValueError, match="lease"):
        cache.receive("box", timeout=0).extend(0)
    with pytest.raises(ValueError, match="timeout"):
        cache.receive("box", timeout=-1)
    with pytest.raises(ValueError, match="str"):
        cache.publish_to_mailbox("box", 1, message_id=7)


def test_mailboxes_belong_to_a_namespace(make_cache):
    """Mailboxes under two prefixes are separate; a parent addresses a child's by prefix."""
    make_cache(prefix="a").publish_to_mailbox("box", 1)
    assert make_cache(prefix="b").receive("box", timeout=0) is None
    assert make_cache().receive("a:box", timeout=0).message == 1
    assert make_cache(prefix="a:b").mailbox_length("box") == 0


def test_idle_mailbox_expires_on_the_server(redis_url, unique):
    """All keys that a mailbox leaves on the server have an expiry."""
    import redis

    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(
        redis_url
    ) as plain:
        cache.publish_to_mailbox("box", 1)
        cache.receive("box", timeout=0).ack()
        keys = list(plain.scan_iter(unique + "*"))
        assert keys
        assert all(0 < plain.pttl(key) <= ACKNOWLEDGED_SECONDS * 1000 for key in keys)
