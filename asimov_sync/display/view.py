"""RunView: a graph or a run as plain values, from which pictures and reports are drawn.

A view holds text and numbers only. It is made from a graph that has not run, from a RunResult or
from the record of a durable run, so that all drawing code reads the same values.
"""

import contextlib
import json
import re
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from asimov_sync._json import to_jsonable
from asimov_sync.cache.base import Cache
from asimov_sync.display.markup import shorten
from asimov_sync.errors import CacheKeyError
from asimov_sync.graph.journal import TaskRecord, Wait
from asimov_sync.graph.node import Node
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.stored_errors import describe_exception
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.inference.tools.loop import ToolRun, apply_redact
from asimov_sync.messages import Block, ChatMessage, ChatRole, ToolCall, Usage, as_messages
from asimov_sync.runs.store import RunRecord
from asimov_sync.spans import Span
from asimov_sync.usage import Price, cost_usd

__all__ = [
    "MAX_CONTENT",
    "MessageView",
    "Redact",
    "RunView",
    "SpanView",
    "TaskView",
    "to_text",
    "view_graph",
    "view_messages",
    "view_record",
    "view_result",
]

Redact = Callable[[str], str]

MAX_CONTENT = 20_000
"""The length to which a view shortens each text of a run, in characters."""

MAX_MESSAGES = 200
"""The number of messages of a conversation that a view holds."""

MAX_LABEL = 500
"""The length to which a view shortens an objective or a one-line error, in characters."""

STATUSES = {
    "WAITING": "waiting",
    "READY": "waiting",
    "EVALUATING": "waiting",
    "EXECUTING": "executing",
    "PARKED": "parked",
    "DELAYED": "delayed",
    "COMPLETE": "complete",
    "PARTIAL": "partial",
    "FAILED": "failed",
    "SKIPPED": "skipped",
    "NOT_SELECTED": "not selected",
}
"""The status that a view shows for each phase of a task."""


class SpanView(NamedTuple):
    """A part of a task's work.

    kind: "attempt", "model" or "tool".
    name: the name of the model or the tool; for an attempt "attempt 1" or the like.
    start, end: in seconds since the epoch; None if it is not known, or not over.
    usage: the tokens; None without requests.
    cost: in US dollars; None if the price is not known.
    error: its error in one line; None without.
    content: pairs of a label and a text, such as ("arguments", '{"city": "Rome"}').
    """

    kind: str
    name: str
    start: Optional[float]
    end: Optional[float]
    usage: Optional[Usage] = None
    cost: Optional[float] = None
    error: Optional[str] = None
    content: Tuple[Tuple[str, str], ...] = ()


class MessageView(NamedTuple):
    """A message of a conversation.

    role: its author: "system", "user", "assistant" or "tool_result".
    parts: pairs of a kind and a text, such as ("text", "Hello.") or ("calls search", "{}").
    """

    role: str
    parts: Tuple[Tuple[str, str], ...]


class TaskView(NamedTuple):
    """A task of a graph or a run.

    name, type, objective: those of the task.
    status: "waiting", "executing", "parked", "delayed", "complete", "partial", "failed", "skipped"
        or "not selected".
    depends_on: the names of its dependencies.
    options: the options with which it was added, in words, such as "when"; empty if not known.
    started, ended: when its last attempt did, in seconds since the epoch; None if not known.
    seconds: the time of all its attempts; None before the first.
    attempts, visits: the numbers of its last attempt and visit; 0 before the first.
    usage, cost: what all its attempts used, in tokens and in US dollars; None if not known.
    error: the text of its error, or why it did not run.
    traceback: the traceback of its exception; None without.
    result: its result as text; None without.
    spans: its attempts, and the model and tool calls in them.
    waits: for a parked task, what it waits for.
    spawned_by: for a spawned task, the name of the task that spawned it.
    route: for a task that returned a Route, the names of the tasks that it selected.
    returned_from: the names of the tasks whose Routes went back to this one.
    messages: the conversation of its agent, if it was kept.
    """

    name: str
    type: str
    objective: str
    status: str
    depends_on: Tuple[str, ...]
    options: Tuple[str, ...] = ()
    started: Optional[float] = None
    ended: Optional[float] = None
    seconds: Optional[float] = None
    attempts: int = 0
    visits: int = 0
    usage: Optional[Usage] = None
    cost: Optional[float] = None
    error: Optional[str] = None
    traceback: Optional[str] = None
    result: Optional[str] = None
    spans: Tuple[SpanView, ...] = ()
    waits: Tuple[Wait, ...] = ()
    spawned_by: Optional[str] = None
    route: Optional[Tuple[str, ...]] = None
    returned_from: Tuple[str, ...] = ()
    messages: Tuple[MessageView, ...] = ()


