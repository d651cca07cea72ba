"""SQLiteCache beyond the contract: processes, forks, kills, full disks, and its errors."""

import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import asimov_sync
from asimov_sync import CacheReadOnly, CacheUnavailable, Cancellation, Cancelled, SQLiteCache
from asimov_sync.cache import sqlite_connection, sqlite_errors
from asimov_sync.testing import count_callbacks

from ..tiers import by_tier, soak, suite
from ..waiting import Background, in_child, wait_for

NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def cache(path):
    with SQLiteCache(path, synchronous="normal") as cache:
        yield cache


def rows(path, table):
    """The number of rows in a table of a database."""
    database = sqlite3.connect(str(path))
    try:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        database.close()


def fork(function, *args):
    """Call a function in a forked child, and return the child's id."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.alarm(30)
            function(*args)
            status = 0
        finally:
            os._exit(status)
    return pid


def join(pids):
    """Wait for children, and check that each succeeded."""
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0


# The path


def test_the_path(tmp_path, monkeypatch):
    """The path may be a str or a path object; a relative one stays where it was at construction."""
    monkeypatch.chdir(tmp_path)
    with SQLiteCache("a.db") as relative, SQLiteCache(pathlib.Path("a.db")) as other:
        monkeypatch.chdir("/")
        relative.set("key", 1)
        assert other.get("key") == 1
        assert relative.path == str(tmp_path / "a.db")
        assert repr(relative) == f"<SQLiteCache {relative.path!r} of '…'>"


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_no_file(path):
    """A database without a file is refused, with the name of the cache in memory."""
    with pytest.raises(ValueError, match="MemoryCache"):
        SQLiteCache(path)


def test_invalid_synchronous(path):
    """`synchronous` has two values."""
    with pytest.raises(ValueError, match="'full' or 'normal'"):
        SQLiteCache(path, synchronous="off")


def test_special_characters_in_the_path(tmp_path):
    """A path may contain any character that a file's name may contain."""
    path = tmp_path / "a?b#c%20d é 'e'.db"
    with SQLiteCache(path) as cache:
        cache.set("key", 1)
        assert path.exists()
        assert cache.get("key") == 1


def test_reading_creates_no_file(cache, path):
    """Reading commands answer as an empty cache and create no file."""
    assert cache.get("key", default=None) is None
    assert (cache.keys(), cache.get_all(), cache.get_many(["a"])) == (set(), {}, {})
    assert cache.get_message("box", timeout=0) is None
    assert cache.receive("box", timeout=0.05) is None
    assert (cache.peek("box"), cache.dead_letters("box"), cache.mailbox_length("box")) == (
        [],
        [],
        0,
    )
    assert os.listdir(str(path.parent)) == []


def test_close(path):
    """close() leaves one file. A later call opens it again."""
    cache = SQLiteCache(path)
    cache.set("key", 1)
    assert cache.with_prefix("a").get("key", default=None) is None
    cache.close()
    assert os.listdir(str(path.parent)) == ["cache.db"]
    assert cache.get("key") == 1
    cache.close()


# Other programs' files


def test_a_database_of_another_program(cache, path):
    """The cache's tables live beside those of another program, which stay as they are."""
    database = sqlite3.connect(str(path))
    database.execute("CREATE TABLE 'values' (a)")
    database.execute("INSERT INTO 'values' VALUES (1)")
    database.commit()
    assert cache.keys() == set()
    cache.set("key", 1)
    assert cache.clear(everything=True) == 1
    assert database.execute("SELECT a FROM 'values'").fetchall() == [(1,)]
    database.close()


def test_a_newer_format(cache, path):
    """A file that a newer release has written is refused, for reading too."""
    cache.set("key", 1)
    cache.close()
    database = sqlite3.connect(str(path))
    database.execute("UPDATE asimov_sync_formats SET format = 99 WHERE name = 'cache'")
    database.commit()
    database.close()
    for call in (lambda: cache.get("key"), lambda: cache.set("key", 2)):
        with pytest.raises(CacheUnavailable, match="install a newer release"):
            call()


def test_not_a_database(cache, path):
    """A file of another kind is refused, and left as it is."""
    path.write_text("no database " * 100)
    for call in (lambda: cache.get("key"), lambda: cache.set("key", 2)):
        with pytest.raises(CacheUnavailable, match="not a SQLite database"):
            call()
    assert path.read_text() == "no database " * 100


