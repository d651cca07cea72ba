"""Sends commands to a Redis server or cluster. The only file that imports redis.

redis-py's releases differ in what they do when a reply is lost: 5 raises; 6 and later send the
command again (a second RPUSH is a second message; a compare-and-set that succeeded then reports
failure); 8 does so ten times, and ends a blocking read after five seconds. So this file relies on
none of its defaults. A command that changes something is sent once, over a connection that is
reserved for it, and an error says whether the command may have reached the server. Idempotent
commands are retried here.
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
from asimov_sync.cache.limits import (
    CALL_SECONDS,
    GRACE_SECONDS,
    ConnectTimeout,
    Limits,
    SocketUnblocker,
    connect_in_thread,
)
from asimov_sync.cache.slots import Address, SlotTable
from asimov_sync.cache.store import BATCH_SIZE
from asimov_sync.concurrency.log_context import describe_error, get_logger

__all__ = ["RedisConnection", "client_from_url", "create_client"]

logger = get_logger("asimov_sync.cache")

CONNECT_SECONDS = 5.0
"""Longest time to connect, in seconds: TCP, TLS and logging in together."""

MAX_CONNECTIONS = 2**31
"""No limit: every thread that waits for a message holds a connection, and the application decides
how many threads it starts. redis-py from 8 on would stop at 100, with an error that reads as if the
server were down. A url may set a limit.
"""

RETRY_DELAYS = (0.05, 0.25)
"""Seconds before the second and the third attempt of an idempotent command."""

REDIRECT_DELAYS = (0.01, 0.02, 0.05, 0.1)
"""Seconds before a command that a cluster refused is sent again; the last one is repeated."""

MAX_IMMEDIATE_REDIRECTS = 4
"""Redirects that are followed without a pause. Nodes may disagree and redirect in a circle."""

_CONNECTION_ERRORS = (
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
    ValueError,
    AttributeError,
)
"""Raised by redis-py when a connection breaks: its own errors, the socket's, and the ValueError
or AttributeError that follows when another thread has closed the connection.
"""

_REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, ConnectTimeout)
"""All errors of redis-py. RedisClusterException (no node can be reached) is not a RedisError."""

_TRANSIENT_CODES = ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY")
"""Temporary refusals of a cluster's node: a slot is moving, or a replica is taking over.

The command was not executed.
"""

_TRANSIENT_ERRORS = (
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.ReadOnlyError,
)
"""redis-py's exceptions for such refusals. Their messages do not contain the code."""

_ClusterNode: Any = redis.cluster.ClusterNode
_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_CLUSTER_SLOTS = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

_command_name = inspect.signature(redis.ConnectionPool.get_connection).parameters.get(
    "command_name"
)
_GET_CONNECTION_ARGS = (
    ("_",) if _command_name is not None and _command_name.default is inspect.Parameter.empty else ()
)
"""Arguments of get_connection. redis-py before 5.3 requires a name, later releases warn of it."""

_SCRIPT_NOT_PERMITTED = ("The user executing the script can't run", "ACL failure in script")
_SCRIPT_ERROR = re.compile(r"@user_script: ?\d+: -?([A-Z].*)", re.DOTALL)
"""An error inside a script, as Redis 6 reports it. Later servers put the message first."""

Result = TypeVar("Result")
Key = Union[str, bytes]


def create_client(host: str, port: int, db: int, password: Optional[str]) -> Any:
    """Return a client for a server. It connects at its first use."""
    return redis.Redis(host=host, port=port, db=db, password=password, **_client_options())


def client_from_url(url: str) -> Any:
    """Return a client for a url, whose query may override the options. Connects at its first use.

    TLS verifies the server's certificate and host name, unless the url says otherwise. redis-py
    before 6 does not verify the host name by default.
    """
    options = _client_options()
    if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
        options.update(ssl_cert_reqs="required", ssl_check_hostname=True)
    return redis.Redis.from_url(url, **options)


def _client_options() -> Dict[str, Any]:
    return {
        "protocol": 2,
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": CALL_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "max_connections": MAX_CONNECTIONS,
    }


