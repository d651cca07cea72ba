"""Records when something goes wrong: lost replies, stopped processes, an old index, lost leases."""

import multiprocessing
import sqlite3
import threading
import time
import uuid
from urllib.parse import urlsplit

import pytest
from redis.cluster import RedisCluster

from asimov_sync import Cache, CacheUnavailable, Cancellation, RedisCache, SQLiteCache
from asimov_sync.cache import lua_records as lua
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.records import LogEntry, NewRecord, RecordChange
from asimov_sync.cache.redis_connection import RedisConnection
from asimov_sync.cache.redis_store import RedisStore

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, Background, wait_for
from .conftest import Clock, create_redis_cache, create_sqlite_cache
from .resp_proxy import RespProxy

pytestmark = suite

NEW = NewRecord({}, b"", {"tag": "1"})
NOTHING = RecordChange({}, [], 10.0)


def claim(records, owner="a", id="run", new=NEW, **more):
    """Claim a record for 10 seconds."""
    return records.claim(id, owner, 10.0, "RUNNING", ["RUNNING", "PARKED"], new, **more)


def ids(snapshots):
    return [snapshot.id for snapshot in snapshots]


# Lost replies


def scenario(records):
    """Return the results of every call that writes, and the record at the end."""
    change = RecordChange({"a": b"1"}, [LogEntry(1, b"x")], 10.0)
    return [
        claim(records),
        records.commit("run", "a", 1, change),
        records.commit("run", "a", 1, RecordChange({"b": b"2"}, [LogEntry(2, b"y")], 10.0)),
        records.post("run", {"answer": b"1"}, due=1.0),
        records.post("run", {"answer": b"1"}),
        records.commit("run", "a", 1, RecordChange({}, [], None, "PARKED", news=1)),
        claim(records, "b", new=None),
        records.get("run"),
        records.read_log("run"),
        records.ready(),
        records.list(tags={"tag": "1"}),
        records.count(),
        records.delete("run"),
        records.list(),
    ]


@pytest.mark.parametrize("mode", by_tier(["reply"], soak=["reply", "command"]))
def test_lost_replies(redis_url, mode):
    """A call whose reply is lost has one effect and returns what the reply said."""
    address = urlsplit(redis_url)
    proxy = RespProxy(address.hostname, address.port)
    url = f"redis://127.0.0.1:{proxy.port}{address.path}"

    def run(number):
        with create_redis_cache(uuid.uuid4().hex, 5, Clock(), url=url) as cache:
            proxy.arm(number, mode)
            return scenario(cache.records())

    expected = run(None)
    assert expected[3:5] == [True, False] and expected[-2:] == [True, []]
    count = len(proxy.commands)
    assert count >= len(expected)
    for number in by_tier([0, 1, 3, 5, 13], soak=range(count)):
        assert run(number) == expected, number
        assert proxy.faulted
    proxy.close()


# The index of a cluster


class UnreliableConnection(RedisConnection):
    """A connection that loses or delays writes to the index, as a stopped process does.

    refused: the scripts that are not run; the call fails.
    last: after this script, none is run.
    pauses: called one by one when the creation of a record has begun.
    delayed: the scripts that are run at `catch_up`; the call succeeds.
    lost: the number of calls that failed.
    """

    refused = delayed = ()
    last = None
    stopped = False
    lost = 0

    def __init__(self, client):
        super().__init__(client, False)
        self.pending = []
        self.pauses = []

    def run_script(self, text, *arguments, **named):
        if text in self.refused or self.stopped:
            self.lost += 1
            raise CacheUnavailable("the process stopped")
        if text in self.delayed:
            self.pending.append((text, arguments, named))
            return None
        self.stopped = text == self.last
        reply = super().run_script(text, *arguments, **named)
        if text == lua.BEGIN_CREATION and self.pauses:
            self.pauses.pop()()
        return reply

    def catch_up(self):
        for text, arguments, named in self.pending:
            super().run_script(text, *arguments, **named)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cluster(cluster_port):
    client = RedisCluster(host="127.0.0.1", port=cluster_port)
    yield client
    client.close()


@pytest.fixture
def connection(cluster):
    return UnreliableConnection(cluster)


@pytest.fixture
def unreliable(connection, clock, unique):
    """Records over the unreliable connection."""
    return Cache(RedisStore(connection, 5, clock), Namespace().with_prefix(unique)).records()


@pytest.fixture
def records(cluster, clock, unique):
    """The same records, over a connection that works."""
    return create_redis_cache(unique, 5, clock, client=cluster).records()


def lose(connection, script, call):
    """Make a call whose process stops before this script."""
    connection.refused = [script]
    with pytest.raises(CacheUnavailable, match="stopped"):
        call()
    connection.refused = ()
    assert connection.lost


