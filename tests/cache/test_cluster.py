"""A cluster of three masters and three replicas whose slots change owner under load."""

import threading
import time

import pytest
from redis.cluster import RedisCluster, key_slot

from asimov_sync import MISSING, CacheUnavailable, OutcomeUnknown, RedisCache
from asimov_sync.cache.records import NewRecord, RecordChange

from ..redis_server import RedisClusterOfSix, require_server
from ..tiers import by_tier, suite
from ..waiting import Background, wait_for

pytestmark = suite

RECOVERY_SECONDS = 5.0
"""Seconds after the cluster's recovery in which a call may still fail."""

CALLS = by_tier(20, 200)
"""Calls of each kind that must succeed in a row."""

ROUNDS = by_tier(1, 5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, redis_url):
    """The cluster of this module."""
    with RedisClusterOfSix(require_server(), str(tmp_path_factory.mktemp("six"))) as cluster:
        yield cluster


class Load:
    """Threads that use one cache without pause.

    They publish, receive and acknowledge, set and get, increment, compare and set. Errors that an
    outage explains are counted; any other error ends the test. `with` starts and stops the threads.

    cache: the cache under test.
    reader: the same keys by another client, for reads. redis-py's own reads notice that a slot has
        moved, so the writing client must not read.
    refused: how many values, of one writer each, differed from the last one written.
    """

    def __init__(self, cache, reader):
        self.cache = cache
        self.reader = reader
        self.calls = dict.fromkeys(["publish", "consume", "value", "increment", "compare"], 0)
        self.failures = []
        self.published = []
        self.received = set()
        self.incremented = self.unknown = self.refused = 0
        self._stop = threading.Event()
        self._number = 0

    def _run(self, kind):
        while not self._stop.is_set():
            try:
                getattr(self, "_" + kind)()
                self.calls[kind] += 1
            except (CacheUnavailable, OutcomeUnknown) as error:
                self.failures.append((kind, error))

    def _publish(self):
        name = f"message-{len(self.published)}"
        while not self._stop.is_set():  # the id makes publishing repeatable
            try:
                self.cache.publish_to_mailbox("box", name, message_id=name)
                self.published.append(name)
                return
            except CacheUnavailable as error:
                self.failures.append(("publish", error))

    def _consume(self):
        delivery = self.cache.receive("box", timeout=1, lease=1)
        if delivery is not None:
            self.received.add(delivery.message)
            delivery.ack()

    def _value(self):
        self._number += 1
        self.cache.set("value", self._number)
        if self.reader.get("value") != self._number:
            self.refused += 1

    def _increment(self):
        try:
            self.cache.increment("counter")
            self.incremented += 1
        except OutcomeUnknown:
            self.unknown += 1
            raise

    def _compare(self):
        now = self.reader.get("compared", default=None)
        if not self.cache.compare_and_set(
            "compared", MISSING if now is None else now, (now or 0) + 1
        ):
            self.refused += 1

    def proceed(self, seconds, calls=CALLS):
        """Return when every kind of call has succeeded `calls` times more."""
        before = dict(self.calls)
        end = time.monotonic() + seconds
        while any(self.calls[kind] < count + calls for kind, count in before.items()):
            for thread in self._threads:
                assert thread.thread.is_alive(), thread.result()
            assert time.monotonic() < end, (
                f"{seconds} s: {before}, {self.calls}, {self.failures[-3:]}"
            )
            time.sleep(0.005)

    def recover(self):
        """Check that every kind of call succeeds soon after recovery, and none fails afterwards."""
        self.proceed(RECOVERY_SECONDS, calls=1)
        failures = len(self.failures)
        self.proceed(60)
        assert self.failures[failures:] == []

    def __enter__(self):
        self._threads = [Background(self._run, kind) for kind in self.calls]
        self.proceed(20)
        assert self.failures == []
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        for thread in self._threads:
            thread.result(30)

    def drain(self):
        """Receive the remaining messages of the mailbox."""
        while self.cache.mailbox_length("box"):
            delivery = self.cache.receive("box", timeout=2, lease=30)
            if delivery is not None:
                self.received.add(delivery.message)
                delivery.ack()