class RedisConnection:
    """A server or cluster. Raises CacheErrors, and none of redis-py's exceptions.

    client: redis-py's client.
    owned: whether `close` closes the client.
    """

    def __init__(self, client: Any, owned: bool) -> None:
        self._client = client
        self._owned = owned
        self._digests: Dict[str, str] = {}  # script text: its digest, for EVALSHA
        self.clustered = hasattr(client, "get_node_from_key")
        """True for a Redis Cluster, where one step cannot span two slots."""
        self._slots = SlotTable(
            self._fetch_slots, self._list_nodes, self._remap, _REDIS_ERRORS + (_ReplyLost,)
        )
        self._extra_nodes: Dict[Address, Any] = {}  # nodes that the client does not know

    # Reading

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """Return the strings under the keys, in order. A cluster gets one MGET for each slot."""
        found: Dict[str, Optional[bytes]] = {}
        for group in self.group_by_slot(keys):
            found.update(zip(group, self.send_idempotent(group[0], "MGET", *group)))
        return [found[key] for key in keys]

    def scan(self, pattern: str) -> Iterator[str]:
        """Return the keys that match a pattern; on a cluster, those of all masters.

        Reads all of them before it returns, so that it can start again after a broken connection.
        """
        limits = Limits.current()

        def scan_masters() -> List[bytes]:
            if not self.clustered:
                return list(self._scan_node(self._client.connection_pool, None, pattern, limits))
            self._slots.refresh(limits)
            masters = self._slots.masters() or [
                _address_of(node) for node in self._client.get_primaries()
            ]
            found: List[bytes] = []
            for master in masters:
                found.extend(self._scan_node(self._pool_of(master), master, pattern, limits))
            return found

        keys = self._retry(limits, scan_masters)
        return (key.decode("utf-8", "replace") for key in keys)

    def _scan_node(
        self, pool: Any, address: Optional[Address], pattern: str, limits: Limits
    ) -> Iterator[bytes]:
        cursor: Any = 0
        while True:
            if limits.cancelled:
                raise limits.wrap_error(errors.CacheUnavailable("the scan was not finished"))
            # Each step has its own limit: a large database takes long, and a server that replies is
            # not silent.
            step = Limits(limits.cancellation)
            try:
                command = _pack_command("SCAN", cursor, "MATCH", pattern, "COUNT", BATCH_SIZE)
                cursor, keys = self._exchange(pool, command, step)
            except (_ReplyLost, *_REDIS_ERRORS) as error:
                if address is not None and not isinstance(error, redis.ResponseError):
                    self._slots.mark_stale(failed=address)
                raise
            yield from keys
            if int(cursor) == 0:
                return

    # Sending commands

    def send_once(self, key: Key, *command: Any, limits: Optional[Limits] = None) -> Any:
        """Send a command once, to the node of `key`, and return its reply.

        limits: the limits of the call. By default, the call begins now.

        Raises CacheUnavailable if the command was not sent, OutcomeUnknown if it may have been
        executed. Raises Cancelled, caused by one of these, if the call was cancelled.
        """
        limits = limits or Limits.current()
        failure: errors.CacheError
        try:
            return self._send(limits, key, command)
        except _ReplyLost as lost:
            failure = errors.OutcomeUnknown(
                f"no reply to {command[0]} arrived ({lost.__cause__}): it may or may not have been "
                "executed. Check before you repeat it"
            )
            failure.__cause__ = lost.__cause__
        except errors.CacheUnavailable as error:
            failure = error
        raise limits.wrap_error(failure)

    def send_idempotent(self, key: Key, *command: Any, limits: Optional[Limits] = None) -> Any:
        """Send a command that may be repeated: up to three times, if the connection breaks."""
        call_limits = limits or Limits.current()
        return self._retry(call_limits, lambda: self._send(call_limits, key, command))

    def _retry(self, limits: Limits, call: Callable[[], Result]) -> Result:
        for attempt in range(len(RETRY_DELAYS) + 1):
            try:
                return call()
            except _ReplyLost as lost:
                failure = _translate_error(lost.__cause__)
                failure.__cause__ = lost.__cause__
            except _REDIS_ERRORS as error:
                failure = _translate_error(error)
                failure.__cause__ = error
            except errors.CacheUnavailable as error:
                failure = error
            if not isinstance(failure, errors.CacheUnavailable):
                raise failure
            if attempt == len(RETRY_DELAYS) or not limits.pause(RETRY_DELAYS[attempt]):
                raise limits.wrap_error(failure)
            logger.info("a Redis command failed: %s; it is sent again", describe_error(failure))
        raise AssertionError("the last attempt returns or raises")

    def run_script(
        self,
        text: str,
        send: Callable[..., Any],
        keys: Sequence[Key],
        arguments: List[Any],
        limits: Optional[Limits] = None,
    ) -> Any:
        """Run a Lua script on the node of its first key, and return its result.

        send: `send_once` or `send_idempotent`.
        """
        limits = limits or Limits.current()
        digest = self._digests.get(text)
        if digest is not None:
            try:
                return send(keys[0], "EVALSHA", digest, len(keys), *keys, *arguments, limits=limits)
            except errors.CacheError as error:
                if not isinstance(error.__cause__, redis.exceptions.NoScriptError):
                    raise
        result = send(keys[0], "EVAL", text, len(keys), *keys, *arguments, limits=limits)
        # EVAL has added the script to the server's script cache.
        self._digests[text] = hashlib.sha1(text.encode("utf-8")).hexdigest()
        return result

    def wait_for_element(self, key: Key, seconds: float, limits: Limits) -> None:
        """Pop an element of a list, and wait for one up to `seconds`.

        Raises Cancelled if the wait is cancelled, CacheUnavailable if the connection breaks.
        """
        address = None
        failure: errors.CacheError
        try:
            pool, address = self._locate(key, limits)
            socket_timeout = pool.connection_kwargs.get("socket_timeout")
            # Servers before 7 read less than a tenth as 0, which means for ever.
            seconds = max(0.1, min(seconds, socket_timeout / 2) if socket_timeout else seconds)
            # Interrupting this wait loses nothing, so cancelling ends it without a delay.
            self._exchange(pool, _pack_command("BLPOP", key, seconds), limits, delay=0.0)
        except redis.ResponseError as error:
            failure = _translate_error(error)
            transient = self.clustered and (
                self._find_redirect(error, address) is not None or _is_transient(error)
            )
            if not transient and _error_code(error) != "UNBLOCKED":
                raise failure from error
            # The next attempt to take a message goes to the node that owns the mailbox by then.
            self._slots.mark_stale()
        except _ReplyLost as lost:
            self._mark_failed(address)
            failure = _translate_error(lost.__cause__)
            failure.__cause__ = lost.__cause__
            raise limits.wrap_error(failure) from failure.__cause__
        except _REDIS_ERRORS as error:
            self._mark_failed(address)
            failure = _translate_error(error)
            failure.__cause__ = error
            raise limits.wrap_error(failure) from error
        if limits.cancelled:
            raise limits.wrap_error(errors.CacheUnavailable("the wait was not finished")) from None

    def _send(self, limits: Limits, key: Key, command: Sequence[Any]) -> Any:
        """Return the reply to a command that is executed at most once.

        A refusal (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) means that the command was not executed. It is
        sent again, to the node that the refusal names or after a pause, within the limits.

        Raises _ReplyLost if the command may have been executed.
        """
        packed = _pack_command(*command)
        redirect: Optional[Tuple[Address, bool]] = None
        refusals = 0
        while True:
            address: Optional[Address] = None
            asking = False
            try:
                if redirect is None:
                    pool, address = self._locate(key, limits)
                else:
                    address, asking = redirect
                    pool = self._pool_of(address)
                return self._exchange(pool, packed, limits, asking)
            except _ReplyLost:
                self._mark_failed(address)
                raise
            except redis.ResponseError as error:
                redirect = self._find_redirect(error, address) if self.clustered else None
                refusals += 1
                failure = _translate_error(error)
                if redirect is None and not (self.clustered and _is_transient(error)):
                    raise failure from error
                if redirect is None or refusals > MAX_IMMEDIATE_REDIRECTS:
                    delay = REDIRECT_DELAYS[min(refusals, len(REDIRECT_DELAYS)) - 1]
                    if not limits.pause(delay):
                        raise errors.CacheUnavailable(
                            f"the cluster did not execute {command[0]} within the time of the "
                            f"call: {failure}"
                        ) from error
            except _REDIS_ERRORS as error:
                self._mark_failed(address)
                raise _translate_error(error) from error

    def _exchange(
        self,
        pool: Any,
        packed: bytes,
        limits: Limits,
        asking: bool = False,
        delay: float = GRACE_SECONDS,
    ) -> Any:
        """Send a packed command over a connection of the pool, and return the reply.

        asking: send ASKING first.
        delay: seconds that a cancelled call still waits for its reply.

        An idle connection that does not answer the PING that redis-py sends first is replaced.

        Raises ResponseError if the command was refused, _ReplyLost if it was sent at least in part
        and no reply arrived, and other exceptions of _REDIS_ERRORS if it was not sent.
        """
        if limits.remaining() <= 0:
            raise ConnectTimeout("no time was left to send the command")
        try:
            connection = self._get_connection(pool, limits)
            return self._exchange_over(connection, pool, packed, limits, asking, delay)
        except _IdleConnectionBroken as broken:
            if limits.remaining() <= 0 or limits.cancelled:
                raise redis.TimeoutError("an idle connection did not answer") from broken.__cause__
        try:
            connection = self._get_connection(pool, limits)
            return self._exchange_over(connection, pool, packed, limits, asking, delay)
        except _IdleConnectionBroken as broken:
            raise redis.ConnectionError("idle connections do not answer") from broken.__cause__

    def _exchange_over(
        self,
        connection: Any,
        pool: Any,
        packed: bytes,
        limits: Limits,
        asking: bool,
        delay: float,
    ) -> Any:
        connected = getattr(connection, "_sock", None)
        usual_timeout = getattr(connection, "socket_timeout", None)
        replied = shortened = False
        unblocker: Optional[SocketUnblocker] = None
        registration: Any = None
        try:
            if limits.cancellation is not None:
                unblocker = SocketUnblocker(connected, delay)
                registration = limits.on_cancel(unblocker)
            remaining = limits.remaining()
            if usual_timeout is None or remaining < usual_timeout - 0.1:
                shortened = _set_timeout(connected, max(0.001, remaining))
            try:
                connection.check_health()
            except (redis.RedisError,) + _CONNECTION_ERRORS as error:
                raise _IdleConnectionBroken() from error
            try:
                if asking:
                    connection.send_packed_command([_ASKING], check_health=False)
                    connection.read_response()
                connection.send_packed_command([packed], check_health=False)
                reply = connection.read_response()
                replied = True
                return reply
            except redis.ResponseError:
                replied = True
                raise
            except _CONNECTION_ERRORS as error:
                raise _ReplyLost() from error
        finally:
            if registration is not None:
                registration.remove()
            if unblocker is not None and not unblocker.end():
                with unblocker.lock:
                    _disconnect(connection)
            elif not replied:
                _disconnect(connection)  # the reply may still arrive
            elif shortened:
                _set_timeout(connected, usual_timeout)
            pool.release(connection)

    def _get_connection(self, pool: Any, limits: Limits) -> Any:
        """Reserve a connection of the pool for this thread."""
        if _has_idle(pool):
            return pool.get_connection(*_GET_CONNECTION_ARGS)
        seconds = CONNECT_SECONDS if self._owned else limits.remaining()
        return connect_in_thread(
            lambda: pool.get_connection(*_GET_CONNECTION_ARGS), pool.release, limits, seconds
        )

    # Clusters

    def _locate(self, key: Key, limits: Limits) -> Tuple[Any, Optional[Address]]:
        """Return the pool of the node that owns a key, and on a cluster its address."""
        if not self.clustered:
            return self._client.connection_pool, None
        self._slots.refresh(limits)
        address = self._slots.owner(self._client.keyslot(key))
        if address is None:
            address = _address_of(self._client.get_node_from_key(key))
        return self._pool_of(address), address

    def _pool_of(self, address: Address) -> Any:
        host, port = address
        node = self._client.nodes_manager.nodes_cache.get(f"{host}:{port}")
        node = node or self._extra_nodes.get(address)
        if node is None:
            node = self._extra_nodes.setdefault(address, _ClusterNode(host, port, "primary"))
        return self._client.get_redis_connection(node).connection_pool

    def _find_redirect(
        self, error: redis.ResponseError, address: Optional[Address]
    ) -> Optional[Tuple[Address, bool]]:
        """Return the node that a refusal names, and whether it requires ASKING.

        Returns None if the refusal names no node. Marks the slot table stale if the refusal shows
        that the table is outdated.
        """
        if isinstance(error, redis.exceptions.AskError):
            host = error.host or (address[0] if address else "")
            named = self._remap((host, error.port))
            moved = isinstance(error, redis.exceptions.MovedError)
            if moved:
                self._slots.mark_stale(preferred=named)
            return named, not moved
        if _is_transient(error) and not isinstance(error, redis.exceptions.TryAgainError):
            self._slots.mark_stale()
        return None

    def _mark_failed(self, address: Optional[Address]) -> None:
        """Request a new slot table: this node does not reply, and a replica may take over."""
        if self.clustered:
            self._slots.mark_stale(failed=address)

    def _fetch_slots(self, address: Address, limits: Limits) -> Any:
        return self._exchange(self._pool_of(address), _CLUSTER_SLOTS, limits)

    def _list_nodes(self) -> List[Address]:
        manager = self._client.nodes_manager
        nodes = list(manager.nodes_cache.values()) + list(manager.startup_nodes.values())
        return [_address_of(node) for node in nodes]

    def _remap(self, address: Address) -> Address:
        remap = getattr(self._client.nodes_manager, "remap_host_port", None)
        return address if remap is None else remap(*address)

    def group_by_slot(self, keys: List[str]) -> List[List[str]]:
        """Return lists of keys that one command can read: by slot on a cluster, else one list."""
        if not self.clustered:
            return [keys]
        slots: Dict[int, List[str]] = {}
        for key in keys:
            slots.setdefault(self._client.keyslot(key), []).append(key)
        return list(slots.values())

    def close(self) -> None:
        """Close the connections, if the client is owned. The next use opens new ones."""
        if self._owned:
            self._client.close()
            self._client.connection_pool.disconnect()
        for node in list(self._extra_nodes.values()):
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect()


