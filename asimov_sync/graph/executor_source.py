"""ExecutorSource: the executor of a scheduler, which was given or is made on demand."""

import contextlib
import os
import threading
from concurrent.futures import Executor
from typing import Any, Callable, Optional, Set, Tuple, Union

from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.errors import Cancelled, ClosedError, GraphError
from asimov_sync.graph.remote_call import find_process

__all__ = ["ExecutorSource", "count_workers", "is_remote", "sends_code"]

logger = get_logger("asimov_sync.graph")

PROBE_SECONDS = 60.0
"""The longest wait, in seconds, for the call that finds out where an executor makes its calls."""


class ExecutorSource:
    """The executor of a scheduler.

    given: an executor, or a callable without arguments that makes one.

    Raises TypeError for anything else.
    """

    def __init__(self, given: "Union[Executor, Callable[[], Executor]]") -> None:
        self._make: Optional[Callable[[], Executor]] = None
        self._executor: Any = None
        if _is_executor(given):
            self._executor = given
        elif callable(given):
            self._make = given
        else:
            raise TypeError(
                "executor= is a concurrent.futures.Executor, such as ThreadPoolExecutor(8), or a "
                "function that makes one, such as lambda: ProcessPoolExecutor(4); "
                f"{given!r} has no submit()"
            )
        self._given = given
        self._process = os.getpid()
        self._guard = ForkSafeLock()
        self._closed = False

    @property
    def is_given(self) -> bool:
        """Return whether the executor was given, and so cannot be replaced."""
        return self._make is None

    def open(self) -> Any:
        """Return the executor of this process; makes it if needed.

        Raises GraphError if it was given in another process, or if no executor is made.
        """
        with self._guard.lock:
            if self._make is None:
                if self._process != os.getpid():
                    raise GraphError(
                        "the executor of this scheduler belongs to the process that forked this "
                        "one: give executor= a function that makes one, for each process its own"
                    )
                return self._executor
            if self._process != os.getpid():
                self._executor, self._process = None, os.getpid()
            if self._closed:
                raise ClosedError("this scheduler was closed: make a new one")
            if self._executor is None:
                made = self._make()
                if not _is_executor(made):
                    raise GraphError(f"executor= made {made!r}, which has no submit()")
                self._executor = made
            return self._executor

    def replace(self, broken: Any) -> bool:
        """Drop an executor that broke, so that `open` makes another. False if it was given."""
        with self._guard.lock:
            if self._make is None:
                return False
            if self._executor is not broken:
                return True
            self._executor = None
        logger.warning("an executor of processes broke, and is replaced")
        _shut_down(broken)
        return True

    def kill(self) -> None:
        """Kill the processes of an executor that was made here. Another is made if needed."""
        with self._guard.lock:
            executor = self._executor
            if self._make is None or executor is None or self._process != os.getpid():
                return
            self._executor = None
        _kill_processes(executor)
        _shut_down(executor)

    def close(self) -> None:
        """Shut down the executor, unless it was given. Never waits."""
        with self._guard.lock:
            self._closed = True
            executor = self._executor
        if self._make is not None and executor is not None and self._process == os.getpid():
            _shut_down(executor)

    def __repr__(self) -> str:
        return repr(self._given if self._executor is None else self._executor)


def _is_executor(value: Any) -> bool:
    return callable(getattr(value, "submit", None)) and not isinstance(value, type)


def _shut_down(executor: Any) -> None:
    """Shut down an executor, without a wait for its calls.

    Its shutdown(wait=False) would damage a ProcessPoolExecutor before Python 3.9, which may hang at
    the end of the program then. So another thread waits.
    """

    def shut_down() -> None:
        try:
            executor.shutdown()
        except Exception as error:  # a broken executor may refuse even that
            logger.info("an executor could not be shut down: %s", describe_error(error))

    with contextlib.suppress(RuntimeError):  # at the end of the program, no thread can start
        threading.Thread(target=shut_down, name="asimov-shutdown", daemon=True).start()


def _kill_processes(executor: Any) -> None:
    """Kill the processes of a ProcessPoolExecutor, or of one that derives from it."""
    kill = getattr(executor, "kill_workers", None)  # since Python 3.14
    if kill is not None:
        kill()
        return
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.kill()


def count_workers(executor: Any) -> Optional[int]:
    """Return how many calls an executor makes at once; None if that is unknown."""
    # No public attribute has it. Without it, every ready task is submitted at once.
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else None


def is_remote(executor: Any) -> bool:
    """Return whether an executor makes its calls elsewhere than in this process.

    One call finds out, unless the class of the executor says it.

    Raises GraphError if the call is not made, and Cancelled if the current token is cancelled.
    """
    modules = _modules_of(executor)
    if "concurrent.futures.interpreter" in modules:
        return True  # in this process, but with modules of its own
    if "concurrent.futures.thread" in modules:
        return False
    if "distributed" in modules:
        return True  # it pickles calls in any case
    try:
        where = _wait(executor.submit(find_process))
    except Cancelled:
        raise
    except Exception as error:  # what the executor raises
        raise GraphError(
            f"the executor did not make the call that finds out where it makes its calls "
            f"({format_error(error)}): say remote=True for processes, remote=False for threads"
        ) from error
    return where != find_process()


def sends_code(executor: Any) -> bool:
    """Return whether the processes of an executor have another main program than this one.

    Its package then requires cloudpickle.
    """
    return not {"distributed", "loky"}.isdisjoint(_modules_of(executor))


def _modules_of(executor: Any) -> Set[str]:
    """Return the modules of an executor's classes, and their packages."""
    modules = {kind.__module__ for kind in type(executor).__mro__}
    return modules | {module.partition(".")[0] for module in modules}


def _wait(future: Any) -> Tuple[str, int]:
    """Return the result of the future. Honours the current Cancellation."""
    cancellation = Cancellation.current()
    remaining = cancellation.remaining
    seconds = PROBE_SECONDS if remaining is None else min(PROBE_SECONDS, remaining)
    done = InterruptibleEvent()
    future.add_done_callback(lambda future: done.set())
    with cancellation.on_cancel(done.set):
        done.wait(seconds)
    cancellation.raise_if_cancelled()
    if not future.done():
        raise TimeoutError(f"it has not answered for {PROBE_SECONDS:.0f} s")
    where: Tuple[str, int] = tuple(future.result())
    return where