def test_a_damaged_file(cache, path):
    """A damaged file is an error that says what to do with it."""
    cache.set_many({str(number): "x" * 1000 for number in range(100)})
    cache.close()
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with pytest.raises(CacheUnavailable, match="restore a copy"):
        cache.get_all()


def test_a_folder_in_place_of_the_file(tmp_path):
    """A path that names a folder, or a file in an absent folder, is an error that says so."""
    with SQLiteCache(tmp_path) as cache, pytest.raises(CacheUnavailable, match="is a folder"):
        cache.set("key", 1)
    with SQLiteCache(tmp_path / "absent" / "a.db") as cache:
        assert cache.get("key", default=None) is None
        with pytest.raises(CacheUnavailable, match="create the folder .*absent"):
            cache.set("key", 1)


MOUNTS = """\
20 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
21 20 0:30 / {folder} rw shared:2 - {kind} server:/export rw,vers=4.2
22 20 0:31 / {folder}2 rw - nfs4 server:/export rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_network_file_systems(tmp_path, monkeypatch, kind):
    """A file on a network file system is refused, and the error names the alternatives."""
    folder = tmp_path / "a share"
    folder.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.format(folder=str(folder).replace(" ", "\\040"), kind=kind))
    monkeypatch.setattr(sqlite_errors, "MOUNTS", str(mounts))
    with SQLiteCache(folder / "a.db") as cache:
        with pytest.raises(CacheUnavailable, match=rf"{kind}.*local disk.*RedisCache"):
            cache.set("key", 1)
    with SQLiteCache(tmp_path / "a.db") as cache:
        cache.set("key", 1)


def test_statements_of_old_releases():
    """The statements use nothing that SQLite got after 3.22, such as an upsert."""
    newer = (
        "ON CONFLICT|RETURNING|OVER *\\(|FILTER *\\(|NULLS (FIRST|LAST)|\\) STRICT|MATERIALIZED|->>"
    )
    for path in pathlib.Path(sqlite_connection.__file__).parent.glob("sqlite*.py"):
        assert not re.search(newer, path.read_text("utf-8")), path


# Permissions and full disks


def as_nobody(function):
    """Call a function in a child without the privileges of root."""

    def call():
        if not os.getuid():
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        function()

    in_child(call)


@pytest.fixture
def open_folder():
    """A folder that every user may read, and only its owner may write to."""
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(str(folder))


@pytest.mark.parametrize("mode", [0o555, 0o644])
def test_read_only_folder(open_folder, mode):
    """Without permission to write, a write raises CacheReadOnly, which names the folder."""
    open_folder.chmod(mode)

    def write():
        with SQLiteCache(open_folder / "a.db") as cache:
            with pytest.raises(CacheReadOnly, match=f"permission.*{open_folder}"):
                cache.set("key", 1)
            if mode == 0o644 and os.getuid():  # the folder cannot even be searched
                with pytest.raises(CacheReadOnly, match=str(open_folder)):
                    cache.get("key")

    as_nobody(write)


def test_read_only_file(open_folder):
    """Without permission to use the file of another user, both reading and writing raise."""
    path = open_folder / "a.db"
    with SQLiteCache(path) as cache:
        cache.set("key", 1)
    path.chmod(0o400)

    def use():
        with SQLiteCache(path) as cache:
            with pytest.raises(CacheReadOnly, match="permission"):
                cache.set("key", 2)

    as_nobody(use)


FILL = """
import os, sys
from asimov_sync import CacheFull, CacheUnavailable, SQLiteCache

with open(sys.argv[1] + "-other", "wb") as other:
    other.write(bytes(5 * 2**19))
with SQLiteCache(sys.argv[1], synchronous="normal") as cache:
    cache.set("first", "x" * 1000)
    try:
        for number in range(10000):
            cache.set(f"key-{number}", "x" * 10000)
    except (CacheFull, CacheUnavailable) as error:
        print(type(error).__name__, error)
    else:
        raise AssertionError("no error")
    stored = cache.get_all()
    assert stored.pop("first") == "x" * 1000
    assert number > 10 and set(stored) == {f"key-{done}" for done in range(number)}
    os.remove(sys.argv[1] + "-other")
    assert cache.delete("key-0") is True
    cache.set("key-0", "there is space again")