class _ReplyLost(Exception):
    """A command was sent, at least in part, and no reply arrived. The cause says why."""


class _IdleConnectionBroken(Exception):
    """A connection of the pool did not answer a PING. The command was not sent."""


def _pack_command(*command: Any) -> bytes:
    """Return a command in the protocol's format.

    redis-py's own packing takes several times as long, which slows down a script with nine keys.
    """
    words = [word if isinstance(word, bytes) else str(word).encode("utf-8") for word in command]
    packed = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
    return b"*%d\r\n" % len(words) + packed


def _address_of(node: Any) -> Address:
    """Return the address of one of redis-py's cluster nodes."""
    return node.host, int(node.port)


def _has_idle(pool: Any) -> bool:
    """Return whether the pool's next connection is connected.

    Otherwise get_connection connects, which may block.
    """
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
        return not poll.poll(0)  # readable means that the server has closed the connection
    except (OSError, ValueError):
        return False


def _set_timeout(connected: Any, seconds: Optional[float]) -> bool:
    """Set the time-out for sending and receiving. Return whether the socket has one."""
    try:
        connected.settimeout(seconds)
    except (AttributeError, OSError, ValueError):
        return False  # fakeredis; or the socket is broken
    return True


def _disconnect(connection: Any) -> None:
    """Close a connection on which a reply may still arrive."""
    try:
        connection.disconnect()
    except (AttributeError, OSError, ValueError):
        pass  # broken already


