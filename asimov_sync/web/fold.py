"""Fold: turns the events of a reply, a tool loop or a run into parts.

Pure: no IO, no clock. It accepts any sequence of events, also one that begins or ends in the middle
of a run, and always returns a sequence of parts that the module `parts` describes.
"""

from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Type, Union

from asimov_sync._json import format_error, to_jsonable
from asimov_sync.errors import Cancelled, ToolRefused
from asimov_sync.graph.events import RunEvent, RunFinished
from asimov_sync.inference.tools.loop import ToolFinished, ToolRun, ToolRunDone, ToolStarted
from asimov_sync.messages import (
    Event,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from asimov_sync.web.parts import (
    ApprovalAsked,
    CallAsked,
    CallFailed,
    CallRefused,
    CallReturned,
    Ended,
    Failed,
    Part,
    QuestionAsked,
    Removed,
    ReplyBegan,
    StepBegan,
    StepEnded,
    Stopped,
    TaskChanged,
    TextAdded,
    TextBegan,
    TextEnded,
)

__all__ = ["NOT_MADE", "NO_RESULT", "Fold", "question_id"]

NOT_MADE = "the call was not made"
"""The error of a call that the model asked for and that has no outcome at the end of a loop."""

NO_RESULT = "no task of the run has a result"
"""The error of a run that failed."""

TaskReply = Tuple[str, Any, Any, Any]
"""A reply of a task: the task's name, and the numbers of its visit, attempt and reply."""


def question_id(task: str, name: str) -> str:
    """Return the id of the answer that a task waits for.

    task: the name of the task.
    name: the name of the wait.
    """
    return f"{task}/{name}"


class Fold:
    """The state of a stream.

    Call `add` with each event, then either `finish` or `fail`.
    """

    def __init__(self) -> None:
        self._ids: Dict[str, int] = {}  # how often each id was given
        # Of a reply or a tool loop
        self._reply = 0
        self._in_reply = False
        self._text: Optional[TextBegan] = None  # the open text of the reply
        self._open_calls: List[_OpenCall] = []
        # Of a run
        self._steps: Dict[str, None] = {}  # the open steps, in order
        self._task_texts: Dict[TaskReply, str] = {}  # the ids of the open texts
        self._task_parts: Dict[str, List[str]] = {}  # all ids of a task that still count
        self._waiting: Dict[str, List[Union[ApprovalAsked, QuestionAsked]]] = {}
        # Of the end
        self._reason: Optional[str] = None
        self._usage: Optional[Usage] = None
        self._pending: List[ApprovalAsked] = []
        self._outcome: Union[None, Failed, Stopped] = None

    def add(self, event: Union[Event, Mapping[str, Any]]) -> List[Part]:
        """Return the parts of an event.

        event: an event of any kind, or an event of `RunStore.events`.
        """
        if isinstance(event, RunFinished):
            return list(self._end_run(event.result.status.value, event.result.reason, event))
        if isinstance(event, RunEvent):
            event = event.to_log()
        if isinstance(event, Event):
            handle = _EVENTS.get(type(event))
            return list(handle(self, event)) if handle is not None else []
        handle_task = _RUN_EVENTS.get(str(event.get("type")))
        return list(handle_task(self, event)) if handle_task is not None else []

    def finish(self) -> List[Part]:
        """Return the last parts of a stream that has ended by itself."""
        parts = list(self._close())
        waiting = tuple(one for waits in self._waiting.values() for one in waits)
        if self._outcome is not None and not waiting:
            return parts + [self._outcome]
        waiting += tuple(self._pending)
        return parts + [Ended("approval" if waiting else self._reason, waiting, self._usage)]

    def fail(self, error: BaseException) -> List[Part]:
        """Return the last parts of a stream that has ended with an exception."""
        parts = list(self._close())
        if isinstance(error, Cancelled):
            return parts + [Stopped(str(error))]
        return parts + [Failed(format_error(error))]

    def _close(self) -> Iterator[Part]:
        yield from self._end_text()
        for key in list(self._task_texts):
            yield from self._end_task_text(key)
        for name in list(self._steps):
            yield from self._end_step(name)

    def _new_id(self, wanted: str) -> str:
        """Return an id that no other part has."""
        number = self._ids.get(wanted, 0) + 1
        self._ids[wanted] = number
        return wanted if number == 1 else self._new_id(f"{wanted}#{number}")

    # Replies and tool loops

    def _add_text(self, event: TextDelta) -> Iterator[Part]:
        return self._extend_text("text", event.text)

    def _add_thinking(self, event: ThinkingDelta) -> Iterator[Part]:
        return self._extend_text("reasoning", event.text)

    def _extend_text(self, kind: str, text: str) -> Iterator[Part]:
        if not text:
            return
        yield from self._begin_reply()
        if self._text is None or self._text.kind != kind:
            yield from self._end_text()
            self._text = TextBegan(self._new_id(f"{kind}-{self._reply}"), kind, self._reply)
            yield self._text
        yield TextAdded(self._text.id, text)

    def _begin_reply(self) -> Iterator[Part]:
        if not self._in_reply:
            for key in list(self._task_texts):  # if somebody mixes streams
                yield from self._end_task_text(key)
            self._in_reply = True
            self._reply += 1
            yield ReplyBegan(self._reply)

    def _end_text(self) -> Iterator[Part]:
        text, self._text = self._text, None
        if text is not None:
            yield TextEnded(text.id)

    def _ask_for_call(self, event: ToolCallReady) -> Iterator[Part]:
        yield from self._begin_reply()
        yield from self._end_text()
        yield self._open_call(event.call, False).asked

    def _end_reply(self, event: ReplyDone) -> Iterator[Part]:
        if event.reply.text and not self._in_reply:
            yield from self._extend_text("text", event.reply.text)  # it was not streamed
        yield from self._end_text()
        self._in_reply = False
        self._reason = event.reply.stop_reason
        self._usage = event.reply.usage

    def _start_call(self, event: ToolStarted) -> Iterator[Part]:
        yield from self._end_text()
        found = self._find_call(event.call, False)
        if found is None:
            found = self._open_call(event.call, True)
            yield found.asked
        found.is_started = True

    def _finish_call(self, event: ToolFinished) -> Iterator[Part]:
        found = self._find_call(event.call, True) or self._find_call(event.call, False)
        if found is None:
            found = self._open_call(event.call, True)
            yield found.asked
        self._open_calls.remove(found)
        if event.error is None:
            yield CallReturned(found.asked.id, to_jsonable(event.result))
        else:
            yield CallFailed(found.asked.id, event.error)

    def _open_call(self, call: ToolCall, is_known: bool) -> "_OpenCall":
        arguments = call.arguments if call.malformed is None else call.malformed
        call_id = self._new_id(call.id or "call")
        is_known = is_known and call_id == call.id  # otherwise this response has shown the id
        asked = CallAsked(call_id, call.name, to_jsonable(arguments), self._reply, is_known)
        opened = _OpenCall(call, asked)
        self._open_calls.append(opened)
        return opened

    def _find_call(self, call: ToolCall, is_started: bool) -> "Optional[_OpenCall]":
        """Return an open call: that with the same arguments, if several have the same id."""
        found = [
            opened
            for opened in self._open_calls
            if opened.call.id == call.id and opened.is_started is is_started
        ]
        same = [opened for opened in found if opened.call == call]
        return next(iter(same or found), None)

    def _end_loop(self, event: ToolRunDone) -> Iterator[Part]:
        run = event.run
        yield from self._end_text()
        self._in_reply = False
        for called in run.calls:
            if isinstance(called.exception, ToolRefused):
                opened = self._find_call(called.call, False)
                if opened is not None:
                    self._open_calls.remove(opened)
                call_id = called.call.id if opened is None else opened.asked.id
                yield CallRefused(call_id, str(called.exception))
        for call in run.pending:
            opened = self._find_call(call, False)
            if opened is None:
                opened = self._open_call(call, True)
                yield opened.asked
            self._open_calls.remove(opened)
            approval = ApprovalAsked(call.id, opened.asked.id, call.name, None)
            self._pending.append(approval)
            yield approval
        yield from self._end_other_calls(run)
        self._reason, self._usage = run.stop_reason, run.usage

    def _end_other_calls(self, run: ToolRun) -> Iterator[Part]:
        """End the calls that the loop does not make: the answer as data, and skipped calls."""
        for opened in self._open_calls:
            if run.parsed is not None and opened.call in run.reply.tool_calls:
                yield CallReturned(opened.asked.id, to_jsonable(run.parsed))
            else:
                yield CallFailed(opened.asked.id, NOT_MADE)
        self._open_calls = []

    # Runs

    def _start_run(self, event: Mapping[str, Any]) -> Iterator[Part]:
        # A durable run may be continued after a drive that did not end: its tasks start again.
        self._outcome = None
        for name in list(self._steps):
            yield from self._remove(name)
            yield from self._end_step(name)

    def _start_task(self, event: Mapping[str, Any]) -> Iterator[Part]:
        name = _name(event)
        waits = self._waiting.pop(name, [])
        if waits:  # they have their answers, which are not among the events
            calls = [one.call if isinstance(one, ApprovalAsked) else one.id for one in waits]
            yield Removed(tuple(calls))
        yield from self._end_step(name)
        self._steps[name] = None
        yield StepBegan(name)
        yield TaskChanged(name, "executing", {})

    def _report(self, event: Mapping[str, Any]) -> Iterator[Part]:
        details = {field: to_jsonable(event.get(field)) for field in ("fraction", "text", "data")}
        yield TaskChanged(_name(event), "executing", details)

    def _add_task_text(self, event: Mapping[str, Any]) -> Iterator[Part]:
        text = event.get("text")
        if not isinstance(text, str):
            return
        name, reply = _name(event), event.get("reply")
        key: TaskReply = (name, event.get("visit"), event.get("attempt"), reply)
        if not text:  # the reply was cut, and is requested again
            if key in self._task_texts:
                text_id = self._task_texts[key]
                yield from self._end_task_text(key)
                self._task_parts[name].remove(text_id)
                yield Removed((text_id,))
            return
        if key not in self._task_texts:
            number = reply if isinstance(reply, int) else 0
            began = TextBegan(self._new_id(f"{name}-{number}"), "text", number)
            self._task_texts[key] = began.id
            self._task_parts.setdefault(name, []).append(began.id)
            yield began
        yield TextAdded(self._task_texts[key], text)

    def _retry_task(self, event: Mapping[str, Any]) -> Iterator[Part]:
        name = _name(event)
        yield from self._remove(name)
        yield from self._end_step(name)
        details = {"error": str(event.get("error")), "wait": to_jsonable(event.get("wait"))}
        yield TaskChanged(name, "waiting", details)

    def _park_task(self, event: Mapping[str, Any]) -> Iterator[Part]:
        name, wait = _name(event), event.get("wait")
        yield from self._end_texts(name)
        yield from self._end_step(name)
        yield TaskChanged(name, "waiting", {})
        if not isinstance(wait, Mapping):
            return
        call, deadline = wait.get("call"), to_jsonable(wait.get("deadline"))
        waits = self._waiting.setdefault(name, [])
        if isinstance(call, Mapping):
            asked_call = ToolCall.from_block(dict(call, input=call.get("arguments")))
            call_id = self._new_id(str(wait.get("name")))
            yield CallAsked(call_id, asked_call.name, asked_call.arguments, 0, False)
            approval = ApprovalAsked(str(wait.get("name")), call_id, asked_call.name, deadline)
            waits.append(approval)
            self._task_parts.setdefault(name, []).append(call_id)
            yield approval
        else:
            prompt, schema = wait.get("prompt"), wait.get("type")
            question = QuestionAsked(
                question_id(name, str(wait.get("name"))),
                name,
                str(wait.get("name")),
                prompt if isinstance(prompt, str) else None,
                to_jsonable(wait.get("data")),
                schema if isinstance(schema, Mapping) else None,
                deadline,
            )
            waits.append(question)
            yield question

    def _finish_task(self, event: Mapping[str, Any]) -> Iterator[Part]:
        name, task = _name(event), event.get("task")
        task = task if isinstance(task, Mapping) else {}
        details: Dict[str, Any] = {"seconds": to_jsonable(event.get("seconds"))}
        if task.get("error") is not None:
            details["error"] = str(task["error"])
        yield from self._end_texts(name)
        yield from self._end_step(name)
        yield TaskChanged(name, str(task.get("status", "complete")).lower(), details)

    def _skip_task(self, event: Mapping[str, Any]) -> Iterator[Part]:
        yield TaskChanged(_name(event), "skipped", {"reason": str(event.get("reason"))})

    def _undo_task(self, event: Mapping[str, Any]) -> Iterator[Part]:
        name = _name(event)
        self._waiting.pop(name, None)
        yield from self._remove(name)
        yield from self._end_step(name)
        status = "removed" if event.get("removed") else "waiting"
        yield TaskChanged(name, status, {"reason": str(event.get("reason"))})

    def _finish_stored_run(self, event: Mapping[str, Any]) -> Iterator[Part]:
        reason = event.get("reason")
        return self._end_run(str(event.get("status")), None if reason is None else str(reason))

    def _end_run(
        self, status: str, reason: Optional[str], event: Optional[RunFinished] = None
    ) -> Iterator[Part]:
        """End a drive.

        status: the value of a TaskStatus or, for a stored run, of a RunStatus.
        """
        status = status.lower()
        for key in list(self._task_texts):
            yield from self._end_task_text(key)
        if status not in ("orphaned", "interrupted"):  # then the next drive starts the tasks again
            for name in list(self._steps):
                yield from self._end_step(name)
        if status in ("complete", "partial", "failed", "cancelled"):
            self._waiting = {}
        if event is not None:
            self._usage = event.result.usage
        if reason is not None and status not in ("complete", "waiting", "parked"):
            self._outcome = Stopped(reason)
        elif status == "failed":
            self._outcome = Failed(NO_RESULT)
        else:
            self._outcome, self._reason = None, "end_turn"

    def _end_texts(self, name: str) -> Iterator[Part]:
        for key in [one for one in self._task_texts if one[0] == name]:
            yield from self._end_task_text(key)

    def _end_task_text(self, key: TaskReply) -> Iterator[Part]:
        yield TextEnded(self._task_texts.pop(key))

    def _end_step(self, name: str) -> Iterator[Part]:
        if name in self._steps:
            del self._steps[name]
            yield StepEnded(name)

    def _remove(self, name: str) -> Iterator[Part]:
        """Remove all texts and calls of a task."""
        yield from self._end_texts(name)
        ids = self._task_parts.pop(name, [])
        if ids:
            yield Removed(tuple(ids))


class _OpenCall:
    """A call without an outcome.

    call: the call.
    asked: its part.
    is_started: whether the tool runs.
    """

    __slots__ = ("asked", "call", "is_started")

    def __init__(self, call: ToolCall, asked: CallAsked) -> None:
        self.call = call
        self.asked = asked
        self.is_started = False


def _name(event: Mapping[str, Any]) -> str:
    return str(event.get("name"))


_EVENTS: Dict[Type[Event], Callable[[Fold, Any], Iterator[Part]]] = {
    TextDelta: Fold._add_text,
    ThinkingDelta: Fold._add_thinking,
    ToolCallReady: Fold._ask_for_call,
    ReplyDone: Fold._end_reply,
    ToolStarted: Fold._start_call,
    ToolFinished: Fold._finish_call,
    ToolRunDone: Fold._end_loop,
}

_RUN_EVENTS: Dict[str, Callable[[Fold, Mapping[str, Any]], Iterator[Part]]] = {
    "run_started": Fold._start_run,
    "task_started": Fold._start_task,
    "task_progress": Fold._report,
    "task_text": Fold._add_task_text,
    "task_retried": Fold._retry_task,
    "task_parked": Fold._park_task,
    "task_finished": Fold._finish_task,
    "task_skipped": Fold._skip_task,
    "task_undone": Fold._undo_task,
    "run_finished": Fold._finish_stored_run,
}
