"""Records of other releases, damaged and hostile records, and runs whose drivers keep dying."""

import json
import os
import pathlib

import pytest

from asimov_sync import (
    CacheValueError,
    GraphError,
    MemoryCache,
    RunStatus,
    RunStore,
    StoredFormatError,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.cache.records import LogEntry, NewRecord, RecordChange

from .drivers import Actor, drive, everything, outcome

FORMAT_1 = pathlib.Path(__file__).parent / "format_1.json"
"""A run of `everything`, parked, as the first release with durable runs has stored it."""


def encode(value):
    """Return the bytes of a JSON value."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def put(cache, record, run_id="r"):
    """Store a record. record: a dict as in the file above; its values may be bytes."""
    records = cache.records()
    fields = {name: encode(value) for name, value in record["fields"].items()}
    new = NewRecord(fields, encode(record["summary"]), record["tags"])
    claim = records.claim(run_id, "somebody", 30.0, "running", (), new)
    log = [LogEntry(number, encode(event)) for number, event in record["log"]]
    change = RecordChange({}, log, None, record["status"])
    records.commit(run_id, "somebody", claim.snapshot.epoch, change)


@pytest.fixture
def record():
    """The stored run, as a dict."""
    return json.loads(FORMAT_1.read_text())


@pytest.fixture
def cache():
    """An empty cache."""
    with MemoryCache() as cache:
        yield cache


def test_a_record_of_format_1_continues(cache, record, tmp_path):
    """A run that was stored in format 1 is shown, is answered, and ends as a run of today."""
    put(cache, record)
    store = RunStore(cache)
    assert store.get("r").status is RunStatus.PARKED
    assert store.get("r").tags == {"tenant": "7"}
    (wait,) = store.waits()
    assert (wait.task, wait.name, wait.type) == ("sign", "name", {"type": "string"})
    assert list(store.events("r"))[-1]["type"] == "run_finished"
    assert store.result("r").waiting == {"sign": ["name"]}
    store.answer("r", "name", "Ann")
    actor = Actor(tmp_path / "effects")
    with TaskScheduler({"act": actor}, max_workers=0, runs=store) as scheduler:
        result = scheduler.run(everything(), run_id="r")
    assert outcome(result) == drive(MemoryCache, tmp_path / "others")
    effects = (tmp_path / "effects").read_text().split()
    assert effects == ["r/sign/1", "1", "r/clean/1", "1"]


def run(store):
    """Run the graph with a handler that would make every call visible."""
    with TaskScheduler(
        {"act": lambda task, context: "new"}, max_workers=0, runs=store
    ) as scheduler:
        return scheduler.run(everything(), run_id="r", if_changed="keep")


READERS = {
    "run": run,
    "tasks": lambda store: store.get("r").tasks,
    "result": lambda store: store.result("r"),
    "waits": lambda store: store.waits("r"),
    "answer": lambda store: store.answer("r", "name", "Ann"),
}


@pytest.mark.parametrize("part", ["summary", "field"])
@pytest.mark.parametrize("reader", READERS)
def test_a_newer_format(cache, record, part, reader):
    """A record in a newer format is refused, stays as it is, and does not spoil a list."""
    newer = record["summary"] if part == "summary" else record["fields"]['["task","pay"]']
    newer["format"] = 2
    put(cache, record)
    store = RunStore(cache)
    with pytest.raises(StoredFormatError, match="format 2.*upgrade"):
        READERS[reader](store)
    records = cache.records()
    assert records.get("r").status == "parked" and records.get("r").lease_until == 0
    assert {name: encode(value) for name, value in record["fields"].items()} == dict(
        records.get("r").fields
    )
    (listed,) = store.list()
    if part == "summary":
        assert "format 2" in listed.error
    assert store.waits() == []


def spawn(**changes):
    """Return the stored definition of a spawned task, with changes."""
    definition = {
        "type": "act",
        "objective": "child",
        "depends_on": [],
        "own_handler": False,
        "allow_failure": False,
        "retry": None,
        "timeout": None,
        "max_visits": 5,
        "always": False,
        "namespaces": [],
        "before_dependents": False,
        "params": {},
    }
    return dict(definition, **changes)


DAMAGED = {
    "broken JSON": b"{",
    "no object": [],
    "no format": {},
    "nested too deep": b"[" * 100000,
    "a phase that is unknown": {"phase": "os:system"},
    "an exception of another form": {"exception": ["os:system"]},
    "dependencies of another form": {"depends_on": 7},
    "a wait of another form": {"waits": [{"os:system": 1}]},
    "a span of another form": {"spans": [{"kind": "model", "name": ["os:system"], "start": 1.0}]},
    "a usage of another form": {"usage": {"requests": "os:system"}},
    "an unknown part of a definition": {"spawned_by": "flaky", "spawn": {"type": "os:system"}},
    "a handler to import": {
        "spawned_by": "flaky",
        "spawn": spawn(type="os:system", own_handler=True),
    },
    "a Retry to import": {
        "spawned_by": "flaky",
        "spawn": spawn(retry={"attempts": "many", "on": ["os:system"]}),
    },
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_and_hostile_records(cache, record, damage, monkeypatch):
    """A damaged or hostile field gives a clear error, and nothing is imported or called."""
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it was called"))
    value, name = DAMAGED[damage], "pay"
    if isinstance(value, dict) and value:
        value = dict(record["fields"]['["task","flaky"]'], **value)
        name = value["name"] = "child" if "spawn" in value else name
    record["fields"][f'["task","{name}"]'] = value
    put(cache, record)
    store = RunStore(cache)
    with pytest.raises((CacheValueError, GraphError)) as raised:
        run(store)
    assert name in str(raised.value)
    assert store.get("r").status is RunStatus.PARKED
    assert store.list()[0].run_id == "r"
    assert store.delete("r")


def test_hostile_types_of_errors(cache, record):
    """The type of a stored exception does not decide what is built: it becomes a RemoteError."""
    for kind in ("os:system", "SystemExit", "KeyboardInterrupt", "RunStore", "__import__"):
        exception = {"type": kind, "message": "x", "traceback": ""}
        record["fields"]['["task","broken"]']["exception"] = exception
        put(cache, record, kind)
        error = RunStore(cache).result(kind).exceptions["broken"]
        assert type(error).__name__ == "RemoteError" and error.type_name == kind


def test_hostile_types_of_waits(cache, record):
    """A schema that refers to itself ends, and a value that is not a schema is an error."""
    many = {"anyOf": [{"$ref": "#/$defs/a"}] * 4}
    for number, schema in enumerate(
        [
            {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            {"$defs": {"a": many}, "$ref": "#/$defs/a"},
            {"$defs": 7, "$ref": "#/$defs/a"},
            {"enum": 7},
            {"anyOf": {"os": "system"}, "required": 7, "properties": 7},
        ]
    ):
        run_id = f"r{number}"
        record["fields"]['["task","sign"]']["waits"][0]["type"] = schema
        put(cache, record, run_id)
        store = RunStore(cache)
        if number < 2:
            assert store.answer(run_id, "name", {"a": 1})
        else:
            with pytest.raises(ValueError, match="type"):
                store.answer(run_id, "name", {"a": 1})


# Recoveries


def test_a_run_whose_drivers_die(cache):
    """After max_recoveries drives without progress, the run is FAILED, until it is retried."""
    store, calls = RunStore(cache, max_recoveries=2, lease=30.0), []

    def work(task, context):
        calls.append(context.name)
        return context.name

    def build():
        graph = TaskGraph()
        graph.add(Task(type="work"), name="a")
        return graph

    records = cache.records()
    with TaskScheduler({"work": work}, max_workers=0, runs=store) as scheduler:
        scheduler.submit(build(), run_id="r")  # it makes no progress, since nobody waits for it
        for _ in range(2):
            die(records)
            scheduler.submit(build(), run_id="r")
        die(records)
        result = scheduler.run(build(), run_id="r")
        assert result.status is TaskStatus.FAILED and "max_recoveries=2" in result.reason
        assert store.get("r").status is RunStatus.FAILED
        assert "max_recoveries=2" in store.get("r").error
        assert scheduler.run(build(), run_id="r").restored
        assert list(result.skipped) == ["a"]
        assert store.result("r").status is TaskStatus.FAILED
        assert calls == []
        assert store.retry("r")
        assert scheduler.run(build(), run_id="r").results == {"a": "a"}


def die(records):
    """End the lease of a driver, as if its process had died."""
    snapshot = records.get("r")
    owner = "a driver that takes over"
    claim = records.claim("r", owner, 1.0, "running", ["running"], None, snapshot.owner)
    records.commit("r", owner, claim.snapshot.epoch, RecordChange({}, [], None))
