"""The task graph: build one, run it, and read its result.

Names are loaded when they are first used, so `import asimov_sync.graph` alone reads no other file.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.graph.context import (
        Handler as Handler,
        Middleware as Middleware,
        TaskContext as TaskContext,
        current_context as current_context,
    )
    from asimov_sync.graph.events import (
        RunEvent as RunEvent,
        RunFinished as RunFinished,
        RunStarted as RunStarted,
        TaskEvent as TaskEvent,
        TaskFinished as TaskFinished,
        TaskParked as TaskParked,
        TaskProgress as TaskProgress,
        TaskRetried as TaskRetried,
        TaskSkipped as TaskSkipped,
        TaskStarted as TaskStarted,
        TaskText as TaskText,
        TaskUndone as TaskUndone,
    )
    from asimov_sync.graph.journal import Wait as Wait
    from asimov_sync.graph.results import Partial as Partial, Route as Route, RunResult as RunResult
    from asimov_sync.graph.retry import Retry as Retry
    from asimov_sync.graph.run import Run as Run, RunEvents as RunEvents
    from asimov_sync.graph.task_graph import TaskGraph as TaskGraph

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "context": "Handler Middleware TaskContext current_context",
            "events": (
                "RunEvent RunFinished RunStarted TaskEvent TaskFinished TaskParked TaskProgress "
                "TaskRetried TaskSkipped TaskStarted TaskText TaskUndone"
            ),
            "journal": "Wait",
            "results": "Partial Route RunResult",
            "retry": "Retry",
            "run": "Run RunEvents",
            "task_graph": "TaskGraph",
        },
    )
