"""The interface of what keeps a durable run, and the values that pass through it.

The engine reports which tasks have changed. A RunJournal stores that, and returns what earlier
drives of the same run have stored. A drive is one run of the engine: a run that is
continued after a crash, an interruption or a park has several.
"""

import abc
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from asimov_sync._json import to_jsonable
from asimov_sync.graph.node import Node
from asimov_sync.messages import ToolCall, Usage
from asimov_sync.spans import Span
from asimov_sync.usage import BudgetUsage

__all__ = [
    "Answer",
    "Batch",
    "ErrorRecord",
    "JournaledRun",
    "Restored",
    "RunEnd",
    "RunJournal",
    "TaskRecord",
    "Wait",
]


class Wait(NamedTuple):
    """A question that a parked task waits for.

    run_id, task: the run, and the name of the task in it.
    name: the name of the wait; for an approval, the id of the tool call, with more behind it if an
        earlier call of the task has the same id.
    visit: the visit of the task that waits.
    prompt: what to ask; None without.
    data: what to show with it: a JSON value.
    type: the JSON schema of the answer; None accepts any JSON value. For an approval, the schema of
        the tool's arguments.
    deadline: when the wait ends without an answer, in seconds since the epoch; None for never.
    call: for an approval, the ToolCall that waits.
    """

    run_id: str
    task: str
    name: str
    visit: int
    prompt: Optional[str] = None
    data: Any = None
    type: Optional[Mapping[str, Any]] = None
    deadline: Optional[float] = None
    call: Optional[ToolCall] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return {name: to_jsonable(value) for name, value in self._asdict().items()}


class Answer(NamedTuple):
    """An answer to a wait.

    message: a JSON value.
    by, time: who answered, if that is recorded; and when, in seconds since the epoch.
    """

    message: Any
    by: Optional[str]
    time: float


class ErrorRecord(NamedTuple):
    """The exception of a task: the name of its type, its message, and its traceback as text."""

    type: str
    message: str
    traceback: str

    @property
    def text(self) -> str:
        """The type and, if there is one, the message."""
        return f"{self.type}: {self.message}" if self.message else self.type


class TaskRecord(NamedTuple):
    """The stored state of one task.

    position: the index of the task in the run.
    phase: the name of its phase; for a task that is not final, that in which it continues.
    params: a digest of its params.
    depends_on: the names of its dependencies, without tasks that were spawned before it.
    visit, attempt: the numbers of its last visit and attempt; 0 before the first.
    result: a JSON value.
    error: the text of its error, or why it was skipped or not selected.
    exception: the exception of a FAILED task.
    route: for a task that returned a Route forwards, the names that it selected.
    waits_for: that of its Partial.
    feedback: the results of the Routes that went back to it.
    usage, seconds: what all its attempts together used and took; None without requests.
    started, ended: when its last attempt did, in seconds since the epoch; None before.
    spawned_by, spawn: for a spawned task, the name of its spawner, and its definition.
    waits: for a parked task, what it waits for.
    running: whether an attempt runs, of which only the appended values are kept.
    spans: its attempts, requests and tool calls; empty if there was only one attempt, without
        requests and calls: its times are above.
    """

    name: str
    position: int
    phase: str
    type: str
    objective: str
    params: str
    depends_on: Tuple[str, ...]
    visit: int = 0
    attempt: int = 0
    result: Any = None
    error: Optional[str] = None
    exception: Optional[ErrorRecord] = None
    route: Optional[Tuple[str, ...]] = None
    waits_for: Optional[str] = None
    feedback: Mapping[str, Any] = {}
    usage: Optional[Usage] = None
    seconds: float = 0.0
    started: Optional[float] = None
    ended: Optional[float] = None
    spawned_by: Optional[str] = None
    spawn: Optional[Mapping[str, Any]] = None
    waits: Tuple[Wait, ...] = ()
    running: bool = False
    spans: Tuple[Span, ...] = ()


class RunEnd(NamedTuple):
    """The end of a drive.

    status: the name of the run's TaskStatus.
    reason: why the run ended early; None if it ended by itself.
    cancelled: whether `cancel` or the run's time-out ended it.
    parked: whether the run waits for answers, and another drive will continue it.
    """

    status: str
    reason: Optional[str]
    cancelled: bool
    parked: bool


class Batch(NamedTuple):
    """The changes in a run since the batch before.

    records: the tasks that changed, as they are now.
    removed: the names of tasks that are not part of the run any more.
    usage, seconds: what the whole run used and took so far, all drives included.
    end: the end of the drive, if this is the last batch.
    cancelled: why the run was cancelled, or None; its tasks with `always` may still run.
    spent: what the run has spent of its budget so far, in all drives; None without a budget.
    sequence: the number of the last event that tells of what is in this batch or before it.
    """

    records: List[TaskRecord]
    removed: List[str]
    usage: Usage
    seconds: float
    end: Optional[RunEnd]
    cancelled: Optional[str] = None
    spent: Optional[BudgetUsage] = None
    sequence: int = 0