"""
"""Fills a disk. All that was written before the error is there, and can be removed once there is
some space."""


def run_program(text, *args, command=(), **options):
    """Run a program that uses this package, and return what it prints."""
    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(asimov_sync.__file__).parents[1]))
    return subprocess.run(
        [*command, sys.executable, "-c", text, *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        **options,
    ).stdout.decode()


@suite
def test_full_disk(tmp_path):
    """On a full disk a write raises CacheFull. What was written before stays readable."""
    unshare = ["unshare", "--mount"] + (["--map-root-user"] if os.getuid() else [])
    if subprocess.call([*unshare, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("mounting a small disk for the test is not permitted here")
    script = f'mount -t tmpfs -o size=4m small {tmp_path} && exec "$@"'
    printed = run_program(
        FILL,
        tmp_path / "a.db",
        command=[*unshare, "sh", "-c", script, "sh"],
    )
    assert printed.startswith("CacheFull the disk is full") and f"{tmp_path}/a.db with" in printed


@suite
def test_limited_file_size(path):
    """At a limit on the size of files a write raises a CacheError. Nothing before it is lost."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, 3 * 2**20))

    printed = run_program(
        FILL,
        path,
        preexec_fn=limit,
    )
    assert "limits on the size of files" in printed and str(path) in printed


# Time


def test_the_clock_of_tests_drives_expiry_and_leases(cache):
    """testing.Clock moves the expiry of values and the ends of leases."""
    with asimov_sync.testing.Clock() as clock:
        cache.set("key", 1, ttl=60)
        cache.publish_to_mailbox("box", "message")
        cache.receive("box", timeout=0, lease=60)
        clock.advance(59)
        assert cache.get("key") == 1
        assert cache.receive("box", timeout=0) is None
        reading = Background(cache.receive, "box", timeout=30)
        wait_for(lambda: clock.waiting, "the reader's wait")
        clock.advance(2)
        assert reading.result().deliveries == 2
        assert cache.get("key", default=None) is None


def test_expired_rows_are_removed(cache, path):
    """Writes remove values that have expired, and ids that need not be remembered any longer."""
    with asimov_sync.testing.Clock() as clock:
        cache.set_many({str(number): number for number in range(100)}, ttl=60)
        for number in range(20):
            cache.publish_to_mailbox("box", number)
            cache.get_message("box", timeout=0)
        clock.advance(3700)
        assert cache.keys() == set()
        assert (rows(path, "asimov_sync_values"), rows(path, "asimov_sync_messages")) == (100, 20)
        for number in range(20):
            cache.set("key", number)
            cache.publish_to_mailbox("other", number)
            cache.get_message("other", timeout=0)
        assert rows(path, "asimov_sync_values") == 1
        assert rows(path, "asimov_sync_messages") <= 21


def test_the_wal_stays_small(cache, path):
    """Checkpoints limit the size of the WAL, however much is written."""
    for number in range(400):
        cache.set(f"key-{number % 10}", "x" * 100000)
    assert os.path.getsize(str(path) + "-wal") < 16 * 2**20
    assert len(cache.get_all()) == 10


# Processes


def count_up(cache, number, times):
    for _ in range(times):
        cache.increment("sum")
        cache.increment(f"process-{number}")


def test_increments_of_four_processes(cache):
    """Increments of several processes add up."""
    times = by_tier(50, soak=5000)
    cache.set("before the fork", 1)
    join([fork(count_up, cache, number, times) for number in range(4)])
    assert cache.get("sum") == 4 * times
    assert [cache.get(f"process-{number}") for number in range(4)] == [times] * 4


def test_forks_beside_a_busy_writer(cache):
    """Children that are forked while other threads write and read can use the cache at once."""
    stop = threading.Event()

    def write():
        while not stop.is_set():
            cache.increment("parent")

    def read():
        while not stop.is_set():
            cache.get_all()

    def write_in_child():
        cache.increment("children")
        assert cache.get("parent") > 0

    cache.increment("parent")
    busy = [Background(write), Background(write), Background(read)]
    try:
        for _ in range(by_tier(5, soak=200)):
            join([fork(write_in_child) for _ in range(2)])
    finally:
        stop.set()
    for call in busy:
        call.result()
    assert cache.get("children") == 2 * by_tier(5, soak=200)


