"""SQLiteConnection: atomic steps that share commits, snapshots, and waiting for commits."""

import ctypes
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest

import asimov_sync
from asimov_sync import CacheUnavailable, Cancellation, Cancelled, OutcomeUnknown
from asimov_sync.cache import sqlite_connection
from asimov_sync.cache.sqlite_connection import SQLiteConnection, Tables
from asimov_sync.testing import count_callbacks

from ..tiers import by_tier, suite
from ..waiting import Background, in_child, wait_for

NUMBERS = Tables(
    "numbers",
    1,
    ["CREATE TABLE IF NOT EXISTS asimov_sync_numbers (name TEXT PRIMARY KEY, number INTEGER)"],
)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "test.db")


@pytest.fixture
def connection(path):
    connection = SQLiteConnection(path, "normal", [NUMBERS])
    yield connection
    connection.close()


def add(name, number=1):
    """A write that adds to a number and returns the thread that executed it."""

    def write(database):
        database.execute("INSERT OR IGNORE INTO asimov_sync_numbers VALUES (?, 0)", (name,))
        database.execute(
            "UPDATE asimov_sync_numbers SET number = number + ? WHERE name = ?", (number, name)
        )
        return threading.get_ident()

    return write


def fail(database):
    add("failed")(database)
    raise KeyError("of the function")


def numbers(database):
    return dict(database.execute("SELECT name, number FROM asimov_sync_numbers"))


def write_under(token, connection, function):
    with token:
        return connection.write(function)


class Locked:
    """Holds the write lock of a database, as another program would."""

    def __init__(self, path):
        self.other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def __enter__(self):
        self.other.execute("BEGIN IMMEDIATE")

    def __exit__(self, *exc_info):
        self.other.execute("ROLLBACK")
        self.other.close()


def test_reading_creates_no_file(connection, path):
    """A read of a file that does not exist returns the value for that; a write creates the file."""
    assert connection.read(numbers, {"absent": 1}) == {"absent": 1}
    assert not os.path.exists(path)
    connection.write(add("a"))
    assert connection.read(numbers, {}) == {"a": 1}


def test_modes_of_the_files(connection, path):
    """The database and the files beside it are for their owner only."""
    connection.write(add("a"))
    for name in (path, path + "-wal", path + "-shm"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o600


def test_concurrent_writes_share_a_transaction(connection, path):
    """One thread executes the writes that were pending when it got the database's lock.

    One that fails is undone alone.
    """
    connection.write(add("a", 0))
    with Locked(path):
        token = Cancellation()
        writes = [Background(write_under, token, connection, add("a")) for _ in range(8)]
        failing = Background(write_under, token, connection, fail)
        wait_for(lambda: count_callbacks(token) == 9, "the wait of nine writes")
    assert len({write.result() for write in writes}) == 1
    with pytest.raises(KeyError, match="of the function"):
        failing.result()
    assert connection.read(numbers, {}) == {"a": 8}


def test_a_write_inside_a_write(connection):
    """A write that starts another one raises, instead of waiting for itself."""
    with pytest.raises(RuntimeError, match="inside another write"):
        connection.write(lambda database: connection.write(add("a")))
    connection.write(add("b"))
    assert connection.read(numbers, {}) == {"b": 1}


def test_cancelling_a_write_that_waits_for_the_lock(connection, path):
    """A cancellation ends the wait for a lock of another process; the write is not executed."""
    connection.write(add("a", 0))
    with Locked(path):
        token = Cancellation()
        writing = Background(write_under, token, connection, add("a"))
        wait_for(lambda: count_callbacks(token))
        token.cancel("enough")
        with pytest.raises(Cancelled, match="enough") as caught:
            writing.result()
    assert isinstance(caught.value.__cause__, CacheUnavailable)
    connection.write(add("b"))
    assert connection.read(numbers, {}) == {"a": 0, "b": 1}


def test_snapshot(connection):
    """A read sees the database as it was at its first statement."""
    connection.write(add("a"))

    def read(database):
        before = numbers(database)
        Background(connection.write, add("a")).result()
        return before, numbers(database)

    assert connection.read(read, None) == ({"a": 1}, {"a": 1})
    assert connection.read(numbers, {}) == {"a": 2}


@pytest.mark.parametrize("writer", ["this object", "another process"])
def test_waiting_for_a_change(connection, path, writer):
    """A wait ends soon after a commit of this or of another process."""
    connection.write(add("a"))
    with connection.watch() as watch:
        assert not watch.wait(0)
    waiting = Background(connection.wait_for_change, 15)
    if writer == "this object":
        wait_for(lambda: waiting.thread.is_alive())
        threading.Event().wait(0.05)
        connection.write(add("a"))
    else:
        in_child(lambda: connection.write(add("a")))
    start = time.monotonic()
    assert waiting.result() is True
    assert time.monotonic() - start < 5


FORK_DURING_A_TRANSACTION = """
import os, sys, threading
import asimov_sync
from asimov_sync import CacheUnavailable
from asimov_sync.cache import sqlite_connection

sqlite_connection.SUSPEND_SECONDS = 0.05
connection = sqlite_connection.SQLiteConnection(sys.argv[1], "normal")
held, release = threading.Event(), threading.Event()

def hold(database):
    database.execute("CREATE TABLE IF NOT EXISTS asimov_sync_numbers (name, number)")
    database.executemany(
        "INSERT INTO asimov_sync_numbers VALUES (?, ?)", [("x" * 1000, n) for n in range(10000)]
    )  # more than SQLite keeps in memory: a part is in the WAL
    held.set()
    release.wait(20)

def count(database):
    return database.execute("SELECT count(*) FROM asimov_sync_numbers").fetchone()[0]

writing = threading.Thread(target=connection.write, args=(hold,))
writing.start()
held.wait(20)
child = os.fork()
if not child:
    for call in (lambda: connection.read(count, 0), lambda: connection.write(count)):
        try:
            call()
        except CacheUnavailable as error:
            assert "when this process was forked" in str(error)
        else:
            os._exit(1)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
release.set()
writing.join()
assert connection.read(count, 0) == 10000
if not os.fork():  # now that no call is in progress
    assert connection.read(count, 0) == 10000
    connection.write(lambda database: database.execute("DELETE FROM asimov_sync_numbers"))
    sys.exit(0)
assert os.wait()[1] == 0
assert connection.read(count, 0) == 0
"""


def test_a_fork_during_a_transaction(path):
    """A fork does not wait long for a transaction. Its child then refuses to use the file.

    The end of the child does not affect the transaction.
    """
    subprocess.check_call(
        [sys.executable, "-c", FORK_DURING_A_TRANSACTION, path],
        env=dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(asimov_sync.__file__))),
        timeout=60,
    )