def test_creation_that_began(connection, unreliable, records, clock):
    """A process that stops while it creates a record leaves an entry that lists do not show."""
    connection.last = lua.BEGIN_CREATION
    with pytest.raises(CacheUnavailable, match="stopped"):
        claim(unreliable)
    assert records.count() == {"RUNNING": 1}
    clock.pass_by(20)
    assert records.list() == [] == records.ready() and records.get("run") is None
    assert claim(records).created
    assert ids(records.list()) == ["run"] and records.count() == {"RUNNING": 1}
    clock.pass_by(100)
    assert ids(records.ready()) == ["run"]


def test_creation_that_took_long(connection, records, unreliable, clock):
    """A process that stops for long while it creates a record begins again."""
    connection.pauses = [lambda: clock.pass_by(100)]
    assert claim(unreliable).created
    assert records.get("run").created == records.now()
    assert records.list() == [records.get("run")] and connection.pauses == []


def test_entry_without_a_record(connection, unreliable, records, clock):
    """The entry of a record that is gone is removed when its creation cannot be under way."""
    claim(records)
    lose(connection, lua.REMOVE_FROM_INDEX, lambda: unreliable.delete("run"))
    assert records.get("run") is None and records.list() == []
    assert records.count() == {"RUNNING": 1}
    clock.pass_by(61)
    assert records.list(tags={"tag": "1"}) == []
    assert records.count() == {}


def test_created_record_without_the_second_step(connection, unreliable, records, clock):
    """A process that stops after it has created a record leaves one that lists show."""
    lose(connection, lua.WRITE_INDEX, lambda: claim(unreliable))
    assert ids(records.list(["RUNNING"], {"tag": "1"})) == ["run"]
    clock.pass_by(10)
    assert ids(records.ready()) == ["run"]


def test_status_that_the_index_does_not_show(connection, unreliable, records, clock):
    """Lists show the status of the record, and correct the index."""
    claim(records)
    done = RecordChange({}, [], None, "DONE")
    lose(connection, lua.WRITE_INDEX, lambda: unreliable.commit("run", "a", 1, done))
    assert records.count() == {"RUNNING": 1}
    assert records.list(["RUNNING"]) == []
    assert ids(records.list(["DONE"])) == ["run"]
    assert records.count() == {"DONE": 1}
    clock.pass_by(100)
    assert records.ready() == []


def test_repeated_calls_write_the_index(connection, unreliable, records):
    """A call that is made again, because it failed half-way, writes the index."""
    claim(records)
    done = RecordChange({}, [], None, "PARKED")
    for _ in range(2):
        lose(connection, lua.WRITE_INDEX, lambda: unreliable.commit("run", "a", 1, done))
    assert unreliable.commit("run", "a", 1, done).applied
    assert records.count() == {"PARKED": 1} and records.ready() == []
    lose(connection, lua.WRITE_INDEX, lambda: unreliable.post("run", {"x": b""}, due=1.0))
    assert records.ready() == []
    assert unreliable.post("run", {"x": b""}, due=1.0) is False
    assert ids(records.ready()) == ["run"]


def test_late_write_to_the_index(connection, unreliable, records, clock):
    """The index does not show an older state over a newer one."""
    claim(records)
    connection.delayed = [lua.WRITE_INDEX]
    unreliable.commit("run", "a", 1, RecordChange({}, [], None, "PARKED"))
    assert connection.pending
    records.post("run", {"x": b""}, due=1.0)
    connection.delayed = ()
    connection.catch_up()
    assert ids(records.ready()) == ["run"] and records.count() == {"PARKED": 1}
    records.delete("run")
    clock.pass_by(0.001)
    claim(records, "b")
    connection.catch_up()
    assert records.count() == {"RUNNING": 1} and records.ready() == []


# Lost leases


def write_until_refused(open_cache, progress):
    """Commit a growing number until 20 commits were refused.

    progress: shared numbers: commits that were applied, and commits that were refused.
    """
    with open_cache() as cache:
        records = cache.records()
        while progress[1] < 20:
            change = NOTHING._replace(fields={"number": b"%d" % (progress[0] + 1)})
            if records.commit("run", "old", 1, change) is None:
                progress[1] += 1
            else:
                progress[0] += 1