class RunView(NamedTuple):
    """A graph or a run.

    title: the name of the graph, or the id of the run.
    status: that of the run, such as "complete" or "parked"; None for a graph that has not run.
    tasks: the tasks, in the order in which they were added.
    reason: why the run ended early, or its first error; None without.
    started, ended: in seconds since the epoch; None if not known.
    seconds: how long the run took; None if it has not run.
    usage, cost: what the run used, in tokens and in US dollars; None if not known.
    tags: the tags of a durable run.
    facts: further pairs of a label and a text, such as ("flow", "brief").
    """

    title: str
    status: Optional[str]
    tasks: Tuple[TaskView, ...]
    reason: Optional[str] = None
    started: Optional[float] = None
    ended: Optional[float] = None
    seconds: Optional[float] = None
    usage: Optional[Usage] = None
    cost: Optional[float] = None
    tags: Mapping[str, str] = {}
    facts: Tuple[Tuple[str, str], ...] = ()


def view_graph(graph: TaskGraph) -> RunView:
    """Return the view of a graph, with the present status of its tasks.

    Raises GraphError for an unknown dependency or a cycle.
    """
    plan = graph.plan()
    tasks = []
    for node, dependencies in zip(plan.nodes, plan.dependencies):
        tasks.append(
            TaskView(
                node.name,
                node.task.type,
                shorten(node.task.objective, MAX_LABEL),
                str(node.task.status),
                tuple(plan.nodes[one].name for one in dependencies),
                _describe_options(node),
            )
        )
    return RunView(graph.name or "", None, tuple(tasks))


def _describe_options(node: Node) -> Tuple[str, ...]:
    options = []
    if node.when is not None:
        options.append("when")
    if node.always:
        options.append("always")
    if node.allow_failure:
        options.append("allow_failure")
    if node.retry is not None:
        options.append("retry")
    if node.timeout is not None:
        options.append(f"timeout {node.timeout:g} s")
    return tuple(options)


def view_result(
    result: RunResult,
    *,
    content: bool = True,
    redact: Optional[Redact] = None,
    prices: Optional[Mapping[str, Price]] = None,
    cache: Optional[Cache] = None,
) -> RunView:
    """Return the view of the result of a run.

    content: include results, tracebacks and conversations; default True.
    redact: changes each text of the run but names, such as an error or a result; default none.
    prices: the price of each model, for costs; default those of genai-prices, if it is installed.
    cache: the cache of the scheduler, in which agents with `keep_transcript=True` have stored their
        messages; default none.
    """
    exceptions = result.exceptions if content else {}
    names = list(result.records)
    transcripts = _read_transcripts(result.run_id, names, cache if content else None)
    tasks = []
    for record in result.records.values():
        traceback = None
        if record.name in exceptions:
            traceback = describe_exception(exceptions[record.name]).traceback or None
        task = _view_task(record, content, redact, prices, traceback)
        messages = transcripts.get(record.name)
        if content and messages is None and isinstance(record.result, ToolRun):
            messages = record.result.messages
            task = task._replace(result=_text(record.result.text, redact, MAX_CONTENT))
        if messages:
            task = task._replace(messages=view_messages(messages, redact))
        tasks.append(task)
    # The id of a run that was not given one is a UUID, and too long for a title.
    is_random = re.match("[0-9a-f]{32}$", result.run_id) is not None
    return RunView(
        f"Run {result.run_id[:8]}" if is_random else result.run_id,
        "parked" if result.waiting else str(result.status),
        tuple(tasks),
        _text(result.reason, redact, MAX_LABEL),
        seconds=result.duration,
        usage=result.usage,
        facts=(("run id", result.run_id),) if is_random else (),
        **_sum_up(tasks),
    )


