"""Records that somebody else has written: nothing in them is imported or called."""

import json
import os
import pickle
import sys

import pytest

from asimov_sync import (
    AsimovError,
    CacheError,
    GraphError,
    MemoryCache,
    Retry,
    RunStatus,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.cache.records import NewRecord, RecordChange

RUN_ID = "r"

NAMES = ["os:system", "os.system", "payload:attack", "payload", "builtins:eval", "eval"]


@pytest.fixture(autouse=True)
def attacks(tmp_path, monkeypatch):
    """Collect what a record causes to be called. A module `payload` can be imported."""
    caught = []
    (tmp_path / "payload.py").write_text("def attack(*args, **kwargs): raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(os, "system", caught.append)
    yield caught
    assert caught == []
    assert "payload" not in sys.modules


@pytest.fixture
def cache():
    """A cache that keeps runs."""
    with MemoryCache() as cache:
        yield cache


@pytest.fixture
def scheduler(cache):
    """A scheduler whose flow spawns a task, and waits."""
    with TaskScheduler(max_workers=0, runs=RunStore(cache)) as scheduler:

        @scheduler.flow("report")
        def report(**args):
            graph = TaskGraph()
            graph.add(Task(type="spawn"), name="spawner")
            graph.add(Task(type="ask"), name="asker", depends_on="spawner")
            return graph

        @scheduler.handler("spawn")
        def spawn(task, context):
            retry = Retry(attempts=2, on=KeyError)
            context.spawn(Task(type="fail", params={"a": 1}), name="child", retry=retry)
            return "spawned"

        @scheduler.handler("fail")
        def fail(task, context):
            raise LookupError("nothing there")

        @scheduler.handler("ask")
        def ask(task, context):
            return context.wait_for("name", type=str)

        scheduler.run("report", args={"topic": "tea"}, run_id=RUN_ID)
        yield scheduler


def rewrite(cache, change_head=None, change_task=None, name="child"):
    """Change the stored bytes of the run, as somebody can who may write to the store.

    change_head, change_task: change the dict that is stored.
    """
    records = cache.records()
    snapshot = records.get(RUN_ID)
    fields, summary = dict(snapshot.fields), snapshot.summary
    if change_head is not None:
        summary = changed(summary, change_head)
    if change_task is not None:
        field = json.dumps(["task", name], separators=(",", ":"))
        fields[field] = changed(fields[field], change_task)
    records.delete(RUN_ID)
    claim = records.claim(RUN_ID, "other", 30, "running", [], NewRecord(fields, summary, {}))
    records.commit(RUN_ID, "other", claim.snapshot.epoch, RecordChange({}, [], None, "parked"))


def changed(data, change):
    """Return the bytes of a stored dict after a change; or what the change returns instead."""
    values = json.loads(data.decode())
    replaced = change(values)
    return replaced if replaced is not None else json.dumps(values).encode()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_flow_is_only_looked_up(cache, scheduler, name):
    """A flow that is not registered here is a GraphError."""
    rewrite(cache, lambda head: head.update(flow=name, args={"command": "id"}))
    with pytest.raises(GraphError, match="no flow named"):
        scheduler.resume(RUN_ID)
    assert scheduler.runs.get(RUN_ID).status is RunStatus.PARKED


@pytest.mark.parametrize("own", [True, False], ids=["of the graph", "of the scheduler"])
@pytest.mark.parametrize("name", NAMES)
def test_the_type_of_a_spawned_task_is_only_looked_up(cache, scheduler, name, own):
    """A spawned task whose type has no handler here is refused, and the run is kept."""

    def change(task):
        task.update(type=name, phase="WAITING", exception=None, error=None)
        task["spawn"].update(type=name, own_handler=own)

    rewrite(cache, change_task=change)
    with pytest.raises(GraphError, match=f"has the type '{name}', for which .* no handler"):
        scheduler.resume(RUN_ID)
    assert scheduler.runs.get(RUN_ID).status is RunStatus.PARKED


@pytest.mark.parametrize("name", [*NAMES, "SystemExit", "KeyboardInterrupt"])
def test_the_type_of_an_exception_is_only_looked_up(cache, scheduler, name):
    """The exception of a stored task is of this library, or a builtin Exception."""

    def change(task):
        task["exception"].update(type=name, message="id")
        task["spawn"]["retry"].update(on=[name])

    rewrite(cache, change_task=change)
    for result in (scheduler.runs.result(RUN_ID), scheduler.resume(RUN_ID)):
        error = result.exceptions["child"]
        assert isinstance(error, AsimovError) and str(error) == f"{name}: id"


MALFORMED = {
    "a pickle": lambda task: pickle.dumps(task),
    "a list": lambda task: b"[]",
    "no JSON": lambda task: b"{",
    "a record without a type": lambda task: task.pop("type") and None,
    "an unknown phase": lambda task: task.update(phase="EVIL"),
    "another name": lambda task: task.update(name="spawner"),
    "a position": lambda task: task.update(position="first"),
    "dependencies": lambda task: task.update(depends_on=5),
    "a dependency on itself": lambda task: task.update(depends_on=["child"]),
    "an exception": lambda task: task["exception"].update(extra="x"),
    "a usage": lambda task: task.update(usage={"input_tokens": "many"}),
    "a wait": lambda task: task.update(waits=[{"prompt": "?"}]),
    "a spawned task": lambda task: task.update(spawn=[]),
    "a definition without parts": lambda task: task.update(spawn={"type": "fail"}),
    "a definition's parameters": lambda task: task["spawn"].update(params="x"),
    "a definition's retry": lambda task: task["spawn"].update(retry={"attempts": "all"}),
    "a definition's dependencies": lambda task: task["spawn"].update(depends_on={"a": 1}),
    "a definition's dependency on itself": lambda task: task["spawn"].update(depends_on=["child"]),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_task_is_a_clear_error(cache, scheduler, kind):
    """A stored task that no release has written is a CacheError or a GraphError; or it runs."""
    rewrite(cache, change_task=MALFORMED[kind])
    try:
        scheduler.resume(RUN_ID)
    except (CacheError, GraphError) as error:
        assert RUN_ID in str(error) or "child" in str(error)


@pytest.mark.parametrize(
    "values",
    [{"flow": 5}, {"flow": ["report"]}, {"usage": {"requests": "x"}}, {"counts": []}],
    ids=str,
)
def test_a_malformed_head_is_a_clear_error(cache, scheduler, values):
    """A summary that no release has written is a CacheError."""
    rewrite(cache, lambda head: head.update(values))
    with pytest.raises(CacheError, match="what is stored of a run cannot be read"):
        scheduler.resume(RUN_ID)


def test_stored_arguments_that_are_no_dict(cache, scheduler):
    """Arguments of a flow that are not a dict are a TypeError, before the flow is called."""
    rewrite(cache, lambda head: head.update(args=["x"]))
    with pytest.raises(TypeError, match="args= is a dict"):
        scheduler.resume(RUN_ID)
