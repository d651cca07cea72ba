"""The backends of records compared with a model: random operations give the same replies."""

import os
import uuid

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.cluster import RedisCluster

from asimov_sync.cache.records import (
    Claim,
    Committed,
    LogEntry,
    NewRecord,
    RecordChange,
    Snapshot,
)

from ..tiers import by_tier, suite
from .conftest import Clock, create_memory_cache, create_redis_cache, create_sqlite_cache

pytestmark = suite

SETTINGS = settings(
    max_examples=by_tier(5, soak=200),
    stateful_step_count=by_tier(40, soak=50),
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)

IDS = st.sampled_from(["one", "two", "three", "Z:é"])
OWNERS = st.sampled_from(["a", "b"])
STATUSES = st.sampled_from(["RUNNING", "PARKED", "DONE"])
SOME_STATUSES = st.lists(STATUSES, unique=True)
NAMES = st.sampled_from(["x", "y", "z"])
DATA = st.sampled_from([b"", b"1", b"\x00\xff"])
TAGS = st.dictionaries(st.sampled_from(["k", "k=v", "é"]), st.sampled_from(["1", "2"]))
LEASES = st.sampled_from([0.001, 1.0, 10.0])
SECONDS = st.sampled_from([0.0, 0.001, 1.0, 9.999, 10.0])
MOMENTS = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 1.0, 20.0]))


class Model:
    """Records as `RecordStore` describes them: a dict of dicts, and a clock."""

    def __init__(self, clock):
        self.clock = clock
        self.records = {}

    def now(self):
        return self.clock() / 1000

    def find(self, id):
        record = self.records.get(id)
        if record is not None and record["expires"] is not None:
            if record["expires"] <= self.clock():
                del self.records[id]
                return None
        return record

    def snapshot(self, id, with_fields=True):
        record = self.find(id)
        if record is None:
            return None
        shown = {name: record[name] for name in Snapshot._fields if name in record}
        for name in ("created", "updated", "lease_until", "due"):
            shown[name] = None if shown[name] is None else shown[name] / 1000
        fields = dict(record["fields"]) if with_fields else {}
        shown["log_number"] = max(record["log"], default=0)
        return Snapshot(**{**shown, "id": id, "fields": fields, "now": self.now()})

    get = snapshot

    def claim(self, id, owner, lease, status, claimable, new=None, dead_owner=None):
        record = self.find(id)
        now = self.clock()
        if record is None:
            if new is None:
                return None
            record = self.records[id] = {
                **new._asdict(),
                "fields": dict(new.fields),
                "created": now,
                "epoch": 1,
                "news": 0,
                "log": {},
                "untouched": True,
                "released": None,
            }
        elif record["owner"] != owner or not record["lease_until"]:
            free = record["lease_until"] <= now or record["owner"] == dead_owner
            if not free or record["status"] not in claimable:
                return Claim(False, False, self.snapshot(id))
            record.update(epoch=record["epoch"] + 1, untouched=False)
        record.update(owner=owner, status=status, due=now, updated=now, expires=None)
        record["lease_until"] = now + int(lease * 1000)
        return Claim(True, record["untouched"], self.snapshot(id))

    def commit(self, id, owner, epoch, change):
        record = self.find(id)
        if record is None:
            return None
        if change.lease is None and record["released"] == (owner, epoch, change):
            return Committed(True, 0, self.now(), record["news"])
        if (record["owner"], record["epoch"]) != (owner, epoch) or not record["lease_until"]:
            return None
        now, applied = self.clock(), change.news is None or record["news"] <= change.news
        if applied:
            for name, data in change.fields.items():
                record["fields"].pop(name, None)
                if data is not None:
                    record["fields"][name] = data
            for number, data in change.log:
                if number > max(record["log"], default=0):
                    record["log"][number] = data
            record.update(updated=now, untouched=False)
            record["lease_until"] = 0 if change.lease is None else now + int(change.lease * 1000)
            if change.lease is None:
                record["released"] = (owner, epoch, change)
            if change.summary is not None:
                record["summary"] = change.summary
            if change.status is not None:
                record["status"] = change.status
                record["due"] = None if change.due is None else round(change.due * 1000)
                record["expires"] = None if change.ttl is None else now + int(change.ttl * 1000)
        return Committed(applied, record["lease_until"] / 1000, self.now(), record["news"])

    def post(self, id, fields, due=None):
        record = self.find(id)
        if record is None:
            return None
        if set(fields) & set(record["fields"]):
            return False
        record["fields"].update(fields)
        record.update(news=record["news"] + 1, updated=self.clock())
        if due is not None:
            moments = {round(due * 1000), record["due"]} - {None}
            record["due"] = min(moments)
        return True

    def delete(self, id):
        return self.find(id) is not None and self.records.pop(id) is not None

    def heads(self):
        found = [self.snapshot(id, with_fields=False) for id in list(self.records)]
        return [head for head in found if head is not None]

    def list(self, statuses=None, tags=None, since=None, until=None, after=None, limit=100):
        found = [
            head
            for head in self.heads()
            if (statuses is None or head.status in statuses)
            and (tags or {}).items() <= head.tags.items()
            and (since is None or head.created >= since)
            and (until is None or head.created < until)
            and (after is None or (head.created, head.id) < after)
        ]
        return sorted(found, key=lambda head: (head.created, head.id), reverse=True)[:limit]

    def ready(self, limit=100):
        found = [
            (max(head.due, head.lease_until), head.id, head)
            for head in self.heads()
            if head.due is not None and max(head.due, head.lease_until) <= self.now()
        ]
        return [head for _, _, head in sorted(found)[:limit]]

    def count(self):
        statuses = [head.status for head in self.heads()]
        return {status: statuses.count(status) for status in statuses}

    def read_log(self, id, after=0, limit=1000):
        record = self.find(id)
        log = {} if record is None else record["log"]
        return [LogEntry(*entry) for entry in sorted(log.items()) if entry[0] > after][:limit]


