"""Celery tasks that run and continue durable runs."""

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional

from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import (
    CacheFull,
    CacheReadOnly,
    CacheUnavailable,
    LeaseLost,
    RunInProgress,
)
from asimov_sync.scheduler import TaskScheduler

if TYPE_CHECKING:
    from celery import Celery, Task

__all__ = ["RunTasks", "register_tasks"]

logger = get_logger("asimov_sync.integrations")

RETRY_SECONDS = 10
"""The seconds before a run is tried again that another worker drives, or whose store failed."""

READY_LIMIT = 1000
"""The most ready runs that one call of the periodic task sends to the workers."""

DELAYED = (RunInProgress, LeaseLost, CacheUnavailable, CacheReadOnly, CacheFull)
"""The exceptions of a run that another worker drives, and of a store that may recover."""


class RunTasks(NamedTuple):
    """The Celery tasks of `register_tasks`.

    run: `run.delay(run_id, flow, args, tags)` runs a flow as a durable run, or continues it;
        `run.delay(run_id)` continues a run that exists. The result of either is a dict of the
        "run_id", and the "status", "reason" and "waiting" of the RunResult. The results of the
        run's tasks are in the store.
    continue_ready: sends `run` for each run that is ready. Its result is the list of their ids.
    """

    run: "Task"
    continue_ready: "Task"


def register_tasks(
    app: "Celery",
    scheduler: TaskScheduler,
    *,
    prefix: str = "asimov_sync",
    every: float = 60.0,
    **options: Any,
) -> RunTasks:
    """Register tasks on a Celery app that run and continue the durable runs of a scheduler.

    A message of a task that was in a lost worker is delivered again, and the run continues where
    it was. The soft time limit interrupts a run, and a retry continues it. A message that is
    delivered twice is harmless: the second delivery waits until the run has ended.

    app: the Celery app.
    scheduler: a scheduler with `runs=`. Flows may be registered later.
    prefix: the tasks are named `<prefix>.run` and `<prefix>.continue_ready`.
    every: the seconds between two calls of `continue_ready` by Celery beat; default 60. Without
        beat, have something else call it.
    options: options of Celery for the task `run`, such as `soft_time_limit=300`.

    Returns the tasks. Raises ValueError for a scheduler without a store.
    """
    from celery.exceptions import SoftTimeLimitExceeded  # here: the package is an extra

    store = scheduler.runs
    if store is None:
        raise ValueError("register_tasks() needs a store: TaskScheduler(…, runs=RunStore(…))")
    delivery = {
        "acks_late": True,
        "reject_on_worker_lost": True,
        "max_retries": None,
        "default_retry_delay": RETRY_SECONDS,
        "serializer": "json",
    }

    def run(
        task: "Task",
        run_id: str,
        flow: Optional[str] = None,
        args: Optional[Mapping[str, Any]] = None,
        tags: Optional[Mapping[str, str]] = None,
    ) -> Dict[str, Any]:
        try:
            if flow is None:
                result = scheduler.resume(run_id)
            else:
                result = scheduler.run(flow, args=args, tags=tags, run_id=run_id)
        except SoftTimeLimitExceeded as error:
            logger.info(
                "run %s: the soft time limit has interrupted it",
                run_id,
                extra={"run_id": run_id},
            )
            raise task.retry(exc=error, countdown=0) from error
        except DELAYED as error:
            raise task.retry(exc=error) from error
        return {
            "run_id": run_id,
            "status": result.status.value,
            "reason": result.reason,
            "waiting": result.waiting,
        }

    def continue_ready() -> List[str]:
        limit = READY_LIMIT
        while True:
            ready = store.ready(limit=limit)
            run_ids = [record.run_id for record in ready if record.flow in scheduler.flows]
            if len(run_ids) >= READY_LIMIT or len(ready) < limit:
                break
            limit *= 2  # the rest may be behind runs of other schedulers
        del run_ids[READY_LIMIT:]
        for run_id in run_ids:
            # The next call sends the message again, unless the run has been taken meanwhile.
            registered.run.apply_async((run_id,), expires=every)
        return run_ids

    registered = RunTasks(
        app.task(bind=True, name=f"{prefix}.run", **{**delivery, **options})(run),
        app.task(name=f"{prefix}.continue_ready")(continue_ready),
    )
    app.add_periodic_task(
        every, registered.continue_ready.s(), name=f"{prefix}.continue_ready", expires=every
    )
    return registered
