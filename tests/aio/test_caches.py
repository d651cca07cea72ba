"""Caches for coroutines, beside what their contract says: waits that are cancelled, deliveries, threads."""

import asyncio
import contextlib
import threading

import pytest

from asimov_sync import Cancellation, Cancelled, MemoryCache, RedisCache, WorkersClosed, WorkersExhausted
from asimov_sync.aio import to_async

from ..tiers import suite
from .running import awaited, until


@contextlib.contextmanager
def opened(kind, url, prefix):
    cache = MemoryCache(default_prefix=prefix) if kind == "memory" else RedisCache(url=url, default_prefix=prefix)
    with cache:
        yield cache


@pytest.fixture(params=["memory", "redis"])
def cache(request, unique):
    with opened(request.param, request.getfixturevalue("redis_url"), unique) as made:
        yield made


@awaited
async def test_a_reader_that_is_cancelled_takes_nothing(cache):
    """A cancelled get_message has left the mailbox: what is published next is the next reader's."""
    async with to_async(cache) as facade:
        reader = asyncio.ensure_future(facade.get_message("box"))
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await facade.publish_to_mailbox("box", "message")
        assert await facade.get_message("box", timeout=5) == "message"


@awaited
async def test_no_message_is_lost_to_a_cancel(cache):
    """Readers that are cancelled while messages come lose none: each is read, or still there."""
    async with to_async(cache) as facade:
        read = []
        for number in range(30):
            reader = asyncio.ensure_future(facade.get_message("box", timeout=5))
            leased = asyncio.ensure_future(facade.receive("leased", timeout=5, lease=60))
            await asyncio.sleep(0.002 * (number % 4))
            await asyncio.gather(facade.publish_to_mailbox("box", number), facade.publish_to_mailbox("leased", number))
            reader.cancel()
            leased.cancel()
            for kind, one in (("box", reader), ("leased", leased)):
                with contextlib.suppress(asyncio.CancelledError):
                    got = await one
                    read.append((kind, got if kind == "box" else got.message))
                    if kind == "leased":
                        assert await got.ack()
        for kind in ("box", "leased"):
            while await facade.mailbox_length(kind):
                delivery = await facade.receive(kind, timeout=5)
                read.append((kind, delivery.message))
                await delivery.ack()
            assert sorted(number for one, number in read if one == kind) == list(range(30))


@awaited
async def test_what_a_reader_brings_too_late_is_given_back(cache, monkeypatch):
    """A delivery that comes although its reader was cancelled is released at once: it does not wait for its lease."""
    taken, go_on = threading.Event(), threading.Event()
    receive = cache.receive

    def slowly(*args):
        delivery = receive(*args)
        taken.set()
        assert go_on.wait(20)
        return delivery

    monkeypatch.setattr(cache, "receive", slowly)
    async with to_async(cache) as facade:
        await facade.publish_to_mailbox("box", "message")
        reader = asyncio.ensure_future(facade.receive("box", lease=60))
        await until(taken.is_set)
        reader.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await reader
        delivery = await asyncio.wait_for(facade.get_message("box", timeout=10), 15)
        assert delivery == "message"


@awaited
async def test_a_delivery(cache):
    """A delivery says what it is without waiting, and its methods are coroutines."""
    async with to_async(cache) as facade:
        assert await facade.receive("box", timeout=0) is None
        await facade.publish_to_mailbox("box", {"a": 1}, message_id="one")
        delivery = await facade.receive("box", lease=60)
        assert (delivery.message, delivery.id, delivery.deliveries) == ({"a": 1}, "one", 1)
        assert await delivery.extend(30)
        await delivery.release()
        again = await facade.receive("box", timeout=5)
        assert again.deliveries == 2
        assert not await delivery.ack()
        assert await again.ack()


@awaited
async def test_a_token_ends_the_wait(cache):
    """Both a cancellation that is given and the current one end a wait, on which the loop is not held up."""
    async with to_async(cache) as facade:
        token = Cancellation()
        reader = asyncio.ensure_future(facade.get_message("box", cancellation=token))
        await asyncio.sleep(0.02)
        token.cancel("given")
        with pytest.raises(Cancelled, match="given"):
            await reader
        with Cancellation(timeout=0.1):
            with pytest.raises(Cancelled, match="deadline"):
                await facade.get_message("box")


@awaited
async def test_one_wait_too_many(cache):
    """More waits than threads are an error at once, and no deadlock; short calls go on, and so do waits that end."""
    async with to_async(cache, max_threads=3) as facade:
        readers = [asyncio.ensure_future(facade.get_message("box")) for _ in range(3)]
        await asyncio.sleep(0.02)
        with pytest.raises(WorkersExhausted, match="max_threads=3"):
            await facade.get_message("box", timeout=0)
        for number in range(3):
            await facade.publish_to_mailbox("box", number)
        assert sorted(await asyncio.gather(*readers)) == [0, 1, 2]
        assert await facade.get_message("box", timeout=0) is None


@suite
@awaited
async def test_short_calls_are_not_held_up_by_waits(cache):
    """A hundred and twenty blocked readers hold up no other call; on Redis each has a connection, on any redis-py."""
    async with to_async(cache) as facade:
        readers = [asyncio.ensure_future(facade.get_message("box")) for _ in range(120)]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(asyncio.gather(*[facade.set(str(number), number) for number in range(100)]), 20)
        assert len(await facade.get_all()) == 100
        for reader in readers:
            reader.cancel()
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)


@awaited
async def test_the_default_executor_is_left_alone(cache):
    """No call is made on the event loop's own threads, which others may have filled."""
    asked = []
    asyncio.get_running_loop().run_in_executor = lambda *args: asked.append(args)
    async with to_async(cache) as facade:
        await facade.set("key", 1)
        assert await facade.get_message("box", timeout=0) is None
    assert not asked


@awaited
async def test_views_share_what_they_are_made_of(cache):
    """A view closes nothing; the cache closes what waits on its views as well."""
    facade = to_async(cache)
    async with facade.with_prefix("a").with_suffix("z") as view:
        await view.set("key", 1)
    assert await facade.keys() == {"a:key:z"}
    reader = asyncio.ensure_future(view.get_message("box"))
    await asyncio.sleep(0.02)
    await facade.close()
    with pytest.raises(Cancelled, match="closed"):
        await reader
    with pytest.raises(WorkersClosed):
        await facade.get("key")
    await facade.close()


def test_several_loops_at_once(cache):
    """One facade serves coroutines of several event loops at once."""
    facade = to_async(cache)
    results = []

    async def exchange(number):
        reader = asyncio.ensure_future(facade.get_message("box-{}".format(number)))
        await asyncio.sleep(0)
        await facade.publish_to_mailbox("box-{}".format(number), number)
        results.append(await reader)

    threads = [threading.Thread(target=lambda number=number: asyncio.run(exchange(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == list(range(8))
    asyncio.run(facade.close())


def test_a_loop_that_ends_ends_its_waits(cache):
    """Where asyncio.run ends with a reader still waiting, the reader has left the mailbox afterwards."""
    facade = to_async(cache)

    async def leave_behind():
        asyncio.ensure_future(facade.get_message("box"))
        await asyncio.sleep(0.02)

    asyncio.run(leave_behind())
    cache.publish_to_mailbox("box", "message")
    assert cache.get_message("box", timeout=5) == "message"
    asyncio.run(facade.close())
