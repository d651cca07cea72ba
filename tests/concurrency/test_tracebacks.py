"""Short tracebacks of the library's errors and of Ctrl-C, which begin with the user's own line."""

import os
import signal
import sys
import threading
import traceback

import pytest

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    InferenceError,
    TaskGraph,
    TaskScheduler,
    tool,
)
from asimov_sync.testing import Fault, ModelServer, ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import wait_for

CALLS = {
    "generate": lambda client, graph, scheduler: client.generate("hello"),
    "stream": lambda client, graph, scheduler: list(client.stream("hello").text_stream),
    "run_tools": lambda client, graph, scheduler: client.run_tools("hello", []),
    "stream_tools": lambda client, graph, scheduler: list(client.stream_tools("hello", [])),
    "Agent.run": lambda client, graph, scheduler: Agent(client).run("hello"),
    "scheduler.run": lambda client, graph, scheduler: scheduler.run(graph),
    "scheduler.stream": lambda client, graph, scheduler: list(scheduler.stream(graph)),
}


def main_thread_waits():
    """Return whether the main thread reads from a socket, or waits for a run."""
    frame = sys._current_frames()[threading.main_thread().ident]
    return os.path.basename(frame.f_code.co_filename) in ("socket.py", "event.py")


def assert_short(error):
    """Assert that a traceback has the user's line, and at most three frames of the library."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    own = [file for file in files if os.path.basename(file) != os.path.basename(__file__)]
    assert len(files) > len(own) and len(own) <= 3, files
    assert all("asimov_sync" in file for file in own), files


@pytest.fixture
def released():
    """An event for what must not end by itself, set after the test."""
    event = threading.Event()
    yield event
    event.set()


@suite
@pytest.mark.parametrize("at", [0, 4], ids=["before the reply", "in the reply"])
@pytest.mark.parametrize("name", CALLS)
def test_traceback_of_an_interrupted_call(name, at, released):
    """A traceback has the line of the user and at most three of the library."""

    def interrupt(request, number):
        if number == at:
            wait_for(main_thread_waits, "the wait of the call")
            os.kill(os.getpid(), signal.SIGINT)
        return released if number >= at else None

    with ModelServer(lambda body: "one two", before_event=interrupt) as server:
        client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url)
        graph = TaskGraph()
        graph.add(lambda task, context: client.generate("hello").text, name="ask")
        with client, pytest.raises(KeyboardInterrupt) as caught:
            CALLS[name](client, graph, TaskScheduler())
    assert_short(caught.value)
    assert caught.value.__context__ is None


@suite
@pytest.mark.parametrize("cause", ["wrong key", "no server", "cut stream"])
@pytest.mark.parametrize("name", list(CALLS)[:5])
def test_traceback_of_an_error(name, cause):
    """The traceback of a typed error is as short, whether it comes at once or in a stream."""
    answers = [Fault("one two three", cut_at=700)] if cause == "cut stream" else ["one"]
    with ModelServer(answers, api_key="right") as server:
        url = "http://127.0.0.1:9/v1/messages" if cause == "no server" else server.url
        key = "wrong" if cause == "wrong key" else "right"
        client = AnthropicInferenceClient(model="m", api_key=key, api_url=url, max_retries=0)
        with client, pytest.raises(InferenceError) as caught:
            CALLS[name](client, None, None)
    assert_short(caught.value)


def test_traceback_of_a_failed_task():
    """The exception of a task begins with the frame of its handler."""

    def broken(task, context):
        raise ValueError("broken")

    def nested(task, context):
        yield broken(task, context)

    graph = TaskGraph()
    graph.add(broken, name="a")
    graph.add(nested, name="b")
    errors = TaskScheduler().run(graph).exceptions
    names = {name: traceback.extract_tb(error.__traceback__) for name, error in errors.items()}
    assert [frame.name for frame in names["a"]] == ["broken"]
    assert [frame.name for frame in names["b"]] == ["nested", "broken"]


@pytest.mark.parametrize("place", ["handler", "tool"])
def test_frames_of_the_user_are_kept(place):
    """An interrupt in the user's own function, on the thread of the call, shows that function."""

    def interrupted(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        if place == "handler":
            graph = TaskGraph()
            graph.add(interrupted, name="a")
            TaskScheduler(max_workers=0).run(graph)
        else:

            @tool
            def stop() -> str:
                """Stop."""
                return interrupted()

            client = ScriptedInferenceClient([calls(("stop", {}))])
            client.run_tools("go", [stop], max_workers=0)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "interrupted"
