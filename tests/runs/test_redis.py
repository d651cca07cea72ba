"""Durable runs on a Redis server."""

import pytest
import redis

from asimov_sync import LeaseLost, RedisCache, RunStatus, RunStore, TaskGraph, TaskScheduler


def test_a_run_does_not_wake_its_own_driver(redis_url, unique):
    """The thread that renews the lease is not woken by the commits of the run itself."""
    plain = redis.Redis.from_url(redis_url)

    def count_waits():
        return plain.info("commandstats").get("cmdstat_blpop", {"calls": 0})["calls"]

    graph = TaskGraph()
    graph.map(str, range(100), name="task")
    with RedisCache(url=redis_url, default_prefix=unique) as cache:
        with TaskScheduler(runs=RunStore(cache), max_workers=1) as scheduler:
            before = count_waits()
            scheduler.run(graph, run_id="r").raise_for_failure()
            assert count_waits() - before < 50
    plain.close()


def test_a_failover_that_loses_commits(redis_url, unique):
    """A driver whose commits were lost raises LeaseLost, and the next one continues at once."""
    plain = redis.Redis.from_url(redis_url)
    kept, calls = {}, []

    def work(task, context):
        calls.append(context.name)
        if calls == ["a", "b"]:
            kept.update({key: plain.dump(key) for key in plain.scan_iter(f"{unique}*")})
        if calls == ["a", "b", "c"]:  # as if a replica took over that has not received "b"
            for key, data in kept.items():
                plain.restore(key, 0, data, replace=True)
        return len(calls)

    graph = TaskGraph()
    before = []
    for name in "abcd":
        before = [graph.add(work, name=name, depends_on=before)]
    with RedisCache(url=redis_url, default_prefix=unique) as cache:
        store = RunStore(cache)
        with TaskScheduler(runs=store, max_workers=1) as scheduler:
            with pytest.raises(LeaseLost, match="lost the last writes"):
                scheduler.run(graph, run_id="r")
            assert [record.run_id for record in store.ready()] == ["r"]
            result = scheduler.run(graph.copy(), run_id="r")
        assert calls == ["a", "b", "c", "b", "c", "d"]
        assert result.results == store.result("r").results == {"a": 1, "b": 4, "c": 5, "d": 6}
        assert store.get("r").status is RunStatus.COMPLETE
    plain.close()