class Interrupt(BaseException):
    """Stands for what a signal handler or a debugger raises."""


def interrupt(database):
    add("interrupted")(database)
    raise Interrupt()


def test_interrupted_leader(connection, path):
    """An exception from outside undoes the transaction; the writes of other threads are repeated.

    They share the transaction of the interrupted write.
    """
    connection.write(add("a", 0))
    token = Cancellation()
    with Locked(path):
        leading = Background(write_under, token, connection, interrupt)
        wait_for(lambda: count_callbacks(token) == 1, "the wait of the leader")
        writes = [Background(write_under, token, connection, add("a")) for _ in range(4)]
        wait_for(lambda: count_callbacks(token) == 5, "the wait of five writes")
    with pytest.raises(Interrupt):
        leading.result()
    for write in writes:
        write.result()
    assert connection.read(numbers, {}) == {"a": 4}


def test_main_thread(connection, path):
    """The main thread, where signal handlers may raise, executes no write of another thread."""
    connection.write(add("a", 0))
    token = Cancellation()
    others = []

    def submit_others_and_unlock():
        wait_for(lambda: count_callbacks(token) == 1, "the wait of the main thread")
        others.extend(Background(write_under, token, connection, add("a")) for _ in range(4))
        wait_for(lambda: count_callbacks(token) == 5, "the wait of five writes")
        locked.__exit__()

    locked = Locked(path)
    locked.__enter__()
    unlocking = Background(submit_others_and_unlock)
    assert write_under(token, connection, add("a")) == threading.get_ident()
    unlocking.result()
    assert threading.get_ident() not in [write.result() for write in others]
    assert connection.read(numbers, {}) == {"a": 5}


@suite
def test_exceptions_at_any_line(connection):
    """An exception that strikes a thread at any line of a write blocks no other thread.

    Each write that returned was executed, and none was executed twice.
    """
    stop = threading.Event()
    returned, uncertain = [0] * 4, [0] * 4

    def write(number):
        while not stop.is_set():
            try:
                connection.write(add("a"))
                returned[number] += 1
            except OutcomeUnknown:
                uncertain[number] += 1

    def write_until_the_end(number):
        while not stop.is_set():
            try:
                write(number)
            except Interrupt:
                uncertain[number] += 1

    connection.write(add("a", 0))
    writing = [Background(write_until_the_end, number) for number in range(4)]
    chance = random.Random(7)
    struck = 0
    end = time.monotonic() + by_tier(0.3, soak=20)
    while time.monotonic() < end:
        thread = ctypes.c_ulong(chance.choice(writing).thread.ident)
        struck += ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Interrupt))
        time.sleep(0.001 * chance.random())
    stop.set()
    for call in writing:
        try:
            call.result()
        except Interrupt:
            pass  # it struck after the last write
    assert struck > 50 and sum(uncertain) > 10 and sum(returned) > 10
    number = connection.read(numbers, {})["a"]
    assert sum(returned) <= number <= sum(returned) + sum(uncertain) + len(writing)
    connection.write(add("b"))


def test_a_write_that_waits_too_long_for_others(connection, monkeypatch):
    """A write that another thread's write delays for too long is given up, and not executed."""
    connection.write(add("a"))
    held, release = threading.Event(), threading.Event()

    def hold(database):
        held.set()
        assert release.wait(20)

    holding = Background(connection.write, hold)
    assert held.wait(20)
    monkeypatch.setattr(sqlite_connection, "BUSY_SECONDS", 0.05)
    with pytest.raises(CacheUnavailable, match="other threads"):
        connection.write(add("a"))
    release.set()
    holding.result()
    assert connection.read(numbers, {}) == {"a": 1}


def test_the_file_is_replaced(connection, path):
    """After the file was removed, the next write creates a new one."""
    connection.write(add("a"))
    for name in (path, path + "-wal", path + "-shm"):
        os.remove(name)
    assert connection.read(numbers, {}) == {}
    connection.write(add("b"))
    assert connection.read(numbers, {}) == {"b": 1}
