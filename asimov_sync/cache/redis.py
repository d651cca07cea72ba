"""A cache on Redis, and how this library speaks to the server; the only file that imports redis.

redis-py's releases disagree on what happens when a reply is lost: 5 raises, 6 and later send the command again (a second
RPUSH is a second message; a compare-and-set that applied and then reports failure), 8 does so ten times and gives up a
blocked read after five seconds. So nothing here is left to its defaults. Commands that change something are sent over a
connection that is taken for them, once, and it is known whether they may have reached the server; what may be repeated is
repeated here.
"""

import hashlib
import inspect
import re
import socket
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, TypeVar, Union

import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from asimov_sync import errors
from asimov_sync.cache.contract import BATCH, Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.redis_store import RedisStore
from asimov_sync.cancellation import Cancellation

__all__ = ["RedisCache", "RedisServer"]

CONNECT_SECONDS = 5.0
MAX_CONNECTIONS = 2**31
"""No bound: a thread that waits for a message holds a connection, and it is for whoever starts threads to bound them. redis-py
from 8 on would stop at 100, with an error that reads as if the server were gone; a url may say otherwise.
"""

REPLY_SECONDS = 20.0
"""How long a reply may take. Well above a blocked read, which takes its time by intent."""

ATTEMPT_WAITS = (0.05, 0.25)
"""How long to wait before what may be repeated is sent a second and a third time."""

_BROKEN = (redis.ConnectionError, redis.TimeoutError, OSError, ValueError, AttributeError)
"""What redis-py raises when a connection breaks: its own, the socket's, and what it trips over if another thread broke it."""

_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException)
"""All of redis-py's own; the second, of a cluster of which no node can be reached, is not derived from the first."""

_name = inspect.signature(redis.ConnectionPool.get_connection).parameters.get("command_name")
_TAKING = ("_",) if _name is not None and _name.default is inspect.Parameter.empty else ()
"""What get_connection has to be told: a name before redis-py 5.3, which later releases warn of."""

_NOT_PERMITTED = ("The user executing the script can't run", "ACL failure in script")
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z].*)", re.DOTALL)
"""What went wrong inside a script, as Redis 6 tells it; later servers put it first."""

Result = TypeVar("Result")
Key = Union[str, bytes]


