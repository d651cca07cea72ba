"""RedisCache only: errors, settings, and a server that becomes unavailable."""

import re
import socket
import ssl

import fakeredis
import pytest
import redis
import redis.cluster
import trustme
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from asimov_sync import (
    MISSING,
    CacheAuthenticationError,
    CacheError,
    CacheFull,
    CacheReadOnly,
    CacheUnavailable,
    CrossSlotError,
    OutcomeUnknown,
    RedisCache,
    WrongKeyType,
)

from ..redis_server import RedisServer, free_port, require_server
from ..tiers import suite
from ..waiting import Background, wait_for
from .resp_proxy import RespProxy


@pytest.fixture
def own_server(tmp_path, redis_url):
    """A server of its own, for tests that stop or configure it."""
    with RedisServer(require_server(), str(tmp_path), "--requirepass", "") as server:
        yield server


def test_creation_does_not_connect():
    """A RedisCache with the documented arguments connects at its first use."""
    cache = RedisCache(host="localhost", port=6379, db=0, password=None, default_prefix="")
    assert "RedisCache" in repr(cache)


def test_values_are_readable_json(redis_url, unique):
    """Another program finds the JSON text under prefix:key:suffix."""
    with RedisCache(url=redis_url, default_prefix=unique, default_suffix="s") as cache:
        cache.set("key", {"a": [1, None, "é"]})
        with redis.Redis.from_url(redis_url) as plain:
            assert plain.get(f"{unique}:key:s") == '{"a":[1,null,"é"]}'.encode("utf-8")


def test_no_server():
    """Without a server, CacheUnavailable names what to check, and its cause."""
    with pytest.raises(CacheUnavailable, match="Check host and port") as caught:
        RedisCache(host="127.0.0.1", port=free_port()).get("key")
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


@suite
def test_server_restart(own_server):
    """A cache fails while its server is down, and works again afterwards."""
    with RedisCache(url=own_server.url) as cache:
        cache.set("key", 1)
        own_server.kill()
        with pytest.raises(CacheUnavailable):
            cache.set("key", 2)
        own_server.start()
        cache.set("key", 3)
        assert cache.get("key") == 3


def test_wrong_password(own_server):
    """A refused password is a CacheAuthenticationError whose message does not contain it."""
    with redis.Redis.from_url(own_server.url) as plain:
        plain.config_set("requirepass", "right")
    with RedisCache(port=own_server.port, host="127.0.0.1", password="wrong-secret") as cache:
        with pytest.raises(CacheAuthenticationError, match="password") as caught:
            cache.get("key")
    assert "wrong-secret" not in str(caught.value)
    with RedisCache(port=own_server.port, host="127.0.0.1") as cache, pytest.raises(
        CacheAuthenticationError
    ):
        cache.get("key")
    with RedisCache(port=own_server.port, host="127.0.0.1", password="right") as cache:
        assert cache.get("key", default=None) is None


WRITES = {
    "set": lambda cache: cache.set("key", "value"),
    "set_many": lambda cache: cache.set_many({"a": 1, "b": 2}, ttl=9),
    "compare_and_set": lambda cache: cache.compare_and_set("key", MISSING, 1),
    "increment": lambda cache: cache.increment("key"),
    "publish": lambda cache: cache.publish_to_mailbox("box", 1),
}


@pytest.mark.parametrize("write", WRITES)
def test_full_server(own_server, write):
    """A server at its memory limit is a CacheFull, for commands and scripts; writes nothing."""
    with RedisCache(url=own_server.url) as cache, redis.Redis.from_url(own_server.url) as plain:
        plain.config_set("maxmemory-policy", "noeviction")
        plain.config_set("maxmemory", 1)
        with pytest.raises(CacheFull, match="maxmemory"):
            WRITES[write](cache)
        assert plain.dbsize() == 0


