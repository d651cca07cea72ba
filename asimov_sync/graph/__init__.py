"""The task graph: build one, run it, and read its result.

Names are loaded when they are first used, so `import asimov_sync.graph` alone reads no other file.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from asimov_sync.graph.context import (
        Handler as Handler,
        Middleware as Middleware,
        TaskContext as TaskContext,
        current_context as current_context,
    )
    from asimov_sync.graph.events import (
        RunFinished as RunFinished,
        TaskFinished as TaskFinished,
        TaskProgress as TaskProgress,
        TaskRetried as TaskRetried,
        TaskSkipped as TaskSkipped,
        TaskStarted as TaskStarted,
        TaskText as TaskText,
    )
    from asimov_sync.graph.results import Partial as Partial, Route as Route, RunResult as RunResult
    from asimov_sync.graph.retry import Retry as Retry
    from asimov_sync.graph.run import Run as Run, RunEvents as RunEvents
    from asimov_sync.graph.task_graph import TaskGraph as TaskGraph

_NAMES_BY_MODULE = {
    "context": "Handler Middleware TaskContext current_context",
    "events": (
        "RunFinished TaskFinished TaskProgress TaskRetried TaskSkipped TaskStarted TaskText"
    ),
    "results": "Partial Route RunResult",
    "retry": "Retry",
    "run": "Run RunEvents",
    "task_graph": "TaskGraph",
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}

__all__ = sorted(_MODULES)

if not TYPE_CHECKING:  # a type checker must report a name that is not imported above

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> List[str]:
        return sorted(set(globals()) | set(__all__))
