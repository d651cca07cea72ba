"""Codec: writes a run into a record, as named fields of bytes.

The name of a field is a JSON list, such as `["task","fetch"]`, so that no name of a task can be
mistaken for another field:

=====================================  ============================================================
["task", name]                         a TaskRecord
["entry", task, visit, kind, number]   a value that was appended for a visit: a step, or a turn of
                                       an agent
["usage", task]                        what attempts used that are not in the task's record yet
["answer", task, visit, wait]          an answer; task and visit are null if it came before
                                       the wait: then it answers the first wait of the name
["cancel"]                             a request to cancel the run
["graph"]                              the tasks of the graph: name, type and dependencies of each
=====================================  ============================================================

The summary of the record is its Head, which lists show without reading the fields.

Every byte goes through the serializer, and every text and value of the user through `redact`.
"""

import json
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from asimov_sync._json import format_error, loads
from asimov_sync.cache.records import LogEntry
from asimov_sync.cache.values import encode
from asimov_sync.errors import CacheError, CacheValueError, StoredFormatError
from asimov_sync.graph.journal import Answer, ErrorRecord, TaskRecord, Wait
from asimov_sync.graph.plan import Plan
from asimov_sync.graph.state import PHASES
from asimov_sync.graph.stored_errors import describe_exception
from asimov_sync.messages import ToolCall, Usage
from asimov_sync.runs.status import RunStatus
from asimov_sync.spans import MAX_SPANS, Span
from asimov_sync.usage import BudgetUsage

__all__ = [
    "FORMAT",
    "GRAPH_FIELD",
    "Codec",
    "Head",
    "Serializer",
    "answer_field",
    "answer_fields",
    "early_answer_fields",
    "field_name",
    "parse_field_name",
]

FORMAT = 1
"""The number of the format that is written. A record with a higher number is not read."""

MAX_ERROR = 10000
"""The longest text of an error that is kept, in characters."""


_TASK_TYPES: Mapping[str, Any] = {
    "name": str,
    "position": int,
    "phase": str,
    "type": str,
    "objective": str,
    "params": str,
    "depends_on": list,
    "visit": int,
    "attempt": int,
    "error": (str, type(None)),
    "exception": (dict, type(None)),
    "route": (list, type(None)),
    "waits_for": (str, type(None)),
    "feedback": dict,
    "seconds": (int, float),
    "started": (int, float, type(None)),
    "ended": (int, float, type(None)),
    "spawned_by": (str, type(None)),
    "spawn": (dict, type(None)),
    "waits": list,
    "spans": list,
}
"""The types of the fields of a stored task."""

_HEAD_TYPES: Mapping[str, Any] = {
    "status": str,
    "flow": (str, type(None)),
    "seconds": (int, float),
    "sequence": int,
    "starts": int,
    "reason": (str, type(None)),
    "error": (str, type(None)),
    "counts": dict,
    "spent": (list, type(None)),
}
"""The types of the fields of a head."""


class Serializer:
    """The interface of the object that `RunStore(serializer=…)` takes."""

    def dumps(self, value: Any) -> bytes:
        """Return a value as bytes."""
        raise NotImplementedError

    def loads(self, data: bytes) -> Any:
        """Return the value of bytes that `dumps` returned."""
        raise NotImplementedError


class Head(NamedTuple):
    """The summary of a run, which lists show.

    status: the RunStatus that was written last.
    flow, args: the registered flow that builds its graph, and the arguments of it.
    usage, seconds: what the run used and took so far.
    sequence: the number of its last event.
    starts: how often a driver has started it since the last commit of an outcome.
    reason: why it ended early; None if it ended by itself.
    error: the text of the first error; None without.
    counts: the number of tasks by phase.
    spent: what it has spent of its budget: tokens, requests and dollars; None without a budget.
    """

    status: str
    flow: Optional[str] = None
    args: Optional[Mapping[str, Any]] = None
    usage: Usage = Usage()
    seconds: float = 0.0
    sequence: int = 0
    starts: int = 1
    reason: Optional[str] = None
    error: Optional[str] = None
    counts: Mapping[str, int] = {}
    spent: Optional[BudgetUsage] = None


def field_name(*parts: Any) -> str:
    """Return the name of a field."""
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


GRAPH_FIELD = field_name("graph")
"""The name of the field that has the tasks of the graph."""


def parse_field_name(name: str) -> Tuple[Any, ...]:
    """Return the parts of the name of a field; empty for a name of another form."""
    try:
        parts = loads(name)
    except ValueError:
        return ()
    return tuple(parts) if isinstance(parts, list) else ()


def answer_field(wait: Wait) -> str:
    """Return the name of the field of the answer to a wait."""
    return field_name("answer", wait.task, wait.visit, wait.name)


def answer_fields(wait: Wait) -> Tuple[str, ...]:
    """Return the names of the fields of the answers that a wait accepts.

    Nobody can approve a call before it is shown.
    """
    early = early_answer_fields(wait) if wait.call is None else ()
    return (answer_field(wait), *early)


