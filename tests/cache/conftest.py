"""The caches that the contract is tested on: in memory, on fakeredis, on a real server."""

import fakeredis
import pytest

from asimov_sync import MemoryCache, RedisCache

BACKENDS = ["memory", "fakeredis", "redis"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of the backend that a test runs on."""
    return request.param


@pytest.fixture
def make_cache(request, backend, unique):
    """Makes caches on one and the same backend; `prefix` is put before that of this test."""
    made = []
    if backend == "memory":
        store = MemoryCache()

        def make(**options):
            view = store.with_prefix(unique) if options.pop("bounded", True) else store
            return view.with_prefix(options.pop("prefix", "")).with_suffix(options.pop("suffix", ""))

    else:
        if backend == "fakeredis":
            server = fakeredis.FakeServer()
            how = {"client": fakeredis.FakeRedis(server=server)}
        else:
            how = {"url": request.getfixturevalue("redis_url")}

        def make(**options):
            cache = RedisCache(default_prefix=unique if options.pop("bounded", True) else "", **how)
            made.append(cache)
            return cache.with_prefix(options.pop("prefix", "")).with_suffix(options.pop("suffix", ""))

    yield make
    for cache in made:
        cache.close()


@pytest.fixture
def cache(make_cache):
    """A cache with a namespace of its own."""
    return make_cache()
