"""Durable runs are the same on each backend: results, records and events."""

import pytest

from asimov_sync import MemoryCache, RedisCache, RunStatus, RunStore, SQLiteCache

from .drivers import RUN_ID, drive

TIMES = dict.fromkeys(["seconds", "started", "ended"])
"""The fields of a stored task that differ between equal runs."""


def drive_on(cache, tmp_path):
    """Drive the graph with each kind of outcome. Returns everything that is then known of it."""
    with cache:
        outcome = drive(lambda: cache, tmp_path / "effects")
        store = RunStore(cache)
        record = store.get(RUN_ID)
        tasks = {}
        for name, task in record.tasks.items():
            error = task.exception
            if error is not None:  # its traceback is one of this file's lines
                error = error._replace(traceback="")
            spans = [one._replace(start=0.0, end=0.0) for one in task.spans]
            tasks[name] = task._replace(exception=error, spans=spans, **TIMES)
        numbers, events = [], {}
        for event in store.events(RUN_ID):
            numbers.append(event["sequence"])
            part = (event["type"], event.get("visit"), event.get("attempt"))
            # For each task, because a timer decides when a retried one is ready.
            events.setdefault(event.get("name"), []).append(part)
        assert numbers == sorted(set(numbers))
        assert store.result(RUN_ID).results == outcome["results"]
        return outcome, tasks, record.status, record.counts, record.usage, events


@pytest.mark.parametrize("other", ["sqlite", "redis"])
def test_backends_agree(request, tmp_path, unique, other):
    """A run has the same results, stored tasks and events in memory, in a file and on a server."""
    if other == "sqlite":
        cache = SQLiteCache(tmp_path / "runs.db", synchronous="normal")
    else:
        cache = RedisCache(url=request.getfixturevalue("redis_url"), default_prefix=unique)
    expected = drive_on(MemoryCache(), tmp_path)
    assert drive_on(cache, tmp_path) == expected
    outcome, tasks, status, _, usage, events = expected
    assert status is RunStatus.PARTIAL
    assert tasks.keys() == outcome["statuses"].keys()
    assert usage.requests > 20
    kinds = {kind for parts in events.values() for kind, *_ in parts}
    assert {"task_retried", "task_parked", "task_skipped"} < kinds
