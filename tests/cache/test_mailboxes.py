"""Mailboxes that lose nothing: leases, fences, dead letters; on every backend, with a clock that stands still."""

import threading
import time

import pytest

from asimov_sync import Cancellation, Cancelled, Letter, RedisCache
from asimov_sync.cache.store import ACKNOWLEDGED_SECONDS

from ..tiers import suite, within
from ..waiting import Background, wait_for


def test_a_message_that_is_acknowledged_is_gone(cache, clock):
    """A received message is leased, not ready; after its ack it is gone, and the ack may be repeated."""
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


def test_a_lease_runs_out(cache, clock):
    """A message that is not acknowledged in time comes again, before newer ones, and says how often it came."""
    cache.publish_to_mailbox("box", "first")
    cache.publish_to_mailbox("box", "second")
    assert cache.receive("box", timeout=0, lease=10).message == "first"
    clock.pass_by(9.9)
    assert cache.receive("box", timeout=0, lease=10).message == "second"
    clock.pass_by(0.2)
    again = cache.receive("box", timeout=0, lease=10)
    assert (again.message, again.deliveries) == ("first", 2)
    clock.pass_by(30)
    assert [cache.receive("box", timeout=0).message for _ in range(2)] == ["second", "first"]


def test_leases_that_run_out_together(cache, clock):
    """Messages whose leases run out at the same moment come again in the order in which they were delivered."""
    for number in range(6):
        cache.publish_to_mailbox("box", number)
    for _ in range(6):
        cache.receive("box", timeout=0, lease=1)
    clock.pass_by(2)
    assert cache.peek("box", 9) == list(range(6))
    assert [cache.receive("box", timeout=0).message for _ in range(6)] == list(range(6))


def test_a_stale_ack_is_refused(cache, clock):
    """An ack after the lease ran out and somebody else took over is refused, and does not remove the message."""
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


def test_a_late_ack_without_a_successor_counts(cache, clock):
    """After the lease ran out, an ack is still accepted as long as nobody has taken over."""
    cache.publish_to_mailbox("box", 1)
    delivery = cache.receive("box", timeout=0, lease=1)
    clock.pass_by(2)
    assert delivery.ack() is True
    assert cache.mailbox_length("box") == 0


def test_a_stale_ack_across_a_republication_is_refused(cache, clock):
    """So it is when the same id was acknowledged and published again in between; fences only ever grow."""
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


def test_a_stale_ack_across_a_clear_is_refused(cache, clock):
    """Clearing the mailbox does not let its fences begin again."""
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


def test_the_same_id_is_delivered_once(cache, clock):
    """Publishing an id again does nothing while it is ready, leased or remembered; after that it is a new message."""
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


def test_extending(cache, clock):
    """A lease that is extended runs out later."""
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


def test_releasing(cache, clock):
    """A message that is released is the next that is read, at once."""
    cache.publish_to_mailbox("box", "first")
    cache.publish_to_mailbox("box", "second")
    cache.receive("box", timeout=0, lease=100).release()
    assert cache.peek("box", 5) == ["first", "second"]
    again = cache.receive("box", timeout=0, lease=100)
    assert (again.message, again.deliveries) == ("first", 2)
    assert again.ack() is True


def test_dead_letters(make_cache, backend):
    """After max_deliveries a message goes to the dead letters, which can be listed, put back, and are then as new."""
    cache = make_cache()
    cache._store.max_deliveries = 2
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
    assert [letter.id for letter in cache.dead_letters("box")] == ["a"]
    back = cache.receive("box", timeout=0, lease=100)
    assert (back.message, back.deliveries) == ("b", 1)
    back.ack()
    assert cache.put_back("box") == 1
    assert cache.get_message("box", timeout=0) == "a"
    assert cache.put_back("box") == 0