def _read_transcripts(
    run_id: str, names: Sequence[str], cache: Optional[Cache]
) -> Dict[str, List[ChatMessage]]:
    """Return the messages that agents have stored, by the names of their tasks."""
    if cache is None:
        return {}
    kept = cache.with_prefix("run").with_prefix(run_id).with_prefix("transcript")
    transcripts = {}
    for name, values in _get_values(kept, names).items():
        try:
            transcripts[name] = as_messages(values)
        except ValueError:  # another program has written it
            continue
    return transcripts


def _get_values(cache: Cache, names: Sequence[str]) -> Dict[str, Any]:
    """Return what a cache has under some names. A name that cannot be a key has nothing."""
    try:
        return cache.get_many(names)
    except CacheKeyError:
        found: Dict[str, Any] = {}
        for name in names:
            with contextlib.suppress(CacheKeyError):
                found.update(cache.get_many([name]))
        return found


def view_messages(
    messages: Sequence[ChatMessage], redact: Optional[Redact] = None
) -> Tuple[MessageView, ...]:
    """Return messages as plain values: of more than 200, the first and the last ones.

    redact: changes each text; default none.
    """
    shown = list(messages)
    if len(shown) > MAX_MESSAGES:
        half = MAX_MESSAGES // 2
        note = f"{len(shown) - MAX_MESSAGES:,} messages are left out"
        gap = ChatMessage(role=ChatRole.SYSTEM, content=note)
        shown = [*shown[:half], gap, *shown[-half:]]
    return tuple(
        MessageView(
            str(message.role.value),
            tuple(
                (shorten(kind, MAX_LABEL), _text(value, redact, MAX_CONTENT) or "")
                for block in message.blocks
                for kind, value in _parts(block)
            ),
        )
        for message in shown
    )


def _parts(block: Block) -> Iterator[Tuple[str, Any]]:
    kind = str(block.get("type"))
    if kind in ("text", "thinking"):
        yield kind, block.get(kind)
    elif kind == "tool_use":
        yield f"calls {block.get('name')}", block.get("input")
    elif kind == "tool_result":
        content = block.get("content")
        if isinstance(content, list):
            for one in content:
                if isinstance(one, dict) and one.get("type") == "text":
                    yield "result", one.get("text")
                else:
                    yield "result", "(not text)"
        else:
            yield "result", content
    else:
        yield kind, "(not text)"


def view_record(
    record: RunRecord,
    *,
    content: bool = True,
    redact: Optional[Redact] = None,
    prices: Optional[Mapping[str, Price]] = None,
    cache: Optional[Cache] = None,
) -> RunView:
    """Return the view of a durable run, as far as it has come. Reads its tasks from the store.

    The parameters are those of `view_result`.
    """
    ordered = sorted(record.graph.values(), key=lambda task: task.position)
    names = [task.name for task in ordered]
    transcripts = _read_transcripts(record.run_id, names, cache if content else None)
    tasks = []
    for task in ordered:
        traceback = task.exception.traceback or None if task.exception is not None else None
        view = _view_task(task, content, redact, prices, traceback if content else None)
        if task.name in transcripts:
            view = view._replace(messages=view_messages(transcripts[task.name], redact))
        tasks.append(view)
    sums = _sum_up(tasks)
    moments = (("created", record.created), ("updated", record.updated))
    facts = [(label, f"{moment:%Y-%m-%d %H:%M:%S} UTC") for label, moment in moments]
    if record.flow is not None:
        facts.insert(0, ("flow", str(record.flow)))
    if record.owner:
        facts.append(("driver", record.owner))
    return RunView(
        record.run_id,
        str(record.status),
        tuple(tasks),
        _text(record.error, redact, MAX_LABEL),
        seconds=record.seconds,
        usage=record.usage,
        tags={name: _text(tag, redact, MAX_LABEL) or "" for name, tag in record.tags.items()},
        facts=tuple(facts),
        **sums,
    )