def early_answer_fields(wait: Wait) -> Tuple[str, ...]:
    """Return the names of the fields that an answer before the wait may have."""
    return tuple(field_name("answer", task, None, wait.name) for task in (wait.task, None))


class Codec:
    """Encodes and decodes what a run store writes.

    serializer: encodes every field; default JSON.
    redact: changes every value and text of the user before it is encoded; default none.
    max_bytes: the most bytes of one value.
    """

    def __init__(
        self,
        serializer: Optional[Serializer],
        redact: Optional[Callable[[Any], Any]],
        max_bytes: int,
    ) -> None:
        self._serializer = serializer
        self._redact = redact
        self._max_bytes = max_bytes

    @property
    def redacts(self) -> bool:
        """True if values are changed before they are stored."""
        return self._redact is not None

    # Values

    def redact(self, value: Any) -> Any:
        """Return a value as it may be stored."""
        return value if self._redact is None else self._redact(value)

    def redact_text(self, text: Optional[str]) -> Optional[str]:
        """Return a text as it may be stored: as text, whatever `redact` returns."""
        if text is None or self._redact is None:
            return text
        try:
            return str(self._redact(text))
        except Exception as error:  # the text must not be stored unredacted, nor end the run
            return f"(withheld, because redact= failed with {type(error).__name__})"

    def keep_value(self, value: Any) -> Any:
        """Return a value as it is read back later.

        Raises CacheValueError if it cannot be stored, and what `redact` and the serializer raise.
        """
        if value is None:
            return None
        value = self.redact(value)
        try:
            data = self.encode(value)
        except CacheValueError as error:
            raise CacheValueError(
                f"a durable run cannot store this {type(value).__name__}: {error.__cause__}; "
                "return what JSON can hold, a pydantic model, or give the store a serializer="
            ) from error
        if len(data) > self._max_bytes:
            raise CacheValueError(
                f"the value has {len(data)} bytes, more than max_result_bytes="
                f"{self._max_bytes}: store it elsewhere, and return where it is"
            )
        return self.decode(data)

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value."""
        if self._serializer is not None:
            return self._serializer.dumps(value)
        # A stream may cut a character of a model's text in two.
        return encode(value, "backslashreplace")

    def decode(self, data: bytes) -> Any:
        """Return the value of bytes."""
        return loads(data) if self._serializer is None else self._serializer.loads(data)

    # Heads

    def dump_head(self, head: Head) -> bytes:
        """Return the bytes of a head."""
        values = dict(head._asdict(), usage=_dump_usage(head.usage), format=FORMAT)
        return self.encode(values)

    def load_head(self, data: bytes) -> Head:
        """Return the head of a record.

        Raises StoredFormatError for one of a newer format, and CacheValueError for a damaged one.
        """
        try:
            values = self._load_format(data)
            known = {name: values[name] for name in Head._fields if name in values}
            _check_types(known, _HEAD_TYPES)
            if known.get("spent") is not None:
                known["spent"] = BudgetUsage(*known["spent"])
            return Head(**dict(known, usage=_load_usage(known.get("usage"))))
        except (CacheError, StoredFormatError):
            raise
        except Exception as error:
            raise CacheValueError(
                f"what is stored of a run cannot be read: {format_error(error)}. It is damaged, or "
                "was stored with another serializer="
            ) from error

    def _load_format(self, data: bytes) -> Dict[str, Any]:
        values = self.decode(data)
        if not isinstance(values, dict) or not isinstance(values.get("format"), int):
            raise CacheValueError("this is not a run that this library has stored")
        if values["format"] > FORMAT:
            raise StoredFormatError(
                f"this run was stored in format {values['format']}, and this release of "
                f"asimov-sync reads format {FORMAT}: upgrade it"
            )
        return values

    # Tasks

    def describe_error(self, error: BaseException) -> ErrorRecord:
        """Return an exception as it is stored."""
        record = describe_exception(error)
        message, text = self.redact_text(record.message), self.redact_text(record.traceback)
        return ErrorRecord(record.type, (message or "")[:MAX_ERROR], text or "")

    def dump_task(self, record: TaskRecord) -> bytes:
        """Return the bytes of a task."""
        values = {
            name: value
            for name, value in record._asdict().items()
            if value != TaskRecord._field_defaults.get(name, ...)
        }
        values.pop("running", None)
        values["format"] = FORMAT
        values["objective"] = self.redact_text(record.objective)
        values["depends_on"] = list(record.depends_on)
        if record.usage is not None:
            values["usage"] = _dump_usage(record.usage)
        if record.exception is not None:
            values["exception"] = dict(record.exception._asdict())
        if record.route is not None:
            values["route"] = list(record.route)
        if record.waits:
            values["waits"] = [_dump_wait(wait) for wait in record.waits]
        if record.spans:
            values["spans"] = [self._dump_span(span) for span in record.spans]
        return self.encode(values)

    def load_task(self, data: bytes, run_id: str) -> TaskRecord:
        """Return the task of bytes. Raises StoredFormatError for a newer format."""
        values = self._load_format(data)
        known = {name: values[name] for name in TaskRecord._fields if name in values}
        _check_types(known, _TASK_TYPES)
        if known["phase"] not in PHASES:
            raise CacheValueError(f"no task has the phase {known['phase']!r}")
        if (known.get("spawned_by") is None) != (known.get("spawn") is None):
            raise CacheValueError("a spawned task has a spawner and a definition")
        if "usage" in known:
            known["usage"] = _load_usage(known["usage"])
        if known.get("exception") is not None:
            known["exception"] = ErrorRecord(**known["exception"])
        if known.get("route") is not None:
            known["route"] = tuple(known["route"])
        known["depends_on"] = tuple(known["depends_on"])
        known["waits"] = tuple(_load_wait(run_id, wait) for wait in known.get("waits", ()))
        known["spans"] = tuple(map(_load_span, known.get("spans", ())[-MAX_SPANS:]))
        return TaskRecord(**known)

    def _dump_span(self, span: Span) -> Dict[str, Any]:
        values = {
            name: value
            for name, value in span._asdict().items()
            if value != Span._field_defaults.get(name, ...)
        }
        if span.usage is not None:
            values["usage"] = _dump_usage(span.usage)
        if span.error is not None:
            values["error"] = self.redact_text(span.error)
        return values

    # Graphs

    def dump_graph(self, plan: Plan) -> bytes:
        """Return the bytes of the tasks of a graph, which show the run before they start."""
        names = [node.name for node in plan.nodes]
        return self.encode(
            [
                [node.name, node.task.type, [names[one] for one in before]]
                for node, before in zip(plan.nodes, plan.dependencies)
            ]
        )

    def load_graph(self, data: bytes) -> List[TaskRecord]:
        """Return the tasks of a graph as they were before they started."""
        return [
            TaskRecord(str(name), position, "WAITING", str(type), "", "", tuple(map(str, before)))
            for position, (name, type, before) in enumerate(self.decode(data))
        ]

    # Answers and entries

    def dump_answer(self, answer: Answer) -> bytes:
        """Return the bytes of an answer."""
        message, by = self.redact(answer.message), self.redact_text(answer.by)
        return self.encode(dict(answer._asdict(), message=message, by=by))

    def load_answer(self, data: bytes) -> Answer:
        """Return the answer of bytes."""
        return Answer(**self.decode(data))

    def dump_usage(self, usage: Usage) -> bytes:
        """Return the bytes of a usage."""
        return self.encode(_dump_usage(usage))

    def load_usage(self, data: bytes) -> Usage:
        """Return the usage of bytes."""
        return _load_usage(self.decode(data))

    # The log

    def dump_event(self, event: Mapping[str, Any]) -> bytes:
        """Return the bytes of an event of the log."""
        values = dict(event)
        if self._redact is not None:
            for name in ("text", "data"):
                if name in values:
                    values[name] = self._redact(values[name])
            task = values.get("task")
            if isinstance(task, dict):
                values["task"] = dict(task, objective=self.redact_text(task["objective"]))
        return self.encode(values)

    def dump_end(
        self, run_id: str, number: int, time: float, status: RunStatus, reason: Optional[str]
    ) -> LogEntry:
        """Return the last entry of a drive in the log.

        number: its number in the log.
        time: the present moment, by the store's clock.
        status, reason: the status of the run now, and why the drive ended early, if it did.
        """
        event = {
            "type": "run_finished",
            "run_id": run_id,
            "sequence": number,
            "time": time,
            "status": status.value,
            "reason": reason,
        }
        return LogEntry(number, self.encode(event))

    def load_event(self, data: bytes) -> Dict[str, Any]:
        """Return the event of bytes."""
        values: Dict[str, Any] = self.decode(data)
        return values


def _check_types(values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of another type than its field has."""
    for field, wanted in types.items():
        if field in values and not isinstance(values[field], wanted):
            raise ValueError(f"its {field} is of the type {type(values[field]).__name__}")