def test_dead_letters_of_made_up_ids(cache):
    """A message that was published without an id can be put back by the one that its letter shows."""
    cache._store.max_deliveries = 1
    cache.publish_to_mailbox("box", "a")
    cache.receive("box", timeout=0, lease=100).release()
    assert cache.receive("box", timeout=0) is None
    (letter,) = cache.dead_letters("box")
    assert cache.put_back("box", letter.id) == 1
    assert cache.receive("box", timeout=0).id == letter.id


def test_peek_and_length(cache, clock):
    """peek() shows what would be read next and takes nothing; the length counts what is leased, too."""
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
def test_a_lease_that_runs_out_wakes_a_reader(cache):
    """A reader that waits is given a message when the lease of another runs out."""
    cache.publish_to_mailbox("box", 1)
    cache.receive("box", timeout=0, lease=0.3)
    start = time.monotonic()
    delivery = cache.receive("box", timeout=15)
    assert delivery.deliveries == 2
    assert 0.1 < time.monotonic() - start < 5


@suite
@pytest.mark.parametrize("how", ["publish", "release", "put back"])
def test_whatever_makes_a_message_ready_wakes_a_reader(cache, how):
    """A blocked reader is woken by a new message, a released one, and a dead one that is put back, well within its second."""
    if how != "publish":
        cache.publish_to_mailbox("box", 1)
        held = cache.receive("box", timeout=0, lease=100)
    if how == "put back":
        cache._store.max_deliveries = 1
        held.release()
        assert cache.receive("box", timeout=0) is None
    token = Cancellation()
    reading = Background(cache.receive, "box", cancellation=token)
    wait_for(lambda: token._callbacks, "the reader's wait")
    threading.Event().wait(0.05)
    start = time.monotonic()
    {
        "publish": lambda: cache.publish_to_mailbox("box", 1),
        "release": lambda: held.release(),
        "put back": lambda: cache.put_back("box"),
    }[how]()
    assert reading.result().message == 1
    assert time.monotonic() - start < within(0.5)


@suite
def test_a_cancelled_reader_takes_nothing(cache):
    """A message that comes as its reader is cancelled is still there for the next."""
    for number in range(20):
        token = Cancellation()
        reading = Background(cache.receive, "box", cancellation=token, lease=100)
        wait_for(lambda: token._callbacks)
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
def test_an_idle_bell_does_not_ring(cache):
    """After thousands of messages were taken, an empty mailbox makes nobody busy: a wait takes its time."""
    for number in range(200):
        cache.publish_to_mailbox("box", number)
    for _ in range(200):
        assert cache.receive("box", timeout=5).ack()
    start = time.process_time()
    assert cache.receive("box", timeout=0.3) is None
    assert time.process_time() - start < 0.25


def test_senseless_arguments(cache):
    """A lease is above zero, an id is text, a time-out is no less than zero."""
    with pytest.raises(ValueError, match="lease"):
        cache.receive("box", lease=0)
    cache.publish_to_mailbox("box", 1)
    with pytest.raises(ValueError, match="lease"):
        cache.receive("box", timeout=0).extend(0)
    with pytest.raises(ValueError, match="timeout"):
        cache.receive("box", timeout=-1)
    with pytest.raises(ValueError, match="str"):
        cache.publish_to_mailbox("box", 1, message_id=7)


def test_mailboxes_know_their_namespace(make_cache):
    """Mailboxes of one name under two prefixes are two; a parent sees its child's under the longer name."""
    make_cache(prefix="a").publish_to_mailbox("box", 1)
    assert make_cache(prefix="b").receive("box", timeout=0) is None
    assert make_cache().receive("a:box", timeout=0).message == 1
    assert make_cache(prefix="a:b").mailbox_length("box") == 0


def test_nothing_is_left_of_an_idle_mailbox(redis_url, unique):
    """What a mailbox keeps on the server after its last message ends by itself."""
    import redis

    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(
        redis_url
    ) as plain:
        cache.publish_to_mailbox("box", 1)
        cache.receive("box", timeout=0).ack()
        keys = list(plain.scan_iter(unique + "*"))
        assert keys
        assert all(0 < plain.pttl(key) <= ACKNOWLEDGED_SECONDS * 1000 for key in keys)
