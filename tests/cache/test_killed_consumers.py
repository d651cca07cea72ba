"""Consumers that are killed while they hold a lease: what they held is handled by another."""

import collections
import mmap
import os
import random
import signal
import time
import traceback

import redis

from asimov_sync import RedisCache

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, wait_for

pytestmark = suite

CONSUMERS = 8
MESSAGES = by_tier(1000, soak=5000)
KILLS = by_tier(40, soak=205)
KILLS_WITH_LEASE = by_tier(15, soak=100)
WORK_SECONDS = 0.008
LEASE_SECONDS = 0.5
LIMIT_SECONDS = 120

HOLDS = b"\x01"
FREE = b"\x00"


def consume(url, prefix, told, place):
    """Handle messages until none comes for a while: record each, then acknowledge it. `told` says whether a lease is held."""
    with RedisCache(
        url=url, default_prefix=prefix, max_deliveries=100
    ) as cache, redis.Redis.from_url(url) as plain:
        while True:
            delivery = cache.receive("box", timeout=5 * LEASE_SECONDS, lease=LEASE_SECONDS)
            if delivery is None:
                if cache.mailbox_length("box") == 0:
                    return
                continue
            told[place : place + 1] = HOLDS
            time.sleep(WORK_SECONDS)  # the work
            plain.rpush(prefix + ":handled", f"{delivery.id} {delivery.deliveries}")
            told[place : place + 1] = FREE
            delivery.ack()


def start(url, prefix, told, place):
    """The pid of a new consumer."""
    told[place : place + 1] = FREE
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(LIMIT_SECONDS)
        consume(url, prefix, told, place)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def kill(pid, told, place):
    """Stop a consumer, look whether it holds a lease, and kill it. Looked at while it stands still, so it is true."""
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the consumer ended by itself: status {status}"
    held = told[place : place + 1] == HOLDS
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return held


def test_consumers_that_are_killed(redis_url, unique):
    """Eight consumers are killed at random, some with a lease in hand (KILLS, KILLS_WITH_LEASE): each message is handled,
    none is left, and a message that is handled twice says so by its deliveries.
    """
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    told = mmap.mmap(-1, CONSUMERS)  # shared with the children
    consumers = {}
    kills = kills_with_lease = 0
    with RedisCache(url=redis_url, default_prefix=unique, max_deliveries=100) as cache:

        def publish(messages):
            for number in messages:
                cache.publish_to_mailbox("box", number, message_id=str(number))

        published = MESSAGES
        publish(range(published))
        try:
            for place in range(CONSUMERS):
                consumers[place] = start(redis_url, unique, told, place)
            while kills < KILLS or kills_with_lease < KILLS_WITH_LEASE:
                # After so many messages, not after so much time, and a slow machine must not run out of them before its kills.
                if cache.mailbox_length("box") < 8 * CONSUMERS:
                    publish(range(published, published + 500))
                    published += 500
                left = max(0, cache.mailbox_length("box") - chance.randrange(8))
                wait_for(lambda: cache.mailbox_length("box") <= left, "the consumers' progress")
                place = chance.randrange(CONSUMERS)
                kills_with_lease += kill(consumers.pop(place), told, place)
                kills += 1
                consumers[place] = start(redis_url, unique, told, place)
            end = time.monotonic() + 3 * DEADLINE
            while consumers:
                for place, pid in list(consumers.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        del consumers[place]
                        assert status == 0, f"a consumer failed: status {status}"
                assert time.monotonic() < end, "{} are still there".format(
                    cache.mailbox_length("box")
                )
                time.sleep(0.01)
        finally:
            for pid in consumers.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            told.close()
        print(f"killed: {kills}, with a lease: {kills_with_lease}")
        assert kills >= KILLS and kills_with_lease >= KILLS_WITH_LEASE
        with redis.Redis.from_url(redis_url) as plain:
            records = [
                record.decode().split() for record in plain.lrange(unique + ":handled", 0, -1)
            ]
            plain.delete(unique + ":handled")
        deliveries = collections.defaultdict(list)
        for id, count in records:
            deliveries[id].append(int(count))
        assert sorted(map(int, deliveries)) == list(range(published))
        assert all(len(counts) == len(set(counts)) for counts in deliveries.values())
        assert any(max(counts) > 1 for counts in deliveries.values()), (
            "no killed consumer's message came again"
        )
        assert cache.mailbox_length("box") == 0
        assert cache.dead_letters("box") == []
        assert cache.receive("box", timeout=0) is None
        cache.clear()
