"""Any sequence of events makes streams that the clients of both protocols accept."""

from types import SimpleNamespace

from hypothesis import given, settings, strategies as st

from asimov_sync import (
    Cancelled,
    ChatMessage,
    ChatRole,
    Reply,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    ToolFinished,
    ToolRefused,
    ToolRunDone,
    ToolStarted,
)
from asimov_sync.inference.tools.loop import CalledTool
from asimov_sync.web import ag_ui, read_ag_ui, ui_message_stream

from ..tiers import by_tier, suite
from .referees import read_ag_ui_run, read_ui_message

TEXTS = st.sampled_from(["", "a", "two\nlines", "\ud800", "</script>", "data: x\n\n"])
CALLS = st.builds(
    lambda number, malformed: ToolCall(
        id=f"c{number}", name="f", arguments={"n": number}, malformed=malformed
    ),
    st.integers(1, 2),
    st.sampled_from([None, None, "{oops"]),
)


def reply(calls=(), text=""):
    message = ChatMessage(role=ChatRole.ASSISTANT, content=text)
    return Reply(message=message, stop_reason="end_turn", tool_calls=list(calls))


def tool_run(refused, pending, parsed):
    """A stand-in for a ToolRun that ended with these calls."""
    calls = [CalledTool(call, None, ToolRefused("no"), 0.0) for call in refused]
    return ToolRunDone(
        SimpleNamespace(
            calls=calls,
            pending=pending,
            parsed=parsed,
            reply=reply(pending),
            stop_reason="approval" if pending else "end_turn",
            usage=reply().usage,
        )
    )


REPLY_EVENTS = st.one_of(
    st.builds(TextDelta, TEXTS),
    st.builds(ThinkingDelta, TEXTS),
    st.builds(ToolCallReady, CALLS),
    st.builds(ReplyDone, st.builds(reply, st.just(()), TEXTS)),
    st.builds(ToolStarted, CALLS),
    st.builds(ToolFinished, CALLS, st.just("it"), st.sampled_from([None, "ToolError: no"])),
    st.builds(
        tool_run,
        st.lists(CALLS, max_size=2),
        st.lists(CALLS, max_size=2),
        st.sampled_from([None, 1]),
    ),
)

WAITS = st.sampled_from(
    [
        {"name": "ok?", "prompt": "may it?", "data": None, "type": None, "deadline": 9.5},
        {"name": "c1", "call": {"id": "c1", "name": "f", "arguments": {}}, "deadline": None},
        "not a wait",
    ]
)
RUN_EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            "run_started task_started task_progress task_text task_text task_text task_retried "
            "task_parked task_finished task_skipped task_undone run_finished unknown".split()
        ),
        "name": st.sampled_from(["one", "two"]),
        "text": TEXTS,
        "reply": st.integers(1, 2),
        "attempt": st.integers(1, 2),
        "visit": st.just(1),
        "wait": WAITS,
        "task": st.sampled_from([{"status": "failed", "error": "ValueError: x"}, None, {}]),
        "status": st.sampled_from(["complete", "failed", "waiting", "parked", "interrupted"]),
        "reason": st.sampled_from([None, "cancelled"]),
    }
)
STREAMS = st.one_of(
    st.lists(REPLY_EVENTS, max_size=12),
    st.lists(RUN_EVENTS, max_size=16),
    st.lists(st.one_of(REPLY_EVENTS, RUN_EVENTS), max_size=12),
)
ENDS = st.sampled_from([None, ValueError, Cancelled])


def stream(events, end):
    yield from events
    if end is not None:
        raise end("the end")


@suite
@settings(max_examples=by_tier(60, 5000))
@given(STREAMS, ENDS)
def test_any_sequence_is_accepted(events, end):
    """Nothing is continued or ended that was not begun, and nothing stays open at the end."""
    known = ["c1", "c2"]
    body = b"".join(ui_message_stream(stream(events, end), keep_alive=None))
    read_ui_message(body, known=known)
    posted = {"id": "m1", "role": "user", "content": "hi"}
    request = read_ag_ui({"threadId": "t", "runId": "r", "messages": [posted]})
    for one in (None, request):
        read_ag_ui_run(b"".join(ag_ui(stream(events, end), one, keep_alive=None)))
