"""Worker: continues the stored runs of a scheduler that are ready."""

from typing import Dict, List, NoReturn, Set

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import CacheError, LeaseLost, RunInProgress
from asimov_sync.runs.store import RunRecord, RunStore
from asimov_sync.scheduler import TaskScheduler

__all__ = ["Worker"]

logger = get_logger("asimov_sync.cli")

RETRY_SECONDS = 60.0
"""The seconds before a run that could not be continued is tried again."""

PAGE = 100
"""The number of ready runs that are read at once, beside those that this worker leaves alone."""


class Worker:
    """Continues runs, one at a time, by the flows of a scheduler.

    scheduler, store: the scheduler, and its store.
    """

    def __init__(self, scheduler: TaskScheduler, store: RunStore) -> None:
        self._scheduler = scheduler
        self._store = store
        self._skipped: Set[str] = set()  # ready runs without a flow that is registered here
        self._refused: Dict[str, float] = {}  # when runs that raised may be tried again
        self._has_failed = False

    def work_forever(self, poll: float) -> NoReturn:
        """Continue runs as they become ready.

        poll: the seconds between two looks, if nothing is ready.
        """
        pause = Cancellation()
        while True:
            try:
                worked = self._work_on_page()
            except CacheError as error:
                logger.error("the store of runs cannot be read: %s", error)
                worked = False
            if not worked:
                pause.wait(poll)

    def work_until_idle(self) -> bool:
        """Continue runs until none is ready.

        Returns whether there was an error: a run could not be continued, or the store not be read.
        """
        try:
            while self._work_on_page():
                pass
        except CacheError as error:
            logger.error("the store of runs cannot be read: %s", error)
            return True
        return self._has_failed

    def _work_on_page(self) -> bool:
        """Continue some of the runs that are ready. Return whether there were any."""
        worked = False
        for record in self._find_ready():
            worked = self._continue(record) or worked
        return worked

    def _find_ready(self) -> List[RunRecord]:
        """Return runs that are ready, and that this worker can continue."""
        now = clock.monotonic()
        self._refused = {id: until for id, until in self._refused.items() if until > now}
        ready = self._store.ready(limit=PAGE + len(self._skipped) + len(self._refused))
        found, skipped = [], set()
        for record in ready:
            if record.flow is None or record.flow not in self._scheduler.flows:
                skipped.add(record.run_id)
                if record.run_id not in self._skipped:
                    self._log_skip(record)
            elif record.run_id not in self._refused:
                found.append(record)
        self._skipped = skipped
        return found

    def _log_skip(self, record: RunRecord) -> None:
        extra = {"run_id": record.run_id}
        if record.flow is None:
            logger.warning(
                "run %s was started with a graph, not by a flow: skipped",
                record.run_id,
                extra=extra,
            )
        else:
            logger.warning(
                "run %s is of the flow %r, which is not registered here: skipped",
                record.run_id,
                record.flow,
                extra=extra,
            )

    def _continue(self, record: RunRecord) -> bool:
        """Continue a run to its end, or until it waits. Return whether this worker did so."""
        run_id, extra = record.run_id, {"run_id": record.run_id}
        try:
            result = self._scheduler.resume(run_id)
        except (RunInProgress, LeaseLost) as error:  # another process has it
            logger.debug("run %s: %s", run_id, error, extra=extra)
            return False
        except Exception as error:
            self._has_failed = True
            self._refused[run_id] = clock.monotonic() + RETRY_SECONDS
            logger.error("run %s: %s", run_id, error, exc_info=True, extra=extra)
            return False
        if result.restored:  # another process has ended it since it was listed
            return False
        logger.info("run %s: %s", run_id, result.status.value, extra=extra)
        return True
