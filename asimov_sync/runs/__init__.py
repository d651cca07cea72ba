"""Durable runs: kept in a cache, continued by any process, and operated from any process.

Names are loaded when they are first used, so `import asimov_sync.runs` alone reads no other file.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.runs.status import RunStatus as RunStatus
    from asimov_sync.runs.store import RunRecord as RunRecord, RunStore as RunStore

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__, {"status": "RunStatus", "store": "RunRecord RunStore"}
    )
