"""Chooses the backend for the arguments of a scheduler."""

from typing import Any, Callable, Optional

from asimov_sync.cache.base import Cache
from asimov_sync.graph.backends import Backend, ExecutorBackend, InlineBackend, ThreadBackend

__all__ = ["UndecidedBackend", "make_backend"]


def make_backend(max_workers: int, executor: Any, remote: Optional[bool]) -> Backend:
    """Return the backend for the arguments of a TaskScheduler.

    Raises TypeError or ValueError for invalid ones.
    """
    if not isinstance(max_workers, int) or isinstance(max_workers, bool):
        raise TypeError(
            f"max_workers= is a number of threads, or 0 for the calling thread; not {max_workers!r}"
        )
    if max_workers < 0:
        raise ValueError(
            f"max_workers= is a number of threads, or 0 for the calling thread; not {max_workers}"
        )
    if remote not in (None, True, False):
        raise TypeError(f"remote= is True, False or None, which finds out; not {remote!r}")
    if executor is not None:
        return UndecidedBackend(executor, remote)
    if remote:
        raise ValueError("remote=True says where an executor makes its calls, and needs executor=")
    return ThreadBackend(max_workers) if max_workers else InlineBackend()


class UndecidedBackend(Backend):
    """Stands for the backend of an executor until the first run.

    executor: the executor, or a callable that makes it.
    remote: whether its calls run in other processes; None if that is not known.
    """

    def __init__(self, executor: Any, remote: Optional[bool]) -> None:
        from asimov_sync.graph.executor_source import ExecutorSource  # most programs need none

        super().__init__(0)
        self._source = ExecutorSource(executor)
        self._remote = remote

    def decide(self, open_cache: Callable[[], Cache]) -> Backend:
        """Return the backend of the executor, which is made now, and may have to make one call.

        open_cache: returns the cache of the scheduler.

        Raises GraphError if it does not make the call, and what making it raises.
        """
        from asimov_sync.graph.executor_source import is_remote

        executor = self._source.open()
        if self._remote if self._remote is not None else is_remote(executor):
            from asimov_sync.graph.remote_backend import RemoteBackend

            return RemoteBackend(self._source, open_cache)
        return ExecutorBackend(executor, owned=not self._source.is_given)

    def close(self) -> None:
        """Shut down the executor, if it was made."""
        self._source.close()
        super().close()

    def __repr__(self) -> str:
        return repr(self._source)
