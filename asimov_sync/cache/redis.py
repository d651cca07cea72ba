"""A cache on Redis, and how this library speaks to the server; the only file that imports redis.

redis-py's releases disagree on what happens when a reply is lost: 5 raises, 6 and later send the command again (a second
RPUSH is a second message; a compare-and-set that applied and then reports failure), 8 does so ten times and gives up a
blocked read after five seconds. So nothing here is left to its defaults. Commands that change something are sent over a
connection that is taken for them, once, and it is known whether they may have reached the server; what may be repeated is
repeated here.
"""

import hashlib
import inspect
import os
import re
import select
import socket
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

import redis
import redis.cluster
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from asimov_sync import errors
from asimov_sync.cache.contract import BATCH, Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.limits import ANSWER_SECONDS, REPLY_SECONDS, ConnectTimeout, Interruption, Limits, connect_aside
from asimov_sync.cache.redis_store import RedisStore
from asimov_sync.cache.slots import Address, SlotTable

__all__ = ["RedisCache", "RedisServer"]

CONNECT_SECONDS = 5.0
"""How long connecting may take: TCP, TLS and logging in together."""

MAX_CONNECTIONS = 2**31
"""No bound: a thread that waits for a message holds a connection, and it is for whoever starts threads to bound them. redis-py
from 8 on would stop at 100, with an error that reads as if the server were gone; a url may say otherwise.
"""

ATTEMPT_WAITS = (0.05, 0.25)
"""How long to wait before what may be repeated is sent a second and a third time."""

_BROKEN = (redis.ConnectionError, redis.TimeoutError, OSError, ValueError, AttributeError)
"""What redis-py raises when a connection breaks: its own, the socket's, and what it trips over if another thread broke it."""

REDIRECT_WAITS = (0.01, 0.02, 0.05, 0.1)
"""How long to wait before a command that a cluster refused is sent again, the last for all further attempts."""

_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, ConnectTimeout)
"""All of redis-py's own; the second, of a cluster of which no node can be reached, is not derived from the first."""

_PASSING = ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY")
"""Refusals of a cluster's node that pass: a slot moves, or a replica takes over. The command was not executed."""

_PASSING_ERRORS = (redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError, redis.ReadOnlyError)
"""The same as redis-py's exceptions, which do not repeat the word."""

