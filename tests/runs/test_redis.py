"""Durable runs on a Redis server."""

import redis

from asimov_sync import RedisCache, RunStore, TaskGraph, TaskScheduler


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
