"""The facade has the names and the arguments of what is beneath."""

import inspect

import pytest

from asimov_sync import Agent, Cache, Delivery, InferenceClient, MemoryCache, ReplyStream, Run, TaskScheduler, ToolStream
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

PLAIN = {
    "with_prefix",
    "with_suffix",
    "with_options",
    "stream",
    "stream_tools",
    "handler",
    "middleware",
    "on_event",
    "events",
    "done",
}
"""What waits for nobody, or returns what is to be awaited."""

ITS_OWN = {"event", "finished", "leave", "attach_observation"}
"""What is not for callers."""


def methods(sync):
    names = [name for name in dir(sync) if not name.startswith("_") and name not in ITS_OWN]
    return [name for name in names if callable(getattr(sync, name)) and not isinstance(getattr(sync, name), type)]


@pytest.mark.parametrize("sync, facade", PAIRS, ids=lambda one: one.__name__)
def test_methods(sync, facade):
    """Every public method is there, with the same arguments and defaults in the same order, and is a coroutine if it waits."""
    assert methods(sync)
    for name in methods(sync):
        mine, its = getattr(facade, name), getattr(sync, name)
        assert [
            parameter.replace(annotation=parameter.empty) for parameter in inspect.signature(mine).parameters.values()
        ] == [parameter.replace(annotation=parameter.empty) for parameter in inspect.signature(its).parameters.values()], name
        assert inspect.iscoroutinefunction(mine) is (name not in PLAIN), name
        assert inspect.getdoc(mine), name


@pytest.mark.parametrize("sync, facade", PAIRS, ids=lambda one: one.__name__)
def test_properties(sync, facade):
    """Every public property is one there, too."""
    for name in dir(sync):
        if isinstance(getattr(sync, name), property) and not name.startswith("_"):
            assert isinstance(getattr(facade, name), property), name


@pytest.mark.parametrize("sync, facade", PAIRS, ids=lambda one: one.__name__)
def test_with(sync, facade):
    """What is used in a `with` is used in an `async with`, and what is iterated over in an `async for`."""
    assert hasattr(sync, "__enter__") is hasattr(facade, "__aenter__")
    assert hasattr(sync, "__next__") is hasattr(facade, "__anext__")


def test_what_has_no_facade():
    """Something else is a TypeError that says what there is a facade for."""
    with pytest.raises(TypeError, match="a cache, an inference client, an agent or a scheduler"):
        to_async("cache")
    with pytest.raises(ValueError, match="max_threads"):
        to_async(MemoryCache(), max_threads=0)