class Machine(RuleBasedStateMachine):
    """Runs every operation on the model and on the backends, and compares."""

    open_caches = None

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.model = Model(self.clock)
        self.caches = self.open_caches(self.clock)
        prefix = uuid.uuid4().hex
        self.stores = {
            name: cache.with_prefix(prefix).records() for name, cache in self.caches.items()
        }

    def teardown(self):
        for record in self.model.heads():
            for store in self.stores.values():
                store.delete(record.id)
        for cache in self.caches.values():
            cache.close()

    def all(self, name, *arguments, **named):
        expected = getattr(self.model, name)(*arguments, **named)
        for backend, store in self.stores.items():
            assert getattr(store, name)(*arguments, **named) == expected, backend
        return expected

    @rule(
        id=IDS,
        owner=OWNERS,
        lease=LEASES,
        status=STATUSES,
        claimable=SOME_STATUSES,
        new=st.one_of(
            st.none(), st.builds(NewRecord, st.dictionaries(NAMES, DATA, max_size=2), DATA, TAGS)
        ),
        dead_owner=st.one_of(st.none(), OWNERS),
    )
    def claim(self, id, owner, lease, status, claimable, new, dead_owner):
        self.all("claim", id, owner, lease, status, claimable, new, dead_owner)

    @rule(
        id=IDS,
        change=st.builds(
            RecordChange,
            st.dictionaries(NAMES, st.one_of(st.none(), DATA), max_size=3),
            st.lists(st.builds(LogEntry, st.integers(1, 6), DATA), max_size=3),
            st.one_of(st.none(), LEASES),
            st.one_of(st.none(), STATUSES),
            MOMENTS,
            st.one_of(st.none(), DATA),
            st.one_of(st.none(), LEASES),
            st.one_of(st.none(), st.integers(0, 2)),
        ),
        right=st.sampled_from([True, True, True, False]),
        owner=OWNERS,
        epoch=st.integers(1, 3),
        again=st.booleans(),
    )
    def commit(self, id, change, right, owner, epoch, again):
        head = self.model.get(id)
        if right and head is not None:
            owner, epoch = head.owner, head.epoch
        if change.due is not None:
            change = change._replace(due=self.model.now() + change.due)
        for _ in range(1 + again):
            self.all("commit", id, owner, epoch, change)

    @rule(id=IDS, fields=st.dictionaries(NAMES, DATA, min_size=1, max_size=2), due=MOMENTS)
    def post(self, id, fields, due):
        self.all("post", id, fields, None if due is None else self.model.now() + due)

    @rule(id=IDS)
    def delete(self, id):
        self.all("delete", id)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.clock.pass_by(seconds)

    @rule(
        statuses=st.one_of(st.none(), SOME_STATUSES),
        tags=st.one_of(st.none(), TAGS),
        since=MOMENTS,
        until=MOMENTS,
        limit=st.integers(1, 4),
    )
    def pages(self, statuses, tags, since, until, limit):
        since, until = (None if one is None else self.model.now() - one for one in (since, until))
        after = None
        for _ in range(3):
            page = self.all("list", statuses, tags, since, until, after, limit)
            if not page:
                break
            after = (page[-1].created, page[-1].id)

    @rule(id=IDS, after=st.integers(0, 6), limit=st.integers(1, 3))
    def log(self, id, after, limit):
        self.all("read_log", id, after, limit)

    @rule(limit=st.integers(1, 3))
    def first_ready(self, limit):
        self.all("ready", limit)

    @invariant()
    def one_state(self):
        self.all("count")
        self.all("ready")
        for head in self.all("list"):
            self.all("get", head.id)


def test_backends_are_equivalent(redis_url, cluster_port, tmp_path):
    """All backends return what the model returns, and hold the same after each step."""
    cluster = RedisCluster(host="127.0.0.1", port=cluster_port)

    def open_caches(machine, clock):
        return {
            "memory": create_memory_cache(5, clock),
            "redis": create_redis_cache("", 5, clock, url=redis_url),
            "cluster": create_redis_cache("", 5, clock, client=cluster),
            "sqlite": create_sqlite_cache(tmp_path / "cache.db", "", 5, clock),
        }

    class Here(Machine):
        pass

    Here.open_caches = open_caches
    run_state_machine_as_test(Here, settings=SETTINGS)
    cluster.close()
