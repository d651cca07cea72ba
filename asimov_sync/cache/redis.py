"""The Redis backend, and the only file that imports redis.

The client is built with every setting that redis-py's releases disagree on: 5 never retries and never times out, 6 and
later repeat a command whose reply was lost (a second RPUSH, a second message), 8 gives up a blocked read after five seconds.
"""

import re
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from asimov_sync import errors
from asimov_sync.cache.contract import BATCH, Cache, Store
from asimov_sync.cache.keys import Namespace
from asimov_sync.cancellation import Cancellation

__all__ = ["RedisCache"]

CONNECT_SECONDS = 5.0
REPLY_SECONDS = 20.0
"""How long a reply may take. Well above BLOCK_SECONDS, which a blocked read takes by intent."""

BLOCK_SECONDS = 1
"""How long one BLPOP waits on the server. Longer waits are several of them, so that a dead connection is noticed."""


class RedisCache(Cache):
    """A cache on a Redis server (6.2 or newer), shared by every process that speaks to it.

    url: "redis://user:password@host:port/db", or "rediss://…" for TLS, in place of host, port, db and password.
    client: a redis.Redis that the application has already, in place of all of these; it is used with the settings it has,
    and not closed. Nothing is sent before the first use. Safe from every thread, and in a forked child.
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
        url: Optional[str] = None,
        client: Any = None,
    ) -> None:
        explicit: Dict[str, Any] = {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": REPLY_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 30,
        }
        owned = client is None
        if client is not None:
            if client.get_connection_kwargs().get("decode_responses"):
                raise ValueError("this client decodes what it reads (decode_responses=True), and a cache needs the bytes")
        elif url is not None:
            client = redis.Redis.from_url(url, **explicit)
        else:
            client = redis.Redis(host=host, port=port, db=db, password=password, **explicit)
        namespace = Namespace(separator=separator).with_prefix(default_prefix).with_suffix(default_suffix)
        super().__init__(RedisStore(client, owned), namespace)


class RedisStore(Store):
    """Values as Redis strings, queues as Redis lists."""

    def __init__(self, client: Any, owned: bool) -> None:
        self._client = client
        self._owned = owned

    def get(self, key: str) -> Optional[bytes]:
        """The bytes under a key, or None."""
        with _translated():
            return self._client.get(key)  # type: ignore[no-any-return]

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The bytes under each key, in the same order; None where there are none, or where the key is of another type."""
        with _translated():
            return self._client.mget(keys) if keys else []

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all of it, in one transaction."""
        milliseconds = None if ttl is None else max(1, int(ttl * 1000))
        with _translated():
            if len(items) == 1:
                for key, data in items.items():
                    self._client.set(key, data, px=milliseconds)
                return
            with self._client.pipeline(transaction=True) as pipeline:
                pipeline.mset(dict(items))
                if milliseconds is not None:
                    for key in items:
                        pipeline.pexpire(key, milliseconds)
                pipeline.execute()

    def delete(self, keys: List[str]) -> int:
        """Remove the keys; how many of them there were."""
        with _translated():
            return int(self._client.unlink(*keys)) if keys else 0

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Every stored key that begins with `head` and has `tail` somewhere behind it; some perhaps twice."""
        pattern = _literal(head) + "*" + (_literal(tail) + "*" if tail else "")
        with _translated():
            for key in self._client.scan_iter(match=pattern, count=BATCH):
                yield key.decode("utf-8", "replace")

    def push(self, queue: str, payload: bytes) -> None:
        """Append to the queue."""
        with _translated():
            self._client.rpush(queue, payload)

    def pop(self, queue: str, timeout: Optional[float], cancellation: Cancellation) -> Optional[bytes]:
        """Take the queue's first payload; None if the time-out passes first."""
        cancellation.raise_if_cancelled()
        with _translated():
            if timeout == 0:
                return self._client.lpop(queue)  # type: ignore[no-any-return]
        end = None if timeout is None else time.monotonic() + timeout
        # A connection of its own: it is blocked for long, and it is what a cancellation breaks.
        with _translated(), self._client.client() as reader:
            while True:
                left = _least(end, cancellation.deadline)
                if left is not None and left <= 0:
                    cancellation.raise_if_cancelled()
                    return None
                # 0 would wait for ever, and servers before 7.0 round what is below a tenth down to it.
                block = BLOCK_SECONDS if left is None else max(0.1, min(left, BLOCK_SECONDS))
                with cancellation.on_cancel(_breaking(reader)):
                    try:
                        found = reader.blpop([queue], timeout=block)
                    except (redis.RedisError, ValueError, OSError, AttributeError):
                        cancellation.raise_if_cancelled()
                        raise
                if found is not None:
                    return found[1]  # type: ignore[no-any-return]
                cancellation.raise_if_cancelled()

    def close(self) -> None:
        """Close the connections, if they are its own; the next use opens new ones."""
        if not self._owned:
            return
        self._client.close()
        self._client.connection_pool.disconnect()


def _least(*moments: Optional[float]) -> Optional[float]:
    """Seconds until the first of the monotonic moments."""
    given = [moment for moment in moments if moment is not None]
    return min(given) - time.monotonic() if given else None


def _breaking(reader: Any) -> Callable[[], None]:
    """What frees a thread that is blocked on the reader's connection."""

    def break_connection() -> None:
        try:
            reader.connection.disconnect()
        except (AttributeError, OSError, ValueError):
            pass  # it is being given back at this moment; or fakeredis, which has no connection that could break

    return break_connection


def _literal(text: str) -> str:
    """The text as a glob pattern that matches it alone."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what redis-py raises as the CacheError that says what to do."""
    try:
        yield
    except redis.RedisError as error:
        raise _translation(error) from error


def _translation(error: redis.RedisError) -> errors.CacheError:
    said = str(error)
    word = said.split(" ", 1)[0].upper()
    # redis-py counts a refused password among the connection errors, so it comes first.
    if isinstance(error, (redis.AuthenticationError, redis.exceptions.NoPermissionError)) or word in (
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
    ):
        return errors.CacheAuthenticationError(
            "the Redis server refuses this user: {}. Check password=, or the ACL".format(said)
        )
    if isinstance(error, redis.ReadOnlyError) or word in ("READONLY", "MISCONF"):
        return errors.CacheReadOnly("the Redis server does not accept writes: {}. Connect to the master".format(said))
    if isinstance(error, redis.exceptions.OutOfMemoryError) or word == "OOM":
        return errors.CacheFull("the Redis server is out of memory: {}. Raise maxmemory, or give values a ttl".format(said))
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return errors.CacheUnavailable(
            "the Redis server cannot be reached: {}. Check host and port, and that it runs".format(said)
        )
    if word == "WRONGTYPE":
        return errors.WrongKeyType("the key holds another program's data type: {}. Use a prefix of your own".format(said))
    return errors.CacheError("the Redis server answered: {}".format(said))
