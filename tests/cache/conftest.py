"""The caches that the contract is tested on.

In memory, on fakeredis, on a real server, on a real cluster of one node, in a file, and some of
them through their async facade.
"""

import fakeredis
import pytest
import redis
from redis.cluster import RedisCluster

from asimov_sync import Cache, MemoryCache, RedisCache, SQLiteCache
from asimov_sync.aio import to_async
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.memory import MemoryStore
from asimov_sync.cache.redis_connection import RedisConnection, client_from_url
from asimov_sync.cache.redis_store import RedisStore
from asimov_sync.cache.sqlite_connection import SQLiteConnection
from asimov_sync.cache.sqlite_store import SQLiteStore

from ..aio.blocking import Blocking, Loop
from ..redis_server import RedisServer, require_server
from ..tiers import by_tier, soak, suite
from ..waiting import wait_for

BACKENDS = [
    "memory",
    "fakeredis",
    "redis",
    pytest.param("cluster", marks=suite),
    pytest.param("sqlite", marks=suite),
    "memory, async",
    pytest.param("redis, async", marks=suite),
    pytest.param("sqlite, async", marks=soak),
]

FEW_BACKENDS = by_tier(["memory", "redis", "sqlite"], soak=BACKENDS)
"""The backends of tests that wait for a time to pass; the soak tier runs them on all."""


@pytest.fixture(scope="session")
def cluster_port(tmp_path_factory, redis_url):
    """The port of a server in cluster mode that owns all slots."""
    folder = str(tmp_path_factory.mktemp("cluster"))
    with RedisServer(
        require_server(), folder, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"
    ) as server:
        with redis.Redis(host="127.0.0.1", port=server.port) as node:
            node.execute_command("CLUSTER ADDSLOTS", *range(16384))
            # A dict or text, depending on the release of redis-py.
            wait_for(
                lambda: (
                    "fail"
                    not in str(node.execute_command("CLUSTER INFO")).split("cluster_slots")[0]
                )
            )
        yield server.port


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of the backend that a test runs on."""
    return request.param.split(",")[0]


@pytest.fixture
def wrap(request, backend):
    """Wraps a cache for a test: unchanged, or as its async facade, used from blocking code."""
    if not request.node.callspec.params["backend"].endswith("async"):
        yield lambda cache: cache
        return
    loop = Loop()
    yield lambda cache: Blocking(to_async(cache), loop)
    loop.close()


def create_memory_cache(max_deliveries, clock):
    """Create a MemoryCache, or if there is a clock, a cache whose leases it measures."""
    if clock is None:
        return MemoryCache(max_deliveries=max_deliveries)
    return Cache(MemoryStore(max_deliveries, clock), Namespace())


def create_redis_cache(prefix, max_deliveries, clock, url=None, client=None):
    """Create a RedisCache, or if there is a clock, a cache whose leases it measures."""
    if clock is None:
        return RedisCache(
            default_prefix=prefix, max_deliveries=max_deliveries, url=url, client=client
        )
    owned = client is None
    connection = RedisConnection(client_from_url(url) if owned else client, owned)
    return Cache(RedisStore(connection, max_deliveries, clock), Namespace().with_prefix(prefix))


def create_sqlite_cache(path, prefix, max_deliveries, clock):
    """Create a SQLiteCache, or if there is a clock, a cache whose leases it measures."""
    if clock is None:
        return SQLiteCache(
            path, default_prefix=prefix, max_deliveries=max_deliveries, synchronous="normal"
        )
    connection = SQLiteConnection(str(path), "normal")
    return Cache(SQLiteStore(connection, max_deliveries, clock), Namespace().with_prefix(prefix))


@pytest.fixture
def make_cache(request, backend, wrap, unique):
    """Creates caches on one backend; `prefix` and `suffix` are inside those of the test.

    If the test uses the fixture `clock`, that clock measures the leases.
    """
    created = []
    clock = request.getfixturevalue("clock") if "clock" in request.fixturenames else None
    if backend == "memory":
        stores = {}

        def make(bounded=True, prefix="", suffix="", max_deliveries=5):
            store = stores.setdefault(max_deliveries, create_memory_cache(max_deliveries, clock))
            return (
                wrap(store.with_prefix(unique) if bounded else store)
                .with_prefix(prefix)
                .with_suffix(suffix)
            )

    elif backend == "sqlite":
        path = request.getfixturevalue("tmp_path") / "cache.db"

        def make(bounded=True, prefix="", suffix="", max_deliveries=5):
            namespace = unique if bounded else ""
            created.append(wrap(create_sqlite_cache(path, namespace, max_deliveries, clock)))
            return created[-1].with_prefix(prefix).with_suffix(suffix)

    else:
        if backend == "fakeredis":
            options = {"client": fakeredis.FakeRedis(server=fakeredis.FakeServer())}
        elif backend == "cluster":
            cluster = RedisCluster(host="127.0.0.1", port=request.getfixturevalue("cluster_port"))
            request.addfinalizer(cluster.close)
            options = {"client": cluster}
        else:
            options = {"url": request.getfixturevalue("redis_url")}
        whole = "{" + unique + "}" if backend == "cluster" else unique

        def make(bounded=True, prefix="", suffix="", max_deliveries=5):
            namespace = whole if bounded else ""
            created.append(wrap(create_redis_cache(namespace, max_deliveries, clock, **options)))
            return created[-1].with_prefix(prefix).with_suffix(suffix)

    yield make
    for cache in created:
        cache.close()


@pytest.fixture
def cache(make_cache):
    """A cache with a namespace of its own."""
    return make_cache()


class Clock:
    """A clock in milliseconds that a test advances."""

    def __init__(self):
        self.now = 1700000000000

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += int(seconds * 1000)


@pytest.fixture
def clock():
    """The clock that measures the leases of the test's caches. It stands still."""
    return Clock()
