"""The cache on a Redis server."""

from typing import Any, Dict, List, Optional

from asimov_sync.cache.address import CacheAddress
from asimov_sync.cache.base import Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.redis_connection import RedisConnection, client_from_url, create_client
from asimov_sync.cache.redis_store import RedisStore

__all__ = ["RedisCache"]

DEFAULT_ADDRESS: Dict[str, Any] = {"host": "localhost", "port": 6379, "db": 0, "password": None}
"""The defaults of the arguments that name a server. Another value excludes url= and client=."""


class RedisCache(Cache):
    """A cache on a Redis server (6.2 or newer), shared by every process that uses the server.

    host: the server's name or address; "localhost" by default.
    port: its port; 6379 by default.
    db: the number of the database; 0 by default.
    password: the password of the default user; None (the default) does not log in.
    default_prefix: the namespace of the cache; "" (the default) adds no prefix.
    default_suffix: the suffix of the cache's keys; "" (the default) adds no suffix.
    separator: the text between prefix, key and suffix; ":" by default.
    max_deliveries: how often a message is delivered without being acknowledged before it becomes a
        dead letter; 5 by default.
    url: "redis://user:password@host:port/db", or "rediss://…" for TLS, instead of host, port, db
        and password.
    client: a client of the application, instead of all of these: a redis.Redis, one of Sentinel's
        master_for, or a redis.RedisCluster. It is not closed with the cache, and its retries do not
        apply to commands that must not be repeated.

    Connects at the first use. Safe to use from every thread and in a forked child.

    Raises ValueError if url is combined with another host, port, db or password than the defaults,
    if client is combined with one of these or with url, or if the client decodes replies.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        password: Optional[str] = None,
        default_prefix: str = "",
        default_suffix: str = "",
        separator: str = ":",
        max_deliveries: int = 5,
        url: Optional[str] = None,
        client: Any = None,
    ) -> None:
        address: Dict[str, Any] = {"host": host, "port": port, "db": db, "password": password}
        changed = [name for name, value in address.items() if value != DEFAULT_ADDRESS[name]]
        if client is not None:
            _refuse_conflicts("client", changed if url is None else ["url"] + changed)
        elif url is not None:
            _refuse_conflicts("url", changed)
        owned = client is None
        if url is not None:
            client = client_from_url(url)
        elif client is None:
            client = create_client(**address)
        if client.get_connection_kwargs().get("decode_responses"):
            raise ValueError(
                "this client decodes what it reads (decode_responses=True), "
                "and a cache needs the bytes"
            )
        namespace = Namespace(separator=separator)
        namespace = namespace.with_prefix(default_prefix).with_suffix(default_suffix)
        store = RedisStore(RedisConnection(client, owned), max_deliveries)
        super().__init__(store, namespace)
        if owned:
            options: Dict[str, Any] = dict(address) if url is None else {"url": url}
            options["max_deliveries"] = max_deliveries
            store.address = CacheAddress("redis", tuple(options.items()))


def _refuse_conflicts(chosen: str, names: List[str]) -> None:
    if names:
        conflicts = ", ".join(f"{name}=" for name in names)
        raise ValueError(f"{chosen}= says where the server is, so it excludes {conflicts}")