_ClusterNode: Any = redis.cluster.ClusterNode
_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_CLUSTER_SLOTS = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

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
        self.clustered = hasattr(client, "get_node_from_key")
        """Whether it is a Redis Cluster, where one step cannot span two slots."""
        self._slots = SlotTable(self._slots_of, self._known_nodes, self._remapped, _ERRORS + (_Unanswered,))
        self._further_nodes: Dict[Address, Any] = {}  # nodes of the cluster that the client does not know

    # Reading

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The strings under the keys, in the same order; on a cluster, one MGET a slot."""
        found: Dict[str, Optional[bytes]] = {}
        for group in self.by_slot(keys):
            found.update(zip(group, self.again(group[0], "MGET", *group)))
        return [found[key] for key in keys]

    def scan(self, pattern: str) -> Iterator[str]:
        """The keys that match a pattern; on a cluster, those of all its nodes. Read to the end before the first is given, so
        that it can begin again where the connection broke.
        """
        limits = Limits.current()

        def scan_masters() -> List[bytes]:
            if not self.clustered:
                return list(self._scanned(self._client.connection_pool, None, pattern, limits))
            self._slots.refresh(limits)
            masters = self._slots.masters() or [_address(node) for node in self._client.get_primaries()]
            found: List[bytes] = []
            for master in masters:
                found.extend(self._scanned(self._pool_at(master), master, pattern, limits))
            return found

        keys = self._repeated(limits, scan_masters)
        return (key.decode("utf-8", "replace") for key in keys)

    def _scanned(self, pool: Any, address: Optional[Address], pattern: str, limits: Limits) -> Iterator[bytes]:
        cursor: Any = 0
        while True:
            if limits.cancelled:
                raise limits.failure(errors.CacheUnavailable("the scan was not finished"))
            # Each step has its own bound: a large database takes long, and a server that answers is not silent.
            step = Limits(limits.token)
            try:
                command = _packed("SCAN", cursor, "MATCH", pattern, "COUNT", BATCH)
                cursor, keys = self._exchange(pool, command, step)
            except (_Unanswered, *_ERRORS) as error:
                if address is not None and not isinstance(error, redis.ResponseError):
                    self._slots.mark_stale(failed=address)
                raise
            yield from keys
            if int(cursor) == 0:
                return

    # Writing, over one connection, once or (where that is harmless) again

    def once(self, key: Key, *command: Any, limits: Optional[Limits] = None) -> Any:
        """Send a command to the node of `key`, once. CacheUnavailable if it was not sent, OutcomeUnknown if it may be.
        Cancelled, caused by one of these, if the call's Cancellation has ended it.
        """
        limits = limits or Limits.current()
        failure: errors.CacheError
        try:
            return self._sent(limits, key, command)
        except _Unanswered as unanswered:
            failure = errors.OutcomeUnknown(
                "no answer came to {} ({}): it may or may not have been executed. Look before you repeat it".format(
                    command[0], unanswered.__cause__
                )
            )
            failure.__cause__ = unanswered.__cause__
        except errors.CacheUnavailable as error:
            failure = error
        raise limits.failure(failure)

    def again(self, key: Key, *command: Any, limits: Optional[Limits] = None) -> Any:
        """Send a command that may be repeated: up to three times, where the connection breaks."""
        given = limits or Limits.current()
        return self._repeated(given, lambda: self._sent(given, key, command))

    def _repeated(self, limits: Limits, call: Callable[[], Result]) -> Result:
        for attempt in range(len(ATTEMPT_WAITS) + 1):
            try:
                return call()
            except _Unanswered as unanswered:
                failure = _translation(unanswered.__cause__)
                failure.__cause__ = unanswered.__cause__
            except _ERRORS as error:
                failure = _translation(error)
                failure.__cause__ = error
            except errors.CacheUnavailable as error:
                failure = error
            if not isinstance(failure, errors.CacheUnavailable):
                raise failure
            if attempt == len(ATTEMPT_WAITS) or not limits.pause(ATTEMPT_WAITS[attempt]):
                raise limits.failure(failure)
        raise AssertionError("the last attempt returns or raises")

    def script(
        self,
        text: str,
        send: Callable[..., Any],
        keys: Sequence[Key],
        arguments: List[Any],
        limits: Optional[Limits] = None,
    ) -> Any:
        """Run a Lua script on the node of its first key, sent by `once` or `again`."""
        limits = limits or Limits.current()
        digest = self._digests.get(text)
        if digest is not None:
            try:
                return send(keys[0], "EVALSHA", digest, len(keys), *keys, *arguments, limits=limits)
            except errors.CacheError as error:
                if not isinstance(error.__cause__, redis.exceptions.NoScriptError):
                    raise
        result = send(keys[0], "EVAL", text, len(keys), *keys, *arguments, limits=limits)
        self._digests[text] = hashlib.sha1(text.encode("utf-8")).hexdigest()  # EVAL has left it in the server's memory
        return result

    def wait(self, key: Key, seconds: float, limits: Limits) -> None:
        """Wait until an element can be popped from the list, or the time is over; Cancelled if that comes first."""
        address = None
        failure: errors.CacheError
        try:
            pool, address = self._place_of(key, limits)
            most = pool.connection_kwargs.get("socket_timeout")
            # Servers before 7 take less than a tenth for 0, which is for ever.
            seconds = max(0.1, min(seconds, most / 2) if most else seconds)
            # Nothing is lost when this wait is interrupted, so it ends at once.
            self._exchange(pool, _packed("BLPOP", key, seconds), limits, delay=0.0)
        except redis.ResponseError as error:
            failure = _translation(error)
            passing = self.clustered and (self._redirected(error, address) is not None or _passes(error))
            if not passing and _word(error) != "UNBLOCKED":
                raise failure from error
            self._slots.mark_stale()  # the next look at the mailbox goes to where that is by then
        except _Unanswered as unanswered:
            self._suspect(address)
            failure = _translation(unanswered.__cause__)
            failure.__cause__ = unanswered.__cause__
            raise limits.failure(failure) from failure.__cause__
        except _ERRORS as error:
            self._suspect(address)
            failure = _translation(error)
            failure.__cause__ = error
            raise limits.failure(failure) from error
        if limits.cancelled:
            raise limits.failure(errors.CacheUnavailable("the wait was not finished")) from None

    def _sent(self, limits: Limits, key: Key, command: Sequence[Any]) -> Any:
        """The answer to a command that is executed once. _Unanswered if it may have been executed unknown to us.

        A refusal (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) is no execution: the command is sent again, to the node that the refusal
        names or after a pause, as long as the limits permit.
        """
        packed = _packed(*command)
        redirection: Optional[Tuple[Address, bool]] = None
        refusals = 0
        while True:
            address: Optional[Address] = None
            asking = False
            try:
                if redirection is None:
                    pool, address = self._place_of(key, limits)
                else:
                    address, asking = redirection
                    pool = self._pool_at(address)
                return self._exchange(pool, packed, limits, asking)
            except _Unanswered:
                self._suspect(address)
                raise
            except redis.ResponseError as error:
                redirection = self._redirected(error, address) if self.clustered else None
                refusals += 1
                failure = _translation(error)
                if redirection is None and not (self.clustered and _passes(error)):
                    raise failure from error
                # Nodes may disagree for a moment and redirect in a circle.
                if redirection is None or refusals > 4:
                    wait = REDIRECT_WAITS[min(refusals, len(REDIRECT_WAITS)) - 1]
                    if not limits.pause(wait):
                        raise errors.CacheUnavailable(
                            "the cluster did not execute {} in the time that the call had: {}".format(command[0], failure)
                        ) from error
            except _ERRORS as error:
                self._suspect(address)
                raise _translation(error) from error

    def _exchange(self, pool: Any, packed: bytes, limits: Limits, asking: bool = False, delay: float = ANSWER_SECONDS) -> Any:
        """Send a command over a connection of the pool, and return the answer.

        ResponseError if it was refused; _Unanswered if it was sent, or partly, and no answer came; other exceptions of _ERRORS
        if it was not sent. An idle connection that does not answer the PING that redis-py sends first is replaced.
        """
        if limits.seconds() <= 0:
            raise ConnectTimeout("no time was left to send the command")
        try:
            return self._exchanged(self._connected(pool, limits), pool, packed, limits, asking, delay)
        except _IdleBroken as broken:
            if limits.seconds() <= 0 or limits.cancelled:
                raise redis.TimeoutError("an idle connection did not answer") from broken.__cause__
        try:
            return self._exchanged(self._connected(pool, limits), pool, packed, limits, asking, delay)
        except _IdleBroken as broken:
            raise redis.ConnectionError("idle connections do not answer") from broken.__cause__

    def _exchanged(self, connection: Any, pool: Any, packed: bytes, limits: Limits, asking: bool, delay: float) -> Any:
        connected = getattr(connection, "_sock", None)
        usual = getattr(connection, "socket_timeout", None)
        answered = shortened = False
        interruption: Optional[Interruption] = None
        registration: Any = None
        try:
            if limits.token is not None:
                interruption = Interruption(connected, delay)
                registration = limits.on_cancel(interruption)
            left = limits.seconds()
            if usual is None or left < usual - 0.1:
                shortened = _set_timeout(connected, max(0.001, left))
            try:
                connection.check_health()
            except (redis.RedisError,) + _BROKEN as error:
                raise _IdleBroken() from error
            try:
                if asking:
                    connection.send_packed_command([_ASKING], check_health=False)
                    connection.read_response()
                connection.send_packed_command([packed], check_health=False)
                answer = connection.read_response()
                answered = True
                return answer
            except redis.ResponseError:
                answered = True
                raise
            except _BROKEN as error:
                raise _Unanswered() from error
        finally:
            if registration is not None:
                registration.remove()
            if interruption is not None and not interruption.end():
                with interruption.lock:
                    _close(connection)
            elif not answered:
                _close(connection)  # an answer may still come
            elif shortened:
                _set_timeout(connected, usual)
            pool.release(connection)

    def _connected(self, pool: Any, limits: Limits) -> Any:
        """A connection for the use of one thread."""
        if _has_idle(pool):
            return pool.get_connection(*_TAKING)
        seconds = CONNECT_SECONDS if self._owned else limits.seconds()
        return connect_aside(lambda: pool.get_connection(*_TAKING), pool.release, limits, seconds)

    # Clusters

    def _place_of(self, key: Key, limits: Limits) -> Tuple[Any, Optional[Address]]:
        """The pool of the node that owns a key, and on a cluster its address."""
        if not self.clustered:
            return self._client.connection_pool, None
        self._slots.refresh(limits)
        address = self._slots.owner(self._client.keyslot(key))
        if address is None:
            address = _address(self._client.get_node_from_key(key))
        return self._pool_at(address), address

    def _pool_at(self, address: Address) -> Any:
        node = self._client.nodes_manager.nodes_cache.get("{}:{}".format(*address)) or self._further_nodes.get(address)
        if node is None:
            node = self._further_nodes.setdefault(address, _ClusterNode(*address, "primary"))
        return self._client.get_redis_connection(node).connection_pool

    def _redirected(self, error: redis.ResponseError, address: Optional[Address]) -> Optional[Tuple[Address, bool]]:
        """The node that a refusal names, and whether it has to be told ASKING; None if it names none."""
        if isinstance(error, redis.exceptions.AskError):
            host = error.host or (address[0] if address else "")
            named = self._remapped((host, error.port))
            moved = isinstance(error, redis.exceptions.MovedError)
            if moved:
                self._slots.mark_stale(informed=named)
            return named, not moved
        if _passes(error) and not isinstance(error, redis.exceptions.TryAgainError):
            self._slots.mark_stale()
        return None

    def _suspect(self, address: Optional[Address]) -> None:
        """Have the slot table refreshed before the next command: a node does not answer, and a replica may take over."""
        if self.clustered:
            self._slots.mark_stale(failed=address)

    def _slots_of(self, address: Address, limits: Limits) -> Any:
        return self._exchange(self._pool_at(address), _CLUSTER_SLOTS, limits)

    def _known_nodes(self) -> List[Address]:
        manager = self._client.nodes_manager
        nodes = list(manager.nodes_cache.values()) + list(manager.startup_nodes.values())
        return [_address(node) for node in nodes]

    def _remapped(self, address: Address) -> Address:
        remap = getattr(self._client.nodes_manager, "remap_host_port", None)
        return address if remap is None else remap(*address)

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
        for node in list(self._further_nodes.values()):
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect()


def _packed(*command: Any) -> bytes:
    """A command in the protocol's words; redis-py's own way there takes several times as long, which a script of nine keys
    feels.
    """
    words = [word if isinstance(word, bytes) else str(word).encode("utf-8") for word in command]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class _Unanswered(Exception):
    """A command was sent, or partly, and no answer came; the cause says why."""


class _IdleBroken(Exception):
    """A connection out of the pool did not answer a PING, and the command was not sent."""


def _address(node: Any) -> Address:
    """The address of one of redis-py's cluster nodes."""
    return node.host, int(node.port)