class RedisCache(Cache):
    """A cache on a Redis server (6.2 or newer), shared by every process that speaks to it.

    url: "redis://user:password@host:port/db", or "rediss://…" for TLS, in place of host, port, db and password.
    client: what the application has already, in place of all of these: a redis.Redis, one of Sentinel's master_for, or a
    redis.RedisCluster. It is not closed, and its retries do not touch what must not be repeated.
    max_deliveries: how often a message that is not acknowledged is delivered before it goes to the dead letters.

    Nothing is sent before the first use. Safe from every thread, and in a forked child.
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
        explicit: Dict[str, Any] = {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": REPLY_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 30,
            "max_connections": MAX_CONNECTIONS,
        }
        owned = client is None
        if client is None and url is not None:
            client = redis.Redis.from_url(url, **explicit, **_verifying(url))
        elif client is None:
            client = redis.Redis(host=host, port=port, db=db, password=password, **explicit)
        if client.get_connection_kwargs().get("decode_responses"):
            raise ValueError("this client decodes what it reads (decode_responses=True), and a cache needs the bytes")
        namespace = Namespace(separator=separator).with_prefix(default_prefix).with_suffix(default_suffix)
        super().__init__(RedisStore(RedisServer(client, owned), max_deliveries), namespace)


def _verifying(url: str) -> Dict[str, Any]:
    """What makes TLS check whose certificate it is, which redis-py before 6 does not; what the url says goes before it."""
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return {}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


class RedisServer:
    """A server, or a cluster of them, as this library speaks to it. Raises CacheErrors and nothing of redis-py's."""

    def __init__(self, client: Any, owned: bool) -> None:
        self._client = client
        self._owned = owned
        self._digests: Dict[str, str] = {}  # script text: its digest, for EVALSHA

    # Reading, which may be repeated

    def read(self, call: Callable[[Any], Result]) -> Result:
        """What `call(client)` returns; called again where the connection broke."""
        return self._repeated(lambda attempt: call(self._client))

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The strings under the keys, in the same order; on a cluster, one MGET a slot."""
        found: Dict[str, Optional[bytes]] = {}
        for group in self.by_slot(keys):
            found.update(zip(group, self._get_together(group)))
        return [found[key] for key in keys]

    def _get_together(self, keys: List[str]) -> List[Optional[bytes]]:
        return self.read(lambda client: client.execute_command("MGET", *keys))

    def scan(self, pattern: str) -> Iterator[str]:
        """The keys that match a pattern; on a cluster, those of all its nodes. Read to the end before the first is given, so
        that it can begin again where the connection broke.
        """
        keys = self.read(lambda client: list(client.scan_iter(match=pattern, count=BATCH)))
        return (key.decode("utf-8", "replace") for key in keys)

    def _repeated(self, call: Callable[[int], Result]) -> Result:
        for attempt in range(len(ATTEMPT_WAITS) + 1):
            try:
                return call(attempt)
            except _ERRORS as error:
                failure = _translation(error)
                failure.__cause__ = error
            except errors.CacheUnavailable as error:
                failure = error
            if not isinstance(failure, errors.CacheUnavailable) or attempt == len(ATTEMPT_WAITS):
                raise failure
            Cancellation.current().wait(ATTEMPT_WAITS[attempt])
        raise AssertionError("the last attempt returns or raises")

    # Writing, over one connection, once or (where that is harmless) again

    def once(self, key: Key, *command: Any) -> Any:
        """Send a command to the node of `key`, once. CacheUnavailable if it was not sent, OutcomeUnknown if it may be."""
        try:
            return self._sent(key, *command)
        except _Unanswered as unanswered:
            raise errors.OutcomeUnknown(
                "the connection broke before the answer came ({}): {} may or may not have been executed. "
                "Look before you repeat it".format(unanswered.__cause__, command[0])
            ) from unanswered.__cause__

    def again(self, key: Key, *command: Any) -> Any:
        """Send a command that may be repeated: up to three times, where the connection breaks."""

        def call(attempt: int) -> Any:
            try:
                return self._sent(key, *command)
            except _Unanswered as unanswered:
                raise _translation(unanswered.__cause__) from unanswered.__cause__

        return self._repeated(call)

    def script(self, text: str, send: Callable[..., Any], keys: Sequence[Key], arguments: List[Any]) -> Any:
        """Run a Lua script on the node of its first key, sent by `once` or `again`."""
        digest = self._digests.get(text)
        if digest is not None:
            try:
                return send(keys[0], "EVALSHA", digest, len(keys), *keys, *arguments)
            except errors.CacheError as error:
                if not isinstance(error.__cause__, redis.exceptions.NoScriptError):
                    raise
        result = send(keys[0], "EVAL", text, len(keys), *keys, *arguments)
        self._digests[text] = hashlib.sha1(text.encode("utf-8")).hexdigest()  # EVAL has left it in the server's memory
        return result

    def wait(self, key: Key, seconds: float, cancellation: Cancellation) -> None:
        """Wait until an element can be popped from the list, or the time is over; Cancelled if that comes first."""
        try:
            with self._connection(key) as connection, cancellation.on_cancel(_waking(connection)):
                limit = getattr(connection, "socket_timeout", None)
                # Servers before 7 take less than a tenth for 0, which is for ever.
                connection.send_command("BLPOP", key, max(0.1, min(seconds, limit / 2) if limit else seconds))
                connection.read_response()
        except redis.ResponseError as error:
            raise _translation(error) from error
        except _BROKEN as error:
            cancellation.raise_if_cancelled()
            raise _translation(error) from error
        cancellation.raise_if_cancelled()

    def _sent(self, key: Key, *command: Any) -> Any:
        """The answer to a command that is sent once. _Unanswered if it may have been executed unknown to us."""
        for attempt in range(3):
            try:
                with self._connection(key) as connection:
                    try:
                        connection.send_packed_command([_packed(command)])
                        return connection.read_response()
                    except redis.ResponseError:
                        raise
                    except _BROKEN as error:
                        raise _Unanswered() from error
            except redis.ResponseError as error:
                if self.clustered and str(error).startswith(("MOVED", "ASK", "TRYAGAIN")) and attempt < 2:
                    self._client.nodes_manager.initialize()  # not executed: the slot is elsewhere by now
                    continue
                raise _translation(error) from error
            except _ERRORS as error:
                raise _translation(error) from error
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _connection(self, key: Key) -> Iterator[Any]:
        """A connection for the use of one thread. It is closed if that was interrupted, since an answer may still come."""
        if self.clustered:
            node = self._client.get_node_from_key(key)
            pool = self._client.get_redis_connection(node).connection_pool
        else:
            pool = self._client.connection_pool
        connection = pool.get_connection(*_TAKING)
        try:
            yield connection
        except redis.ResponseError:
            raise
        except BaseException:
            _close(connection)
            raise
        finally:
            pool.release(connection)

    # Clusters

    @property
    def clustered(self) -> bool:
        """Whether it is a Redis Cluster, where one step cannot span two slots."""
        return hasattr(self._client, "get_node_from_key")

    def by_slot(self, keys: List[str]) -> List[List[str]]:
        """The keys in groups that one command can hold: those of a slot on a cluster, all of them elsewhere."""
        if not self.clustered:
            return [keys]
        slots: Dict[int, List[str]] = {}
        for key in keys:
            slots.setdefault(self._client.keyslot(key), []).append(key)
        return list(slots.values())

    def close(self) -> None:
        """Close the connections, if they are its own; the next use opens new ones."""
        if self._owned:
            self._client.close()
            self._client.connection_pool.disconnect()


def _packed(command: Iterable[Any]) -> bytes:
    """A command in the protocol's words; redis-py's own way there takes several times as long, which a script of nine keys
    feels.
    """
    words = [word if isinstance(word, bytes) else str(word).encode("utf-8") for word in command]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class _Unanswered(Exception):
    """A command was sent, or partly, and no answer came; the cause says why."""


def _waking(connection: Any) -> Callable[[], None]:
    """What frees a thread that is blocked on the connection. It ends the socket and leaves the connection to its own thread:
    redis-py connects anew when it sends on a connection that another thread has closed, and would then wait on that.
    """
    ended: Any = getattr(connection, "_sock", None)

    def wake() -> None:
        try:
            # The plain socket's method: an SSLSocket's own drops its TLS state under the reader's feet.
            socket.socket.shutdown(ended, socket.SHUT_RDWR)
        except (AttributeError, OSError, ValueError, TypeError):
            pass  # it is broken already; or fakeredis, which has no connection that could break

    return wake


def _close(connection: Any) -> None:
    """Close a connection of which an answer may still come."""
    try:
        connection.disconnect()
    except (AttributeError, OSError, ValueError):
        pass  # it is broken already


def _translation(error: Optional[BaseException]) -> errors.CacheError:
    """The CacheError that says what to do, for an exception of redis-py."""
    said = str(error)
    in_script = _IN_SCRIPT.search(said)
    if in_script is not None:
        said = in_script.group(1)
    word = said.split(" ", 1)[0].upper()
    # redis-py counts a refused password among the connection errors, so it comes first.
    refused = isinstance(error, (redis.AuthenticationError, redis.exceptions.NoPermissionError))
    if refused or word in ("NOAUTH", "WRONGPASS", "NOPERM") or said.startswith(_NOT_PERMITTED):
        return errors.CacheAuthenticationError(
            "the Redis server refuses this user: {}. Check password=, or the ACL".format(said)
        )
    if isinstance(error, redis.ReadOnlyError) or word in ("READONLY", "MISCONF"):
        return errors.CacheReadOnly("the Redis server does not accept writes: {}. Connect to the master".format(said))
    if isinstance(error, redis.exceptions.OutOfMemoryError) or word == "OOM":
        return errors.CacheFull("the Redis server is out of memory: {}. Raise maxmemory, or give values a ttl".format(said))
    if word == "WRONGTYPE":
        return errors.WrongKeyType("the key holds another program's data type: {}. Use a prefix of your own".format(said))
    if "not an integer" in said or "would overflow" in said:
        return errors.CacheValueError("what is stored there cannot be incremented by that: {}".format(said))
    if isinstance(error, redis.ResponseError):
        return errors.CacheError("the Redis server answered: {}".format(said))
    return errors.CacheUnavailable(
        "the Redis server cannot be reached: {}. Check host and port, and that it runs".format(said)
    )