def _error_text(error: Optional[BaseException]) -> str:
    """Return the server's error message, without the frame that a script puts around it."""
    text = str(error)
    in_script = _SCRIPT_ERROR.search(text)
    return text if in_script is None else in_script.group(1)


def _error_code(error: Optional[BaseException]) -> str:
    """Return the first word of the server's error message, its code."""
    return _error_text(error).split(" ", 1)[0].upper()


def _is_transient(error: redis.ResponseError) -> bool:
    """Return whether a cluster's node refuses only temporarily."""
    return isinstance(error, _TRANSIENT_ERRORS) or _error_code(error) in _TRANSIENT_CODES


def _translate_error(error: Optional[BaseException]) -> errors.CacheError:
    """Return the CacheError for an exception of redis-py. Its message says what to do."""
    text = _error_text(error)
    code = _error_code(error)
    # First, because redis-py's error for a refused password is also a connection error.
    refused = isinstance(error, (redis.AuthenticationError, redis.exceptions.NoPermissionError))
    if (
        refused
        or code in ("NOAUTH", "WRONGPASS", "NOPERM")
        or text.startswith(_SCRIPT_NOT_PERMITTED)
    ):
        return errors.CacheAuthenticationError(
            f"the Redis server refuses this user: {text}. Check password=, or the ACL"
        )
    if isinstance(error, redis.ReadOnlyError) or code in ("READONLY", "MISCONF"):
        return errors.CacheReadOnly(
            f"the Redis server does not accept writes: {text}. Connect to the master"
        )
    if isinstance(error, redis.exceptions.OutOfMemoryError) or code == "OOM":
        return errors.CacheFull(
            f"the Redis server is out of memory: {text}. Raise maxmemory, or give values a ttl"
        )
    if code == "WRONGTYPE":
        return errors.WrongKeyType(
            f"the key holds another program's data type: {text}. Use a prefix of your own"
        )
    if "not an integer" in text or "would overflow" in text:
        return errors.CacheValueError(f"the stored value cannot be incremented: {text}")
    if isinstance(error, redis.ResponseError):
        return errors.CacheError(f"the Redis server returned an error: {text}")
    if isinstance(error, (redis.TimeoutError, ConnectTimeout)):
        return errors.CacheUnavailable(
            f"the Redis server does not answer: {text}. "
            "Check host and port, and that it is not stopped or busy"
        )
    return errors.CacheUnavailable(
        f"the Redis server cannot be reached: {text.rstrip('.')}. "
        "Check host and port, and that it runs"
    )