def test_a_child_holds_its_own_locks(cache, path):
    """A write of a forked child survives that its parent closes the database."""
    cache.set("parent", 1)
    ready, go = os.pipe(), os.pipe()

    def write_twice():
        cache.set("first", 1)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        cache.set("second", 2)

    pid = fork(write_twice)
    os.read(ready[0], 1)
    cache.close()
    # The last connection to close removes the WAL. It is not the last one: the child has another.
    rows(path, "asimov_sync_values")
    os.write(go[1], b"x")
    join([pid])
    assert cache.get_all() == {"parent": 1, "first": 1, "second": 2}
    for end in ready + go:
        os.close(end)


def test_readers_in_other_processes_wake(cache):
    """A message wakes a reader that is blocked in another process."""
    results = os.pipe()

    def read():
        message = cache.get_message("box", timeout=20)
        os.write(results[1], b"%d" % message)

    pids = [fork(read) for _ in range(3)]
    for number in range(3):
        time.sleep(0.03)  # the readers may be waiting or not: both have to work
        cache.publish_to_mailbox("box", number)
    join(pids)
    assert sorted(os.read(results[0], 10)) == sorted(b"012")
    for end in results:
        os.close(end)


@suite
def test_many_idle_readers(cache):
    """Fifty readers that wait take little CPU time, before and after the first has left."""
    cache.set("key", 1)
    token = Cancellation()
    readers = [
        Background(cache.get_message, f"box-{number}", cancellation=token) for number in range(50)
    ]
    wait_for(lambda: count_callbacks(token) == 50, "the wait of the readers")
    for number in range(2):
        start = time.process_time()
        time.sleep(0.1)
        assert time.process_time() - start < 0.05
        # From another process, which only a reader that polls notices.
        in_child(lambda number=number: cache.publish_to_mailbox(f"box-{number}", number))
        assert readers[number].result() == number
    token.cancel()
    for reader in readers[2:]:
        with pytest.raises(Cancelled):
            reader.result()


def test_a_stopped_writer(cache, path, monkeypatch):
    """A process that is stopped inside a transaction blocks writes, which say so, but no reads."""
    monkeypatch.setattr(sqlite_connection, "BUSY_SECONDS", 0.2)
    cache.set("key", 1)
    ready = os.pipe()

    def hold():
        database = sqlite3.connect(str(path), isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        os.write(ready[1], b"x")
        signal.pause()

    pid = fork(hold)
    try:
        os.read(ready[0], 1)
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(CacheUnavailable, match=f"{path} is locked.*stopped"):
            cache.set("key", 2)
        assert time.monotonic() - start >= 0.2
        assert cache.get("key") == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for end in ready:
            os.close(end)
    cache.set("key", 3)
    assert cache.get("key") == 3


@suite
def test_nothing_is_lost_when_a_writer_is_killed(cache):
    """Each write that returned before its process was killed is there afterwards."""
    for attempt in range(by_tier(8, soak=300)):
        acknowledged = os.pipe()

        def write(attempt=attempt, acknowledged=acknowledged):
            for number in range(100000):
                cache.set_many({f"a-{attempt}": number, f"b-{attempt}": number})
                os.write(acknowledged[1], b"x")

        pid = fork(write)
        count = len(os.read(acknowledged[0], 1))
        time.sleep(0.002 * attempt % 0.05)
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        os.close(acknowledged[1])
        while True:
            read = len(os.read(acknowledged[0], 65536))
            count += read
            if not read:
                break
        os.close(acknowledged[0])
        stored = cache.get_many([f"a-{attempt}", f"b-{attempt}"])
        assert count - 1 <= stored[f"a-{attempt}"] == stored[f"b-{attempt}"] <= count


@soak
def test_clear_lets_others_write(cache, path):
    """A view of many keys is cleared in steps, between which other processes write."""
    view = cache.with_prefix("many")
    for start in range(0, 200_000, 10_000):
        view.set_many({f"key-{number}": number for number in range(start, start + 10_000)})
    delays, clearing = [], Background(view.clear)
    with SQLiteCache(path, synchronous="normal") as other:
        while clearing.thread.is_alive():
            begin = time.monotonic()
            other.set("other", len(delays))
            delays.append(time.monotonic() - begin)
    assert clearing.result() == 200_000
    assert len(delays) > 20 and max(delays) < 1.0
