"""StoredJournal: keeps one drive of a run in a record, while it holds the record's lease."""

import hashlib
import os
import re
import threading
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from asimov_sync._json import format_error, to_jsonable
from asimov_sync.cache.records import Committed, LogEntry, RecordChange, RecordStore
from asimov_sync.cache.values import encode
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import (
    CacheError,
    CacheUnavailable,
    CacheValueError,
    Cancelled,
    ClosedError,
    GraphError,
    LeaseLost,
    OutcomeUnknown,
    StoredFormatError,
)
from asimov_sync.graph.journal import (
    Answer,
    Batch,
    ErrorRecord,
    JournaledRun,
    Restored,
    RunEnd,
    RunJournal,
    TaskRecord,
    Wait,
)
from asimov_sync.graph.node import Node
from asimov_sync.graph.state import PHASES
from asimov_sync.messages import Usage
from asimov_sync.runs.codec import (
    GRAPH_FIELD,
    Codec,
    Head,
    answer_field,
    answer_fields,
    early_answer_fields,
    field_name,
    parse_field_name,
)
from asimov_sync.runs.spawned import Handlers, define_node
from asimov_sync.runs.status import ENDED, RunStatus

__all__ = ["Contents", "StoredJournal", "digest", "first_deadline", "read_contents"]

logger = get_logger("asimov_sync.runs")

MAX_BEAT = 5.0
"""The longest time between two renewals of a lease, in seconds."""

LOG_SECONDS = 1.0
"""The longest time that an event waits before it is in the log, in seconds."""

OUTCOMES = {"task_finished", "task_parked", "task_retried", "task_skipped", "task_undone"}
"""The types of the events that tell of what a batch writes."""

RETRY_SECONDS = 0.1
"""Seconds between two attempts to reach a store that does not answer."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Contents(NamedTuple):
    """The decoded fields of a record.

    tasks: the tasks by name.
    entries: for each task, visit and kind, the appended bytes by their number.
    usages: what attempts used that is not in the task's record.
    posts: the answers and the request to cancel, by the names of their fields.
    graph: the bytes of the tasks of the graph; None if they are not stored.
    """

    tasks: Dict[str, TaskRecord]
    entries: Dict[Tuple[str, int, str], Dict[int, bytes]]
    usages: Dict[str, Usage]
    posts: Dict[str, bytes]
    graph: Optional[bytes] = None


def read_contents(fields: Mapping[str, bytes], codec: Codec, run_id: str) -> Contents:
    """Read the fields of a record.

    Raises StoredFormatError for a newer format, and CacheValueError for a field that is damaged.
    """
    contents = Contents({}, {}, {}, {}, fields.get(GRAPH_FIELD))
    for name, data in fields.items():
        try:
            _read_field(contents, parse_field_name(name), name, data, codec, run_id)
        except StoredFormatError:
            raise
        except Exception as error:
            raise CacheValueError(
                f"the stored run {run_id!r} is damaged: its field {name} cannot be read: "
                f"{format_error(error)}"
            ) from error
    # The store keeps no order.
    ordered = sorted(contents.tasks.values(), key=lambda record: record.position)
    return contents._replace(tasks={record.name: record for record in ordered})


def _read_field(
    contents: Contents, parts: Tuple[Any, ...], name: str, data: bytes, codec: Codec, run_id: str
) -> None:
    kind = parts[0] if parts else None
    if kind == "task" and len(parts) == 2:
        task = codec.load_task(data, run_id)
        if task.name != parts[1]:
            raise CacheValueError(f"it is the task {task.name!r}")
        contents.tasks[task.name] = task
    elif kind == "entry" and len(parts) == 5:
        contents.entries.setdefault(parts[1:4], {})[parts[4]] = data
    elif kind == "usage" and len(parts) == 2:
        contents.usages[parts[1]] = codec.load_usage(data)
    elif kind in ("answer", "cancel"):
        contents.posts[name] = data


def digest(params: Mapping[str, Any]) -> str:
    """Return a digest of a task's params, equal for params with the same JSON."""
    text = encode(to_jsonable(_sorted(dict(params)))).decode("utf-8")
    # The repr of an object that JSON cannot hold may contain its address.
    return hashlib.sha256(_ADDRESS.sub("", text).encode("utf-8")).hexdigest()[:32]