def test_full_server_can_be_emptied(own_server):
    """Reading, receiving, acknowledging and deleting work on a full server."""
    with RedisCache(url=own_server.url) as cache, redis.Redis.from_url(own_server.url) as plain:
        cache.set("key", 1)
        for number in range(3):
            cache.publish_to_mailbox("box", number)
        plain.config_set("maxmemory-policy", "noeviction")
        plain.config_set("maxmemory", 1)
        with pytest.raises(CacheFull):
            cache.publish_to_mailbox("box", 3)
        assert cache.get_message("box", timeout=0) == 0
        delivery = cache.receive("box", timeout=0)
        assert delivery.message == 1
        delivery.release()
        assert [cache.receive("box", timeout=0).ack() for _ in range(2)] == [True, True]
        assert cache.mailbox_length("box") == 0
        assert cache.get("key") == 1
        assert cache.delete("key") is True


@pytest.mark.parametrize("write", WRITES)
def test_replica(own_server, write):
    """A read-only server is a CacheReadOnly, for commands and scripts."""
    with RedisCache(url=own_server.url) as cache, redis.Redis.from_url(own_server.url) as plain:
        plain.replicaof("127.0.0.1", free_port())
        with pytest.raises(CacheReadOnly, match="master"):
            WRITES[write](cache)
        plain.replicaof("NO", "ONE")


@pytest.mark.parametrize("write", WRITES)
def test_user_without_permission(own_server, write):
    """A command that an ACL forbids is a CacheAuthenticationError, inside scripts too."""
    with redis.Redis.from_url(own_server.url) as plain:
        plain.execute_command(
            "ACL",
            "SETUSER",
            "reader",
            "on",
            ">secret",
            "~*",
            "+@read",
            "+@connection",
            "+eval",
            "+time",
        )
        plain.execute_command("ACL", "SETUSER", "reader", "-hset", "-set")
    with RedisCache(url=own_server.url.replace("://", "://reader:secret@")) as cache:
        assert cache.get("nothing", default=None) is None
        with pytest.raises(CacheAuthenticationError, match="ACL"):
            WRITES[write](cache)


def test_documented_acl(own_server):
    """The ACL of docs/cache.rst permits everything under the prefix, and nothing else."""
    rules = (
        "on >secret ~app:* resetchannels +@read +@write +@connection +@scripting +time -@dangerous"
    )
    with redis.Redis.from_url(own_server.url) as plain:
        plain.execute_command("ACL", "SETUSER", "app", *rules.split())
    url = own_server.url.replace("://", "://app:secret@")
    with RedisCache(url=url, default_prefix="app") as cache:
        for write in WRITES.values():
            cache.clear()
            write(cache)
        cache.set("key", 1)
        assert cache.get_all() == {"key": 1}
        assert cache.receive("box", timeout=5).ack()
        assert cache.receive("box", timeout=0.1) is None
        assert cache.set_many({"key": 2}, guard=("key", 1))
        assert cache.clear() == 1
    with RedisCache(url=url, default_prefix="other") as cache:
        for write in WRITES.values():
            with pytest.raises(CacheAuthenticationError):
                write(cache)
    with RedisCache(
        url=own_server.url.replace("://", "://app:wrong-secret@"), default_prefix="app"
    ) as cache:
        with pytest.raises(CacheAuthenticationError) as caught:
            cache.publish_to_mailbox("box", 1)
        assert "wrong-secret" not in str(caught.value)


def test_wrong_key_type_in_a_script(redis_url, unique):
    """A script that meets a key of another data type raises WrongKeyType."""
    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(
        redis_url
    ) as plain:
        plain.rpush(f"{unique}:list", "a")
        with pytest.raises(WrongKeyType):
            cache.compare_and_set("list", 1, 2)
        plain.delete(f"{unique}:list")


def test_flushed_script_cache(redis_url, unique):
    """Scripts are sent again after the server has dropped them."""
    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(
        redis_url
    ) as plain:
        for number in range(3):
            cache.publish_to_mailbox("box", number)
            plain.script_flush()
            assert cache.compare_and_set("key", number - 1 if number else MISSING, number) is True
            plain.script_flush()
            assert cache.receive("box", timeout=0).message == number
            plain.script_flush()
        cache.clear()


