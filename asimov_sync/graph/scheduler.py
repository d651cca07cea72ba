"""Running graphs on threads: a task starts the moment its own dependencies are done."""

import logging
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

from asimov_sync.cache.contract import Cache
from asimov_sync.errors import GraphError, WorkersClosed, described
from asimov_sync.forking import ForkSafeLock
from asimov_sync.graph.building import Hold, TaskGraph, claim, release
from asimov_sync.graph.context import TaskContext, execute
from asimov_sync.graph.results import Outcome, Partial, RunResult
from asimov_sync.graph.run import Run, RunEvents
from asimov_sync.graph.state import RunState
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.workers import WorkerPool

__all__ = ["TaskScheduler"]

logger = logging.getLogger(__name__)

Handler = Callable[[Task, TaskContext], Any]


class TaskScheduler:
    """Runs task graphs: each task by the handler of its type, as soon as its dependencies are done.

    handlers: by task type, callables `(task, context) -> value`. max_workers: how many tasks go on at once, of all its runs
    together; 0 runs everything on the calling thread, for debuggers and for test cases that own a transaction.
    cache: what `context.cache` is a view of; a MemoryCache of its own where not given.

    Safe from every thread, and in a forked child. A handler that raises makes its task FAILED, and nothing else.
    """

    def __init__(
        self, handlers: Optional[Mapping[str, Handler]] = None, max_workers: int = 8, cache: Optional[Cache] = None
    ) -> None:
        if max_workers < 0:
            raise ValueError("max_workers is a number of threads, or 0 for the calling thread; not {}".format(max_workers))
        self.handlers: Dict[str, Handler] = dict(handlers or {})
        self.max_workers = max_workers
        self.last_result: Optional[RunResult] = None
        """The result of the run that ended last; what an interrupted run had finished is here."""
        self._cache = cache
        self._pool = WorkerPool(max_workers, name="asimov-task") if max_workers else None
        self._guard = ForkSafeLock()  # guards the cache's making, the runs that go on, and whether it is closed
        self._runs: Set[Run] = set()
        self._closed = False

    @property
    def cache(self) -> Cache:
        """The cache that was given, or a MemoryCache made on first use."""
        with self._guard.lock:
            if self._cache is None:
                from asimov_sync.cache.memory import MemoryCache

                self._cache = MemoryCache()
            return self._cache

    def handler(self, type: str) -> Callable[[Handler], Handler]:
        """Decorate the handler of a task type."""

        def register(function: Handler) -> Handler:
            self.handlers[type] = function
            return function

        return register

    # Three views of one thing

    def submit(
        self, graph: TaskGraph, run_id: Optional[str] = None, timeout: Optional[float] = None, on_failure: str = "continue"
    ) -> Run:
        """Start a run, and return its handle. With max_workers=0 it goes on while the result or the events are asked for.

        run_id: its name, made up where not given. timeout: seconds after which it is cancelled. on_failure: "continue", so
        that only what depends on a FAILED task is skipped, or "stop", so that nothing more is started.

        GraphError, before anything runs, for a cycle, an unknown dependency, a type without a handler, or a graph
        that is running already.
        """
        return self._submit(graph, run_id, timeout, on_failure, True, [])

    def run(
        self, graph: TaskGraph, run_id: Optional[str] = None, timeout: Optional[float] = None, on_failure: str = "continue"
    ) -> RunResult:
        """Run a graph to its end, and return what came of it; the arguments are those of `submit`.

        Failures are in the result (`raise_for_failure()` makes an exception of them). Whatever interrupts the wait, Ctrl-C
        say, cancels the run and is raised again at once; `last_result` then has what was finished.
        """
        made: List[Run] = []
        try:
            return self._submit(graph, run_id, timeout, on_failure, False, made).result()
        except BaseException as interruption:  # wherever between here and there it struck
            for run in made:
                run.interrupt(interruption)
            raise

    def stream(
        self, graph: TaskGraph, run_id: Optional[str] = None, timeout: Optional[float] = None, on_failure: str = "continue"
    ) -> RunEvents:
        """Run a graph, and iterate over what happens; the last event is RunFinished. Closing the iterator cancels the run."""
        return self._submit(graph, run_id, timeout, on_failure, True, []).events()

    def _submit(
        self,
        graph: TaskGraph,
        run_id: Optional[str],
        timeout: Optional[float],
        on_failure: str,
        recording: bool,
        made: List[Run],
    ) -> Run:
        """Start a run; it is in `made` from the moment on at which it has to be ended."""
        if on_failure not in ("continue", "stop"):
            raise ValueError('on_failure is "continue" or "stop", not {!r}'.format(on_failure))
        nodes = graph.plan()
        for node in nodes:
            if node.task.type not in self.handlers:
                raise GraphError(
                    "no handler for the type {!r} of task {!r}; there are handlers for {}".format(
                        node.task.type, node.name, ", ".join(map(repr, self.handlers)) or "no type"
                    )
                )
        mine = Hold()
        try:
            claim(nodes, mine)
            run = Run(self, RunState(nodes, on_failure == "stop"), mine, run_id, timeout, recording)
            made.append(run)
            with self._guard.lock:
                if self._closed:
                    raise WorkersClosed("this scheduler was closed: make a new one")
                self._runs.add(run)
            run.begin()
            self._staff(run)
            return run
        except BaseException as interruption:
            for run in made:
                run.interrupt(interruption)
            release(nodes, mine)
            raise

    # Workers

    def _staff(self, run: Run) -> None:
        """Put workers on a run, as many as it has ready tasks."""
        if self._pool is not None:
            for _ in range(run.staff(self.max_workers)):
                self._pool.submit(self._work, run)

    def _work(self, run: Run) -> None:
        """A worker's stay on a run: one ready task after the other, going on itself with what it makes ready.

        It leaves where other runs wait for a worker, and comes back last in the queue.
        """
        try:
            context = run.take()
            while context is not None:
                outcome = self._outcome(run, context)
                context = run.settle(context, outcome, take=self._pool is None or not self._pool.crowded)
                self._staff(run)
        except BaseException as failure:  # of the scheduler itself, since _outcome has those of handlers
            logger.exception("run %s cannot go on", run.id)
            run.interrupt(failure)
            raise

    def _outcome(self, run: Run, context: TaskContext) -> Outcome:
        """What came of calling a task's handler."""
        task = run.state.nodes[context.place].task
        try:
            result = run.context.copy().run(execute, self.handlers[task.type], context, task)
        except BaseException as failure:
            if self._pool is None and not isinstance(failure, Exception):
                raise  # Ctrl-C on the calling thread itself
            return Outcome(TaskStatus.FAILED, None, described(failure), failure)
        if isinstance(result, Partial):
            return Outcome(TaskStatus.PARTIAL, result.result, str(result.error))
        return Outcome(TaskStatus.COMPLETE, result)

    def lend_hand(self, run: Run, tasks: Optional[int] = None) -> None:
        """Let a thread that is about to wait for a run execute its ready tasks, at most `tasks`, if nobody else might.

        That is so without threads, and on a worker of this very scheduler: were every worker to wait for a run inside its
        task, none would be left to work.
        """
        if self._pool is not None and not self._pool.inside:
            return
        context = run.join()
        while context is not None:
            if tasks is not None:
                tasks -= 1
            context = run.settle(context, self._outcome(run, context), take=tasks != 0)
            self._staff(run)

    def abandon(self, ident: int) -> None:
        """Replace a worker whose task was ended without it."""
        if self._pool is not None:
            self._pool.abandon(ident)

    def finished(self, run: Run, result: RunResult) -> None:
        """Remember the result of a run that is over."""
        with self._guard.lock:
            self._runs.discard(run)
            self.last_result = result

    # Life

    def close(self) -> None:
        """Cancel what goes on, and take no more runs. Never waits."""
        with self._guard.lock:
            self._closed = True
            runs = list(self._runs)
        for run in runs:
            run.cancel("the scheduler was closed")
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def __enter__(self) -> "TaskScheduler":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        types: List[str] = sorted(self.handlers)
        return "<TaskScheduler of {}, {} workers>".format(", ".join(types) or "no types", self.max_workers)
