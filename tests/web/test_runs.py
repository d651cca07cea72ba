"""Durable runs for browsers: they outlive their readers, and take only decisions that they wait
for."""

import json
import threading

import pytest

from asimov_sync import (
    MemoryCache,
    Refused,
    RunStatus,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.web import ag_ui, answer_waits, follow, read_ag_ui, sse, ui_message_stream
from asimov_sync.web.browser_request import BrowserRequest

from ..waiting import DEADLINE, wait_for
from .referees import read_ag_ui_run, read_frames, read_ui_message


def ask_user(task, context):
    return context.wait_for("ok?", prompt="May it go?", type=bool)


@pytest.fixture
def store():
    with MemoryCache() as cache:
        yield RunStore(cache)


@pytest.fixture
def scheduler(store, agent):
    with TaskScheduler({"agent": agent, "ask": ask_user}, runs=store) as scheduler:
        yield scheduler


def graph(type):
    graph = TaskGraph()
    graph.add(Task(type=type, objective="clean up"), name="one")
    return graph


def test_an_approval_of_a_stored_run(scheduler, store):
    """The stored events show the call that waits, the decision is the run's, and the request is
    gone from the events once the run continues."""
    scheduler.run(graph("agent"), run_id="r")
    message, chunks = read_ui_message(b"".join(ui_message_stream(follow(store, "r"))))
    (part,) = [one for one in message if "toolCallId" in one]
    assert part["state"] == "approval-requested" and part["input"] == {"path": "/tmp/x"}
    assert chunks[-1]["finishReason"] == "tool-calls"

    assert answer_waits(store, "r", BrowserRequest([], {part["approval"]: True}), by="ann")
    assert not answer_waits(store, "r", BrowserRequest([], {"c": Refused("late")}))
    result = scheduler.run(graph("agent"), run_id="r")
    assert result["one"] == "It is done."
    message, chunks = read_ui_message(b"".join(ui_message_stream(follow(store, "r"))))
    assert [one["text"] for one in message if one["type"] == "text"] == ["It is done."]
    assert not [one for one in message if "toolCallId" in one]


def test_a_parked_run_that_is_cancelled(scheduler, store):
    """A run that is cancelled waits for nothing any more."""
    scheduler.run(graph("agent"), run_id="r")
    assert store.cancel("r", "not needed")
    scheduler.run(graph("agent"), run_id="r")
    _, chunks = read_ui_message(b"".join(ui_message_stream(follow(store, "r"))))
    assert chunks[-1]["type"] == "abort"


def test_a_forged_approval_of_a_stored_run(scheduler, store):
    """A decision about a call that does not wait is a ValueError, and stores nothing."""
    scheduler.run(graph("agent"), run_id="r")
    for request in (BrowserRequest([], {"a": True}), BrowserRequest([], {}, {"one/x": True})):
        with pytest.raises(ValueError, match="not wait|no call 'a'"):
            answer_waits(store, "r", request)
    assert [wait.name for wait in store.waits("r")] == ["c"]
    assert store.get("r").status is RunStatus.PARKED


def test_a_question_of_a_stored_run(scheduler, store):
    """A question is an interrupt with the schema of its answer; resume answers it."""
    scheduler.run(graph("ask"), run_id="r")
    body = {"threadId": "t", "runId": "x", "messages": []}
    events, _ = read_ag_ui_run(b"".join(ag_ui(follow(store, "r"), read_ag_ui(body))))
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    assert interrupt["message"] == "May it go?"
    assert interrupt["responseSchema"] == {"type": "boolean"}
    entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": "yes, please do"}
    with pytest.raises(ValueError):
        answer_waits(store, "r", read_ag_ui(dict(body, resume=[entry])))
    entry["payload"] = True
    assert answer_waits(store, "r", read_ag_ui(dict(body, resume=[entry])))
    assert scheduler.run(graph("ask"), run_id="r")["one"] is True


@pytest.mark.usefixtures("fast_time")  # the log of a run is written once a second
def test_a_browser_that_leaves_does_not_end_the_run(scheduler, store):
    """Closing the body ends only the reader. Reconnecting sends what came since."""
    go, started = threading.Event(), threading.Event()

    def work(task, context):
        started.set()
        assert go.wait(DEADLINE)
        return "done"

    scheduler.handlers["work"] = work
    run = scheduler.submit(graph("work"), run_id="r")
    assert started.wait(DEADLINE)
    body = sse(follow(store, "r"))
    seen = b""
    while b"task_started" not in seen:
        seen += next(body)
    body.close()
    go.set()
    assert run.result(DEADLINE)["one"] == "done"
    last = max(
        json.loads(frame)["sequence"] for frame in read_frames(seen.replace(b": open\n\n", b""))
    )
    rest = [json.loads(frame) for frame in read_frames(b"".join(sse(follow(store, "r", last))))]
    assert [event["type"] for event in rest] == ["task_finished", "run_finished"]
    assert follow(store, "r", rest[-1]["sequence"]) is None
    wait_for(lambda: "asimov-web" not in [one.name for one in threading.enumerate()])


def test_following_an_unknown_run(store):
    """A run that does not exist is a KeyError, for a 404."""
    with pytest.raises(KeyError):
        follow(store, "nothing")
