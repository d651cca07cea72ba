"""The stores that durable runs are tested on."""

import pytest

from asimov_sync import RunStore

from ..tiers import soak, suite

BACKENDS = [
    "memory",
    pytest.param("sqlite", marks=suite),
    pytest.param("redis", marks=soak),
]


@pytest.fixture(params=BACKENDS)
def make_store(request, open_cache):
    """Makes run stores on one cache; arguments are those of RunStore."""
    cache = open_cache(request.param)

    def make(**options):
        return RunStore(cache, **options)

    return make


@pytest.fixture
def store(make_store):
    """A run store."""
    return make_store()
