"""TaskText: the text of a task's replies as it arrives, and none after the task has ended."""

import threading

import pytest

from asimov_sync import AnthropicInferenceClient, Retry, TaskScheduler, tool
from asimov_sync.testing import Fault, ModelServer, ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import DEADLINE, Background, wait_for
from .graphs import single


def texts(events):
    """Return the received text by reply number."""
    found = {}
    for event in events:
        if event.type == "task_text":
            assert event.name == "x"
            found[event.reply] = found.get(event.reply, "") + event.text
    return found


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request):
    with TaskScheduler(max_workers=request.param) as new_scheduler:
        yield new_scheduler


def test_every_way_to_call_a_model(scheduler):
    """generate, stream and tool loops publish text alike, each reply under its own number."""

    @tool
    def look_up() -> str:
        return "found"

    def answer(body):
        return "all done now" if len(body["messages"]) > 1 else calls(("look_up", {}))

    def handler(task, context):
        client = ScriptedInferenceClient(lambda body: "one two three")
        client.generate("hello")
        list(client.stream("hello"))
        client = ScriptedInferenceClient(answer)
        client.run_tools("hello", tools=[look_up])
        list(client.stream_tools("hello", tools=[look_up]))

    scheduler.handlers["handler"] = handler
    events = list(scheduler.stream(single("handler")))
    received = texts(events)
    assert {number: text for number, text in received.items() if text} == {
        1: "one two three",
        2: "one two three",
        4: "all done now",
        6: "all done now",
    }
    pieces = [event for event in events if event.type == "task_text" and event.reply == 2]
    assert len(pieces) > 1
    assert events[-2].type == "task_finished"


@pytest.mark.usefixtures("fast_time")
@suite
def test_interrupted_reply_starts_again(scheduler):
    """A reply that breaks off and is requested again has a new number, and starts from scratch. An
    empty piece withdraws the text of the old number."""
    with ModelServer([Fault("one two three", error_at=4), "one two three"]) as server:
        client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url, max_retries=2)
        scheduler.handlers["handler"] = lambda task, context: client.generate("hello").text
        events = list(scheduler.stream(single("handler")))
        assert events[-1].result.results == {"x": "one two three"}
        assert len(server.requests) == 2
        assert texts(events) == {1: "one ", 2: "one two three"}
        pieces = [(one.reply, one.text) for one in events if one.type == "task_text"]
        assert pieces[:2] == [(1, "one "), (1, "")]
        assert all(text for _, text in pieces[2:])


@pytest.mark.usefixtures("fast_time")
@suite
def test_interrupted_reply_for_a_slow_reader(scheduler):
    """If the pieces of a cut reply are merged, nothing of them is left."""
    answers = [Fault("word " * 3000, error_at=2000), "one two three"]
    with ModelServer(answers) as server:
        client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url, max_retries=2)
        scheduler.handlers["handler"] = lambda task, context: client.generate("hello").text
        run = scheduler.submit(single("handler"))
        events = run.events()
        assert run.result(DEADLINE).results == {"x": "one two three"}
        pieces = [(one.reply, one.text) for one in events if one.type == "task_text"]
        assert [text for reply, text in pieces if reply == 1][-1] == "" and len(pieces) < 1500


def test_attempts_count_their_own_replies(scheduler):
    """Each attempt numbers its replies from 1."""
    client = ScriptedInferenceClient(lambda body: "text")

    def handler(task, context):
        client.generate("hello")
        client.generate("hello")
        if context.attempt == 1:
            raise ValueError

    scheduler.handlers["handler"] = handler
    events = list(
        scheduler.stream(single("handler", retry=Retry(attempts=2, wait=lambda state: 0.0)))
    )
    assert [event.reply for event in events if event.type == "task_text"] == [1, 2, 1, 2]


def test_parallel_tools():
    """Tools that call models in parallel publish under numbers of their own."""
    met = threading.Barrier(4)
    inner = ScriptedInferenceClient(lambda body: f"inner {body['messages'][0]['content']}")

    @tool
    def ask(number: int) -> str:
        met.wait(20)
        return inner.generate(str(number)).text

    requested = calls(*[("ask", {"number": number}) for number in range(4)])
    outer = ScriptedInferenceClient(
        lambda body: "outer" if len(body["messages"]) > 1 else requested
    )
    with TaskScheduler(
        {"handler": lambda task, context: outer.run_tools("hello", tools=[ask]).text}
    ) as scheduler:
        for _ in range(5):
            received = texts(scheduler.stream(single("handler")))
            assert sorted(text for text in received.values() if text) == [
                "inner 0",
                "inner 1",
                "inner 2",
                "inner 3",
                "outer",
            ]


def test_first_replies_of_several_threads():
    """Threads of a handler that start its first replies at once get different numbers."""
    import contextvars

    client = ScriptedInferenceClient(lambda body: "text")
    count = 8

    def handler(task, context):
        met = threading.Barrier(count)

        def ask():
            met.wait(20)
            client.generate("hello")

        for call in [Background(contextvars.copy_context().run, ask) for _ in range(count)]:
            call.result()

    with TaskScheduler({"handler": handler}) as scheduler:
        for _ in range(10):
            assert texts(scheduler.stream(single("handler"))) == dict.fromkeys(
                range(1, count + 1), "text"
            )


def test_no_text_after_the_task():
    """Text that a leftover thread receives after the end of its attempt is not published."""
    import contextvars

    gate, left = threading.Event(), []
    client = ScriptedInferenceClient(lambda body: "late text")

    def handler(task, context):
        own = contextvars.copy_context()
        left.append(Background(lambda: gate.wait(20) and own.run(client.generate, "hello").text))

    with TaskScheduler({"handler": handler}) as scheduler:
        events = scheduler.stream(single("handler"))
        wait_for(lambda: scheduler.last_result is not None)
        gate.set()
        assert left[0].result() == "late text"
        assert [event.type for event in events] == [
            "run_started",
            "task_started",
            "task_finished",
            "run_finished",
        ]


def test_no_listener_without_a_subscriber():
    """Without subscribers no text listener is installed."""
    from asimov_sync.concurrency import scope

    seen = []
    with TaskScheduler(
        {"handler": lambda task, context: seen.append(scope.current().text_listeners)}
    ) as scheduler:
        scheduler.run(single("handler"))
        list(scheduler.stream(single("handler")))
        scheduler.on_event(lambda event: None)
        scheduler.run(single("handler"))
        wait_for(lambda: len(seen) == 3)
    assert [len(taps) for taps in seen] == [0, 1, 1]


def test_nested_runs_publish_to_both(scheduler):
    """Text in a nested run is published there, and for the task around it."""
    client = ScriptedInferenceClient(lambda body: "text")
    inner_events = []

    def outer(task, context):
        inner_events.extend(scheduler.stream(single("inner")))

    scheduler.handlers.update(
        outer=outer, inner=lambda task, context: client.generate("hello").text
    )
    events = list(scheduler.stream(single("outer")))
    assert texts(events) == texts(inner_events) == {1: "text"}