def _dump_usage(usage: Usage) -> Dict[str, int]:
    return {name: value for name, value in vars(usage).items() if value}


def _load_usage(values: Any) -> Usage:
    return Usage(**values) if values else Usage()


_SPAN_TYPES: Mapping[str, Any] = {
    "kind": str,
    "name": str,
    "start": (int, float),
    "end": (int, float, type(None)),
    "error": (str, type(None)),
    "attempt": int,
    "visit": int,
}
"""The types of the fields of a stored span."""


def _load_span(values: Mapping[str, Any]) -> Span:
    known = {name: values[name] for name in Span._fields if name in values}
    _check_types(known, _SPAN_TYPES)
    if known.get("usage") is not None:
        known["usage"] = _load_usage(known["usage"])
    return Span(**known)


def _dump_wait(wait: Wait) -> Dict[str, Any]:
    values = {name: value for name, value in wait._asdict().items() if value is not None}
    del values["run_id"]
    if wait.call is not None:
        values["call"] = wait.call.model_dump(mode="json")
    return values


def _load_wait(run_id: str, values: Dict[str, Any]) -> Wait:
    call = values.get("call")
    known = {name: values[name] for name in Wait._fields if name in values}
    return Wait(**dict(known, run_id=run_id, call=None if call is None else ToolCall(**call)))
