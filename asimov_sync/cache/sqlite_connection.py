"""A SQLite database that several threads and processes share. The only file that imports sqlite3.

`SQLiteConnection` offers three things: `write` executes a function as one atomic step, `read` gives
a function a consistent snapshot, and `wait_for_change` waits for the commits of any process.

Connections: one for writing, used by one thread at a time (see `write_queue.py`), and a pool for
reading. The database is in WAL mode, so readers and the writer do not wait for each other.

Checkpoints: SQLite before 3.51.3 can damage a database if one connection commits while another one
begins a checkpoint. So SQLite's automatic checkpoints are off. The library makes its own, on a
second connection, while the first one holds the database's write lock: no process commits then.

Forks: SQLite keeps a table of the open files of the process, with their locks. A child would
inherit the table, but not the locks, and a database that it opens would have no locks: another
process could remove the WAL while the child uses it. So all connections are closed before a fork,
when no call uses them, and both processes open new ones.
"""

import os
import pathlib
import sqlite3
import threading
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

from asimov_sync import errors
from asimov_sync.cache.limits import Limits
from asimov_sync.cache.sqlite_errors import (
    WAY_OUT,
    check_file_system,
    find_size,
    translate_error,
    translate_os_error,
)
from asimov_sync.cache.write_queue import Write, WriteQueue
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import suspend_during_fork
from asimov_sync.concurrency.log_context import get_logger

__all__ = ["SQLiteConnection", "Tables", "Watch"]

logger = get_logger("asimov_sync.cache")

BUSY_SECONDS = 5.0
"""Seconds that a write waits for the database's lock, which another process may hold."""

BUSY_DELAYS = (0.0005, 0.001, 0.002, 0.004)
"""Seconds between two attempts to get that lock; the last one is repeated."""

SUSPEND_SECONDS = 2 * BUSY_SECONDS
"""Seconds that a fork and `close` wait for calls that use the database, and calls for them."""

POLL_SECONDS = 0.02
"""Seconds between two looks for commits of other processes, while a thread waits for them."""

CHECKPOINT_WRITES = 400
"""Writes of this process after which it makes a checkpoint: some 4 MB of small ones."""

SIZE_CHECK_WRITES = 16
"""Writes between two looks at the size of the WAL. Linux can make the commit after a look slower:
the time of the file's change becomes more precise, and is written to the disk.
"""

CHECKPOINT_BYTES = 4 * 2**20
"""Growth of the WAL after which a commit makes a checkpoint. Reading a longer WAL is slower."""

WAL_BYTES = 8 * 2**20
"""Size to which SQLite shortens the WAL when it is written from its beginning again."""

MAX_IDLE_READERS = 8
"""Idle connections that are kept for reading."""

Result = TypeVar("Result")
File = Tuple[int, int]  # device and inode

_inherited: List[sqlite3.Connection] = []
"""Connections of the process that this one was forked from. Referenced here, so that the garbage
collector does not close them: that could undo a transaction of the parent.
"""


class Tables(NamedTuple):
    """A set of tables with a format. The first write creates them.

    name: the name of the set.
    format: its number; 1 for the first one. A database with a higher number is refused.
    statements: "CREATE TABLE IF NOT EXISTS …" and the like. Every name begins with "asimov_sync_".
    """

    name: str
    format: int
    statements: Sequence[str]


