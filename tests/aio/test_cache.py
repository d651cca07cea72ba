"""Caches for coroutines: cancelled waits, deliveries and threads.

tests/cache has the tests that apply to every cache.
"""

import asyncio
import contextlib
import threading

import pytest

from asimov_sync import (
    Cancellation,
    Cancelled,
    ClosedError,
    MemoryCache,
    RedisCache,
    WorkersExhausted,
)
from asimov_sync.aio import to_async

from ..tiers import suite
from .coroutines import async_test, wait_until


@contextlib.contextmanager
def opened(kind, url, prefix):
    cache = (
        MemoryCache(default_prefix=prefix)
        if kind == "memory"
        else RedisCache(url=url, default_prefix=prefix)
    )
    with cache:
        yield cache


@pytest.fixture(params=["memory", "redis"])
def cache(request, unique):
    with opened(request.param, request.getfixturevalue("redis_url"), unique) as opened_cache:
        yield opened_cache


@async_test
async def test_cancelled_reader_takes_nothing(cache):
    """A cancelled get_message takes no message; the next reader gets it."""
    async with to_async(cache) as facade:
        reader = asyncio.ensure_future(facade.get_message("box"))
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await facade.publish_to_mailbox("box", "message")
        assert await facade.get_message("box", timeout=5) == "message"


@async_test
async def test_cancelled_readers_lose_no_message(cache):
    """If readers are cancelled while messages arrive, each message is read or still in the
    mailbox.
    """
    async with to_async(cache) as facade:
        read = []
        for number in range(30):
            reader = asyncio.ensure_future(facade.get_message("box", timeout=5))
            leased = asyncio.ensure_future(facade.receive("leased", timeout=5, lease=60))
            await asyncio.sleep(0.002 * (number % 4))
            await asyncio.gather(
                facade.publish_to_mailbox("box", number),
                facade.publish_to_mailbox("leased", number),
            )
            reader.cancel()
            leased.cancel()
            for kind, one in (("box", reader), ("leased", leased)):
                with contextlib.suppress(asyncio.CancelledError):
                    received = await one
                    read.append((kind, received if kind == "box" else received.message))
                    if kind == "leased":
                        assert await received.ack()
        for kind in ("box", "leased"):
            while await facade.mailbox_length(kind):
                delivery = await facade.receive(kind, timeout=5)
                read.append((kind, delivery.message))
                await delivery.ack()
            assert sorted(number for one, number in read if one == kind) == list(range(30))


@async_test
async def test_late_delivery_is_released(cache, monkeypatch):
    """A delivery that arrives after its reader was cancelled is released at once."""
    taken, release = threading.Event(), threading.Event()
    receive = cache.receive

    def slowly(*args):
        delivery = receive(*args)
        taken.set()
        assert release.wait(20)
        return delivery

    monkeypatch.setattr(cache, "receive", slowly)
    async with to_async(cache) as facade:
        await facade.publish_to_mailbox("box", "message")
        reader = asyncio.ensure_future(facade.receive("box", lease=60))
        await wait_until(taken.is_set)
        reader.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await reader
        delivery = await asyncio.wait_for(facade.get_message("box", timeout=10), 15)
        assert delivery == "message"


@async_test
async def test_delivery(cache):
    """The attributes of a delivery need no await, and its methods are coroutines."""
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


@async_test
async def test_a_token_ends_the_wait(cache):
    """The current token and a token that is passed in both end a wait."""
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


@async_test
async def test_too_many_waits(cache):
    """More waits than threads raise an error at once. Short calls and later waits work."""
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
@async_test
async def test_waits_do_not_delay_short_calls(cache):
    """120 blocked readers delay no other call. On Redis each has its own connection."""
    async with to_async(cache) as facade:
        readers = [asyncio.ensure_future(facade.get_message("box")) for _ in range(120)]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(
            asyncio.gather(*[facade.set(str(number), number) for number in range(100)]), 20
        )
        assert len(await facade.get_all()) == 100
        for reader in readers:
            reader.cancel()
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)


@async_test
async def test_default_executor_is_unused(cache):
    """No call uses the event loop's own threads, which may be busy."""
    asked = []
    asyncio.get_running_loop().run_in_executor = lambda *args: asked.append(args)
    async with to_async(cache) as facade:
        await facade.set("key", 1)
        assert await facade.get_message("box", timeout=0) is None
    assert not asked


@async_test
async def test_closing_and_views(cache):
    """Closing a view does nothing; closing the cache ends the waits of its views."""
    facade = to_async(cache)
    async with facade.with_prefix("a").with_suffix("z") as view:
        await view.set("key", 1)
    assert await facade.keys() == {"a:key:z"}
    reader = asyncio.ensure_future(view.get_message("box"))
    await asyncio.sleep(0.02)
    await facade.close()
    with pytest.raises(Cancelled, match="closed"):
        await reader
    with pytest.raises(ClosedError):
        await facade.get("key")
    await facade.close()


def test_several_loops_at_once(cache):
    """One facade serves coroutines of several event loops at once."""
    facade = to_async(cache)
    results = []

    async def exchange(number):
        reader = asyncio.ensure_future(facade.get_message(f"box-{number}"))
        await asyncio.sleep(0)
        await facade.publish_to_mailbox(f"box-{number}", number)
        results.append(await reader)

    threads = [
        threading.Thread(target=lambda number=number: asyncio.run(exchange(number)))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == list(range(8))
    asyncio.run(facade.close())


def test_end_of_a_loop_ends_its_waits(cache):
    """When asyncio.run ends, a reader that still waits stops reading."""
    facade = to_async(cache)

    async def leave_behind():
        asyncio.ensure_future(facade.get_message("box"))
        await asyncio.sleep(0.02)

    asyncio.run(leave_behind())
    cache.publish_to_mailbox("box", "message")
    assert cache.get_message("box", timeout=5) == "message"
    asyncio.run(facade.close())
