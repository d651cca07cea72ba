"""The contract of the records of durable runs, on every backend."""

import concurrent.futures
import threading
import time

import fakeredis
import pytest
from redis.cluster import RedisCluster

from asimov_sync import Cancellation, Cancelled, MemoryCache, testing
from asimov_sync.cache.records import MAX_LOG_ENTRIES, LogEntry, NewRecord, RecordChange

from ..tiers import by_tier, suite
from .conftest import create_memory_cache, create_redis_cache, create_sqlite_cache

BACKENDS = [
    "memory",
    pytest.param("fakeredis", marks=suite),
    "redis",
    pytest.param("cluster", marks=suite),
    "sqlite",
]

NEW = NewRecord({"title": b"a"}, b"summary", {})
NOTHING = RecordChange({}, [], 10.0)
RELEASE = RecordChange({}, [], None)


REAL_BACKENDS = by_tier(["memory", "redis", "sqlite"], soak=BACKENDS)
"""The backends of tests of large records, for which fakeredis takes long."""


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of the backend that a test runs on."""
    return request.param


@pytest.fixture
def cache(request, backend, clock, unique):
    """A cache with a namespace of its own, whose leases the manual clock measures."""
    with open_cache(request, backend, clock) as cache:
        yield cache.with_prefix(unique)


def open_cache(request, backend, clock):
    """Create a cache on a backend."""
    if backend == "memory":
        return create_memory_cache(5, clock)
    if backend == "sqlite":
        path = request.getfixturevalue("tmp_path") / "cache.db"
        return create_sqlite_cache(path, "", 5, clock)
    if backend == "fakeredis":
        client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        return create_redis_cache("", 5, clock, client=client)
    if backend == "cluster":
        client = RedisCluster(host="127.0.0.1", port=request.getfixturevalue("cluster_port"))
        request.addfinalizer(client.close)
        return create_redis_cache("", 5, clock, client=client)
    return create_redis_cache("", 5, clock, url=request.getfixturevalue("redis_url"))


@pytest.fixture
def records(cache):
    """The records of a namespace of their own."""
    return cache.records()


def claim(records, id="run", owner="a", new=NEW, status="RUNNING", claimable=("RUNNING",), **more):
    """Claim a record for 10 seconds."""
    return records.claim(id, owner, 10.0, status, claimable, new, **more)


def end(status, ttl=None, due=None):
    """The change that gives a lease up and sets a status."""
    return RecordChange({}, [], None, status, due=due, ttl=ttl)


def ids(snapshots):
    return [snapshot.id for snapshot in snapshots]


# Leases


def test_claim_creates_a_record(records, clock):
    """The claim of an absent record creates it, with the content that the caller gives."""
    now = clock.now / 1000
    new = NewRecord({"a": b"\x00\xff", "b": b""}, b"\xfe", {"tenant": "é 7", "x=y": "\n"})
    won, created, snapshot = claim(records, new=new)
    assert won and created
    assert snapshot.id == "run" and snapshot.status == "RUNNING"
    assert snapshot.tags == new.tags and snapshot.summary == b"\xfe"
    assert snapshot.fields == {"a": b"\x00\xff", "b": b""}
    assert (snapshot.owner, snapshot.epoch, snapshot.news) == ("a", 1, 0)
    assert snapshot.created == snapshot.updated == snapshot.due == snapshot.now == now
    assert snapshot.lease_until == now + 10
    assert records.get("run") == snapshot
    assert records.get("run", with_fields=False) == snapshot._replace(fields={})
    assert records.now() == now


def test_claim_of_an_absent_record(records):
    """Without the content of a new record, the claim of an absent record creates none."""
    assert claim(records, new=None) is None
    assert records.get("run") is None
    assert records.list() == [] and records.count() == {}


def test_held_record_is_not_claimed(records, clock):
    """A lease keeps others away until it ends. The next one has a higher epoch."""
    claim(records)
    refused = claim(records, owner="b")
    assert not refused.won and not refused.created
    assert refused.snapshot.owner == "a" and refused.snapshot.fields == NEW.fields
    clock.pass_by(9.999)
    assert not claim(records, owner="b").won
    clock.pass_by(0.001)
    won, created, snapshot = claim(records, owner="b")
    assert won and not created
    assert (snapshot.owner, snapshot.epoch) == ("b", 2)
    assert snapshot.lease_until == records.now() + 10


def test_repeated_claim(records, clock):
    """A claim that is repeated, because its reply was lost, returns the same and no new epoch."""
    claim(records)
    clock.pass_by(1)
    won, created, snapshot = claim(records)
    assert won and created
    assert snapshot.epoch == 1 and snapshot.lease_until == records.now() + 10
    records.commit("run", "a", 1, NOTHING)
    assert claim(records)[:2] == (True, False)
    clock.pass_by(10)
    claim(records, owner="b")
    assert claim(records, owner="b")[:2] == (True, False)
    assert records.get("run").epoch == 2


def test_claim_needs_a_status(records):
    """Only a record with one of the statuses that are asked for is claimed."""
    claim(records)
    records.commit("run", "a", 1, end("COMPLETE"))
    refused = claim(records, owner="b", claimable=["RUNNING", "PARKED"])
    assert not refused.won and refused.snapshot.status == "COMPLETE"
    won = claim(records, owner="b", status="AGAIN", claimable=["COMPLETE"])
    assert won.won and won.snapshot.status == "AGAIN" and won.snapshot.epoch == 2


def test_lease_of_a_dead_owner_is_free(records):
    """A lease counts as ended if its owner is known to be dead."""
    claim(records)
    assert not claim(records, owner="b", dead_owner="c").won
    assert claim(records, owner="b", dead_owner="a").snapshot.epoch == 2


def test_released_lease_is_free(records):
    """A holder that gives its lease up writes no more, and others claim the record at once."""
    claim(records)
    committed = records.commit("run", "a", 1, RELEASE)
    assert committed.applied and committed.lease_until == 0
    snapshot = records.get("run")
    assert (snapshot.owner, snapshot.epoch, snapshot.lease_until) == ("a", 1, 0)
    assert ids(records.ready()) == ["run"]
    assert records.commit("run", "a", 1, NOTHING) is None
    assert claim(records).snapshot.epoch == 2


# Commits


def test_commit_writes_fields(records, clock):
    """A commit writes and removes fields, sets the summary, and extends the lease."""
    claim(records)
    clock.pass_by(2)
    change = RecordChange({"title": None, "gone": None, "b": b"2"}, [], 5.0, summary=b"new")
    now = records.now()
    assert records.commit("run", "a", 1, change) == (True, now + 5, now, 0)
    snapshot = records.get("run")
    assert snapshot.fields == {"b": b"2"} and snapshot.summary == b"new"
    assert snapshot.status == "RUNNING" and snapshot.due == now - 2
    assert snapshot.updated == now and snapshot.created == now - 2


@suite
@pytest.mark.parametrize("backend", REAL_BACKENDS, indirect=True)
def test_many_fields_in_one_commit(records):
    """A commit writes and removes thousands of fields."""
    claim(records)
    fields = {f"field {number}": b"%d" % number for number in range(9000)}
    records.commit("run", "a", 1, NOTHING._replace(fields=fields))
    assert records.get("run").fields == {**fields, **NEW.fields}
    removed = dict.fromkeys(list(fields)[1:])
    records.commit("run", "a", 1, NOTHING._replace(fields=removed))
    assert records.get("run").fields == {"field 0": b"0", **NEW.fields}


def test_commit_sets_the_status(records, clock):
    """A status comes with the moment from which the record is due; without one, both stay."""
    claim(records)
    due = records.now() + 100
    records.commit("run", "a", 1, RecordChange({}, [], 10.0, "PARKED", due=due))
    records.commit("run", "a", 1, NOTHING)
    assert records.get("run")[1] == "PARKED" and records.get("run").due == due
    records.commit("run", "a", 1, RecordChange({}, [], 10.0, "DONE"))
    assert records.get("run")[1] == "DONE" and records.get("run").due is None


def test_commit_needs_the_lease(records, clock):
    """Another owner or epoch writes nothing, nor does anybody in a record that is gone."""
    claim(records)
    change = NOTHING._replace(fields={"b": b"1"})
    assert records.commit("run", "b", 1, change) is None
    assert records.commit("run", "a", 2, change) is None
    assert records.commit("none", "a", 1, change) is None
    assert records.get("run").fields == NEW.fields
    clock.pass_by(10)
    claim(records, owner="b")
    assert records.commit("run", "a", 1, change) is None
    assert records.commit("run", "b", 2, change) is not None
    records.delete("run")
    assert records.commit("run", "b", 2, change) is None


def test_ended_lease_is_renewed(records, clock):
    """A commit renews a lease that has ended, if nobody took it."""
    claim(records)
    clock.pass_by(1000)
    assert records.commit("run", "a", 1, NOTHING).lease_until == records.now() + 10
    assert not claim(records, owner="b").won


def test_repeated_commit(records, clock):
    """A commit that is repeated, because its reply was lost, returns the same."""
    claim(records)
    change = RecordChange({"b": b"1"}, [LogEntry(1, b"x")], 10.0)
    first = records.commit("run", "a", 1, change)
    assert records.commit("run", "a", 1, change) == first
    assert records.read_log("run") == [(1, b"x")]
    last = change._replace(lease=None, status="DONE")
    first = records.commit("run", "a", 1, last)
    assert first.applied
    assert records.commit("run", "a", 1, last) == first
    assert records.commit("run", "a", 1, last._replace(fields={"b": b"2"})) is None
    claim(records, owner="b", claimable=["DONE"])
    assert records.commit("run", "a", 1, last) == first
    assert records.get("run").status == "RUNNING"
    records.commit("run", "b", 2, RELEASE)
    assert records.commit("run", "a", 1, last) is None


def test_commit_depends_on_the_news(records, clock):
    """A change that names the posts that were read is not written if there were more."""
    claim(records)
    records.post("run", {"answer": b"1"})
    clock.pass_by(1)
    change = RecordChange({"b": b"1"}, [LogEntry(1, b"x")], None, "PARKED", news=0)
    now = records.now()
    assert records.commit("run", "a", 1, change) == (False, now + 9, now, 1)
    assert "b" not in records.get("run").fields and records.get("run").status == "RUNNING"
    assert records.read_log("run") == []
    assert records.commit("run", "a", 1, change._replace(news=1)).applied


# Posts


def test_post(records, clock):
    """A post adds fields to a record that another owner holds, and counts."""
    claim(records)
    clock.pass_by(1)
    assert records.post("run", {"answer": b"yes", "by": b"me"}) is True
    snapshot = records.get("run")
    assert snapshot.fields == {"answer": b"yes", "by": b"me", **NEW.fields}
    assert snapshot.news == 1 and snapshot.updated == records.now()
    assert snapshot.due == records.now() - 1
    assert records.commit("run", "a", 1, NOTHING).news == 1
    assert records.post("absent", {"answer": b"yes"}) is None


def test_first_post_wins(records):
    """A post writes nothing if one of its fields is present."""
    claim(records)
    assert records.post("run", {"answer": b"yes"}) is True
    assert records.post("run", {"answer": b"no", "other": b"1"}) is False
    assert records.post("run", {"other": b"1", "title": b""}) is False
    assert records.post("run", {"answer": b"yes"}) is False
    assert records.get("run").fields == {"answer": b"yes", **NEW.fields}
    assert records.get("run").news == 1


def test_post_makes_a_record_due(records, clock):
    """The earlier one of two moments at which a record is due counts."""
    now = clock.now / 1000
    claim(records)
    records.commit("run", "a", 1, end("PARKED"))
    for due, expected in ((None, None), (now + 50, now + 50), (now + 60, now + 50), (now, now)):
        assert records.post("run", {str(due): b""}, due)
        assert records.get("run").due == expected
    assert not records.post("run", {str(now): b""}, now - 1)
    assert ids(records.ready()) == ["run"] and records.ready()[0].due == now


# The log


def test_log(records):
    """The log is read in order, from a number on, in pages. Each number is written once."""
    claim(records)
    entries = [LogEntry(number, b"\xff%d" % number) for number in (1, 2, 5, 6)]
    records.commit("run", "a", 1, NOTHING._replace(log=entries[:3]))
    again = [LogEntry(1, b"other"), LogEntry(5, b"other"), entries[3]]
    records.commit("run", "a", 1, NOTHING._replace(log=again))
    assert records.read_log("run") == entries
    assert records.read_log("run", after=2) == entries[2:]
    assert records.read_log("run", after=1, limit=2) == entries[1:3]
    assert records.read_log("run", after=6) == [] == records.read_log("absent")


@suite
@pytest.mark.parametrize("backend", REAL_BACKENDS, indirect=True)
def test_log_is_bounded(records):
    """The oldest entries of a long log are removed; their numbers stay used."""
    claim(records)
    for start in range(1, MAX_LOG_ENTRIES + 2001, 1000):
        entries = [LogEntry(number, b"") for number in range(start, start + 1000)]
        records.commit("run", "a", 1, NOTHING._replace(log=entries))
    records.commit("run", "a", 1, NOTHING._replace(log=[LogEntry(1, b"")]))
    found = records.read_log("run", limit=20000)
    assert len(found) == MAX_LOG_ENTRIES
    assert found[0].number == 2001 and found[-1].number == MAX_LOG_ENTRIES + 2000


# Removal


def test_delete(records):
    """Deleting removes a record, its log and its entry in the index. A new one starts anew."""
    claim(records)
    records.commit("run", "a", 1, NOTHING._replace(log=[LogEntry(7, b"x")]))
    records.post("run", {"answer": b""})
    assert records.delete("run") is True
    assert records.delete("run") is False
    assert records.get("run") is None and records.read_log("run") == []
    assert records.list() == [] and records.count() == {} and records.ready() == []
    won, created, snapshot = claim(records, owner="b")
    assert won and created and snapshot.epoch == 1 and snapshot.news == 0
    assert snapshot.fields == NEW.fields
    records.commit("run", "b", 1, NOTHING._replace(log=[LogEntry(1, b"y")]))
    assert records.read_log("run") == [(1, b"y")]


def test_expiry(records, clock):
    """A record with a time to live is removed when it is over; a later claim or status keeps it."""
    for id in ("ends", "stays", "claimed"):
        claim(records, id)
        records.commit(id, "a", 1, end("DONE", ttl=3.0)._replace(log=[LogEntry(1, b"")]))
    claim(records, "claimed", owner="b", claimable=["DONE"])
    records.post("ends", {"answer": b""})
    clock.pass_by(2.999)
    assert records.count() == {"DONE": 2, "RUNNING": 1}
    claim(records, "stays", owner="b", status="DONE", claimable=["DONE"])
    records.commit("stays", "b", 2, end("DONE"))
    clock.pass_by(0.001)
    assert records.get("ends") is None and records.read_log("ends") == []
    assert records.count() == {"DONE": 1, "RUNNING": 1}
    assert sorted(ids(records.list())) == ["claimed", "stays"]
    assert records.post("ends", {"late": b""}) is None and records.delete("ends") is False
    assert claim(records, "ends", owner="b").created
    assert records.count() == {"DONE": 1, "RUNNING": 2}


# Lists


def make_records(records, clock, number):
    """Create records 1 second apart: every second one is done, every third one has the tag x."""
    for index in range(number):
        tags = {"x": "1"} if index % 3 == 0 else {"x": "2", "y": "1"}
        claim(records, f"run-{index}", new=NEW._replace(tags=tags))
        if index % 2:
            records.commit(f"run-{index}", "a", 1, end("DONE"))
        clock.pass_by(1)


def test_list(records, clock):
    """Lists show the newest records first, filtered by status, tags and time of creation."""
    first = records.now()
    make_records(records, clock, 8)
    newest_first = [f"run-{index}" for index in range(7, -1, -1)]
    assert ids(records.list()) == newest_first
    assert all(snapshot.fields == {} for snapshot in records.list())
    assert records.list()[0] == records.get("run-7", with_fields=False)
    assert ids(records.list(["DONE"])) == ["run-7", "run-5", "run-3", "run-1"]
    assert ids(records.list(["DONE", "RUNNING", "OTHER"])) == newest_first
    assert records.list(["OTHER"]) == [] == records.list([])
    assert ids(records.list(tags={"x": "1"})) == ["run-6", "run-3", "run-0"]
    assert ids(records.list(["DONE"], {"x": "2", "y": "1"})) == ["run-7", "run-5", "run-1"]
    assert records.list(tags={"x": "1", "y": "1"}) == [] == records.list(tags={"z": "1"})
    assert ids(records.list(since=first + 5)) == ["run-7", "run-6", "run-5"]
    assert ids(records.list(until=first + 2)) == ["run-1", "run-0"]
    assert ids(records.list(["DONE"], {"x": "2"}, first + 1, first + 7)) == ["run-5", "run-1"]
    assert records.count() == {"DONE": 4, "RUNNING": 4}


def test_pages(records, clock):
    """Pages continue after the last record of the page before, also between equal moments."""
    make_records(records, clock, 4)
    for name in ("b", "a", "é", "B"):
        claim(records, name)
    expected = ["é", "b", "a", "B", "run-3", "run-2", "run-1", "run-0"]
    for limit in (1, 3, 8, 9):
        found, after = [], None
        while True:
            page = records.list(after=after, limit=limit)
            if not page:
                break
            assert len(page) <= limit
            found.extend(ids(page))
            after = (page[-1].created, page[-1].id)
        assert found == expected
    last = records.get("b")
    records.delete("b")
    assert ids(records.list(["RUNNING"], after=(last.created, "b"))) == ["a", "B"] + [
        "run-2",
        "run-0",
    ]


def test_ready(records, clock):
    """Records are ready when they are due and nobody holds them, the longest due first."""
    now = records.now()
    claim(records, "held")
    for id, due in (("late", now + 5), ("early", now + 3), ("never", None), ("now", now)):
        claim(records, id)
        records.commit(id, "a", 1, end("PARKED", due=due))
    assert ids(records.ready()) == ["now"]
    clock.pass_by(5)
    assert ids(records.ready()) == ["now", "early", "late"]
    assert ids(records.ready(limit=2)) == ["now", "early"]
    assert records.ready()[0] == records.get("now", with_fields=False)
    records.claim("now", "b", 1.0, "RUNNING", ["PARKED"])
    assert ids(records.ready()) == ["early", "late"]
    records.commit("held", "a", 1, NOTHING)
    clock.pass_by(9.999)
    assert ids(records.ready()) == ["early", "late", "now"]
    clock.pass_by(0.001)
    assert ids(records.ready()) == ["early", "late", "now", "held"]


def test_views_have_separate_records(cache):
    """The records of a view are its own, whatever its namespace encloses."""
    views = [cache, cache.with_prefix("a"), cache.with_suffix("a"), cache.with_prefix("b")]
    for number, view in enumerate(views):
        assert claim(view.records(), "a:run:a").created
        claim(view.records(), f"run-{number}")
    claim(views[1].records(), "run")
    for number, view in enumerate(views):
        expected = {"a:run:a", f"run-{number}"} | ({"run"} if number == 1 else set())
        assert set(ids(view.records().list())) == expected
    assert cache.with_prefix("a").records().get("run") is not None
    assert cache.records().get("a:run") is None


def test_cache_does_not_show_records(cache, records):
    """Records are no keys of the cache, and clear() leaves them."""
    for view in (cache, cache.with_prefix("a"), cache.with_suffix("a")):
        view.set("key", 1)
        claim(view.records())
        view.records().commit("run", "a", 1, NOTHING._replace(log=[LogEntry(1, b"")]))
        view.records().post("run", {"answer": b""})
    assert cache.keys() == {"key", "a:key", "key:a"} == set(cache.get_all())
    assert cache.clear() == 3
    for view in (cache, cache.with_prefix("a"), cache.with_suffix("a")):
        assert view.records().get("run").news == 1
        assert len(view.records().read_log("run")) == len(view.records().list()) == 1


# Waiting


@pytest.fixture
def in_thread():
    """Calls a function on a thread; returns its future."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool.submit