@suite
@pytest.mark.parametrize(
    "certified, options, error",
    [
        ("localhost", "?ssl_ca_certs={authority}", None),
        ("localhost", "", "CERTIFICATE_VERIFY_FAILED"),
        ("other.test", "?ssl_ca_certs={authority}", "(?i)hostname"),
        ("other.test", "?ssl_cert_reqs=none", None),
    ],
    ids=["trusted", "untrusted", "another host", "not verified"],
)
def test_tls_verifies(redis_url, tmp_path, certified, options, error):
    """rediss:// verifies certificate and host name, unless the url says otherwise."""
    authority, bundle = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(tls)
    settings = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs
    proxy = RespProxy(settings["host"], settings["port"], tls)
    url = f"rediss://localhost:{proxy.port}/0" + options.format(authority=bundle)
    with RedisCache(url=url) as cache:
        if error is None:
            assert cache.get("nothing", default=None) is None
            assert [words[0] for words in proxy.commands] == [b"GET"]
        else:
            with pytest.raises(CacheUnavailable) as caught:
                cache.get("nothing")
            assert re.search(error, str(caught.value.__cause__))
            assert proxy.commands == []
    proxy.close()


@suite
def test_cross_slot_write_is_not_sent(cluster_port, unique):
    """A guarded write across slots raises before it is sent; a hash tag permits it."""
    with redis.Redis(host="127.0.0.1", port=cluster_port) as node:

        def scripts():
            stats = node.info("commandstats")
            return sum(
                stats.get("cmdstat_" + name, {"calls": 0})["calls"]
                for name in ("eval", "evalsha", "set", "mset")
            )

        with redis.cluster.RedisCluster(host="127.0.0.1", port=cluster_port) as client:
            before = scripts()
            cache = RedisCache(client=client, default_prefix=unique)
            with pytest.raises(CrossSlotError, match="hash tag"):
                cache.set_many({"a": 1, "b": 2}, guard=("c", MISSING))
            assert scripts() == before
            tagged = RedisCache(client=client, default_prefix="{" + unique + "}")
            assert tagged.set_many({"a": 1, "b": 2}, guard=("c", MISSING)) is True
            assert scripts() > before
            tagged.clear()


# A client of the application, with retries of its own


@pytest.fixture
def proxy(redis_url):
    """A proxy in front of the server."""
    settings = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs
    proxy = RespProxy(settings["host"], settings["port"])
    yield proxy
    proxy.close()


@pytest.fixture(params=[2, 3])
def retrying_client(proxy, request):
    """A client that repeats every command on a broken connection, as redis-py from 6 on does."""
    with redis.Redis(
        host="127.0.0.1",
        port=proxy.port,
        protocol=request.param,
        socket_timeout=0.5,
        retry=Retry(ConstantBackoff(0.01), 3),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    ) as client:
        yield client


def test_client_retries_are_not_used(proxy, retrying_client, unique):
    """A lost reply to a write that must not be repeated is an OutcomeUnknown.

    The command is executed once. The client alone sends it again, as the first lines show.
    """
    retrying_client.set(unique, 0)
    proxy.arm(0, "reply")
    assert retrying_client.incr(unique) == 2
    assert len(proxy.faulted) == 1
    retrying_client.delete(unique)
    cache = RedisCache(client=retrying_client, default_prefix=unique)
    for call, state in (
        (lambda: cache.increment("n"), {"n": 1}),
        (lambda: cache.compare_and_set("n", 1, 2), {"n": 2}),
        (lambda: cache.set_many({"n": 3, "m": 3}, guard=("n", 2)), {"n": 3, "m": 3}),
        (lambda: cache.delete("m"), {"n": 3}),
    ):
        proxy.arm(0, "reply")
        with pytest.raises(OutcomeUnknown, match="Check before you repeat") as caught:
            call()
        assert isinstance(caught.value.__cause__, redis.ConnectionError)
        assert len(proxy.faulted) == len(proxy.commands) == 1
        assert cache.get_all() == state
    proxy.arm(0, "reply")
    cache.publish_to_mailbox("box", 1)
    assert len(proxy.faulted) == 1 and len(proxy.commands) > 1
    assert cache.peek("box", 9) == [1]
    proxy.arm(0, "reply")
    assert cache.receive("box", timeout=0).deliveries == 1
    assert len(proxy.faulted) == 1
    cache.clear()


