"""Runs of agents that a crash may end: a cache whose records may stop to accept writes."""

import json

import pytest

from asimov_sync import RunStore

from ..tiers import soak

BACKENDS = ["memory", pytest.param("sqlite", marks=soak), pytest.param("redis", marks=soak)]


class Power:
    """The records of a cache. They stop to accept writes when `off`, as if the process had died.

    left: how many more writes are accepted; None for all.
    entries: the entries that were written, of all tasks.
    on_entry: is called with each entry after it was written.
    """

    def __init__(self, records):
        self._records = records
        self._owner = None
        self.left = None
        self.entries = []
        self.on_entry = lambda entry: None

    def __getattr__(self, name):
        return getattr(self._records, name)

    def restore(self):
        """Accept writes again. The driver before counts as dead."""
        self.left = None
        self.entries = []

    def claim(self, id, owner, lease, status, claimable, new=None, dead_owner=None):
        dead = dead_owner or self._owner
        claim = self._records.claim(id, owner, lease, status, claimable, new, dead)
        self._owner = owner
        return claim

    def commit(self, id, owner, epoch, change):
        if self.left == 0:
            return None
        reply = self._records.commit(id, owner, epoch, change)
        if self.left is not None:
            self.left -= 1
        for name, data in change.fields.items():
            if name.startswith('["entry"') and data is not None:
                self.entries.append(json.loads(data.decode()))
                self.on_entry(self.entries[-1])
        return reply

    @property
    def kept_calls(self):
        """The keys of the calls whose results were written."""
        return [entry["call"] for entry in self.entries if "call" in entry]

    @property
    def kept_replies(self):
        """The number of replies and summaries that were written."""
        return sum("reply" in entry or "summary" in entry for entry in self.entries)


@pytest.fixture(params=BACKENDS)
def cache(request, open_cache):
    """A cache that can keep durable runs."""
    return open_cache(request.param)


@pytest.fixture
def power(cache):
    """The records of the cache, whose power may fail."""
    power = Power(cache.records())
    cache.records = lambda: power
    return power


@pytest.fixture
def store(cache, power):
    """A run store on these records."""
    return RunStore(cache, lease=600.0)