def wait(records, news=0, log_number=None, timeout=20.0, cancellation=None):
    start = time.monotonic()
    records.wait("run", news, log_number, timeout, cancellation or Cancellation(parent=None))
    return time.monotonic() - start


def test_wait_returns_at_once_if_there_is_more(records):
    """Nobody waits for a post or log entry that is there already, or for an absent record."""
    assert wait(records) < 5
    claim(records)
    records.post("run", {"answer": b""})
    records.commit("run", "a", 1, NOTHING._replace(log=[LogEntry(3, b"")]))
    assert wait(records, news=0) < 5
    assert wait(records, news=None, log_number=2) < 5
    assert wait(records, news=1, log_number=3, timeout=0.02) >= 0.019


@pytest.mark.parametrize(
    "cause", ["post", pytest.param("log", marks=suite), pytest.param("delete", marks=suite)]
)
def test_all_waiting_threads_are_woken(records, in_thread, cause):
    """A post, a log entry and the removal of the record end all waits for it."""
    claim(records)
    news, number = (0, None) if cause == "post" else (None, 0)
    waits = [in_thread(wait, records, news, number) for _ in range(3)]
    time.sleep(0.02)
    assert not any(one.done() for one in waits)
    if cause == "post":
        records.post("run", {"answer": b""})
    elif cause == "log":
        records.commit("run", "a", 1, NOTHING._replace(log=[LogEntry(1, b"")]))
    else:
        records.delete("run")
    for one in waits:
        assert one.result(10) < by_tier(5, soak=0.7)