def connect(cluster):
    """Return a client that knows the current state of the cluster."""
    wait_for(cluster.healthy, "a healthy cluster")
    return RedisCluster(
        host="127.0.0.1", port=next(server.port for server in cluster.servers if server.running)
    )


@pytest.fixture
def cache(cluster, unique):
    """A cache whose keys and mailboxes share a slot."""
    client = connect(cluster)
    yield RedisCache(client=client, default_prefix="{" + unique + "}", max_deliveries=1000)
    client.close()


@pytest.fixture
def reader(cluster, unique):
    """A cache with the same keys, and a client of its own."""
    client = connect(cluster)
    yield RedisCache(client=client, default_prefix="{" + unique + "}")
    client.close()


@pytest.fixture
def slot(unique):
    """The slot of that cache."""
    return key_slot(unique.encode())


@pytest.fixture
def blocked(cache, cluster, slot):
    """Readers that wait without limit from before the fault on.

    The returned function publishes a message for each, and checks that it arrives.
    """
    readers = [
        Background(getattr(cache, method), "quiet-" + method)
        for method in ("receive", "get_message")
    ]
    owner = cluster.owner(slot)
    wait_for(
        lambda: b"blocked_clients:2\r\n" in cluster.call(owner, "INFO", "clients"),
        "the readers to block",
    )

    def finish():
        for reader, method in zip(readers, ("receive", "get_message")):
            assert reader.thread.is_alive(), reader.result()
            cache.publish_to_mailbox("quiet-" + method, "after")
            result = reader.result()
            assert (result.message if method == "receive" else result) == "after"

    return finish


def test_killed_master(cluster, cache, reader, slot, unique, blocked):
    """The same client works again after a replica has replaced a killed master.

    Everything that had reached the replica is kept.
    """
    unsafe = set()
    with Load(cache, reader) as load:
        for _ in range(ROUNDS):
            wait_for(cluster.healthy, "a healthy cluster")
            old = cluster.owner(slot)
            heir = cluster.replica_of(old)
            count = len(load.published)
            cluster.wait_replicated(old, "{" + unique + "}marker")
            assert cluster.servers[old].kill() == -9
            wait_for(
                lambda: cluster.is_master(heir) and cluster.healthy(), "the replica to take over"
            )
            assert cluster.owner(slot) == heir != old
            later = len(load.published)
            load.recover()
            unsafe.update(
                load.published[count : later + 1]
            )  # what the replica may not have received
            cluster.servers[old].start()
            wait_for(lambda: not cluster.is_master(old), "the old master to follow the new one")
    assert load.failures, "no call noticed that the master was killed"
    load.drain()
    assert set(load.published) - unsafe <= load.received
    blocked()


def test_failover(cluster, cache, reader, slot, blocked):
    """A replica replaces its living master under load without losing anything.

    Each kind of call succeeds by the same client, and blocked readers continue.
    """
    moved = cluster.count_errors("MOVED")
    with Load(cache, reader) as load:
        for _ in range(ROUNDS):
            wait_for(cluster.healthy, "a healthy cluster")
            old = cluster.owner(slot)
            heir = cluster.replica_of(old)
            cluster.fail_over(heir)
            assert cluster.owner(slot) == heir and not cluster.is_master(old)
            # Redis 6.2.7 holds clients for 10 s that it served during the failover. Wait for that.
            wait_for(
                lambda: b"blocked_clients:0\r\n" in cluster.call(old, "INFO", "clients"),
                "the old master's answers",
            )
            load.recover()
    assert cluster.count_errors("MOVED") > moved, "no node replied MOVED"
    load.drain()
    assert set(load.published) <= load.received
    assert load.refused == 0
    assert load.incremented <= cache.get("counter") <= load.incremented + load.unknown
    blocked()