class Restored(NamedTuple):
    """The state of a run that earlier drives have written.

    records: the tasks by name; empty for a new run.
    nodes: the nodes of the spawned tasks among them, by name.
    usage, seconds: what the run used and took so far; None without requests.
    sequence: the number of the last event.
    spent: what the run has spent of its budget; None without a budget.
    end: how the run ended, if it has ended for good; then nothing is run.
    """

    records: Mapping[str, TaskRecord] = {}
    nodes: Mapping[str, Node] = {}
    usage: Optional[Usage] = None
    seconds: float = 0.0
    sequence: int = 0
    end: Optional[RunEnd] = None
    spent: Optional[BudgetUsage] = None


class JournaledRun(abc.ABC):
    """A run in progress, as its journal sees it. Every method may be called on any thread."""

    @abc.abstractmethod
    def check_waits(self) -> None:
        """Continue the parked tasks whose answer is there, or whose deadline has passed."""

    @abc.abstractmethod
    def cancel(self, reason: str) -> bool:
        """Cancel the run, for good."""

    @abc.abstractmethod
    def take_events(self) -> List[Dict[str, Any]]:
        """Return the events since the last call, for the log, with the pieces of a text joined.

        Called by one thread at a time.
        """

    @abc.abstractmethod
    def fail(self, error: BaseException) -> None:
        """End the drive, because the journal cannot keep the run any more."""


class RunJournal(abc.ABC):
    """Keeps one drive of a run. Safe to use from every thread.

    Methods that write raise LeaseLost if another process drives the run now, and a CacheError if
    the store fails. Methods that read or write raise GraphError in a forked child.

    restored: what earlier drives have written.
    """

    restored: Restored

    @property
    @abc.abstractmethod
    def is_busy_here(self) -> bool:
        """True if the calling thread is writing, as a signal handler may find it."""

    @abc.abstractmethod
    def start(self, run: JournaledRun) -> None:
        """Begin to renew the lease, and to pass answers and cancels on to the run."""

    @abc.abstractmethod
    def save(self, batch: Batch) -> bool:
        """Write a batch in one step. The last batch of a drive gives up the lease.

        Returns False, and has written nothing, if the batch parks the run and an answer or a
        request to cancel it has arrived.
        """

    @abc.abstractmethod
    def release(self, batch: Optional[Batch], reason: str) -> None:
        """Give up the lease of a run that is interrupted. It waits for the store, but once.

        batch: what changed before the interruption; None for nothing.
        """

    @abc.abstractmethod
    def keep_value(self, value: Any) -> Any:
        """Return a value as the store gives it back later.

        Raises what the serializer and `redact=` raise, and CacheValueError for a value that cannot
        be stored.
        """

    @abc.abstractmethod
    def keep_text(self, text: Optional[str]) -> Optional[str]:
        """Return a text as it is stored."""

    @abc.abstractmethod
    def keep_error(self, error: BaseException) -> ErrorRecord:
        """Return an exception as it is stored. It may call the `__str__` of its class."""

    @abc.abstractmethod
    def digest(self, params: Mapping[str, Any]) -> str:
        """Return a digest of a task's params, equal for params with the same JSON."""

    @abc.abstractmethod
    def define(
        self, node: Node, dependencies: List[str], before_dependents: bool
    ) -> Mapping[str, Any]:
        """Return the definition of a spawned task.

        dependencies: the names of the tasks that it depends on.

        Raises GraphError if it cannot be stored.
        """

    @abc.abstractmethod
    def read_entries(self, task: str, visit: int, kind: str) -> List[Any]:
        """Return the values that were appended for a visit of a task, in their order."""

    @abc.abstractmethod
    def append_entry(self, task: str, visit: int, kind: str, value: Any, usage: Usage) -> None:
        """Write a value for a visit of a task, before this returns.

        kind: the name of the list that it is appended to.
        value: a value that `keep_value` returned.
        usage: what the present attempt of the task used so far.
        """

    @property
    @abc.abstractmethod
    def cancel_reason(self) -> Optional[str]:
        """The reason of a request to cancel the run, as far as it was read; None without."""

    @abc.abstractmethod
    def find_answer(self, wait: Wait) -> Optional[Answer]:
        """Return the answer to a wait, if there is one."""

    @abc.abstractmethod
    def now(self) -> float:
        """Return the present moment, in seconds since the epoch, by the store's clock."""
