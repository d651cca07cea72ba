"""Fixtures for pytest: a model server, a cache and a clock.

They are loaded by this line in a `conftest.py` or a test module, and never by themselves::

    pytest_plugins = ["asimov_sync.testing.pytest"]
"""

from typing import Any, Callable, Iterator, List

import pytest

from asimov_sync.cache.memory import MemoryCache
from asimov_sync.testing.clock import Clock
from asimov_sync.testing.script import Answers
from asimov_sync.testing.server import ModelServer

__all__ = ["cache", "clock", "model_server"]


@pytest.fixture
def model_server() -> Iterator[Callable[..., ModelServer]]:
    """Start a server: `server = model_server(["an answer"])`; it is closed after the test.

    The arguments are those of `ModelServer`.
    """
    servers: List[ModelServer] = []

    def start(answers: Answers, **options: Any) -> ModelServer:
        server = ModelServer(answers, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def cache() -> Iterator[MemoryCache]:
    """An empty MemoryCache; it is closed after the test."""
    cache = MemoryCache()
    yield cache
    cache.close()


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A Clock in use: `clock.advance(seconds)` moves the time of the library."""
    with Clock() as clock:
        yield clock
