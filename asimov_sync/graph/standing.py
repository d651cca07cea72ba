"""In which tasks a context stands, and what follows for whoever waits for a run there: it makes room for others.

Were every worker to wait for a run inside its task, none would be left to work.
"""

import contextlib
import contextvars
from typing import Any, Iterator, Tuple

__all__ = ["STANDING", "aside", "stands_on"]

STANDING: "contextvars.ContextVar[Tuple[Tuple[Any, Any], ...]]" = contextvars.ContextVar("asimov_standing", default=())
"""For each task, whose threads it is on, and the call that it is in there, if they are a WorkerPool."""


def stands_on(threads: Any) -> bool:
    """Whether one of the tasks is on these threads."""
    return any(one is threads for one, _ in STANDING.get())


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """In this `with`, the tasks that the context stands in leave their workers' places in every pool to others."""
    with contextlib.ExitStack() as stack:
        for threads, job in STANDING.get():
            if job is not None:
                stack.enter_context(threads.aside(job))
        yield
