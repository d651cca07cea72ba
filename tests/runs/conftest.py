"""The stores that durable runs are tested on."""

import pytest

from asimov_sync import MemoryCache, RedisCache, RunStore, SQLiteCache

from ..tiers import soak, suite

BACKENDS = [
    "memory",
    pytest.param("sqlite", marks=suite),
    pytest.param("redis", marks=soak),
]


@pytest.fixture(params=BACKENDS)
def make_store(request, tmp_path, unique):
    """Makes run stores on one cache; arguments are those of RunStore."""
    if request.param == "memory":
        cache = MemoryCache()
    elif request.param == "sqlite":
        cache = SQLiteCache(tmp_path / "runs.db", synchronous="normal")
    else:
        cache = RedisCache(url=request.getfixturevalue("redis_url"), default_prefix=unique)

    def make(**options):
        return RunStore(cache, **options)

    yield make
    cache.close()


@pytest.fixture
def store(make_store):
    """A run store."""
    return make_store()
