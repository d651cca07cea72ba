"""What concerns Redis alone: its errors, its settings, a server that goes away."""

import fakeredis
import pytest
import redis

from asimov_sync import (
    CacheAuthenticationError,
    CacheError,
    CacheFull,
    CacheReadOnly,
    CacheUnavailable,
    RedisCache,
    WrongKeyType,
)

from ..redis_server import RedisServer, find_server, free_port


@pytest.fixture
def own_server(tmp_path, redis_url):
    """A server that a test may treat badly; redis_url has seen to it that there is one."""
    program = find_server()
    if program is None:
        pytest.skip("ASIMOV_TEST_REDIS_URL names a server, and there is no program to start another")
    with RedisServer(program, str(tmp_path), "--requirepass", "") as server:
        yield server


def test_the_seed_usage():
    """A RedisCache is made of these arguments, and connects to nothing before it is used."""
    cache = RedisCache(host="localhost", port=6379, db=0, password=None, default_prefix="")
    assert "RedisCache" in repr(cache)


def test_values_are_readable_json(redis_url, unique):
    """Another program finds the JSON text under prefix:key:suffix."""
    with RedisCache(url=redis_url, default_prefix=unique, default_suffix="s") as cache:
        cache.set("key", {"a": [1, None, "é"]})
        with redis.Redis.from_url(redis_url) as plain:
            assert plain.get("{}:key:s".format(unique)) == '{"a":[1,null,"é"]}'.encode("utf-8")


def test_no_server():
    """A server that is not there is a CacheUnavailable, a ConnectionError that names what to check and its cause."""
    with pytest.raises(CacheUnavailable, match="Check host and port") as caught:
        RedisCache(host="127.0.0.1", port=free_port()).get("key")
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


def test_a_server_that_goes_away_and_comes_back(own_server):
    """The same cache object fails while its server is away, and works again when it is back."""
    with RedisCache(url=own_server.url) as cache:
        cache.set("key", 1)
        own_server.kill()
        with pytest.raises(CacheUnavailable):
            cache.set("key", 2)
        own_server.start()
        cache.set("key", 3)
        assert cache.get("key") == 3


def test_a_wrong_password(own_server):
    """A refused password is a CacheAuthenticationError, and is not in its message."""
    with redis.Redis.from_url(own_server.url) as plain:
        plain.config_set("requirepass", "right")
    with RedisCache(port=own_server.port, host="127.0.0.1", password="wrong-secret") as cache:
        with pytest.raises(CacheAuthenticationError, match="password") as caught:
            cache.get("key")
    assert "wrong-secret" not in str(caught.value)
    with RedisCache(port=own_server.port, host="127.0.0.1") as cache, pytest.raises(CacheAuthenticationError):
        cache.get("key")
    with RedisCache(port=own_server.port, host="127.0.0.1", password="right") as cache:
        assert cache.get("key", default=None) is None


def test_a_full_server(own_server):
    """A server at its memory limit is a CacheFull."""
    with RedisCache(url=own_server.url) as cache, redis.Redis.from_url(own_server.url) as plain:
        plain.config_set("maxmemory-policy", "noeviction")
        plain.config_set("maxmemory", 1)
        with pytest.raises(CacheFull, match="maxmemory"):
            cache.set("key", "value")


def test_a_replica(own_server):
    """A server that takes no writes is a CacheReadOnly."""
    with RedisCache(url=own_server.url) as cache, redis.Redis.from_url(own_server.url) as plain:
        plain.replicaof("127.0.0.1", free_port())
        with pytest.raises(CacheReadOnly, match="master"):
            cache.set("key", "value")
        plain.replicaof("NO", "ONE")


def test_another_programs_key(redis_url, unique):
    """A key that holds another data type is a WrongKeyType, and not in a listing's values."""
    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(redis_url) as plain:
        plain.rpush("{}:list".format(unique), "a")
        with pytest.raises(WrongKeyType, match="prefix"):
            cache.get("list")
        assert cache.get_all() == {}


def test_hostile_values_are_only_wrong_values(redis_url, unique):
    """Bytes that are no JSON, a pickle say, are a CacheError that names the key; nothing is executed."""
    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(redis_url) as plain:
        for hostile in (b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.", b"\xff\xfe", b"{", b"[" * 100000):
            plain.set("{}:key".format(unique), hostile)
            with pytest.raises(CacheError, match="key"):
                cache.get("key")


def test_a_client_that_decodes_is_refused():
    """A client of the application's that returns str would spoil raw values, and is refused at once."""
    with pytest.raises(ValueError, match="decode_responses"):
        RedisCache(client=fakeredis.FakeRedis(decode_responses=True))


def test_a_given_client_is_not_closed(redis_url, unique):
    """Closing the cache leaves a client that the application brought as it was."""
    with redis.Redis.from_url(redis_url) as client:
        with RedisCache(client=client, default_prefix=unique) as cache:
            cache.set("key", 1)
        connections = client.connection_pool._available_connections
        assert connections and connections[0]._sock is not None


def test_a_closed_cache_may_be_used_again(redis_url, unique):
    """close() gives back the connections; the next use opens new ones."""
    cache = RedisCache(url=redis_url, default_prefix=unique)
    cache.set("key", 1)
    cache.close()
    assert cache.get("key") == 1
    cache.close()
