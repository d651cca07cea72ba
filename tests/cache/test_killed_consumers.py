"""Consumers that are killed while they hold a lease: another consumer handles the message."""

import collections
import mmap
import os
import random
import signal
import time
import traceback

import pytest

from asimov_sync import RedisCache, SQLiteCache

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, wait_for

pytestmark = suite

CONSUMERS = 8
MESSAGES = by_tier(600, soak=5000)
KILLS = by_tier(14, soak=205)
KILLS_WITH_LEASE = by_tier(8, soak=100)
WORK_SECONDS = 0.008
LEASE_SECONDS = 0.5
LIMIT_SECONDS = 120

HOLDS = b"\x01"
FREE = b"\x00"
PUBLISHED = b"\x02"


@pytest.fixture(params=["redis", "sqlite"])
def open_cache(request, unique, tmp_path):
    """Opens the cache; each process calls it for itself."""
    options = {"default_prefix": unique, "max_deliveries": 100}
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda: RedisCache(url=url, **options)
    return lambda: SQLiteCache(tmp_path / "cache.db", synchronous="normal", **options)


def consume(open_cache, handled, shared, index):
    """Handle messages until all are published and none is left: record each, then acknowledge it.

    handled: the file of the records; each is appended in one step.
    shared: one byte for each consumer, HOLDS while it holds a lease; and one byte that is PUBLISHED
        when there are no further messages.
    index: the consumer's index.
    """
    with open_cache() as cache, open(handled, "ab", buffering=0) as records:
        while True:
            delivery = cache.receive("box", timeout=2 * LEASE_SECONDS, lease=LEASE_SECONDS)
            if delivery is None:
                if shared[CONSUMERS:] == PUBLISHED and cache.mailbox_length("box") == 0:
                    return
                continue
            shared[index : index + 1] = HOLDS
            time.sleep(WORK_SECONDS)  # stands for the work
            records.write(f"{delivery.id} {delivery.deliveries}\n".encode())
            shared[index : index + 1] = FREE
            delivery.ack()


def start(*args):
    """Start a consumer, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(LIMIT_SECONDS)
        consume(*args)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def kill(pid, shared, index):
    """Kill a consumer. Return whether it held a lease, read while the process is stopped."""
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the consumer ended by itself: status {status}"
    held = shared[index : index + 1] == HOLDS
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return held


def test_killed_consumers(open_cache, tmp_path):
    """Consumers are killed at random, some while they hold a lease.

    Each message is handled and none is left. A message that is handled twice has different
    delivery counts.
    """
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    shared = mmap.mmap(-1, CONSUMERS + 1)  # shared with the children
    consumers = {}
    kills = kills_with_lease = 0
    handled = tmp_path / "handled"

    def start_consumer(index):
        shared[index : index + 1] = FREE
        consumers[index] = start(open_cache, handled, shared, index)

    with open_cache() as cache:

        def publish(messages):
            for number in messages:
                cache.publish_to_mailbox("box", number, message_id=str(number))

        published = MESSAGES
        publish(range(published))
        try:
            for index in range(CONSUMERS):
                start_consumer(index)
            while kills < KILLS or kills_with_lease < KILLS_WITH_LEASE:
                # Kills are spaced by messages, not by time, so a slow machine may need more.
                if cache.mailbox_length("box") < 8 * CONSUMERS:
                    publish(range(published, published + 500))
                    published += 500
                left = max(0, cache.mailbox_length("box") - chance.randrange(8))
                wait_for(lambda: cache.mailbox_length("box") <= left, "the consumers' progress")
                index = chance.randrange(CONSUMERS)
                kills_with_lease += kill(consumers.pop(index), shared, index)
                kills += 1
                start_consumer(index)
            shared[CONSUMERS:] = PUBLISHED
            end = time.monotonic() + 3 * DEADLINE
            while consumers:
                for index, pid in list(consumers.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        del consumers[index]
                        assert status == 0, f"a consumer failed: status {status}"
                assert time.monotonic() < end, f"{cache.mailbox_length('box')} messages are left"
                time.sleep(0.01)
        finally:
            for pid in consumers.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            shared.close()
        print(f"killed: {kills}, with a lease: {kills_with_lease}")
        assert kills >= KILLS and kills_with_lease >= KILLS_WITH_LEASE
        records = [record.split() for record in handled.read_text().splitlines()]
        deliveries = collections.defaultdict(list)
        for id, count in records:
            deliveries[id].append(int(count))
        assert sorted(map(int, deliveries)) == list(range(published))
        assert all(len(counts) == len(set(counts)) for counts in deliveries.values())
        assert any(max(counts) > 1 for counts in deliveries.values()), (
            "no killed consumer's message was redelivered"
        )
        assert cache.mailbox_length("box") == 0
        assert cache.dead_letters("box") == []
        assert cache.receive("box", timeout=0) is None
        cache.clear()