@pytest.mark.parametrize("backend", REAL_BACKENDS, indirect=True)
def test_wait_is_cancelled(records, in_thread):
    """A cancelled token ends a wait with Cancelled."""
    claim(records)
    cancellation = Cancellation(parent=None)
    waiting = in_thread(wait, records, cancellation=cancellation)
    time.sleep(0.02)
    cancellation.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        waiting.result(10)
    with pytest.raises(Cancelled):
        wait(records, cancellation=cancellation)


# Races


def test_one_claim_wins(records, clock, in_thread):
    """Of threads that claim a record at the same time, one wins each epoch."""
    rounds, threads = by_tier(5, soak=50), 8
    barrier = threading.Barrier(threads, timeout=20)
    claim(records)

    def compete(owner):
        won = []
        for number in range(rounds):
            if barrier.wait() == 0:
                clock.pass_by(11)
            barrier.wait()
            claimed = claim(records, owner=f"{owner} in round {number}")
            if claimed.won:
                won.append(claimed.snapshot.epoch)
            barrier.wait()
        return won

    winners = [in_thread(compete, f"owner {number}") for number in range(threads)]
    epochs = sorted(epoch for winner in winners for epoch in winner.result())
    assert epochs == list(range(2, rounds + 2))


# The clock of the memory


def test_memory_follows_the_clock_of_tests():
    """testing.Clock moves the leases and the expiry of a MemoryCache's records."""
    records = MemoryCache().records()
    assert abs(records.now() - time.time()) < 5
    with testing.Clock() as clock:
        claim(records)
        clock.advance(10)
        assert claim(records, owner="b").won
        records.commit("run", "b", 2, end("DONE", ttl=60.0))
        clock.advance(60)
        assert records.get("run") is None
