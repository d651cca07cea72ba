"""RunStore: keeps durable runs in a cache, and shows and changes them from any process."""

import collections
import contextlib
import datetime
import re
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from asimov_sync._json import format_error
from asimov_sync.cache.base import Cache
from asimov_sync.cache.records import Claim, NewRecord, RecordChange, Snapshot
from asimov_sync.cancellation import Cancellation, require_number
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import (
    CacheError,
    CacheValueError,
    GraphError,
    RunInProgress,
    StoredFormatError,
)
from asimov_sync.graph.journal import Answer, Restored, RunEnd, TaskRecord, Wait
from asimov_sync.graph.node import Node
from asimov_sync.graph.plan import Plan
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.state import PHASES
from asimov_sync.inference.tools.approvals import Approvals
from asimov_sync.messages import Usage
from asimov_sync.runs.approvals import encode_decision
from asimov_sync.runs.changes import Adapted, adapt_records
from asimov_sync.runs.codec import (
    GRAPH_FIELD,
    Codec,
    Head,
    Serializer,
    answer_field,
    early_answer_fields,
    field_name,
    parse_field_name,
)
from asimov_sync.runs.journal import (
    Contents,
    StoredJournal,
    digest,
    first_deadline,
    read_contents,
)
from asimov_sync.runs.options import StoreOptions
from asimov_sync.runs.owner import describe_owner, is_dead, make_owner
from asimov_sync.runs.results import make_plan, make_result
from asimov_sync.runs.schema import check_answer
from asimov_sync.runs.spawned import Handlers, restore_node
from asimov_sync.runs.status import ENDED, RunStatus
from asimov_sync.tasks import Task

__all__ = ["Opened", "RunRecord", "RunStore"]

logger = get_logger("asimov_sync.runs")

RUNNING_PAGE = 1000
"""The number of running runs in which `ready` looks for drivers of this machine that died."""

RUN_ID = re.compile(r"[A-Za-z0-9._:@-]{1,200}\Z")

WAIT_SECONDS = 0.5
"""The longest time between two looks at a lease that another driver holds, in seconds."""

PAUSE_SECONDS = 0.05
"""The shortest time between two such looks: a driver may write many events."""

MAX_SHOWN = 5000
"""The number of tasks up to which a run stores its graph, to show those that have not started."""

CONTINUABLE = (RunStatus.RUNNING.value, RunStatus.PARKED.value, RunStatus.INTERRUPTED.value)
"""The stored statuses of runs that a driver continues."""


class Opened(NamedTuple):
    """A run that was opened for a drive.

    plan: the graph; for a run that has ended, its stored tasks.
    created: whether nothing was stored of the run before.
    """

    journal: StoredJournal
    plan: Plan
    digests: List[str]
    created: bool