@pytest.fixture(params=["redis", "sqlite"])
def open_shared_cache(request, unique, tmp_path):
    """Opens a cache that processes share."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda: RedisCache(url=url, default_prefix=unique)
    path = tmp_path / "cache.db"
    return lambda: SQLiteCache(path, default_prefix=unique, synchronous="normal")


def test_old_holder_writes_nothing(open_shared_cache):
    """After another process took the lease, no commit of the old holder is applied."""
    fork = multiprocessing.get_context("fork")
    progress = fork.Array("q", 2)
    with open_shared_cache() as cache:
        records = cache.records()
        claim(records, "old")
        process = fork.Process(target=write_until_refused, args=(open_shared_cache, progress))
        process.start()
        wait_for(lambda: progress[0] >= 5)
        taken = claim(records, "new", dead_owner="old")
        assert taken.won and taken.snapshot.epoch == 2
        last = taken.snapshot.fields["number"]
        change = NOTHING._replace(fields={"other": b"1"})
        while process.is_alive():
            assert records.commit("run", "new", 2, change) is not None
        process.join(DEADLINE)
        assert process.exitcode == 0 and progress[1] == 20
        assert last == b"%d" % progress[0]
        assert records.get("run").fields == {"number": last, "other": b"1"}


def test_wait_notices_other_processes(open_shared_cache):
    """A post and a log entry of another process end a wait soon."""
    with open_shared_cache() as cache, open_shared_cache() as other:
        records = cache.records()
        claim(records)
        for news, number, write in (
            (0, None, lambda: other.records().post("run", {"x": b""})),
            (None, 0, lambda: claim_and_log(other.records())),
        ):
            waiting = [
                Background(records.wait, "run", news, number, 20.0, Cancellation(parent=None))
                for _ in range(2)
            ]
            time.sleep(0.05)
            assert all(one.thread.is_alive() for one in waiting)
            start = time.monotonic()
            write()
            for one in waiting:
                one.result()
            assert time.monotonic() - start < by_tier(5, soak=0.5)


def claim_and_log(records):
    return records.commit("run", "a", 1, NOTHING._replace(log=[LogEntry(1, b"")]))


def test_time_of_the_store(open_shared_cache):
    """Without another clock, leases end and records are removed by the store's own clock."""
    with open_shared_cache() as cache:
        records = cache.records()
        assert abs(records.now() - time.time()) < 5
        records.claim("run", "a", 0.05, "RUNNING", [], NEW)
        wait_for(lambda: ids(records.ready()) == ["run"])
        assert records.get("run").lease_until <= records.now()
        claim(records, "b")
        change = RecordChange({"x": b""}, [LogEntry(1, b"")], None, "PARKED", ttl=0.05)
        records.commit("run", "b", 2, change)
        wait_for(lambda: records.get("run") is None)
        assert records.list() == [] and records.count() == {} and records.read_log("run") == []


def test_claimed_record_does_not_expire(open_shared_cache):
    """The server does not remove a record that was claimed before its time was over."""
    with open_shared_cache() as cache:
        records = cache.records()
        change = RecordChange({"x": b""}, [], None, "PARKED", ttl=0.05)
        for id in ("claimed", "ends"):
            claim(records, id=id)
            records.commit(id, "a", 1, change)
            if id == "claimed":
                claim(records, "b", id=id)
        wait_for(lambda: records.get("ends") is None)
        assert ids(records.list()) == ["claimed"] and ids(records.ready()) == []
        assert records.get("claimed") is not None


# SQLite


def test_expired_records_leave_the_file(tmp_path, clock):
    """Later writes remove expired records from the file, with all that belongs to them."""
    path = tmp_path / "cache.db"
    with create_sqlite_cache(path, "", 5, clock) as cache:
        records = cache.records()
        change = RecordChange({"x": b"1"}, [LogEntry(1, b"")], None, "DONE", ttl=10.0)
        for number in range(10):
            claim(records, id=f"run-{number}")
            records.commit(f"run-{number}", "a", 1, change)
        clock.pass_by(10)
        assert records.list() == []
        for number in range(5):
            claim(records, id=f"new-{number}")
        assert len(records.list()) == 5
    database = sqlite3.connect(str(path))
    for table, number in (("s", 5), ("_fields", 0), ("_log", 0), ("_tags", 5)):
        query = f"SELECT count(*) FROM asimov_sync_record{table}"
        assert database.execute(query).fetchone() == (number,), table
    database.close()


def test_records_beside_group_commits(tmp_path):
    """Threads that commit to records of one file at the same time lose nothing."""
    with SQLiteCache(tmp_path / "cache.db", synchronous="normal") as cache:
        records = cache.records()
        start = threading.Barrier(8, timeout=DEADLINE)

        def drive(number):
            id = f"run-{number}"
            claim(records, id=id)
            start.wait()
            for step in range(1, 21):
                change = NOTHING._replace(
                    fields={f"step {step}": b""}, log=[LogEntry(step, b"%d" % step)]
                )
                assert records.commit(id, "a", 1, change).applied
                cache.set(id, step)

        for drives in [Background(drive, number) for number in range(8)]:
            drives.result()
        for number in range(8):
            assert len(records.get(f"run-{number}").fields) == 20
            assert len(records.read_log(f"run-{number}")) == 20
