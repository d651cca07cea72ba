"""In which tasks a context stands, and what follows for whoever waits for a run there: it makes room for others.

Were every worker to wait for a run inside its task, none would be left to work.
"""

import contextlib
from typing import Any, Iterator

from asimov_sync.concurrency import scope

__all__ = ["aside", "stands_on"]



def stands_on(threads: Any) -> bool:
    """Whether one of the tasks is on these threads."""
    return any(one is threads for one, _ in scope.current().worker_slots)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """In this `with`, the tasks that the context stands in leave their workers' places in every pool to others."""
    with contextlib.ExitStack() as stack:
        for threads, job in scope.current().worker_slots:
            if job is not None:
                stack.enter_context(threads.yield_slot(job))
        yield