class SQLiteConnection:
    """A database file. Safe to use from every thread and in a forked child.

    path: the absolute path of the file. The first write creates it, with mode 0600.
    synchronous: "full" (survives a power failure) or "normal" (survives the end of the process).
    tables: the sets of tables that the first write creates.

    Raises CacheErrors, and none of sqlite3's exceptions. After `close`, the next call opens the
    file again.
    """

    def __init__(self, path: str, synchronous: str, tables: Sequence[Tables] = ()) -> None:
        self.path = path
        self.synchronous = synchronous
        self._uri = pathlib.Path(path).as_uri() + "?mode=rw"  # creates no file
        self._tables = list(tables)
        self._checked_file_system = False
        self._connections: Set[sqlite3.Connection] = set()  # all that are open
        self.reset()
        suspend_during_fork(self)

    def reset(self) -> None:
        """Begin without connections; called in a forked child."""
        # They were closed before the fork, unless a call did not end in time, or a C library forked
        # without running Python's handlers.
        self._is_unusable = bool(self._connections)
        _inherited.extend(self._connections)
        self._connections.clear()
        # Re-entrant, because a signal handler or a destructor may use the database.
        self._lock = threading.RLock()
        self._queue = WriteQueue()
        self._idle_readers: List[Tuple[File, sqlite3.Connection]] = []
        self._calls: Set[Any] = set()  # that use connections at the moment
        self._suspensions = 0
        self._resumed = InterruptibleEvent()
        self._watches: List[Watch] = []  # all
        self._waiting: List[Watch] = []  # those that wait; the first one polls
        self._forget_writer()

    def _forget_writer(self) -> None:
        # Used by the leader of the queue only.
        self._writer: Optional[sqlite3.Connection] = None
        self._writer_file: Optional[File] = None
        self._created_tables = 0
        self._version: Optional[int] = None  # grows with the commits of other connections
        self._writes = 0  # since the last checkpoint
        self._wal_bytes = 0  # at the last checkpoint

    def add_tables(self, tables: Tables) -> None:
        """Add a set of tables. The next write creates them."""
        with self._lock:
            self._tables.append(tables)

    # Writing

    def write(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Execute a function as one atomic step, which is committed when this returns.

        function: receives a connection, executes statements on it and returns the result. It may
            run on another thread, and be called again if a transaction failed. So it neither waits
            nor changes anything but the database. If it raises, its statements are undone.

        Concurrent writes of one process share a transaction. Raises what the function raises;
        CacheUnavailable if another process holds the database's lock for BUSY_SECONDS; CacheFull,
        CacheReadOnly and others for what SQLite reports; Cancelled if the current Cancellation
        ends the wait for the lock.
        """
        limits = Limits(Cancellation.entered(), BUSY_SECONDS)
        write = Write(function)
        try:
            if self._queue.submit(write, limits):
                self._enter(write)
                self._lead(write, limits)
        finally:
            self._end_lead(write)
        if write.error is not None:
            raise write.error
        return write.result  # type: ignore[no-any-return]

    def _end_lead(self, write: Write) -> None:
        """Leave the queue. Has no effect if the write is not in it.

        Without this, no other thread could write any more. So it is repeated if the exception of a
        signal handler strikes here.
        """

        def end() -> None:
            if write in self._calls and self._queue.is_leader(write) and self._writer is not None:
                self._roll_back(self._writer)  # if the write was interrupted
            self._leave(write)
            self._queue.end_lead(write)

        try:
            end()
        except BaseException:
            end()
            raise

    def _lead(self, own: Write, limits: Limits) -> None:
        """Commit the leader's write, together with all that are pending."""
        connection = self._begin(limits)
        # Signal handlers run on the main thread and may raise anywhere in a function. So the main
        # thread executes no function of another thread.
        batch = self._queue.take_batch(own, alone=own.thread == threading.main_thread().ident)
        changes = connection.total_changes
        try:
            if not self._commit(connection, batch):
                # One of them may be too large for the disk, while there is room for the others.
                for write in batch:
                    self._commit_alone(write, limits)
            for write in batch:
                write.finish()
        finally:
            self._settle_interrupted(connection, batch)
        if connection.total_changes != changes:
            self._wake(local=True)
        try:
            self._look_for_changes(connection)
            self._checkpoint_if_due(connection, len(batch))
        except (sqlite3.Error, errors.CacheError) as error:
            # The writes are committed. A later one tries again.
            if not is_locked(error):
                logger.warning("a checkpoint of %s failed: %s", self.path, error)

    def _commit(self, connection: sqlite3.Connection, batch: List[Write]) -> bool:
        """Execute writes in the transaction that was begun, and commit it.

        Returns False if all of several writes were undone.
        """
        try:
            for write in batch:
                self._execute(connection, write, nested=len(batch) > 1)
            if len(batch) > 1 or batch[0].error is None:  # otherwise it was undone
                connection.execute("COMMIT")
            return True
        except sqlite3.Error as error:
            self._roll_back(connection)
            batch[0].error = self._translate(error)
            self._writes = CHECKPOINT_WRITES  # if the disk is full, a checkpoint may make room
            return len(batch) == 1

    def _execute(self, connection: sqlite3.Connection, write: Write, nested: bool) -> None:
        """Call the function of a write. If it raises, note the error and undo its statements.

        nested: the write shares its transaction with others.

        Raises sqlite3.Error if the whole transaction failed.
        """
        write.error = None  # of an earlier attempt
        if nested:
            connection.execute("SAVEPOINT asimov_sync_write")
        try:
            write.result = write.function(connection)
        except Exception as error:
            write.error = self._translate(error) if isinstance(error, sqlite3.Error) else error
            if not nested:
                self._roll_back(connection)
                return
            if not connection.in_transaction:
                raise  # SQLite has undone all of it: the disk is full, for example
            connection.execute("ROLLBACK TO asimov_sync_write")
        if nested:
            connection.execute("RELEASE asimov_sync_write")

    def _commit_alone(self, write: Write, limits: Limits) -> None:
        try:
            connection = self._begin(limits)
        except errors.AsimovError as error:
            write.error = error
        else:
            self._commit(connection, [write])

    def _settle_interrupted(self, connection: sqlite3.Connection, batch: List[Write]) -> None:
        """Settle the writes of a transaction that an exception from outside has interrupted."""
        unfinished = [write for write in batch if not write.done]
        if unfinished and connection.in_transaction:
            self._roll_back(connection)
            # The leader's own write ends with the exception.
            thread = threading.get_ident()
            self._queue.put_back([write for write in unfinished if write.thread != thread])
        else:
            for write in unfinished:
                write.error = errors.OutcomeUnknown(
                    "the thread that committed this write was interrupted: check whether it was "
                    "executed before you repeat it"
                )
                write.finish()

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                logger.warning("a transaction of %s was not rolled back: %s", self.path, error)

    def _begin(self, limits: Limits) -> sqlite3.Connection:
        """Begin a transaction with the database's write lock, and return its connection."""

        def begin() -> sqlite3.Connection:
            connection = self._open_writer()
            connection.execute("BEGIN IMMEDIATE")
            return connection

        return self._retry(begin, limits)

    def _retry(self, call: Callable[[], Result], limits: Limits) -> Result:
        """Call a function again while the database is locked, within the limits."""
        attempt = 0
        while True:
            try:
                return call()
            except sqlite3.Error as error:
                failure = self._translate(error)
                if not is_locked(error):
                    raise failure from error
            if not limits.pause(BUSY_DELAYS[min(attempt, len(BUSY_DELAYS) - 1)]):
                raise limits.wrap_error(failure)
            attempt += 1

    # Reading

    def read(self, function: Callable[[sqlite3.Connection], Result], absent: Result) -> Result:
        """Call a function with a consistent snapshot of the database, and return its result.

        function: receives a connection and executes SELECT statements. It may be called again.
        absent: returned if the file, or a table of this library in it, does not exist yet.

        Raises what the function raises, and a CacheError for what SQLite reports.
        """

        def call() -> Result:
            reader = self._take_reader()
            if reader is None:
                return absent
            try:
                reader[1].execute("BEGIN")
                result = function(reader[1])
                reader[1].execute("COMMIT")
            except BaseException as error:
                self._close(reader[1])
                if is_absent(error):
                    return absent
                raise
            self._return_reader(reader)
            return result

        limits = Limits(Cancellation.entered(), BUSY_SECONDS)
        try:
            self._enter(call)
            return self._retry(call, limits)
        finally:
            self._leave(call)

    def _take_reader(self) -> Optional[Tuple[File, sqlite3.Connection]]:
        """Return a connection for reading, with its file; None if the file does not exist."""
        file = self._find_file()
        if file is None:
            return None
        while True:
            try:
                reader = self._idle_readers.pop()
            except IndexError:
                return file, self._connect()
            if reader[0] == file:
                return reader
            self._close(reader[1])

    def _return_reader(self, reader: Tuple[File, sqlite3.Connection]) -> None:
        if len(self._idle_readers) < MAX_IDLE_READERS:
            self._idle_readers.append(reader)
        else:
            self._close(reader[1])

    # Waiting

    def wait_for_change(
        self, seconds: Optional[float] = None, cancellation: Optional[Cancellation] = None
    ) -> bool:
        """Wait until a process commits a change, this one included.

        seconds: how long to wait at most; None (the default) waits without limit.
        cancellation: ends the wait; the current Cancellation by default.

        Returns True soon after a commit, and sometimes without one; False if the time has passed.
        A commit just before this call may be missed: `watch` misses none. Raises Cancelled if the
        wait is cancelled.
        """
        with self.watch() as watch:
            return watch.wait(seconds, cancellation)

    def watch(self, local: bool = True) -> "Watch":
        """Return a Watch, which notices all commits from the beginning of its `with` block on.

        local: notice those of this object, too; True by default.
        """
        return Watch(self, local)

    def add_watch(self, watch: "Watch") -> None:
        """Begin to notify a watch."""
        with self._lock:
            self._watches.append(watch)

    def remove_watch(self, watch: "Watch") -> None:
        """Stop notifying a watch."""
        self._stop_waiting(watch)  # an exception of a signal handler may have prevented it
        with self._lock:
            if watch in self._watches:
                self._watches.remove(watch)

    def wait(
        self, watch: "Watch", seconds: Optional[float], cancellation: Optional[Cancellation]
    ) -> bool:
        """Wait until a watch is set. See `Watch.wait`."""
        cancellation = cancellation or Cancellation.current()
        end = None if seconds is None else clock.monotonic() + seconds
        changed = watch.changed
        try:
            with self._lock:
                self._waiting.append(watch)
            with cancellation.on_cancel(changed.set):
                while not changed.is_set():
                    # The first thread polls for all. When it leaves, it nudges the next one.
                    polls = self._waiting[0] is watch
                    left = shortest(
                        None if end is None else end - clock.monotonic(), cancellation.remaining
                    )
                    if left is not None and left <= 0:
                        break
                    pause = shortest(left, POLL_SECONDS) if polls else left
                    if not changed.wait(pause, follow_clock=True) and polls:
                        self._poll()
        finally:
            self._stop_waiting(watch)
        cancellation.raise_if_cancelled()
        return changed.is_set()

    def _stop_waiting(self, watch: "Watch") -> None:
        with self._lock:
            if watch in self._waiting:
                polled = self._waiting[0] is watch
                self._waiting.remove(watch)
                if polled and self._waiting:
                    self._waiting[0].changed.nudge()

    def _poll(self) -> None:
        """Look for commits of other processes. A write in progress does this at its end instead."""
        leader = Write(_do_nothing)
        try:
            if not self._queue.try_lead(leader):
                return
            self._enter(leader)
            writer = self._find_writer()
            if writer is not None:
                self._look_for_changes(writer)
        except (sqlite3.Error, errors.CacheError) as error:
            # The threads that wait find the error when they look at the database.
            logger.debug("%s could not be watched: %s", self.path, error)
            self._wake(local=False)
        finally:
            self._end_lead(leader)

    def _look_for_changes(self, writer: sqlite3.Connection) -> None:
        """Wake the threads that wait if another connection than the writer's has committed."""
        if self._watches:
            version = writer.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version:
                self._version = version
                with self._lock:
                    watches = list(self._watches)
                for watch in watches:
                    watch.notice(writer)

    def _wake(self, local: bool) -> None:
        """Set the watches.

        local: True for a commit of this object, False for one of another.
        """
        with self._lock:
            for watch in self._watches:
                if watch.local or not local:
                    watch.changed.set()

    # Opening and closing

    def _find_file(self) -> Optional[File]:
        """Return the identity of the file at the path; None if there is none.

        It changes if the file is replaced. An open connection would stay with the old one.
        """
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        return status.st_dev, status.st_ino

    def _find_writer(self) -> Optional[sqlite3.Connection]:
        """Return the connection for writing; None if the file does not exist.

        The caller is the leader of the queue.
        """
        file = self._find_file()
        if self._writer is not None and self._writer_file != file:
            self._close(self._writer)
            self._forget_writer()
        if self._writer is None and file is not None:
            self._writer, self._writer_file = self._connect(), file
        return self._writer

    def _open_writer(self) -> sqlite3.Connection:
        """Return the connection for writing, with a file and tables. The caller leads the queue."""
        writer = self._find_writer()
        while writer is None:
            self._create_file()
            writer = self._find_writer()
        if self._created_tables < len(self._tables):
            self._create_tables(writer)
        return writer

    def _create_file(self) -> None:
        """Create the file with mode 0600, which SQLite applies to the files beside it, too."""
        # No connection of this process can have this file open. Otherwise, closing the descriptor
        # would remove the locks of the connection.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        try:
            os.close(os.open(self.path, flags, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise translate_os_error(error, self.path) from error

    def _connect(self) -> sqlite3.Connection:
        """Open the file, which exists."""
        if not self._checked_file_system:
            check_file_system(self.path)
            self._checked_file_system = True
        connection = sqlite3.connect(
            self._uri,
            uri=True,
            timeout=0,  # `_retry` waits instead, and can be cancelled
            isolation_level=None,
            check_same_thread=False,
            cached_statements=200,
        )
        with self._lock:
            self._connections.add(connection)
        try:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            connection.execute(f"PRAGMA synchronous={self.synchronous}")
            if self.synchronous == "full":
                connection.execute("PRAGMA fullfsync=1")  # for macOS
                connection.execute("PRAGMA checkpoint_fullfsync=1")
            self._check_formats(connection)
        except BaseException:
            self._close(connection)
            raise
        return connection

    def _check_formats(self, connection: sqlite3.Connection) -> None:
        """Raise CacheUnavailable if a newer release has written tables of this library."""
        try:
            found = connection.execute("SELECT name, format FROM asimov_sync_formats").fetchall()
        except sqlite3.OperationalError as error:
            if not is_absent(error):
                raise
            return
        known = {tables.name: tables.format for tables in self._tables}
        for name, number in found:
            if number > known.get(name, number):
                raise errors.CacheUnavailable(
                    f"{self.path} has the format {number} of {name!r}, and this release of "
                    f"asimov_sync reads up to {known[name]}: install a newer release"
                )

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise errors.CacheUnavailable(
                f"SQLite cannot use its WAL mode for {self.path} (it uses {mode!r}): {WAY_OUT}"
            )
        count = len(self._tables)
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS asimov_sync_formats "
                "(name TEXT PRIMARY KEY, format INTEGER NOT NULL) WITHOUT ROWID"
            )
            self._check_formats(connection)
            for tables in self._tables[:count]:
                for statement in tables.statements:
                    connection.execute(statement)
                connection.execute(
                    "INSERT OR REPLACE INTO asimov_sync_formats VALUES (?, ?)",
                    (tables.name, tables.format),
                )
            connection.execute("COMMIT")
        finally:
            self._roll_back(connection)
        self._created_tables = count

    def _checkpoint_if_due(self, writer: sqlite3.Connection, writes: int) -> None:
        """Copy a WAL that has grown into the database. Its file is then written from the start."""
        before, self._writes = self._writes, self._writes + writes
        if self._writes < CHECKPOINT_WRITES:
            if self._writes // SIZE_CHECK_WRITES == before // SIZE_CHECK_WRITES:
                return
            size = find_size(self.path + "-wal")
            self._wal_bytes = min(self._wal_bytes, size)
            if size - self._wal_bytes < CHECKPOINT_BYTES:
                return
        reader = self._take_reader()
        if reader is None:
            return
        try:
            writer.execute("BEGIN IMMEDIATE")
            reader[1].execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            self._roll_back(writer)
            self._return_reader(reader)
        self._writes, self._wal_bytes = 0, find_size(self.path + "-wal")

    def close(self) -> None:
        """Wait for the calls that use the database, and close the file."""
        try:
            self.suspend()
        finally:
            self.resume()

    def suspend(self) -> None:
        """Close all connections, and make calls wait until `resume`. Called before a fork."""
        with self._lock:
            if not self._suspensions:
                self._resumed = InterruptibleEvent()
            self._suspensions += 1
        end = clock.real() + SUSPEND_SECONDS
        pause = InterruptibleEvent()
        while self._calls and clock.real() < end:
            pause.wait(0.001)
        with self._lock:
            if self._calls:
                logger.warning("%s stays open: a call still uses it", self.path)
                return
            for connection in list(self._connections):
                self._close(connection)
            self._idle_readers.clear()
            self._forget_writer()

    def resume(self) -> None:
        """Let calls open the file again."""
        with self._lock:
            self._suspensions = max(0, self._suspensions - 1)
            if not self._suspensions:
                self._resumed.set()

    def _enter(self, call: Any) -> None:
        """Begin a call that uses connections. Waits while they are being closed.

        call: any object that stands for the call.
        """
        end = clock.real() + SUSPEND_SECONDS
        while True:
            with self._lock:
                if self._is_unusable:
                    raise errors.CacheUnavailable(
                        f"{self.path} was in use when this process was forked from another one, so "
                        "SQLite cannot open it safely here: fork with os.fork, while no call of "
                        "the cache is in progress"
                    )
                if not self._suspensions:
                    self._calls.add(call)
                    return
                resumed = self._resumed
            if not resumed.wait(end - clock.real()):
                raise errors.CacheUnavailable(
                    f"{self.path} is closed: a fork or close() of this process did not end"
                )

    def _leave(self, call: Any) -> None:
        """End a call. Has no effect if it has not begun."""
        with self._lock:
            self._calls.discard(call)

    def _close(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
        try:
            connection.close()
        except sqlite3.Error as error:
            logger.warning("%s was not closed: %s", self.path, error)

    def __del__(self) -> None:
        for connection in self._connections:
            connection.close()

    def _translate(self, error: sqlite3.Error) -> errors.CacheError:
        failure = translate_error(error, self.path)
        failure.__cause__ = error
        return failure


class Watch:
    """Notices the commits to a database, from the beginning of its `with` block on.

    To miss none, look at the database inside the block, and then call `wait`. One Watch serves one
    wait.

    changed: the event that a commit sets. It may be set by others, too, to end the wait.
    local: whether it notices commits of its own SQLiteConnection.
    concerns: tells whether a commit of another connection concerns the thread that waits, which is
        not woken otherwise. It receives a connection and executes SELECT statements, on any thread.
        None (the default): every commit does.
    """

    def __init__(self, connection: SQLiteConnection, local: bool) -> None:
        self.changed = InterruptibleEvent()
        self.local = local
        self.concerns: Optional[Callable[[sqlite3.Connection], bool]] = None
        self._connection = connection

    def __enter__(self) -> "Watch":
        self._connection.add_watch(self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._connection.remove_watch(self)

    def notice(self, connection: sqlite3.Connection) -> None:
        """Set the event, if a commit of another connection concerns it."""
        try:
            if self.concerns is None or self.concerns(connection):
                self.changed.set()
        except sqlite3.Error:
            self.changed.set()  # the thread that waits finds the error

    def wait(
        self, seconds: Optional[float] = None, cancellation: Optional[Cancellation] = None
    ) -> bool:
        """Wait for a commit.

        seconds: how long to wait at most; None (the default) waits without limit.
        cancellation: ends the wait; the current Cancellation by default.

        Returns True soon after a commit, and sometimes without one; False if the time has passed.
        Raises Cancelled if the wait is cancelled.
        """
        return self._connection.wait(self, seconds, cancellation)


def shortest(*seconds: Optional[float]) -> Optional[float]:
    """Return the smallest of these numbers; None without one."""
    return min((number for number in seconds if number is not None), default=None)


def is_locked(error: BaseException) -> bool:
    """Return whether SQLite reports that another connection holds a lock."""
    return "locked" in str(error)


def is_absent(error: BaseException) -> bool:
    """Return whether SQLite reports that a table of this library does not exist."""
    return str(error).startswith("no such table: asimov_sync_")


def _do_nothing(connection: sqlite3.Connection) -> None:
    """The function of a leader that writes nothing."""