def test_slot_migration(cluster, cache, reader, slot, blocked):
    """A slot moves to another master and back under load; no call fails, nothing is lost."""
    moved, asked, split = (cluster.count_errors(word) for word in ("MOVED", "ASK", "TRYAGAIN"))
    start = cluster.owner(slot)
    other = next(number for number in range(6) if number != start and cluster.is_master(number))
    with Load(cache, reader) as load:
        for _ in range(ROUNDS):
            for to in (other, start):
                before = cluster.count_errors("ASK"), cluster.count_errors("TRYAGAIN")

                def both_met(before=before):
                    return (
                        cluster.count_errors("ASK") > before[0] + 10
                        and cluster.count_errors("TRYAGAIN") > before[1]
                    )

                cluster.move_slot(slot, to, lambda: wait_for(both_met, "ASK and TRYAGAIN"))
                wait_for(cluster.healthy, "a healthy cluster")
                assert cluster.owner(slot) == to
                load.recover()
    assert (
        cluster.count_errors("MOVED") > moved
        and cluster.count_errors("ASK") > asked
        and cluster.count_errors("TRYAGAIN") > split
    )
    assert load.failures == []
    load.drain()
    assert set(load.published) == load.received
    assert cache.get("counter") == load.incremented and load.refused == 0
    blocked()


def test_cluster_down(cluster, cache, slot, blocked):
    """Calls wait while a slot has no owner, and succeed when it has one again.

    That includes commands that must not be repeated. Blocked readers continue.
    """
    refused = cluster.count_errors("CLUSTERDOWN")
    owner = cluster.owner(slot)
    other = slot + 1 if cluster.owner(slot + 1) == owner else slot - 1
    cluster.call(owner, "CLUSTER", "DELSLOTS", other)
    wait_for(
        lambda: b"cluster_state:fail" in cluster.call(owner, "CLUSTER", "INFO"),
        "the cluster to be down",
    )
    calls = [
        Background(cache.increment, "counter"),
        Background(cache.compare_and_set, "compared", MISSING, 1),
        Background(cache.set, "value", 1),
        Background(cache.receive, "box", timeout=20),
        Background(cache.publish_to_mailbox, "box", 1),
    ]
    wait_for(lambda: cluster.count_errors("CLUSTERDOWN") >= refused + 10, "the refusals")
    assert all(call.thread.is_alive() for call in calls)
    wait_for(
        lambda: b"blocked_clients:0\r\n" in cluster.call(owner, "INFO", "clients"),
        "the blocked readers to be refused",
    )
    cluster.call(owner, "CLUSTER", "ADDSLOTS", other)
    results = [call.result() for call in calls]
    assert results[:2] == [1, True] and results[3].message == 1
    assert results[3].ack() is True
    wait_for(cluster.healthy, "a healthy cluster")
    blocked()


def test_records_are_spread(cluster, unique):
    """The records of a namespace are on several nodes, and one index lists them."""
    client = connect(cluster)
    records = RedisCache(client=client, default_prefix=unique).records()
    new = NewRecord({"field": b"1"}, b"", {"tag": "1"})
    names = [f"run-{number:02d}" for number in range(12)]
    for name in names:
        assert records.claim(name, "a", 30.0, "RUNNING", [], new).created
        assert records.post(name, {"answer": b"1"})
    for name in names[:6]:
        assert records.commit(name, "a", 1, RecordChange({}, [], None, "DONE")).applied
    slots = {name: key_slot(name.encode()) for name in names}
    owners = {name: cluster.owner(slot) for name, slot in slots.items()}
    assert len(set(owners.values())) > 1
    for name in names:
        assert cluster.call(owners[name], "CLUSTER", "COUNTKEYSINSLOT", slots[name]) >= 2
    assert {record.id for record in records.list(["DONE"], {"tag": "1"})} == set(names[:6])
    assert len(records.list()) == 12 and records.count() == {"DONE": 6, "RUNNING": 6}
    assert records.ready() == []
    assert all(records.get(name).news == 1 and records.delete(name) for name in names)
    assert records.count() == {}
    client.close()