def _has_idle(pool: Any) -> bool:
    """Whether the connection that the pool gives next is connected; it connects at once otherwise, and may block in that."""
    if getattr(pool, "pid", None) != os.getpid():
        return False
    idle: Any = getattr(pool, "_available_connections", None)
    if idle is None:  # a BlockingConnectionPool
        idle = getattr(getattr(pool, "pool", None), "queue", ())
    try:
        connected = idle[-1]._sock
    except (IndexError, AttributeError):
        return False
    if not isinstance(connected, socket.socket):
        return connected is not None  # fakeredis
    try:
        poll = select.poll()
        poll.register(connected, select.POLLIN)
        return not poll.poll(0)  # what can be read is the end of the connection: the server has closed it
    except (OSError, ValueError):
        return False


def _set_timeout(connected: Any, seconds: Optional[float]) -> bool:
    """Set how long sending and receiving may take. Return whether the socket has such a time-out."""
    try:
        connected.settimeout(seconds)
    except (AttributeError, OSError, ValueError):
        return False  # fakeredis; or it is broken
    return True


def _close(connection: Any) -> None:
    """Close a connection of which an answer may still come."""
    try:
        connection.disconnect()
    except (AttributeError, OSError, ValueError):
        pass  # it is broken already


def _said(error: Optional[BaseException]) -> str:
    """What the server said, also where it was said inside of a script."""
    said = str(error)
    in_script = _IN_SCRIPT.search(said)
    return said if in_script is None else in_script.group(1)


def _word(error: Optional[BaseException]) -> str:
    """The word that says what kind of error it is."""
    return _said(error).split(" ", 1)[0].upper()


def _passes(error: redis.ResponseError) -> bool:
    """Whether a cluster's node refuses for a time only."""
    return isinstance(error, _PASSING_ERRORS) or _word(error) in _PASSING


def _translation(error: Optional[BaseException]) -> errors.CacheError:
    """The CacheError that says what to do, for an exception of redis-py."""
    said = _said(error)
    word = _word(error)
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
    if isinstance(error, (redis.TimeoutError, ConnectTimeout)):
        return errors.CacheUnavailable(
            "the Redis server does not answer: {}. Check host and port, and that it is not stopped or busy".format(said)
        )
    return errors.CacheUnavailable(
        "the Redis server cannot be reached: {}. Check host and port, and that it runs".format(said)
    )
