"""The tool loop: its steps without IO, and its calls on threads."""

import collections
import contextvars
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time

import pytest
from hypothesis import given, settings, strategies as st

from asimov_sync import (
    Cancellation,
    Cancelled,
    ChatMessage,
    ClosedError,
    InvalidRequestError,
    OverloadedError,
    Reply,
    ToolCall,
    ToolStarted,
    Usage,
    tool,
)
from asimov_sync.concurrency import scope
from asimov_sync.inference.tools.loop import CalledTool, CallTools, SendMessages, tool_loop
from asimov_sync.messages import as_messages
from asimov_sync.testing import (
    Failure,
    ScriptedInferenceClient,
    calls,
    count_callbacks,
    last_text,
    tool_results,
)

from ..tiers import by_tier, suite
from ..waiting import Background, in_child, wait_for


def make_reply(text="", stop_reason="end_turn", requested=()):
    blocks = [{"type": "text", "text": text}] + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in requested
    ]
    return Reply(
        message=ChatMessage(role="assistant", content=blocks),
        stop_reason=stop_reason,
        raw_stop_reason=stop_reason,
        tool_calls=list(requested),
        usage=Usage(input_tokens=1, requests=1),
    )


def run_loop(replies, max_iterations=10):
    """Run a loop with these replies; each call returns its name. Returns the steps and the run."""
    steps = []
    loop = tool_loop(as_messages("question"), max_iterations)
    step, remaining = next(loop), iter(replies)
    while True:
        steps.append(step)
        try:
            if isinstance(step, SendMessages):
                step = loop.send(next(remaining))
            else:
                step = loop.send([CalledTool(call, call.name, None, 0.0) for call in step.calls])
        except StopIteration as end:
            return steps, end.value


ONE, TWO = calls(("one", {"a": 1}), ("two", {}))


def test_steps_of_a_loop():
    """Every call is answered, in order, and the usage is the sum of all replies."""
    steps, run = run_loop([make_reply("hm", "tool_use", [ONE, TWO]), make_reply("done")])
    assert [type(step) for step in steps] == [SendMessages, CallTools, SendMessages]
    assert steps[1].calls == [ONE, TWO]
    assert [message.role.value for message in run.messages] == [
        "user",
        "assistant",
        "tool_result",
        "assistant",
    ]
    assert [block["tool_use_id"] for block in run.messages[2].content] == [ONE.id, TWO.id]
    assert (run.text, run.stop_reason, run.iterations, run.usage.requests) == (
        "done",
        "end_turn",
        2,
        2,
    )
    assert [result.call for result in run.calls] == [ONE, TWO]


@pytest.mark.parametrize(
    "stop_reason", ["max_tokens", "refusal", "end_turn", "stop_sequence", None]
)
def test_calls_of_other_stop_reasons(stop_reason):
    """Calls of a reply with another stop reason are skipped, and get an error result."""
    steps, run = run_loop([make_reply("", stop_reason, [ONE])])
    assert [type(step) for step in steps] == [SendMessages]
    assert (run.stop_reason, run.calls) == (stop_reason, [])
    (block,) = run.messages[-1].blocks
    assert (block["tool_use_id"], block["is_error"]) == (ONE.id, True)
    assert (
        block["content"] == f"the call was not made, because the reply stopped with {stop_reason}"
    )


def test_pause_turn():
    """After pause_turn the history is sent again unchanged. A call in that reply is answered
    first.
    """
    steps, run = run_loop([make_reply("so far", "pause_turn"), make_reply("done")])
    assert [type(step) for step in steps] == [SendMessages, SendMessages]
    assert [message.role.value for message in steps[1].messages] == ["user", "assistant"]
    assert run.text == "done"
    steps, run = run_loop([make_reply("so far", "pause_turn", [ONE]), make_reply("done")])
    assert [type(step) for step in steps] == [SendMessages, SendMessages]
    assert [message.role.value for message in steps[1].messages] == [
        "user",
        "assistant",
        "tool_result",
    ]
    assert (run.text, run.calls) == ("done", [])


def test_max_iterations():
    """At the limit the calls are still executed, and the history can be sent again."""
    steps, run = run_loop([make_reply("", "tool_use", [ONE])] * 5, max_iterations=2)
    assert [type(step) for step in steps] == [SendMessages, CallTools, SendMessages, CallTools]
    assert (run.stop_reason, run.iterations) == ("max_iterations", 2)
    assert run.messages[-1].role.value == "tool_result"
    with pytest.raises(ValueError, match="max_iterations"):
        run_loop([], max_iterations=0)


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@tool
def broken() -> None:
    """Always raise."""
    raise RuntimeError("it broke")


