"""The facade has the methods and arguments of the blocking classes."""

import inspect

import pytest

from asimov_sync import (
    Agent,
    Cache,
    Delivery,
    InferenceClient,
    MemoryCache,
    ModelRouter,
    ReplyStream,
    Run,
    TaskScheduler,
    ToolStream,
)
from asimov_sync.aio import (
    AsyncAgent,
    AsyncCache,
    AsyncDelivery,
    AsyncInferenceClient,
    AsyncReplyStream,
    AsyncRun,
    AsyncRunEvents,
    AsyncTaskScheduler,
    AsyncToolStream,
    to_async,
)
from asimov_sync.graph.run import RunEvents
from asimov_sync.testing import ScriptedInferenceClient

PAIRS = [
    (Cache, AsyncCache),
    (Delivery, AsyncDelivery),
    (InferenceClient, AsyncInferenceClient),
    (ReplyStream, AsyncReplyStream),
    (ToolStream, AsyncToolStream),
    (Agent, AsyncAgent),
    (TaskScheduler, AsyncTaskScheduler),
    (Run, AsyncRun),
    (RunEvents, AsyncRunEvents),
]

NOT_COROUTINES = {
    "as_tool",
    "with_prefix",
    "with_suffix",
    "with_options",
    "stream",
    "stream_tools",
    "handler",
    "middleware",
    "on_event",
    "events",
    "flow",
    "done",
}
"""Methods that do not wait, or that return an awaitable."""

INTERNAL = {"mark_closing", "attach_observation", "records"}
"""Internal methods without a leading underscore."""


def methods(sync):
    names = [name for name in dir(sync) if not name.startswith("_") and name not in INTERNAL]
    return [
        name
        for name in names
        if callable(getattr(sync, name)) and not isinstance(getattr(sync, name), type)
    ]


@pytest.mark.parametrize("sync, facade", PAIRS, ids=lambda value: value.__name__)
def test_methods(sync, facade):
    """Every public method exists with the same signature, and is a coroutine if it waits."""
    assert methods(sync)
    for name in methods(sync):
        actual, expected = getattr(facade, name), getattr(sync, name)
        assert [
            parameter.replace(annotation=parameter.empty)
            for parameter in inspect.signature(actual).parameters.values()
        ] == [
            parameter.replace(annotation=parameter.empty)
            for parameter in inspect.signature(expected).parameters.values()
        ], name
        assert inspect.iscoroutinefunction(actual) is (name not in NOT_COROUTINES), name
        assert inspect.getdoc(actual), name


@pytest.mark.parametrize("sync, facade", PAIRS, ids=lambda value: value.__name__)
def test_properties(sync, facade):
    """Every public property exists as a property."""
    for name in dir(sync):
        if isinstance(getattr(sync, name), property) and not name.startswith("_"):
            assert isinstance(getattr(facade, name), property), name


@pytest.mark.parametrize("sync, facade", PAIRS, ids=lambda value: value.__name__)
def test_protocols(sync, facade):
    """A context manager becomes an async one, and an iterator becomes an async iterator.

    The facade of an agent is an async context manager, too, because it has threads.
    """
    assert (hasattr(sync, "__enter__") or sync is Agent) is hasattr(facade, "__aenter__")
    assert hasattr(sync, "__next__") is hasattr(facade, "__anext__")


def test_invalid_arguments():
    """Other objects raise TypeError with the list of valid ones; max_threads must be at least 1."""
    with pytest.raises(TypeError, match="a cache, an inference client, an agent or a scheduler"):
        to_async("cache")
    router = ModelRouter(ScriptedInferenceClient([]), {"a": "a choice"})
    with pytest.raises(
        TypeError, match="not <ModelRouter .* a ModelRouter, is called by a scheduler"
    ):
        to_async(router)
    with pytest.raises(ValueError, match="max_threads"):
        to_async(MemoryCache(), max_threads=0)