@suite
def test_wait_exceeds_the_socket_timeout(proxy, retrying_client, unique):
    """A reader's time-out may be longer than the socket time-out of the client."""
    cache = RedisCache(client=retrying_client, default_prefix=unique)
    reading = Background(cache.receive, "box", timeout=20)
    wait_for(lambda: sum(words[0] == b"BLPOP" for words in proxy.commands) > 4, "several waits")
    cache.publish_to_mailbox("box", "late")
    delivery = reading.result()
    assert (delivery.message, delivery.deliveries) == ("late", 1)
    assert cache.receive("box", timeout=0.7) is None
    cache.clear()


def test_wrong_key_type(redis_url, unique):
    """A key of another data type is a WrongKeyType, and is left out of listings."""
    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(
        redis_url
    ) as plain:
        plain.rpush(f"{unique}:list", "a")
        with pytest.raises(WrongKeyType, match="prefix"):
            cache.get("list")
        assert cache.get_all() == {}


def test_hostile_values(redis_url, unique):
    """Bytes that are not JSON, such as a pickle, are a CacheError that names the key."""
    with RedisCache(url=redis_url, default_prefix=unique) as cache, redis.Redis.from_url(
        redis_url
    ) as plain:
        for hostile in (
            b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
            b"\xff\xfe",
            b"{",
            b"[" * 100000,
        ):
            plain.set(f"{unique}:key", hostile)
            with pytest.raises(CacheError, match="key"):
                cache.get("key")


@pytest.mark.parametrize(
    "arguments, conflicts",
    [
        ({"host": "127.0.0.1"}, "host="),
        ({"port": 6380}, "port="),
        ({"db": 1}, "db="),
        ({"password": ""}, "password="),
        ({"password": "secret", "host": "h", "db": 1}, "host=, db=, password="),
    ],
)
def test_conflicting_arguments(arguments, conflicts):
    """url= or client= beside another address is a ValueError that names the conflicts."""
    client = fakeredis.FakeRedis()
    url = "redis://:url-secret@localhost:1/0"
    for chosen, given in (("url=", {"url": url}), ("client=", {"client": client})):
        with pytest.raises(ValueError) as caught:
            RedisCache(**given, **arguments)
        assert str(caught.value).startswith(chosen) and str(caught.value).endswith(conflicts)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="^client=.* url=, ") as caught:
        RedisCache(url=url, client=client, **arguments)
    assert "secret" not in str(caught.value)


def test_url_and_client_conflict():
    """url= and client= together are a ValueError; either alone accepts the other arguments."""
    url = "redis://localhost:1/0"
    with pytest.raises(ValueError, match="^client=.* url=$"):
        RedisCache(url=url, client=fakeredis.FakeRedis())
    rest = {"default_prefix": "p", "default_suffix": "s", "separator": "/", "max_deliveries": 2}
    RedisCache(url=url, password=None, **rest)
    RedisCache(client=fakeredis.FakeRedis(), password=None, **rest)


def test_default_address(redis_url, unique, monkeypatch):
    """Without arguments a RedisCache connects to database 0 of localhost, port 6379."""
    settings = redis.Redis.from_url(redis_url, db=0).connection_pool.connection_kwargs
    getaddrinfo, addresses = socket.getaddrinfo, []

    def find_test_server(host, port, *args, **kwargs):
        addresses.append((host, port))
        return getaddrinfo(settings["host"], settings["port"], *args, **kwargs)

    with RedisCache() as cache, monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", find_test_server)
        cache.with_prefix(unique).set("key", 1)
    assert set(addresses) == {("localhost", 6379)}
    with redis.Redis.from_url(redis_url, db=0) as plain:
        assert plain.getdel(f"{unique}:key") == b"1"


def test_decoding_client_is_refused():
    """A client with decode_responses=True is a ValueError."""
    with pytest.raises(ValueError, match="decode_responses"):
        RedisCache(client=fakeredis.FakeRedis(decode_responses=True))


def test_given_client_is_not_closed(redis_url, unique):
    """Closing the cache leaves the application's client open."""
    with redis.Redis.from_url(redis_url) as client:
        connection = client.client_id()
        with RedisCache(client=client, default_prefix=unique) as cache:
            cache.set("key", 1)
        assert client.client_id() == connection


def test_closed_cache_reconnects(redis_url, unique):
    """close() closes the connections; the next use opens new ones."""
    cache = RedisCache(url=redis_url, default_prefix=unique)
    cache.set("key", 1)
    cache.close()
    assert cache.get("key") == 1
    cache.close()
