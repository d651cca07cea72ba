"""Runs on a cluster whose replicas take over from their masters."""

import pytest
from redis.cluster import RedisCluster, key_slot

from asimov_sync import RedisCache

from ..redis_server import RedisClusterOfSix, require_server
from ..tiers import soak
from ..waiting import wait_for
from .test_outages import RUN_ID, Drives

pytestmark = soak

ROUNDS = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, redis_url):
    """The cluster of this module."""
    with RedisClusterOfSix(require_server(), str(tmp_path_factory.mktemp("six"))) as cluster:
        yield cluster


@pytest.fixture
def cache(cluster, unique):
    """A cache on the cluster. The run that a test drives closes it."""
    wait_for(cluster.healthy, "a healthy cluster")
    port = next(server.port for server in cluster.servers if server.running)
    client = RedisCluster(host="127.0.0.1", port=port)
    yield RedisCache(client=client, default_prefix=unique)
    client.close()


SLOT = key_slot(RUN_ID.encode())
"""The slot of the keys of the run: their hash tag is its id."""


def test_failover(cluster, cache):
    """Replicas replace living masters under a run, which proceeds without an interruption."""
    drives = Drives(cache, 30.0)
    for _ in range(ROUNDS):
        wait_for(cluster.healthy, "a healthy cluster")
        drives.wait_for_calls(8)
        cluster.fail_over(cluster.replica_of(cluster.owner(SLOT)))
    drives.check()
    assert drives.interruptions == []


def test_killed_master(cluster, cache, unique):
    """Replicas replace killed masters under a run, which proceeds or is continued."""
    drives = Drives(cache, 30.0)
    for _ in range(ROUNDS):
        wait_for(cluster.healthy, "a healthy cluster")
        drives.wait_for_calls(8)
        old = cluster.owner(SLOT)
        heir = cluster.replica_of(old)
        assert cluster.servers[old].kill() == -9
        wait_for(lambda: cluster.is_master(heir) and cluster.healthy(), "the replica to take over")
        cluster.servers[old].start()
        wait_for(lambda: not cluster.is_master(old), "the old master to follow the new one")
    drives.check()
