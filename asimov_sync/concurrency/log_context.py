"""Log records with the run, the task and the attempt that they belong to.

The library logs to one logger for each package: `asimov_sync.graph`, `asimov_sync.inference` and so
on. It configures none of them.
"""

import logging
import re
from typing import Any, Dict, MutableMapping, Optional, Tuple

from asimov_sync.concurrency import scope
from asimov_sync.errors import InferenceError

__all__ = ["ContextLogger", "LogFilter", "describe_error", "get_logger"]


class LogFilter(logging.Filter):
    """Adds the attributes `run_id`, `task` and `attempt` to every log record, and drops none.

    Add it to a handler, so that its format may contain `%(run_id)s`, `%(task)s` and `%(attempt)s`
    for records of every logger::

        handler.addFilter(LogFilter())

    run_id: the id of the run.
    task: the name of the task in the run.
    attempt: the number of the task's attempt, counted from 1.

    The values are those of the handler function that logs, also in its tools, in nested agents and
    on any thread that the library starts for it. Elsewhere they are None. A record that has these
    attributes already, as the library's own records do, keeps them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record. Returns True."""
        if not hasattr(record, "run_id"):
            record.__dict__.update(_attributes(scope.current().task_context))
        return True


class ContextLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic since Python 3.11
    """A logger whose records have the attributes that LogFilter adds.

    A record about another run than that of the calling thread names it in `extra`: `run_id`, and
    perhaps `task` and `attempt`.
    """

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> Tuple[Any, MutableMapping[str, Any]]:
        """Return the arguments of a call of the logger, with the attributes."""
        extra: Optional[Dict[str, Any]] = kwargs.get("extra")
        if extra is None:
            kwargs["extra"] = _attributes(scope.current().task_context)
        else:
            kwargs["extra"] = dict(_attributes(None), **extra)
        return msg, kwargs


def get_logger(name: str) -> ContextLogger:
    """Return the logger of a package of this library, by its full name."""
    return ContextLogger(logging.getLogger(name), {})


def describe_error(error: Optional[BaseException]) -> str:
    """Return the type of an error, and the provider's status, error type and request id, if any.

    The message of the error is left out: it may quote prompts, replies or data of a handler.
    """
    if error is None:
        return "an error"
    name = type(error).__name__
    if not isinstance(error, InferenceError):
        return name
    kind = error.error_type
    details = {
        "status": error.status,
        "type": kind if kind is not None and re.match(r"[\w.-]{1,64}\Z", kind) else None,
        "request id": error.request_id,
    }
    known = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
    return f"{name} ({known})" if known else name


def _attributes(context: Any) -> Dict[str, Any]:
    """Return the attributes for a TaskContext, or for None."""
    if context is None:
        return {"run_id": None, "task": None, "attempt": None}
    return {"run_id": context.run_id, "task": context.name, "attempt": context.attempt}