def _sorted(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def first_deadline(waits: Iterable[Iterable[Wait]]) -> Optional[float]:
    """Return the first deadline of the waits of tasks; None without one."""
    deadlines = (wait.deadline for many in waits for wait in many)
    return min((one for one in deadlines if one is not None), default=None)


class StoredJournal(RunJournal):
    """Keeps one drive of a run.

    records, codec: where the run is stored, and how.
    id: the id of the run.
    owner, epoch: the name of this driver, and the number of its lease; 0 for a run that has ended.
    lease: the length of the lease, in seconds.
    keep_for: how long the record is kept after the end of the run, in seconds; None for ever.
    head: the head of the record.
    contents: the fields of the record.
    restored: what earlier drives have written.
    handlers: finds the handlers that spawned tasks may have.
    news: the number of posts that `contents` has.
    now: the present moment by the store's clock.
    """

    def __init__(
        self,
        records: RecordStore,
        codec: Codec,
        id: str,
        owner: str,
        epoch: int,
        lease: float,
        keep_for: Optional[float],
        head: Head,
        contents: Contents,
        restored: Restored,
        handlers: Handlers,
        news: int,
        now: float,
    ) -> None:
        self.id = id
        self.restored = restored
        self._records = records
        self._codec = codec
        self._owner = owner
        self._epoch = epoch
        self._lease = lease
        self._keep_for = keep_for
        self._process = os.getpid()
        self._head = head
        self._handlers = handlers
        # Guards everything below, and is held while a change is written. Re-entrant only so that
        # `is_busy_here` can tell whether this thread holds it.
        self._lock = threading.RLock()
        self._entries = contents.entries
        self._usages: Dict[str, Usage] = {}  # of running attempts, as far as it has a field
        # The entries of the log that are not written yet, and whether they tell of an outcome.
        self._log: List[Tuple[bool, LogEntry]] = []
        self._posts = contents.posts
        self._phases = {name: record.phase for name, record in restored.records.items()}
        self._waits = {name: record.waits for name, record in restored.records.items()}
        self._news = news
        self._seen_news = news  # of the last reply; more than `_news` if there are unread posts
        self._sequence = self._announced = restored.sequence
        self._last_contact = clock.real()
        self._lost: Optional[BaseException] = None
        self._closed = epoch == 0
        self._releasing = False
        self._run: Optional[JournaledRun] = None
        self._stop = Cancellation()
        self._clock_offset = now - clock.monotonic()

    # The lease

    @property
    def is_busy_here(self) -> bool:
        """True if the calling thread is writing, as a signal handler may find it."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    def start(self, run: JournaledRun) -> None:
        """Begin to renew the lease, and to pass answers and cancels on to the run."""
        self._run = run
        if self._closed:
            return
        thread = threading.Thread(
            target=self._keep_lease, name=f"asimov-run-{self.id}", daemon=True
        )
        thread.start()

    def _keep_lease(self) -> None:
        """Renew the lease and read posts, until the drive ends."""
        beat = min(self._lease / 3, MAX_BEAT)
        try:
            while not self._closed:
                try:
                    self._records.wait(
                        self.id, self._news, None, min(beat, LOG_SECONDS), self._stop
                    )
                    self._read_news()
                    self._beat(beat)
                except (CacheUnavailable, OutcomeUnknown) as error:
                    self._check_contact(error)
                    self._stop.wait(RETRY_SECONDS)
        except Cancelled:
            pass
        except BaseException as error:
            if not self._closed and self._run is not None:
                self._run.fail(error)

    def _beat(self, beat: float) -> None:
        """Renew the lease if it is time, and write events that wait."""
        with self._lock:
            if self._closed:
                return
            log = self._take_log(self._announced)
            if log or clock.real() - self._last_contact >= beat:
                self._commit(RecordChange({}, log, self._lease), retry=False)

    def _check_contact(self, error: CacheError) -> None:
        """Raise CacheUnavailable if the store has failed for as long as the lease.

        error: the last failure.
        """
        silent = clock.real() - self._last_contact
        if silent > self._lease:
            raise CacheUnavailable(
                f"run {self.id}: the store of the run has failed for {silent:.0f} s, so the lease "
                f"may be lost; run it again when the store works again. {error}"
            ) from error

    def _read_news(self) -> None:
        """Read what others have posted, and have the run react."""
        if self._seen_news <= self._news:
            snapshot = self._records.get(self.id, with_fields=False)
            if snapshot is None:
                raise LeaseLost(f"run {self.id} was deleted")
            if snapshot.epoch != self._epoch or snapshot.owner != self._owner:
                raise self._lease_lost()
            if snapshot.news <= self._news:
                return
        with self._lock:
            self._refresh_posts()
        reason = self.cancel_reason
        run = self._run
        if run is not None:
            if reason is not None:
                run.cancel(reason)
            run.check_waits()

    def _refresh_posts(self) -> None:
        snapshot = self._records.get(self.id)
        if snapshot is None:
            raise LeaseLost(f"run {self.id} was deleted")
        self._posts = read_contents(
            {
                name: data
                for name, data in snapshot.fields.items()
                if name.startswith(('["answer"', '["cancel"'))
            },
            self._codec,
            self.id,
        ).posts
        self._news = snapshot.news
        self._seen_news = max(self._seen_news, snapshot.news)

    @property
    def cancel_reason(self) -> Optional[str]:
        """The reason of a request to cancel the run, as far as it was read; None without."""
        data = self._posts.get(field_name("cancel"))
        return None if data is None else str(self._codec.decode(data))

    def _commit(self, change: RecordChange, retry: bool = True) -> Committed:
        """Write a change. The caller holds the lock.

        retry: whether to try again, while the lease may be ours, if the store does not answer.
        """
        if self._lost is not None:
            raise self._lost
        while True:
            try:
                reply = self._records.commit(self.id, self._owner, self._epoch, change)
                break
            except (CacheUnavailable, OutcomeUnknown) as error:
                if not retry or self._releasing:
                    raise
                self._check_contact(error)
                self._stop.wait(RETRY_SECONDS)
        if reply is None:
            self._lost = self._lease_lost()
            raise self._lost
        if reply.applied:
            del self._log[: len(change.log)]
        self._last_contact = clock.real()
        self._clock_offset = reply.now - clock.monotonic()
        self._seen_news = max(self._seen_news, reply.news)
        return reply

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(
            f"another driver has taken over run {self.id}, it was deleted, or its store has lost "
            "the last writes; nothing more of this driver is kept"
        )

    def _check_process(self) -> None:
        """Raise GraphError in a forked child: its parent drives the run, and may hold the lock."""
        if os.getpid() != self._process:
            raise GraphError(f"run {self.id} is in the process that this one was forked from")

    # Writing

    def save(self, batch: Batch) -> bool:
        """Write a batch in one step. The last batch of a drive gives up the lease."""
        self._check_process()
        tasks = self._dump_tasks(batch)
        with self._lock:
            if self._closed:
                if self._lost is not None:
                    raise self._lost
                raise ClosedError(f"run {self.id} was interrupted")
            return self._save(batch, tasks, retry=True)

    def _dump_tasks(self, batch: Batch) -> List[bytes]:
        """Return the bytes of the tasks of a batch.

        `save` calls it without the lock: a slow serializer does not delay the renewal of the lease.
        """
        return [self._codec.dump_task(record) for record in batch.records]

    def _save(
        self, batch: Batch, tasks: List[bytes], retry: bool, interrupted: Optional[str] = None
    ) -> bool:
        end = batch.end
        if end is not None and end.parked and self._has_news(batch):
            return False
        fields: Dict[str, Optional[bytes]] = {}
        cancel = field_name("cancel")
        if end is None and batch.cancelled is not None and cancel not in self._posts:
            # Should this driver die, the next one runs tasks with `always` only, too.
            fields[cancel] = self._posts[cancel] = self._codec.encode(batch.cancelled)
        for record, data in zip(batch.records, tasks):
            fields[field_name("task", record.name)] = data
            self._forget_progress(record.name, record, fields)
        for name in batch.removed:
            fields[field_name("task", name)] = None
            self._forget_progress(name, None, fields)
        counts = dict(self._head.counts)  # adjusted, because a run may have many tasks
        for record in batch.records:
            _count(counts, self._phases.get(record.name), record.phase)
        for name in batch.removed:
            _count(counts, self._phases.get(name), None)
        log = self._take_log(batch.sequence)
        status, due = RunStatus.RUNNING, None  # type: RunStatus, Optional[float]
        error = self._head.error
        for record in batch.records:
            if record.phase == "FAILED" and error is None:
                error = record.error
        if end is not None:
            status = _status_of(end)
            due = first_deadline(self._waits_after(batch).values()) if end.parked else None
            log = [*log, self._dump_end(status, end.reason)]
        elif interrupted is not None:
            status, due = RunStatus.INTERRUPTED, 0.0
            log = [*log, self._dump_end(status, interrupted)]
        head = self._head._replace(
            status=status.value,
            usage=batch.usage,
            seconds=batch.seconds,
            sequence=self._sequence + (status is not RunStatus.RUNNING),
            starts=0,
            reason=end.reason if end is not None else interrupted,
            error=error,
            counts=counts,
            spent=batch.spent or self._head.spent,
        )
        change = RecordChange(fields, log, self._lease, summary=self._codec.dump_head(head))
        if status is not RunStatus.RUNNING:
            parked = end is not None and end.parked
            change = change._replace(
                lease=None,
                status=status.value,
                due=due,
                ttl=self._keep_for if status in ENDED else None,
                news=self._news if parked else None,
            )
        reply = self._commit(change, retry)
        if not reply.applied:
            self._refresh_posts()
            return False
        self._head = head
        self._announced = max(self._announced, batch.sequence)
        for record in batch.records:
            self._phases[record.name] = record.phase
            self._waits[record.name] = record.waits
        for name in batch.removed:
            self._phases.pop(name, None)
            self._waits.pop(name, None)
        if status is not RunStatus.RUNNING:
            self._close()
        return True

    def _has_news(self, batch: Batch) -> bool:
        """Return whether something has been read that continues or ends a run as of a batch."""
        answered = (
            name in self._posts
            for many in self._waits_after(batch).values()
            for wait in many
            for name in answer_fields(wait)
        )
        return field_name("cancel") in self._posts or any(answered)

    def _waits_after(self, batch: Batch) -> Dict[str, Tuple[Wait, ...]]:
        waits = dict(self._waits, **{record.name: record.waits for record in batch.records})
        for name in batch.removed:
            waits.pop(name, None)
        return waits

    def _forget_progress(
        self, task: str, record: Optional[TaskRecord], fields: Dict[str, Optional[bytes]]
    ) -> None:
        """Remove what was kept of attempts, as far as the task's record replaces it."""
        visit = None  # that in which the task continues; a FAILED task may be run again
        if record is not None and not (PHASES[record.phase].is_final and record.phase != "FAILED"):
            visit = record.visit + (record.attempt == 0)
        for key in [key for key in self._entries if key[0] == task]:
            timed_out = key[2].startswith("deadline:") and record and record.phase == "FAILED"
            if key[1] == visit and not timed_out:
                continue
            for number in self._entries.pop(key):
                fields[field_name("entry", *key, number)] = None
        if task in self._usages and not (record is not None and record.running):
            del self._usages[task]
            fields[field_name("usage", task)] = None
        latest = record.visit if record is not None else 0
        if latest < 2:  # the usual case: there is no answer of an earlier visit
            return
        for name in [name for name in self._posts if name.startswith('["answer"')]:
            parts = parse_field_name(name)
            if parts[1] == task and parts[2] is not None and parts[2] < latest:
                del self._posts[name]
                fields[name] = None

    def _take_log(self, announced: int) -> List[LogEntry]:
        """Return the events of the run for the next write, encoded.

        A reader of the log must not see an outcome that the next drive does not find. So an outcome
        waits for the write that contains it, and so do the events after it.

        announced: the number of the last event that may tell of an outcome.
        """
        for event in [] if self._run is None else self._run.take_events():
            self._sequence = max(self._sequence, event["sequence"])
            if not (self._codec.redacts and event["type"] == "task_text"):
                entry = LogEntry(event["sequence"], self._codec.dump_event(event))
                self._log.append((event["type"] in OUTCOMES, entry))
        entries = []
        for is_outcome, entry in self._log:
            if is_outcome and entry.number > announced:
                break
            entries.append(entry)
        return entries

    def _dump_end(self, status: RunStatus, reason: Optional[str]) -> LogEntry:
        return self._codec.dump_end(self.id, self._sequence + 1, self.now(), status, reason)

    def release(self, batch: Optional[Batch], reason: str) -> None:
        """Give up the lease of a run that is interrupted. It waits for the store, but once."""
        self._check_process()
        self._releasing = True  # first: a thread that writes does not try again
        with self._lock:
            if self._closed or self._lost is not None:
                self._close()
                return
            try:
                if batch is None:
                    usage, seconds = self._head.usage, self._head.seconds
                    batch = Batch([], [], usage, seconds, None)
                end = batch.end
                ended = end is not None and not end.parked
                tasks = self._dump_tasks(batch)
                if not self._save(batch, tasks, False, None if ended else reason):
                    # An answer has arrived: it is not parked, but interrupted.
                    self._save(batch._replace(end=None), tasks, False, reason)
            finally:
                self._close()

    def _close(self) -> None:
        self._closed = True
        self._stop.cancel("the drive has ended")

    # Values

    def keep_value(self, value: Any) -> Any:
        """Return a value as the store gives it back later."""
        return self._codec.keep_value(value)

    def keep_text(self, text: Optional[str]) -> Optional[str]:
        """Return a text as it is stored."""
        return self._codec.redact_text(text)

    def keep_error(self, error: BaseException) -> ErrorRecord:
        """Return an exception as it is stored."""
        return self._codec.describe_error(error)

    def digest(self, params: Mapping[str, Any]) -> str:
        """Return a digest of a task's params."""
        return digest(params)

    def define(
        self, node: Node, dependencies: List[str], before_dependents: bool
    ) -> Mapping[str, Any]:
        """Return the definition of a spawned task. Raises GraphError if it cannot be stored."""
        definition = define_node(node, dependencies, before_dependents, self._handlers)
        definition["objective"] = self._codec.redact_text(node.task.objective)
        try:
            definition["params"] = self._codec.keep_value(dict(node.task.params))
        except CacheError as error:
            raise GraphError(f"the params of {node.name!r} cannot be stored: {error}") from error
        return definition

    # Entries

    def read_entries(self, task: str, visit: int, kind: str) -> List[Any]:
        """Return the values that were appended for a visit of a task, in their order."""
        self._check_process()
        with self._lock:
            entries = sorted(self._entries.get((task, visit, kind), {}).items())
        return [self._codec.decode(data) for _, data in entries]

    def append_entry(self, task: str, visit: int, kind: str, value: Any, usage: Usage) -> None:
        """Write a value for a visit of a task, before this returns."""
        self._check_process()
        data = self._codec.encode(value)
        with self._lock:
            if self._closed:
                raise self._lost or Cancelled(f"run {self.id} has ended")
            entries = self._entries.setdefault((task, visit, kind), {})
            number = len(entries)
            fields: Dict[str, Optional[bytes]] = {}
            fields[field_name("entry", task, visit, kind, number)] = data
            if usage != Usage():
                fields[field_name("usage", task)] = self._codec.dump_usage(usage)
            head = self._head
            if head.starts:
                head = head._replace(starts=0)
            summary = None if head is self._head else self._codec.dump_head(head)
            log = self._take_log(self._announced)
            self._commit(RecordChange(fields, log, self._lease, summary=summary))
            self._head = head
            entries[number] = data
            if usage != Usage():
                self._usages[task] = usage

    # Answers

    def find_answer(self, wait: Wait) -> Optional[Answer]:
        """Return the answer to a wait, if there is one."""
        self._check_process()
        exact = answer_field(wait)
        data = self._posts.get(exact)
        if data is None:
            if wait.call is not None:  # nobody can approve a call before it is shown
                return None
            early = early_answer_fields(wait)
            if not any(name in self._posts for name in early):
                return None
            with self._lock:
                data = self._posts.get(exact)
                if data is None:
                    name = next((one for one in early if one in self._posts), None)
                    if name is None or self._closed:
                        return None
                    # It answers this wait, and no later one of the same name.
                    data = self._posts[name]
                    self._commit(RecordChange({exact: data, name: None}, [], self._lease))
                    del self._posts[name]
                    self._posts[exact] = data
        return self._codec.load_answer(data)

    def now(self) -> float:
        """Return the present moment by the store's clock, as of its last reply."""
        return clock.monotonic() + self._clock_offset


def _count(counts: Dict[str, int], before: Optional[str], after: Optional[str]) -> None:
    """Move one task from a phase to another in the numbers of tasks by phase."""
    if before is not None:
        counts[before] = counts.get(before, 0) - 1
        if counts[before] <= 0:
            del counts[before]
    if after is not None:
        counts[after] = counts.get(after, 0) + 1


def _status_of(end: RunEnd) -> RunStatus:
    if end.parked:
        return RunStatus.PARKED
    if end.cancelled:
        return RunStatus.CANCELLED
    return RunStatus(end.status.lower())