@tool
def not_json() -> object:
    """Return an object that JSON cannot represent."""
    return object()


def test_failed_calls():
    """Invalid arguments, unknown tools, exceptions and non-JSON results are error results."""
    requested = calls(
        ("double", {"number": 4}),
        ("double", {"number": "x"}),
        ("nope", {}),
        ("broken", {}),
        ("not_json", {}),
    )
    requested.append(ToolCall(id="m", name="double", arguments={"number": 4}))
    reply = make_reply("", "tool_use", requested)
    reply.message.content[-1]["input"] = [4]  # no JSON object
    client = ScriptedInferenceClient([reply, "done"])
    run = client.run_tools("go", [double, broken, not_json])
    blocks = client.requests[1]["messages"][-1]["content"]
    assert [block["tool_use_id"] for block in blocks] == [call.id for call in requested]
    assert blocks[0] == {"type": "tool_result", "tool_use_id": requested[0].id, "content": "8"}
    assert all(block["is_error"] for block in blocks[1:])
    expected = [
        "do not fit",
        "there is no tool named 'nope'; known tools: broken, double",
        "it broke",
        "serialize",
        "the arguments are not a JSON object: [4]",
    ]
    assert len(blocks) == 6 and all(
        message in block["content"] for block, message in zip(blocks[1:], expected)
    )
    kinds = [type(result.exception).__name__ for result in run.calls]
    assert kinds[:4] + kinds[5:] == [
        "NoneType",
        "ValueError",
        "LookupError",
        "RuntimeError",
        "ValueError",
    ]
    assert run.calls[0].result == 8
    assert run.text == "done"


def test_calls_of_one_turn_are_parallel():
    """Three calls of a turn wait at a barrier, each on its own thread, in the caller's context."""
    barrier = threading.Barrier(3)
    variable = contextvars.ContextVar("variable")
    variable.set("caller's")

    @tool
    def wait_for_others(number: int) -> str:
        barrier.wait(10)
        return variable.get() + str(number)

    client = ScriptedInferenceClient(
        [calls(*[("wait_for_others", {"number": number}) for number in range(3)]), "done"]
    )
    run = client.run_tools("go", [wait_for_others])
    assert [result.result for result in run.calls] == ["caller's0", "caller's1", "caller's2"]


def test_max_workers():
    """max_workers limits the parallel calls; 0 executes them on the calling thread."""
    threads = []

    @tool
    def record_thread() -> str:
        threads.append(threading.get_ident())
        time.sleep(0.001)
        return ""

    requested = calls(*[("record_thread", {})] * 6)
    ScriptedInferenceClient([requested, "done"]).run_tools("go", [record_thread], max_workers=0)
    assert set(threads) == {threading.get_ident()}
    threads.clear()
    ScriptedInferenceClient([requested, "done"]).run_tools("go", [record_thread], max_workers=2)
    assert 1 <= len(set(threads)) <= 2 and threading.get_ident() not in threads


@pytest.mark.parametrize("workers", [None, 2])
def test_run_inline(workers):
    """With run_inline, calls run on the calling thread for any max_workers, also in streams."""
    threads = []

    @tool
    def record_thread() -> None:
        """Record the thread."""
        threads.append(threading.current_thread())

    client = ScriptedInferenceClient(
        lambda body: (
            "done" if tool_results(body) else calls(("record_thread", {}), ("record_thread", {}))
        )
    )

    def run_both():
        scope.replace(run_inline=True)
        client.run_tools("go", [record_thread], max_workers=workers)
        list(client.stream_tools("go", [record_thread], max_workers=workers))

    contextvars.copy_context().run(run_both)
    assert threads == [threading.current_thread()] * 4
    client.run_tools("go", [record_thread], max_workers=workers)
    assert threading.current_thread() not in threads[4:] and len(threads) == 6


def test_a_cancellation_does_not_wait_for_tools():
    """A cancellation ends the run during a tool, and cancels the tool's current token."""
    started, results = threading.Event(), []

    @tool
    def slow() -> str:
        started.set()
        results.append(Cancellation.current().wait(20))
        return ""

    token = Cancellation()
    client = ScriptedInferenceClient([calls(("slow", {})), "done"])
    call = Background(client.run_tools, "go", [slow], cancellation=token)
    assert started.wait(10)
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        call.result()
    wait_for(lambda: results == [True])