class RunStore:
    """Keeps durable runs in a cache, for every process that uses the same cache.

    Give it to a scheduler, `TaskScheduler(…, runs=store)`: a run with a `run_id` is then durable.

    cache: a SQLiteCache, a RedisCache, or a view of one; a MemoryCache keeps runs as long as the
        process.
    lease: the seconds that a driver may be silent before others may continue its runs; default 30.
        Drivers renew it while they live.
    keep_for: the seconds for which a run is kept after its end; default 30 days. None keeps it.
        Runs that have not ended never expire.
    serializer: an object with `dumps(value) -> bytes` and `loads(data)`, through which everything
        goes that is stored of runs, so that it can encrypt, or store more than JSON. Default JSON.
    redact: a function that returns a value, or a text, as it may be stored. Results of tasks are
        then what it returned. Default none.
    max_result_bytes: the longest value of a task that is stored; default 5,000,000 bytes. A longer
        one fails its task.
    max_recoveries: how often a run is continued after its driver died without any progress; default
        3. After that it is FAILED.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        lease: float = 30.0,
        keep_for: Optional[float] = 30 * 86400,
        serializer: Optional[Serializer] = None,
        redact: Optional[Callable[[Any], Any]] = None,
        max_result_bytes: int = 5_000_000,
        max_recoveries: int = 3,
    ) -> None:
        if not isinstance(cache, Cache):
            raise TypeError(f"a RunStore keeps runs in a cache, such as SQLiteCache; not {cache!r}")
        require_number("lease=", lease)
        require_number("keep_for=", keep_for)
        if lease <= 0:
            raise ValueError(f"lease= is a number of seconds above 0, not {lease!r}")
        self._cache = cache
        self._records = cache.records()
        self._codec = Codec(serializer, redact, max_result_bytes)
        self._lease = lease
        self._keep_for = keep_for
        self._max_recoveries = max_recoveries

    # For the scheduler

    def open(
        self,
        run_id: str,
        plan: Plan,
        options: StoreOptions,
        handlers: Mapping[str, Any],
        cancellation: Cancellation,
    ) -> Opened:
        """Take the lease of a run, or create it. The scheduler calls this.

        plan: the graph.
        options: the arguments of the run about the store.
        handlers: the scheduler's handlers.
        cancellation: ends the wait for another driver.

        Raises RunInProgress, GraphChanged, StoredFormatError, GraphError for a run_id that cannot
        be stored, and a CacheError if the store fails.
        """
        _check_run_id(run_id)
        _check_options(options)
        digests = [
            digest(node.params if node.params is not None else node.task.params)
            for node in plan.nodes
        ]
        owner = make_owner()
        tags = _check_tags(options.tags)
        head = Head(RunStatus.RUNNING.value, options.flow, self._codec.keep_value(options.args))
        graph: Dict[str, bytes] = {}
        if len(plan.nodes) <= MAX_SHOWN:
            graph[GRAPH_FIELD] = self._codec.dump_graph(plan)
        new = NewRecord(graph, self._codec.dump_head(head), tags)
        claimable = list(CONTINUABLE)
        if options.restart:
            claimable += [status.value for status in ENDED]
        elif options.retry_failed:
            claimable += [RunStatus.FAILED.value, RunStatus.PARTIAL.value]
        while True:
            try:
                snapshot, created = self._claim(
                    run_id, owner, claimable, new, options.if_running, cancellation
                )
            except Exception:
                raise
            except BaseException:  # Ctrl-C, perhaps just after the lease was taken
                self._give_back_if_held(run_id, owner)
                raise
            won = snapshot.owner == owner and snapshot.lease_until > snapshot.now
            if not (won and options.restart and not created):
                break
            self._records.delete(run_id)
        handler_table = Handlers(handlers, plan)
        if not won:
            return self._open_ended(run_id, snapshot, plan, handler_table)
        try:
            return self._open_claimed(
                run_id, snapshot, created, plan, digests, options, handler_table
            )
        except BaseException:
            self._give_back(run_id, snapshot, created)
            raise

    def create(
        self,
        run_id: str,
        flow: str,
        args: Optional[Mapping[str, Any]],
        tags: Optional[Mapping[str, str]],
    ) -> bool:
        """Create a run that is ready, without a driver. `TaskScheduler.enqueue` calls this.

        Returns False if there is such a run already.
        """
        _check_run_id(run_id)
        # INTERRUPTED is the status of a run that has something to do and no driver.
        status = RunStatus.INTERRUPTED.value
        head = Head(status, flow, self._codec.keep_value(args), starts=0)
        new = NewRecord({}, self._codec.dump_head(head), _check_tags(tags))
        # If this process dies before it gives up the lease, the run is ORPHANED: ready as well.
        running = RunStatus.RUNNING.value
        claim = self._records.claim(run_id, make_owner(), self._lease, running, (), new)
        assert claim is not None
        if claim.created:
            snapshot = claim.snapshot
            change = RecordChange({}, [], None, status, snapshot.now)
            self._records.commit(run_id, snapshot.owner, snapshot.epoch, change)
        return claim.created

    def _claim(
        self,
        run_id: str,
        owner: str,
        claimable: Collection[str],
        new: NewRecord,
        if_running: str,
        cancellation: Cancellation,
    ) -> Tuple[Snapshot, bool]:
        """Return a record whose lease was taken, or that cannot be claimed; and if it is new."""
        while True:
            claim = self._try_claim(run_id, owner, claimable, new)
            assert claim is not None
            snapshot = claim.snapshot
            if claim.won or snapshot.status not in claimable:
                return snapshot, claim.created
            if if_running == "raise":
                raise _in_progress(run_id, snapshot)
            self._wait_for_driver(snapshot, cancellation)

    def _wait_for_driver(self, snapshot: Snapshot, cancellation: Cancellation) -> None:
        """Wait until a record has no driver any more. The last event of a drive announces that."""
        found: Optional[Snapshot] = snapshot
        while found is not None and _is_driven(found):
            left = min(WAIT_SECONDS, found.lease_until - found.now)
            self._records.wait(found.id, None, found.log_number, left, cancellation)
            cancellation.wait(PAUSE_SECONDS)
            cancellation.raise_if_cancelled()
            found = self._records.get(found.id, with_fields=False)

    def _try_claim(
        self, run_id: str, owner: str, claimable: Collection[str], new: Optional[NewRecord] = None
    ) -> Optional[Claim]:
        """Take the lease of a record, also of a driver of this machine that is dead."""
        dead: Optional[str] = None
        running = RunStatus.RUNNING.value
        while True:
            claim = self._records.claim(run_id, owner, self._lease, running, claimable, new, dead)
            if claim is None or claim.won or claim.snapshot.status not in claimable:
                return claim
            holder = claim.snapshot.owner
            if holder == dead or not is_dead(holder):
                return claim
            dead = holder

    def _open_claimed(
        self,
        run_id: str,
        snapshot: Snapshot,
        created: bool,
        plan: Plan,
        digests: List[str],
        options: StoreOptions,
        handlers: Handlers,
    ) -> Opened:
        head = self._codec.load_head(snapshot.summary)
        contents = read_contents(snapshot.fields, self._codec, run_id)
        changed: Dict[str, Optional[bytes]] = {}
        if not created:
            adapted = adapt_records(
                self._as_stored(plan),
                digests,
                contents.tasks,
                options.if_changed,
                options.retry_failed,
            )
            contents = contents._replace(tasks=adapted.records)
            changed = self._dump_adapted(adapted)
            graph = self._codec.dump_graph(plan) if len(plan.nodes) <= MAX_SHOWN else None
            if graph != contents.graph:
                changed[GRAPH_FIELD] = graph
            if options.retry_failed:
                head = head._replace(error=None)
                changed[field_name("cancel")] = None
                contents.posts.pop(field_name("cancel"), None)
            if head.starts >= self._max_recoveries:
                return self._give_up(run_id, snapshot, head, contents, plan, handlers)
        if contents.usages:
            # What unfinished attempts used becomes a part of their tasks' records.
            head = head._replace(usage=sum(contents.usages.values(), head.usage))
            contents = contents._replace(tasks=_with_usages(contents, plan, digests))
            for name in contents.usages:
                changed[field_name("usage", name)] = None
                if name in contents.tasks:
                    dumped = self._codec.dump_task(contents.tasks[name])
                    changed[field_name("task", name)] = dumped
        restored = Restored(
            contents.tasks,
            _restore_nodes(contents.tasks, handlers),
            head.usage,
            head.seconds,
            # Entries of the log without an outcome do not write the head.
            max(head.sequence, snapshot.log_number),
            spent=head.spent,
        )
        if not created:
            counts = collections.Counter(record.phase for record in contents.tasks.values())
            head = head._replace(
                status=RunStatus.RUNNING.value, starts=head.starts + 1, reason=None, counts=counts
            )
            change = RecordChange(changed, [], self._lease, summary=self._codec.dump_head(head))
            if self._records.commit(run_id, snapshot.owner, snapshot.epoch, change) is None:
                raise _in_progress(run_id, snapshot)
        journal = self._make_journal(snapshot, snapshot.epoch, head, contents, restored, handlers)
        return Opened(journal, plan, digests, created)

    def _dump_adapted(self, adapted: Adapted) -> Dict[str, Optional[bytes]]:
        """Return the fields of tasks to be written, or with None removed."""
        fields: Dict[str, Optional[bytes]] = {
            field_name("task", name): None for name in adapted.removed
        }
        for name in adapted.updated:
            fields[field_name("task", name)] = self._codec.dump_task(adapted.records[name])
        return fields

    def _make_journal(
        self,
        snapshot: Snapshot,
        epoch: int,
        head: Head,
        contents: Contents,
        restored: Restored,
        handlers: Handlers,
    ) -> StoredJournal:
        return StoredJournal(
            self._records,
            self._codec,
            snapshot.id,
            snapshot.owner,
            epoch,
            self._lease,
            self._keep_for,
            head,
            contents,
            restored,
            handlers,
            snapshot.news,
            snapshot.now,
        )

    def _as_stored(self, plan: Plan) -> Plan:
        """Return a graph with the texts of its tasks as they are stored."""
        if not self._codec.redacts:
            return plan
        nodes = [
            node._replace(
                task=Task(
                    type=node.task.type,
                    objective=self._codec.redact_text(node.task.objective) or "",
                )
            )
            for node in plan.nodes
        ]
        return plan._replace(nodes=nodes)

    def _give_back_if_held(self, run_id: str, owner: str) -> None:
        """Leave a record as it was before a claim, if this owner has taken the lease."""
        with contextlib.suppress(CacheError):  # then the lease ends by itself
            snapshot = self._records.get(run_id)
            if snapshot is not None and snapshot.owner == owner:
                self._give_back(run_id, snapshot, False)

    def _give_back(self, run_id: str, snapshot: Snapshot, created: bool) -> None:
        """Leave a record as it was before the claim."""
        if created:
            self._records.delete(run_id)
            return
        status, due = RunStatus.INTERRUPTED, snapshot.now  # type: RunStatus, Optional[float]
        ttl = None
        try:
            # Also of a newer format, which `load_head` refuses.
            before = RunStatus(self._codec.decode(snapshot.summary)["status"])
        except Exception:  # it is damaged
            before = RunStatus.INTERRUPTED
        if before is RunStatus.PARKED:
            status = before
            try:
                tasks = read_contents(snapshot.fields, self._codec, run_id).tasks
                due = first_deadline(record.waits for record in tasks.values())
            except Exception:  # likewise; `ready` lists it, for a process that can read it
                due = snapshot.now
        elif before in ENDED:
            status, due, ttl = before, None, self._keep_for
        change = RecordChange({}, [], None, status.value, due, None, ttl)
        self._records.commit(run_id, snapshot.owner, snapshot.epoch, change)

    def _give_up(
        self,
        run_id: str,
        snapshot: Snapshot,
        head: Head,
        contents: Contents,
        plan: Plan,
        handlers: Handlers,
    ) -> Opened:
        """End a run whose drivers die without any progress."""
        reason = (
            f"its driver died {head.starts} times without any progress (max_recoveries="
            f"{self._max_recoveries}); store.retry() or retry_failed=True runs it again"
        )
        self._end(run_id, snapshot, head, contents, RunStatus.FAILED, reason)
        ended = self._records.get(run_id)
        assert ended is not None
        return self._open_ended(run_id, ended, plan, handlers)

    def _end(
        self,
        run_id: str,
        snapshot: Snapshot,
        head: Head,
        contents: Contents,
        status: RunStatus,
        reason: str,
    ) -> bool:
        """End a run for good on behalf of a driver. The caller holds its lease."""
        fields: Dict[str, Optional[bytes]] = {}
        for name, record in contents.tasks.items():
            if not PHASES[record.phase].is_final:
                record = record._replace(
                    phase="SKIPPED", error=f"the run ended early: {reason}", waits=()
                )
                fields[field_name("task", name)] = self._codec.dump_task(record)
        sequence = max(head.sequence, snapshot.log_number) + 1
        head = head._replace(status=status.value, reason=reason, sequence=sequence, starts=0)
        change = RecordChange(
            fields,
            [self._codec.dump_end(run_id, sequence, snapshot.now, status, reason)],
            None,
            status.value,
            None,
            self._codec.dump_head(head),
            self._keep_for,
        )
        return self._records.commit(run_id, snapshot.owner, snapshot.epoch, change) is not None

    def _open_ended(
        self, run_id: str, snapshot: Snapshot, plan: Plan, handlers: Handlers
    ) -> Opened:
        """Open a run that has ended: its stored tasks, on the tasks of the graph."""
        head = self._codec.load_head(snapshot.summary)
        contents = read_contents(snapshot.fields, self._codec, run_id)
        logger.info(
            "run %s has ended %.0f s ago: its stored result is returned; restart=True runs it anew",
            run_id,
            snapshot.now - snapshot.updated,
            extra={"run_id": run_id},
        )
        records = {
            name: record._replace(spawned_by=None, spawn=None)
            for name, record in contents.tasks.items()
        }
        if head.reason is not None:  # it may have ended without a driver, which knows the graph
            records = dict(_as_cut_off(plan, head.reason), **records)
        end = RunEnd(head.status, head.reason, head.status == RunStatus.CANCELLED, False)
        restored = Restored(records, {}, head.usage, head.seconds, head.sequence, end)
        stored_plan = make_plan(records, {node.name: node.task for node in plan.nodes})
        journal = self._make_journal(snapshot, 0, head, contents, restored, handlers)
        digests = [records[node.name].params for node in stored_plan.nodes]
        return Opened(journal, stored_plan, digests, False)

    def keep_value(self, value: Any) -> Any:
        """Return a value as it is read back later.

        Raises CacheValueError if it cannot be stored.
        """
        return self._codec.keep_value(value)

    # Reading

    @property
    def cache(self) -> Cache:
        """The cache in which the store keeps runs."""
        return self._cache

    def get(self, run_id: str) -> "RunRecord":
        """Return what is stored of a run. Raises KeyError if there is no such run."""
        return RunRecord(self, self._get(run_id))

    def _get(self, run_id: str, with_fields: bool = False) -> Snapshot:
        snapshot = self._records.get(run_id, with_fields)
        if snapshot is None:
            raise KeyError(f"there is no stored run {run_id!r}")
        return snapshot

    def read_tasks(self, run_id: str) -> Dict[str, TaskRecord]:
        """Return the stored tasks of a run by name. Raises KeyError if there is no such run."""
        return self._read(run_id)[1].tasks

    def read_graph(self, run_id: str) -> Dict[str, TaskRecord]:
        """Return the tasks of a run by name, with those that have not started.

        Raises KeyError if there is no such run.
        """
        snapshot, contents = self._read(run_id)
        if contents.graph is None:
            return contents.tasks
        try:
            planned = self._codec.load_graph(contents.graph)
        except Exception as error:
            raise CacheValueError(
                f"the stored run {run_id!r} is damaged: its graph cannot be read: "
                f"{format_error(error)}"
            ) from error
        if RunStatus(snapshot.status) in ENDED:
            over = "the run ended before it could start"
            planned = [one._replace(phase="SKIPPED", error=over) for one in planned]
        tasks = dict({one.name: one for one in planned}, **contents.tasks)
        return dict(sorted(tasks.items(), key=lambda item: item[1].position))

    def read_transcripts(self, run_id: str, task: str) -> List[List[Any]]:
        """Return what the agents of a task have stored so far, a list for each conversation.

        The entries are removed when the task has ended. Raises KeyError if there is no such run.
        """
        contents = self._read(run_id)[1]
        found = [
            (visit, kind, entries)
            for (name, visit, kind), entries in contents.entries.items()
            if name == task and kind.startswith("agent:")
        ]
        return [
            [self._codec.decode(data) for _, data in sorted(entries.items())]
            for _, _, entries in sorted(found, key=lambda one: one[:2])
        ]

    def _read(self, run_id: str) -> Tuple[Snapshot, Contents]:
        snapshot = self._get(run_id, with_fields=True)
        self._codec.load_head(snapshot.summary)  # raises for a newer format
        return snapshot, read_contents(snapshot.fields, self._codec, run_id)

    def read_head(self, snapshot: Snapshot, listed: bool) -> Head:
        """Return the head of a record.

        listed: whether the record is one of a list, which a single head that cannot be read does
            not make unreadable: its error says so.
        """
        try:
            return self._codec.load_head(snapshot.summary)
        except (CacheValueError, StoredFormatError) as error:
            if not listed:
                raise
            return Head(snapshot.status, error=format_error(error))

    def result(self, run_id: str) -> RunResult:
        """Return the result of a run, as far as it has come, from the store alone.

        Its exceptions are rebuilt from their text. Raises KeyError if there is no such run.
        """
        snapshot, contents = self._read(run_id)
        return make_result(run_id, self._codec.load_head(snapshot.summary), contents.tasks)

    def list(
        self,
        *,
        status: "Union[RunStatus, str, Collection[str], None]" = None,
        tags: Optional[Mapping[str, str]] = None,
        since: Optional[datetime.datetime] = None,
        until: Optional[datetime.datetime] = None,
        after: "Union[RunRecord, str, None]" = None,
        limit: int = 100,
    ) -> "List[RunRecord]":
        """Return stored runs, the newest first.

        status: only those with this status, or one of these; by default all.
        tags: only those with all of these tags.
        since, until: only those created at or after, and before, these moments. A datetime without
            a time zone is local time.
        after: the last run of the page before, or its id.
        limit: the most runs to return; default 100.
        """
        wanted = _statuses(status)
        stored = None if wanted is None else {_stored_status(one) for one in wanted}
        cursor = None
        if after is not None:
            snapshot = after.snapshot if isinstance(after, RunRecord) else self._get(after)
            cursor = (snapshot.created, snapshot.id)
        found: "List[RunRecord]" = []
        while len(found) < limit:
            page = self._records.list(
                stored, tags, _timestamp(since), _timestamp(until), cursor, limit
            )
            records = [RunRecord(self, snapshot, listed=True) for snapshot in page]
            found += [one for one in records if wanted is None or one.status in wanted]
            if len(page) < limit:
                break
            cursor = (page[-1].created, page[-1].id)
        return found[:limit]

    def ready(self, *, limit: int = 100) -> "List[RunRecord]":
        """Return the runs that have something to do and no driver.

        Their driver died or was interrupted, a wait of theirs was answered or is past its deadline,
        or `retry` was called. `scheduler.resume(run.run_id)` continues one.

        limit: the most runs to return; default 100.
        """
        found = self._records.ready(limit)
        if len(found) < limit:  # the lease of a driver that died here may not have ended yet
            running = self._records.list([RunStatus.RUNNING.value], limit=RUNNING_PAGE)
            live = [one for one in running if one.lease_until > one.now]
            found += [one for one in live if is_dead(one.owner)]
        return [RunRecord(self, one, listed=True) for one in found[:limit]]

    def stats(self) -> Dict[str, int]:
        """Return the number of runs by status. Orphaned runs count as running."""
        return self._records.count()

    def events(
        self,
        run_id: str,
        *,
        after: Optional[int] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> Iterator[Dict[str, Any]]:
        """Iterate over the events of a run, as dicts, and wait for new ones while it is driven.

        The last event of a drive is "run_finished", with the status of the run. The iteration ends
        with it, unless another drive has begun. The log keeps the last 10,000 events,
        without the results of tasks; the pieces of a text are joined.

        after: the "sequence" of the last event that is known; by default from the beginning.
        cancellation: ends the iteration; by default the current one.

        Raises KeyError if there is no such run, and Cancelled.
        """
        self._get(run_id)
        return self._follow(run_id, after or 0, cancellation or Cancellation.current())

    def _follow(
        self, run_id: str, number: int, cancellation: Cancellation
    ) -> Iterator[Dict[str, Any]]:
        while True:
            snapshot = self._records.get(run_id, with_fields=False)
            entries = self._records.read_log(run_id, number)
            for entry in entries:
                number = entry.number
                yield self._codec.load_event(entry.data)
            if entries:
                continue
            if snapshot is None or not _is_driven(snapshot):
                return
            self._records.wait(run_id, None, number, WAIT_SECONDS, cancellation)

    # People

    def waits(self, run_id: Optional[str] = None) -> List[Wait]:
        """Return what parked tasks wait for: those of one run, or by default of all.

        Raises KeyError if there is no such run.
        """
        if run_id is not None:
            snapshot, contents = self._read(run_id)
            return [] if RunStatus(snapshot.status) in ENDED else _open_waits(contents)
        found: List[Wait] = []
        cursor = None
        while True:
            page = self._records.list(CONTINUABLE, after=cursor)
            for snapshot in page:
                try:
                    found += self.waits(snapshot.id)
                except (KeyError, CacheValueError, StoredFormatError):
                    continue  # it was removed meanwhile, or `list` shows why it cannot be read
            if not page:
                return found
            cursor = (page[-1].created, page[-1].id)

    def answer(
        self,
        run_id: str,
        wait: str,
        message: Any,
        *,
        task: Optional[str] = None,
        by: Optional[str] = None,
    ) -> bool:
        """Answer a wait. The run continues where a driver is, or when it is resumed.

        An answer before the wait opens is kept for it.

        wait: the name of the wait.
        message: the answer, a JSON value.
        task: the name of the task that waits; needed if several wait under the same name.
        by: who answers, to be stored with the answer.

        Returns False if it was answered already: the first answer counts. Raises KeyError if there
        is no such run; ValueError if the answer does not fit the type of the wait, if `task=` is
        needed, and for a wait for an approval.
        """
        snapshot, contents = self._read(run_id)
        if RunStatus(snapshot.status) in ENDED:
            return False
        waits = [
            one
            for one in _open_waits(contents)
            if one.name == wait and (task is None or one.task == task)
        ]
        if len(waits) > 1:
            names = ", ".join(repr(one.task) for one in waits)
            raise ValueError(f"several tasks wait for {wait!r}: name one with task=, of {names}")
        if not waits:
            return self._answer_early(snapshot, contents, wait, message, task, by)
        if waits[0].call is not None:
            raise ValueError(
                f"{wait!r} waits for an approval: use approve({run_id!r}, {{{wait!r}: True}})"
            )
        check_answer(waits[0].type, message)
        return self._post_answer(snapshot, contents, waits[0], message, by)

    def _answer_early(
        self,
        snapshot: Snapshot,
        contents: Contents,
        wait: str,
        message: Any,
        task: Optional[str],
        by: Optional[str],
    ) -> bool:
        for name in contents.posts:
            parts = parse_field_name(name)
            if parts[0] == "answer" and parts[3] == wait and task in (None, parts[1]):
                if parts[2] is None or not _is_past(contents.tasks.get(parts[1]), parts[2]):
                    return False
        data = self._codec.dump_answer(Answer(message, by, snapshot.now))
        name = field_name("answer", task, None, wait)
        # A run that waits for something else has nothing to do. A driver looks for answers before
        # it parks a run.
        is_parked = snapshot.status == RunStatus.PARKED.value
        due = None if is_parked else snapshot.now
        posted = self._records.post(snapshot.id, {name: data}, due=due)
        if posted and is_parked:
            # The wait may have been opened, and the run parked again, since it was read.
            now, contents = self._read(snapshot.id)
            if any(one.name == wait and task in (None, one.task) for one in _open_waits(contents)):
                self._records.post(snapshot.id, {}, due=now.now)
        return bool(posted)

    def _post_answer(
        self, snapshot: Snapshot, contents: Contents, wait: Wait, message: Any, by: Optional[str]
    ) -> bool:
        early = early_answer_fields(wait)
        if wait.call is None and any(name in contents.posts for name in early):
            return False
        data = self._codec.dump_answer(Answer(message, by, snapshot.now))
        return bool(self._records.post(snapshot.id, {answer_field(wait): data}, due=snapshot.now))

    def approve(
        self,
        run_id: str,
        approvals: Approvals,
        *,
        task: Optional[str] = None,
        by: Optional[str] = None,
    ) -> bool:
        """Decide about tool calls of agents that wait for approval.

        A decision is bound to the call as `waits` shows it: its name and its arguments.

        approvals: decisions by the name of the wait, which is the call's id unless the model used
            it before: True, Approved(…), Refused(…), or the reason for a refusal.
        task: the name of the task that waits; needed if calls of several tasks have the same id.
        by: who decides, to be stored with the decisions.

        Returns False if one of them was decided already: the first decision counts. Raises KeyError
        if there is no such run, ValueError for a call that does not wait or is not the shown one,
        if `task=` is needed, and for arguments that do not fit the tool, and TypeError for a value
        that is not a decision.
        """
        if not isinstance(approvals, Mapping):
            raise TypeError(f"approvals are a dict of decisions by call id; not {approvals!r}")
        snapshot, contents = self._read(run_id)
        has_ended = RunStatus(snapshot.status) in ENDED
        decided = []
        for call_id, approval in approvals.items():
            wait = None if has_ended else _find_approval(contents, call_id, task)
            if wait is None or wait.call is None:
                undecided = [
                    one.name
                    for one in _open_waits(contents)
                    if one.call is not None and not has_ended and task in (None, one.task)
                ]
                known = ", ".join(map(repr, undecided)) or "none"
                raise ValueError(
                    f"no call {call_id!r} of run {run_id!r} waits for approval; these do: {known}"
                )
            message = encode_decision(approval, wait.call)
            if message.get("arguments") is not None:
                check_answer(wait.type, message["arguments"])
            decided.append((wait, message))
        posted = [
            self._post_answer(snapshot, contents, wait, message, by) for wait, message in decided
        ]
        return all(posted)

    # Changing

    def cancel(self, run_id: str, reason: str = "cancelled") -> bool:
        """Cancel a run for good, also one without a driver. A driver notices within 0.5 seconds.

        Returns False if the run has ended. Raises KeyError if there is no such run.
        """
        if RunStatus(self._get(run_id).status) in ENDED:
            return False
        reason = self._codec.redact_text(reason) or ""
        data = self._codec.encode(reason)
        self._records.post(run_id, {field_name("cancel"): data}, due=0.0)
        snapshot = self._claim_idle(run_id, CONTINUABLE)
        if snapshot is None:
            status = RunStatus(self._get(run_id).status)
            return status is RunStatus.CANCELLED or status not in ENDED
        head = self._codec.load_head(snapshot.summary)
        contents = read_contents(snapshot.fields, self._codec, run_id)
        return self._end(run_id, snapshot, head, contents, RunStatus.CANCELLED, reason)

    def retry(self, run_id: str) -> bool:
        """Have the FAILED tasks of a run that has ended run again, when the run is resumed.

        Returns False if the run has no failed task, or has not ended. Raises KeyError if there is
        no such run.
        """
        self._get(run_id)
        claimable = [status.value for status in (RunStatus.FAILED, RunStatus.PARTIAL)]
        snapshot = self._claim_idle(run_id, claimable)
        if snapshot is None:
            return False
        head = self._codec.load_head(snapshot.summary)
        contents = read_contents(snapshot.fields, self._codec, run_id)
        added = {name: one for name, one in contents.tasks.items() if one.spawned_by is None}
        plan = make_plan(added, {})
        digests = [contents.tasks[node.name].params for node in plan.nodes]
        adapted = adapt_records(plan, digests, contents.tasks, "keep", True)
        has_failed = bool(adapted.updated) or head.reason is not None
        if not has_failed:
            self._give_back(run_id, snapshot, False)
            return False
        fields = self._dump_adapted(adapted)
        fields[field_name("cancel")] = None
        head = head._replace(status=RunStatus.INTERRUPTED.value, reason=None, error=None, starts=0)
        change = RecordChange(
            fields, [], None, head.status, snapshot.now, self._codec.dump_head(head)
        )
        return self._records.commit(run_id, snapshot.owner, snapshot.epoch, change) is not None

    def _claim_idle(self, run_id: str, claimable: Collection[str]) -> Optional[Snapshot]:
        """Take the lease of a run that nobody drives; None if that is not possible."""
        claim = self._try_claim(run_id, make_owner(), claimable)
        return claim.snapshot if claim is not None and claim.won else None

    def delete(self, run_id: str) -> bool:
        """Remove everything that is stored of a run. Return whether there was such a run.

        A driver of the run, if there is one, raises LeaseLost.
        """
        return self._records.delete(run_id)

    def __repr__(self) -> str:
        return f"<RunStore on {self._cache!r}>"


class RunRecord:
    """The record of a stored run, as of the moment when it was read.

    run_id: the id of the run.
    status: its RunStatus.
    flow, args: the registered flow that builds its graph, and its arguments; None without.
    tags: its tags.
    created, updated: when it was created, and last written; aware, in UTC.
    owner: the host and process id of its driver, or of the last one.
    lease_until: when the lease of its driver ends; None without a driver.
    usage: the tokens that it used so far.
    seconds: the time that it took so far, without the time in which it was parked.
    error: the text of its first error, or why it ended early; None without.
    """

    def __init__(self, store: RunStore, snapshot: Snapshot, listed: bool = False) -> None:
        head = store.read_head(snapshot, listed)
        self._store = store
        self._tasks: Optional[Dict[str, TaskRecord]] = None
        self.snapshot = snapshot
        self.run_id = snapshot.id
        self.status = RunStatus(snapshot.status)
        driven = _is_driven(snapshot)
        if self.status is RunStatus.RUNNING and not driven:
            self.status = RunStatus.ORPHANED
        self.flow = head.flow
        self.args = head.args
        self.tags = dict(snapshot.tags)
        self.created = _datetime(snapshot.created)
        self.updated = _datetime(snapshot.updated)
        self.owner = describe_owner(snapshot.owner)
        self.lease_until = _datetime(snapshot.lease_until) if driven else None
        self.usage = head.usage
        self.seconds = head.seconds
        self.error = head.error or head.reason
        self.counts = dict(head.counts)

    @property
    def tasks(self) -> Dict[str, TaskRecord]:
        """The stored tasks by name, which are read at the first use."""
        if self._tasks is None:
            self._tasks = self._store.read_tasks(self.run_id)
        return self._tasks

    @property
    def graph(self) -> Dict[str, TaskRecord]:
        """The tasks by name, with those that have not started, which are not stored one by one.

        Read anew each time. Of a graph of more than 5,000 tasks only the stored ones are known.
        """
        return self._store.read_graph(self.run_id)

    def __repr__(self) -> str:
        return f"<RunRecord {self.run_id}: {self.status.name}>"


def _check_run_id(run_id: str) -> None:
    if not RUN_ID.match(run_id):
        raise ValueError(
            "the run_id of a durable run has 1 to 200 letters, digits and characters of ._:@-; "
            f"not {run_id!r}"
        )


def _check_options(options: StoreOptions) -> None:
    """Raise ValueError or TypeError for an unsuitable argument about the store."""
    if options.if_running not in ("raise", "wait"):
        raise ValueError(f'if_running= is "raise" or "wait", not {options.if_running!r}')
    policies = ("raise", "keep", "rerun")
    given = options.if_changed
    values = [given] if isinstance(given, str) else list(given.values())
    if not set(values) <= set(policies):
        raise ValueError(
            f'if_changed= is "raise", "keep" or "rerun", or a dict of these by task; not {given!r}'
        )


def _check_tags(tags: Optional[Mapping[str, str]]) -> Dict[str, str]:
    checked = dict(tags or {})
    for key, value in checked.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"tags= is a dict of strings by name; not {tags!r}")
    return checked


def _is_driven(snapshot: Snapshot) -> bool:
    """Return whether a record has a driver, as far as that is known."""
    return snapshot.lease_until > snapshot.now and not is_dead(snapshot.owner)


def _in_progress(run_id: str, snapshot: Snapshot) -> RunInProgress:
    owner = describe_owner(snapshot.owner)
    left = max(0.0, snapshot.lease_until - snapshot.now)
    error = RunInProgress(
        f"run {run_id!r} is driven by {owner}, whose lease ends in {left:.0f} s unless it is "
        'renewed; if_running="wait" waits for its end'
    )
    error.owner, error.lease_until = owner, snapshot.lease_until
    return error


def _with_usages(contents: Contents, plan: Plan, digests: Sequence[str]) -> Dict[str, TaskRecord]:
    """Return the tasks with what their unfinished attempts used."""
    records = dict(contents.tasks)
    indexes = {node.name: index for index, node in enumerate(plan.nodes)}
    for name, used in contents.usages.items():
        record = records.get(name)
        if record is None and name in indexes:
            index = indexes[name]
            task = plan.nodes[index].task
            record = TaskRecord(
                name, index, "WAITING", task.type, task.objective, digests[index], ()
            )
        if record is not None:
            records[name] = record._replace(usage=used + (record.usage or Usage()))
    return records


def _as_cut_off(plan: Plan, reason: str) -> Dict[str, TaskRecord]:
    """Return the tasks of a graph as a run that ended early skips them."""
    records = {}
    for index, node in enumerate(plan.nodes):
        task, before = node.task, tuple(plan.nodes[one].name for one in plan.dependencies[index])
        records[node.name] = TaskRecord(
            node.name,
            index,
            "SKIPPED",
            task.type,
            task.objective,
            "",
            before,
            error=f"the run ended early: {reason}",
        )
    return records


def _restore_nodes(records: Mapping[str, TaskRecord], handlers: Handlers) -> Dict[str, Node]:
    nodes = {}
    for name, record in records.items():
        if record.spawn is not None:
            try:
                finished = PHASES[record.phase].status.is_final
                nodes[name] = restore_node(name, record.spawn, handlers, not finished)
            except GraphError:
                raise
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise CacheValueError(
                    f"the stored definition of the spawned task {name!r} is damaged: "
                    f"{format_error(error)}"
                ) from error
    return nodes


def _is_past(record: Optional[TaskRecord], visit: int) -> bool:
    """Return whether a task is in a later visit than this one, or the next attempt begins one."""
    if record is None or PHASES[record.phase].is_final:
        return False
    return visit < record.visit + (record.attempt == 0)


def _find_approval(contents: Contents, name: str, task: Optional[str]) -> Optional[Wait]:
    """Return the wait for an approval of this name; None without one.

    Models reuse the ids of calls, so several tasks may have one. Raises ValueError then.
    """
    known = [
        wait
        for record in contents.tasks.values()
        for wait in record.waits
        if wait.call is not None and wait.name == name and task in (None, wait.task)
    ]
    undecided = [wait for wait in known if answer_field(wait) not in contents.posts]
    if len(undecided) > 1:
        names = ", ".join(repr(wait.task) for wait in undecided)
        raise ValueError(
            f"calls {name!r} of several tasks wait for approval: name one with task=, of {names}"
        )
    return next(iter(undecided or known), None)


def _open_waits(contents: Contents) -> List[Wait]:
    """Return the waits of parked tasks that are not answered."""
    return [
        wait
        for record in contents.tasks.values()
        for wait in record.waits
        if answer_field(wait) not in contents.posts
    ]


def _statuses(status: Any) -> Optional[List[RunStatus]]:
    if status is None:
        return None
    given = [status] if isinstance(status, str) else list(status)
    return [RunStatus(one) for one in given]


def _stored_status(status: RunStatus) -> str:
    return RunStatus.RUNNING.value if status is RunStatus.ORPHANED else status.value


def _timestamp(moment: Optional[datetime.datetime]) -> Optional[float]:
    return None if moment is None else moment.timestamp()


def _datetime(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