def _view_task(
    record: TaskRecord,
    content: bool,
    redact: Optional[Redact],
    prices: Optional[Mapping[str, Price]],
    traceback: Optional[str],
) -> TaskView:
    status = "executing" if record.running else STATUSES.get(record.phase, "waiting")
    spans = tuple(_view_span(span, redact, prices) for span in _spans_of(record))
    costs = [span.cost for span in spans if span.cost is not None]
    has_result = content and record.phase in ("COMPLETE", "PARTIAL")
    return TaskView(
        record.name,
        record.type,
        _text(record.objective, redact, MAX_LABEL) or "",
        status,
        record.depends_on,
        started=record.started,
        ended=record.ended,
        seconds=record.seconds if record.attempt else None,
        attempts=record.attempt,
        visits=record.visit,
        usage=record.usage,
        cost=sum(costs) if costs else None,
        error=_text(record.error, redact, MAX_LABEL),
        traceback=_text(traceback, redact, MAX_CONTENT),
        result=_text(record.result, redact, MAX_CONTENT) if has_result else None,
        spans=spans,
        waits=tuple(_redact_wait(wait, redact) for wait in record.waits),
        spawned_by=record.spawned_by,
        route=record.route,
        returned_from=tuple(record.feedback),
    )


def _redact_wait(wait: Wait, redact: Optional[Redact]) -> Wait:
    """Return a wait with its prompt, its data and the arguments of its call redacted."""
    if redact is None:
        return wait
    call = wait.call
    if call is not None:
        shown = _text(call.arguments, redact, MAX_CONTENT)
        call = ToolCall(id=call.id, name=call.name, arguments={"redacted": shown})
    prompt, data = _text(wait.prompt, redact, MAX_LABEL), _text(wait.data, redact, MAX_CONTENT)
    return wait._replace(prompt=prompt, data=data, call=call)


def _spans_of(record: TaskRecord) -> Sequence[Span]:
    """Return the spans of a task. Of a single attempt without parts, the times are kept."""
    if record.spans or record.started is None:
        return record.spans
    end = None if record.running else record.started + record.seconds
    return (Span("attempt", "attempt 1", record.started, end, record.usage),)


def _view_span(
    span: Span, redact: Optional[Redact], prices: Optional[Mapping[str, Price]]
) -> SpanView:
    cost = None
    if span.kind == "model" and span.usage is not None:
        cost = cost_usd(span.usage, span.name, "", prices)
    return SpanView(
        span.kind,
        span.name,
        span.start,
        span.end,
        span.usage,
        cost,
        _text(span.error, redact, MAX_LABEL),
    )


def _sum_up(tasks: Iterable[TaskView]) -> Dict[str, Any]:
    """Return the start, the end and the cost of a run, as far as its tasks show them."""
    started: List[float] = []
    ended: List[float] = []
    costs: List[float] = []
    for task in tasks:
        started += [one for one in (task.started, *(s.start for s in task.spans)) if one]
        ended += [one for one in (task.ended, *(s.end for s in task.spans)) if one]
        if task.cost is not None:
            costs.append(task.cost)
    return {
        "started": min(started, default=None),
        "ended": max(ended, default=None),
        "cost": sum(costs) if costs else None,
    }


def _text(value: Any, redact: Optional[Redact], limit: int) -> Optional[str]:
    """Return a value as text: redacted, and then shortened."""
    if value is None:
        return None
    text = to_text(value)
    if redact is not None:
        try:
            text = apply_redact(text, redact)
        except Exception:  # the text must not appear without its redaction
            text = "(withheld: redact= failed)"
    return shorten(text, limit)


def to_text(value: Any) -> str:
    """Return a text as it is, and any other value as JSON, with line breaks if it is short."""
    if isinstance(value, str):
        return value
    jsonable = to_jsonable(value)
    text = json.dumps(jsonable, ensure_ascii=False)
    # With an indent, the standard encoder takes ten times as long.
    if len(text) > MAX_CONTENT:
        return text
    return json.dumps(jsonable, ensure_ascii=False, indent=2)