def test_nested_runs():
    """Tools that run the loop of their own client do not deadlock on its threads."""

    def model(body):
        depth = int(body["messages"][0]["content"])
        has_result = body["messages"][-1]["role"] == "user" and len(body["messages"]) > 1
        return (
            "bottom"
            if depth == 0 or has_result
            else calls(("deeper", {"depth": depth - 1}), ("deeper", {"depth": 0}))
        )

    client = ScriptedInferenceClient(model)

    @tool
    def deeper(depth: int) -> str:
        return client.run_tools(str(depth), [deeper]).text

    assert Background(client.run_tools, "4", [deeper]).result().text == "bottom"


def test_usage():
    """The run's usage is the sum of its replies, the client's that of all its runs."""
    client = ScriptedInferenceClient([calls(("double", {"number": 1})), "done", "other"])
    run = client.run_tools("go", [double])
    assert run.usage.requests == run.iterations == 2
    other = client.generate("go")
    assert client.usage == run.usage + other.usage


# Any conversation

REASONS = ["tool_use"] * 6 + ["max_tokens", "refusal", "pause_turn", "end_turn"]
KINDS = ["good", "bad", "guarded", "alone", "unknown", "malformed", "guarded malformed"]
TURN = st.tuples(st.sampled_from(REASONS), st.lists(st.sampled_from(KINDS), max_size=4))


class RecordedTools:
    """Tools that record each call by its number, and replies with numbered calls."""

    def __init__(self):
        self.executions = collections.Counter()
        self.kinds = {}
        self.reasons = {}
        self.numbers = itertools.count()

        def good(number: int) -> int:
            self.executions[number] += 1
            return number

        def bad(number: int) -> int:
            self.executions[number] += 1
            raise RuntimeError(str(number))

        def guarded(number: int = -1) -> int:
            self.executions[number] += 1
            return number

        def alone(number: int) -> int:
            self.executions[number] += 1
            return number

        self.tools = [
            good,
            bad,
            tool(requires_approval=True)(guarded),
            tool(sequential=True)(alone),
        ]

    def make_reply(self, stop_reason, kinds):
        requested = []
        for kind in kinds:
            number = next(self.numbers)
            self.kinds[number], self.reasons[number] = kind, stop_reason
            requested.append(
                ToolCall(id=f"t{number}", name=kind.split()[0], arguments={"number": number})
            )
        next_reply = make_reply("words", stop_reason, requested)
        for block, kind in zip(next_reply.message.content[1:], kinds):
            if "malformed" in kind:
                block["input"] = "no object"
        return next_reply


def results_by_id(messages):
    """Return the results in a history by call id.

    Asserts that each follows its call, in the order of the calls.
    """
    found, expected = {}, []
    for message in messages:
        blocks = message.blocks
        if message.role.value == "assistant":
            assert not expected or expected == [None], "calls without results before the next reply"
            expected = [block["id"] for block in blocks if block["type"] == "tool_use"] or [None]
            continue
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        positions = [expected.index(call_id) for call_id in results]
        assert positions == sorted(set(positions)), (
            "results in another order than the calls, or twice"
        )
        assert not set(results) & set(found)
        found.update(
            (block["tool_use_id"], block) for block in blocks if block["type"] == "tool_result"
        )
        expected = [call_id for call_id in expected if call_id not in results]
    return found


@suite
@settings(max_examples=by_tier(60, soak=150))
@given(
    turns=st.lists(TURN, max_size=5),
    limits=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    workers=st.sampled_from([None, 0, 1, 2]),
    decisions=st.randoms(use_true_random=False),
)
def test_every_call_has_one_result(turns, limits, workers, decisions):
    """Every call has one result, for any conversation, limit, workers and decisions.

    Results are in the order of the calls, except for pending ones. Each call is executed once, or
    never if it must be skipped.
    """
    recorded = RecordedTools()
    client = ScriptedInferenceClient(
        [recorded.make_reply(*turn) for turn in turns] + ["the end"] * 20
    )
    history, approvals, decided, calls_made = as_messages("go"), {}, {}, 0
    for limit in itertools.chain(limits, itertools.repeat(5)):
        run = client.run_tools(
            history, recorded.tools, max_iterations=limit, max_workers=workers, approvals=approvals
        )
        calls_made += len(run.calls)
        ids = [
            block["id"]
            for message in run.messages
            for block in message.blocks
            if block["type"] == "tool_use"
        ]
        results = results_by_id(run.messages)
        pending = [call.id for call in run.pending]
        assert set(ids) == set(results) | set(pending) and not set(results) & set(pending)
        assert (run.stop_reason == "approval") == bool(pending)
        decided.update(approvals)
        assert not set(pending) & set(decided)
        for number, kind in recorded.kinds.items():
            name = f"t{number}"
            expected = (
                name in results
                and recorded.reasons[number] == "tool_use"
                and kind in ("good", "bad", "guarded", "alone")
            )
            if kind == "guarded":
                expected = expected and decided.get(name) is True
            assert recorded.executions[number] == expected, (kind, recorded.reasons[number])
        approvals = {
            call_id: decisions.choice([True, "no", False])
            for call_id in pending
            if decisions.random() < 0.7
        }
        history = [
            ChatMessage.model_validate(json.loads(json.dumps(call_id.model_dump(mode="json"))))
            for call_id in run.messages
        ]
        if run.text == "the end":
            break
    assert recorded.executions[-1] == 0


