"""On whose threads handlers are called, and how: a pool of our own, somebody's executor, or the calling thread."""

import logging
import sys
import threading
import time
import types
from concurrent.futures import Executor, Future
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from asimov_sync._json import format_error
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import ClosedError, GraphError
from asimov_sync.graph.context import Handler, Middleware, TaskContext, execute, wrapped
from asimov_sync.graph.driver import Driver, failure
from asimov_sync.graph.nodes import Node
from asimov_sync.graph.results import Outcome, Partial, Route
from asimov_sync.graph.standing import stands_on
from asimov_sync.tasks import TaskStatus

__all__ = ["Workforce"]

logger = logging.getLogger(__name__)

GRACE_SECONDS = 0.02
"""How long a handler has to come back after its cancellation, before its worker is replaced. Most are freed at once."""

_COROUTINE = (
    "the handler of {!r} is a coroutine function, and handlers are plain functions: call what blocks, "
    "or asyncio.run() inside of it"
)

STUCK_SECONDS = 1.0
"""How long after its cancellation a handler that still goes on is said to hang."""


class Workforce:
    """Calls the handlers of a scheduler's runs.

    inline: whether that is on the calling thread. threads: what it calls them on; others may be called there, too. limit: how
    many go on at once, as far as it has a say in that.
    """

    def __init__(self, handlers: Dict[str, Handler], max_workers: int, executor: Optional[Executor]) -> None:
        if max_workers < 0:
            raise ValueError("max_workers is a number of threads, or 0 for the calling thread; not {}".format(max_workers))
        if executor is not None:
            _require_threads(executor)
        self.handlers = handlers
        self.middleware: Tuple[Middleware, ...] = ()
        self.inline = max_workers == 0 and executor is None
        self.limit = max_workers if executor is None else sys.maxsize
        self._executor = executor
        self._here = threading.local()  # which run its thread is putting workers on
        self._pool = WorkerPool(max_workers, name="asimov-task") if max_workers and executor is None else None
        self.threads: Any = executor or self._pool or self
        self._callers = WorkerPool(None, name="asimov-events")  # they call the callbacks

    def require_handlers(self, nodes: Sequence[Node]) -> None:
        """GraphError for a task of a type without a handler."""
        if not {node.task.type for node in nodes} <= self.handlers.keys():
            node = next(node for node in nodes if node.task.type not in self.handlers)
            raise GraphError(
                "no handler for the type {!r} of task {!r}; there are handlers for {}".format(
                    node.task.type, node.name, ", ".join(map(repr, self.handlers)) or "no type"
                )
            )

    def staff(self, driver: Driver) -> None:
        """Put workers on a run that has more ready tasks than workers; where none can be had any more, the run ends."""
        try:
            self.begin(driver)
        except Exception as error:  # here, because a handler or an alarm may have called, who cannot end it
            driver.cancel("no worker can be had: {}".format(format_error(error)))

    def begin(self, driver: Driver) -> None:
        """Put the first workers on a run. One worker here, which puts the next one on it: whoever makes many tasks ready has
        its own to go on with. Raises whatever the executor does.
        """
        if not driver.short:
            return
        if self._pool is not None:
            for _ in range(driver.staff(1)):
                self._pool.submit(self._work, driver)
        elif self._executor is not None:
            # An executor may call in submit() itself. What that makes ready is submitted here, and not inside of it.
            outer = getattr(self._here, "staffed", None)
            if outer is driver:
                return
            self._here.staffed = driver
            try:
                while driver.short:
                    for _ in range(driver.staff(sys.maxsize)):
                        future = self._executor.submit(self._work_once, driver)
                        future.add_done_callback(lambda future: _check(future, driver))
            finally:
                self._here.staffed = outer

    def _work(self, driver: Driver) -> None:
        """A worker's stay on a run: one ready task after the other, going on itself with what it makes ready.

        It leaves where other runs wait for a worker, and comes back last in the queue.
        """
        assert self._pool is not None
        pool = self._pool
        try:
            context = driver.take(pool.current_job)
            if driver.short:
                self.staff(driver)
            while context is not None:
                outcome = self._outcome(driver, context)
                context = driver.settle(context, outcome, take=not pool.has_backlog)
                if driver.short:
                    self.staff(driver)
        except BaseException as broken:  # of the scheduler itself, since _outcome has those of handlers
            logger.exception("run %s cannot go on", driver.id)
            driver.interrupt(broken)
            raise

    def _work_once(self, driver: Driver) -> None:
        """A call on somebody else's executor: one task, so that others have their turn on it."""
        context = driver.take(None)
        if context is not None:
            driver.settle(context, self._outcome(driver, context), take=False)
        self.staff(driver)

    def _outcome(self, driver: Driver, context: TaskContext) -> Optional[Outcome]:
        """What came of calling a task's handler; None where it was not called."""
        if context.left is not None:
            return None  # the run ended between its taking and this
        node = context.node
        task = node.task
        own = driver.context.copy()
        try:
            if node.when is not None and context.start is None:
                if not driver.decide(context, bool(own.run(execute, node.when, context, dict(context.inputs)))):
                    return None
                own = driver.context.copy()
            if driver.hooks is not None and not context.watched(driver.hooks, own):
                return None
            handler = self.handlers[task.type]
            if self.middleware:
                handler = wrapped(handler, self.middleware)
            result = own.run(execute, handler, context, task, context)
        except BaseException as error:
            if not isinstance(error, Exception) and (self.inline or _on_main_thread()):
                raise  # Ctrl-C on the calling thread itself
            if context.overdue:
                late = context.timed_out()
                late.__cause__, error = error, late
            return failure(context, error)
        if context.overdue:  # and whom its deadline has freed is here before the alarm
            return failure(context, context.timed_out())
        if isinstance(result, types.CoroutineType):
            result.close()
            return failure(context, TypeError(_COROUTINE.format(task.type)))
        route = None
        if isinstance(result, Route):
            route, result = result.names, result.result
        if isinstance(result, Partial):
            return Outcome(TaskStatus.PARTIAL, result.result, _words(result.error), None, route)
        return Outcome(TaskStatus.COMPLETE, result, None, None, route)

    @property
    def job(self) -> Any:
        """The call that the calling thread is in, if it is a worker of the scheduler's own."""
        return None if self._pool is None else self._pool.current_job

    def lend_hand(self, driver: Driver, tasks: int = sys.maxsize) -> None:
        """Let a thread that is about to wait for a run execute its ready tasks, at most `tasks`, if nobody else might.

        That is so without threads, and inside of a task on an executor that has no more of them.
        """
        if not self.inline and (self._executor is None or not stands_on(self.threads)):
            return
        if self.inline:
            driver.audience.attend()
        for _ in range(tasks):
            context = driver.join()
            if context is None:
                break
            driver.settle(context, self._outcome(driver, context), take=False)
            self.staff(driver)

    def abandon(self, context: TaskContext) -> None:
        """Replace the worker that is in a task which the run went on without, unless it comes back at once.

        By another thread, since this one may be in a destructor, which may wait for no lock.
        """
        if self._pool is not None and context.job is not None:
            now = time.monotonic()
            timers.call_at(now + GRACE_SECONDS, lambda: self._replace(context))
            timers.call_at(now + STUCK_SECONDS, lambda: self._tell_stuck(context))

    def _replace(self, context: TaskContext) -> None:
        if self._pool is not None:
            self._pool.abandon(context.job)

    def _tell_stuck(self, context: TaskContext) -> None:
        if self._pool is None:
            return
        given_up = self._pool.abandon(context.job)  # by now there may be room for it among those
        if self._pool.is_running(context.job):
            logger.warning(
                "the handler of %r in run %s goes on although it was cancelled; "
                + (
                    "its thread was given up (%d are)"
                    if given_up
                    else "%d such threads were given up, no more of them are replaced"
                ),
                context.name,
                context.run_id,
                self._pool.abandoned,
            )

    def call_elsewhere(self, function: Callable[..., Any], *args: Any) -> None:
        """Call this on a thread that has nothing else to do."""
        try:
            self._callers.submit(function, *args)
        except ClosedError:
            function(*args)  # the last events of a scheduler that was just closed

    def close(self) -> None:
        """Take no more calls. Never waits."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._callers.shutdown(wait=False)

    def __repr__(self) -> str:
        return "{} workers".format(self.limit) if self._executor is None else repr(self._executor)


def _words(error: Any) -> str:
    try:
        return str(error)
    except Exception:  # its author's own code, which must not fail more than its task
        return "an error of the type {}".format(type(error).__name__)


def _require_threads(executor: Executor) -> None:
    processes = sys.modules.get("concurrent.futures.process")  # not imported just for this question
    if processes is not None and isinstance(executor, processes.ProcessPoolExecutor):
        raise ValueError("executor= calls handlers in this process, which a ProcessPoolExecutor does not: give one of threads")


def _check(future: "Future[Any]", driver: Driver) -> None:
    """End a run whose call an executor did not make."""
    error = "it was cancelled" if future.cancelled() else None
    if error is None and future.exception() is not None:
        error = format_error(future.exception() or GraphError())
    if error is not None:
        driver.cancel("the executor did not make a call: {}".format(error))
    if not future.cancelled() and _on_main_thread() and not isinstance(future.exception(), (Exception, type(None))):
        future.result()  # Ctrl-C, in an executor that calls in submit() itself


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
