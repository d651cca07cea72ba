"""The cache on a Redis server."""

from typing import Any, Optional

from asimov_sync.cache.base import Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.redis_connection import RedisConnection, client_from_url, create_client
from asimov_sync.cache.redis_store import RedisStore

__all__ = ["RedisCache"]


class RedisCache(Cache):
    """A cache on a Redis server (6.2 or newer), shared by every process that uses the server.

    host: the server's name or address; "localhost" by default.
    port: its port; 6379 by default.
    db: the number of the database; 0 by default.
    password: the password of the default user; None (the default) logs nobody in.
    default_prefix: the namespace of the cache; "" (the default) adds no prefix.
    default_suffix: the same behind the keys; "" (the default) adds no suffix.
    separator: the text between prefix, key and suffix; ":" by default.
    max_deliveries: how often a message is delivered without being acknowledged before it becomes a
        dead letter; 5 by default.
    url: "redis://user:password@host:port/db", or "rediss://…" for TLS, instead of host, port, db
        and password.
    client: a client of the application, instead of all of these: a redis.Redis, one of Sentinel's
        master_for, or a redis.RedisCluster. It is not closed with the cache, and its retries do not
        apply to commands that must not be repeated.

    Connects at the first use. Safe to use from every thread and in a forked child.

    Raises ValueError if url is combined with host, port, db or password, if client is combined with
    any of these five, or if the client decodes replies.
    """

    def __init__(
        self,
        host: Optional[str] = None,
        port: Optional[int] = None,
        db: Optional[int] = None,
        password: Optional[str] = None,
        default_prefix: str = "",
        default_suffix: str = "",
        separator: str = ":",
        max_deliveries: int = 5,
        url: Optional[str] = None,
        client: Any = None,
    ) -> None:
        parts = {"host": host, "port": port, "db": db, "password": password}
        if client is not None:
            _refuse_conflicts("client", url=url, **parts)
        elif url is not None:
            _refuse_conflicts("url", **parts)
        owned = client is None
        if url is not None:
            client = client_from_url(url)
        elif client is None:
            client = create_client(
                host="localhost" if host is None else host,
                port=6379 if port is None else port,
                db=0 if db is None else db,
                password=password,
            )
        if client.get_connection_kwargs().get("decode_responses"):
            raise ValueError(
                "this client decodes what it reads (decode_responses=True), "
                "and a cache needs the bytes"
            )
        namespace = Namespace(separator=separator)
        namespace = namespace.with_prefix(default_prefix).with_suffix(default_suffix)
        super().__init__(RedisStore(RedisConnection(client, owned), max_deliveries), namespace)


def _refuse_conflicts(chosen: str, **others: Any) -> None:
    conflicts = [f"{name}=" for name, value in others.items() if value is not None]
    if conflicts:
        raise ValueError(
            f"{chosen}= says where the server is, so it excludes {', '.join(conflicts)}"
        )