# Threads


def test_sequential_calls():
    """A sequential call starts after all calls before it, and ends before all calls after it."""
    barrier, log = threading.Barrier(2), []

    @tool
    def parallel(number: int) -> int:
        log.append(("starts", number))
        barrier.wait(10)
        log.append(("ends", number))
        return number

    @tool(sequential=True)
    def alone(number: int) -> int:
        log.append(("starts", number))
        time.sleep(0.01)
        log.append(("ends", number))
        return number

    order = [
        ("parallel", 0),
        ("parallel", 1),
        ("alone", 2),
        ("alone", 3),
        ("parallel", 4),
        ("parallel", 5),
        ("alone", 6),
    ]
    client = ScriptedInferenceClient(
        [calls(*[(name, {"number": number}) for name, number in order]), "done"]
    )
    run = client.run_tools("go", [parallel, alone])
    assert [result.result for result in run.calls] == list(range(7))
    positions = {entry: position for position, entry in enumerate(log)}
    for number in (2, 3, 6):
        assert all(
            positions["ends", before] < positions["starts", number] for before in range(number)
        )
        assert all(
            positions["ends", number] < positions["starts", after] for after in range(number + 1, 7)
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker(workers):
    """With one worker, or none, the calls run in order, one at a time."""
    busy, order = threading.Lock(), []

    @tool
    def alone(number: int) -> None:
        assert busy.acquire(blocking=False)
        order.append(number)
        busy.release()

    client = ScriptedInferenceClient(
        [calls(*[("alone", {"number": number}) for number in range(20)]), "done"]
    )
    run = client.run_tools("go", [alone], max_workers=workers)
    assert order == list(range(20)) and all(result.exception is None for result in run.calls)


def test_negative_max_workers():
    """A negative max_workers is an error, and nothing is sent."""
    client = ScriptedInferenceClient(["done"])
    with pytest.raises(ValueError, match="max_workers is None, 0, or .*; not -1"):
        Background(client.run_tools, "go", [double], max_workers=-1).result()
    assert client.requests == []


def test_limit_of_threads():
    """A turn of 300 calls is executed on 100 threads."""
    release, threads = threading.Event(), set()

    @tool
    def count(number: int) -> int:
        threads.add(threading.current_thread())
        assert release.wait(20)
        return number

    client = ScriptedInferenceClient(
        [calls(*[("count", {"number": number}) for number in range(300)]), "done"]
    )
    stream = client.stream_tools("go", [count])
    while next(stream).type != "tool_started":
        pass
    wait_for(lambda: len(threads) >= 100, "the start of 100 threads")
    release.set()
    list(stream)
    assert len(threads) == 100
    assert [result.result for result in stream.run.calls] == list(range(300))


@pytest.mark.parametrize("workers", [None, 0, 1, 2])
def test_nested_runs_with_any_number_of_workers(workers):
    """Nested runs have their own threads, with any number of workers."""

    def model(body):
        depth = int(body["messages"][0]["content"])
        return (
            "bottom"
            if depth == 0 or len(body["messages"]) > 1
            else calls(*[("deeper", {"depth": depth - 1})] * 2)
        )

    client = ScriptedInferenceClient(model)

    @tool
    def deeper(depth: int) -> str:
        return client.run_tools(str(depth), [deeper], max_workers=workers).text

    run = Background(client.run_tools, "4", [deeper], max_workers=workers).result()
    assert [result.result for result in run.calls] == ["bottom"] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_tools_in_a_forked_child():
    """A client that executed tools before a fork executes them in the child, too."""
    client = ScriptedInferenceClient(
        lambda body: tool_results(body).get("double") or calls(("double", {"number": 4}))
    )
    assert client.run_tools("go", [double]).text == "8"

    def child():
        assert client.run_tools("go", [double]).text == "8"

    in_child(child)


def test_token_keeps_no_references():
    """A token that outlives many runs keeps no reference to them."""
    token = Cancellation()
    client = ScriptedInferenceClient(
        lambda body: tool_results(body).get("double") or calls(("double", {"number": 4}))
    )
    for _ in range(20):
        client.run_tools("go", [double], cancellation=token)
        with client.stream_tools("go", [double], cancellation=token) as stream:
            next(stream)
    assert not count_callbacks(token)


# Interruptions


def test_ctrl_c():
    """Ctrl-C during a wait for tools is raised at once, and cancels the tools."""
    results = []

    @tool
    def slow() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        results.append(Cancellation.current().wait(20))
        return ""

    client = ScriptedInferenceClient([calls(("slow", {})), "done"])
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        client.run_tools("go", [slow])
    assert time.monotonic() - start < 10
    wait_for(lambda: results == [True])


def test_ctrl_c_between_two_events():
    """Ctrl-C in the reader cancels the tools at once, although the traceback keeps all frames."""
    results, started = [], threading.Event()

    @tool
    def slow() -> str:
        started.set()
        results.append(Cancellation.current().wait(20))
        return ""

    client = ScriptedInferenceClient([calls(("slow", {})), "done"])
    read = []

    def interrupt(frame, event, argument):
        """Trace function: raise KeyboardInterrupt once run_tools has read that the tool started."""
        if event == "return" and isinstance(argument, ToolStarted):
            read.append(argument)
        elif event == "line" and read and frame.f_code is client.run_tools.__func__.__code__:
            assert started.wait(10)
            raise KeyboardInterrupt
        return interrupt

    previous = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            client.run_tools("go", [slow])
    finally:
        sys.settrace(previous)
    assert read and caught.tb is not None  # the traceback refers to all frames
    wait_for(lambda: results == [True])


def test_a_tool_that_raises_keyboard_interrupt():
    """KeyboardInterrupt from a tool ends the run and cancels the other tools."""
    results, started = [], threading.Event()

    @tool
    def stop() -> str:
        assert started.wait(20)
        raise KeyboardInterrupt

    @tool
    def slow() -> str:
        started.set()
        results.append(Cancellation.current().wait(20))
        return ""

    client = ScriptedInferenceClient([calls(("slow", {}), ("stop", {})), "done"])
    with pytest.raises(Cancelled, match="a tool ended with KeyboardInterrupt"):
        Background(client.run_tools, "go", [stop, slow]).result()
    wait_for(lambda: results == [True])


def test_cancelled_tool():
    """Cancelled from a tool's own token is a failure of the tool; the run continues."""

    @tool
    def cancel_itself() -> None:
        token = Cancellation(parent=None)
        token.cancel("my own")
        token.raise_if_cancelled()

    client = ScriptedInferenceClient([calls(("cancel_itself", {})), "done"])
    run = client.run_tools("go", [cancel_itself])
    assert (run.text, str(run.calls[0].exception)) == ("done", "my own")


def test_deadline_during_a_tool():
    """A deadline that passes during a tool ends the run. The tool's current token has it."""
    remaining = []

    @tool
    def slow() -> None:
        remaining.append(Cancellation.current().remaining)
        Cancellation.current().wait(20)

    client = ScriptedInferenceClient([calls(("slow", {})), "done"])
    with pytest.raises(Cancelled, match="the deadline passed"):
        Background(client.run_tools, "go", [slow], cancellation=Cancellation(timeout=0.2)).result()
    assert 0 <= remaining[0] <= 0.2


def test_closed_client():
    """Calls after the client was closed raise ClosedError, without a wait."""
    client = ScriptedInferenceClient([calls(("double", {"number": 1}))])
    client.close()
    with pytest.raises(ClosedError):
        Background(client.run_tools, "go", [double]).result()


# Continuing after an error


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("failed_request", [0, 1, 2])
def test_an_error_carries_the_history(failed_request, streamed):
    """The error of any request has the history in .messages. Continuing repeats no call."""
    executed = []

    @tool
    def count(number: int) -> int:
        executed.append(number)
        return number

    script = [
        calls(("count", {"number": 0}), ("count", {"number": 1})),
        calls(("count", {"number": 2})),
        "done",
    ]
    script.insert(failed_request, Failure(529, "overloaded_error"))
    client = ScriptedInferenceClient(script, max_retries=0)

    def run(messages):
        if not streamed:
            return client.run_tools(messages, [count], max_workers=1)
        with client.stream_tools(messages, [count], max_workers=1) as stream:
            list(stream)
        return stream.run

    with pytest.raises(OverloadedError) as caught:
        run("go")
    history = caught.value.messages
    assert (len(history), executed) == (
        1 + 2 * failed_request,
        list(range([0, 2, 3][failed_request])),
    )
    results_by_id(history)
    assert run(history).text == "done"
    assert executed == [0, 1, 2]


def test_error_of_a_nested_run():
    """An error of a tool's nested run is a failure of the tool. The outer run continues."""
    inner = ScriptedInferenceClient([Failure(400, "invalid_request_error", "inner")])

    @tool
    def ask_model(question: str) -> str:
        return inner.run_tools(question, []).text

    client = ScriptedInferenceClient([calls(("ask_model", {"question": "?"})), "done"])
    run = client.run_tools("go", [ask_model])
    assert (run.text, [message.text for message in run.calls[0].exception.messages]) == (
        "done",
        ["?"],
    )
    assert isinstance(run.calls[0].exception, InvalidRequestError)


# redact=


def test_redact():
    """The model receives redacted results and exceptions; .calls and events have the originals."""

    @tool
    def secret() -> dict:
        return {"password": "hunter2"}

    @tool
    def leak() -> None:
        raise RuntimeError("hunter2 is wrong")

    client = ScriptedInferenceClient([calls(("secret", {}), ("leak", {}), ("hunter2", {})), "done"])
    stream = client.stream_tools(
        "go", [secret, leak], redact=lambda text: text.replace("hunter2", "***"), max_workers=1
    )
    events = list(stream)
    contents = [block["content"] for block in client.requests[1]["messages"][-1]["content"]]
    assert contents[:2] == ['{"password": "***"}', "RuntimeError: *** is wrong"]
    assert contents[2] == "LookupError: there is no tool named '***'; known tools: leak, secret"
    assert stream.run.calls[0].result == {"password": "hunter2"}
    assert [event.result for event in events if event.type == "tool_finished"][0] == {
        "password": "hunter2"
    }


@pytest.mark.parametrize(
    "redact", [lambda text: 1 / 0, lambda text: None, lambda text: b"***", lambda text: {}[text]]
)
def test_failing_redact(redact, caplog):
    """If redact= fails, the result is withheld from the model, as an error, and is not logged."""

    @tool
    def secret() -> str:
        return "hunter2"

    client = ScriptedInferenceClient([calls(("secret", {})), "done"])
    with caplog.at_level(logging.DEBUG):
        run = client.run_tools("go", [secret], redact=redact)
    (block,) = client.requests[1]["messages"][-1]["content"]
    assert (block["content"], block["is_error"]) == ("the result was withheld", True)
    assert (
        "redact= failed with" in caplog.text
        and "secret" in caplog.text
        and "hunter2" not in caplog.text
    )
    assert (run.text, run.calls[0].result) == ("done", "hunter2")


# Histories of other runs


def test_partly_answered_calls():
    """Calls without a result are executed; their results join the existing message, in order."""
    history = [
        ChatMessage(role="user", content="go"),
        make_reply("", "tool_use", calls(("one", {}), ("two", {}), ("three", {}))).message,
    ]
    ids = [block["id"] for block in history[1].content if block["type"] == "tool_use"]
    last = [
        {"type": "tool_result", "tool_use_id": ids[1], "content": "2"},
        {"type": "text", "text": "and?"},
    ]
    history.append(ChatMessage(role="user", content=last, cache_marker="1h"))
    loop = tool_loop(history, 5)
    step = next(loop)
    assert [call.name for call in step.calls] == ["one", "three"]
    step = loop.send([CalledTool(call, call.name, None, 0.0) for call in step.calls])
    assert [block.get("content") or block["text"] for block in step.messages[2].content] == [
        "one",
        "2",
        "three",
        "and?",
    ]
    assert step.messages[2].cache_marker == "1h"
    assert len(history[2].content) == 2  # the caller's list is unchanged


def test_history_that_ends_with_a_question():
    """A history that ends with a question is sent unchanged."""
    client = ScriptedInferenceClient(lambda body: last_text(body).upper())
    assert (
        client.run_tools(["one", ChatMessage(role="assistant", content="1"), "two"], [double]).text
        == "TWO"
    )
