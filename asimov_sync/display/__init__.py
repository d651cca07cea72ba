"""What people see: the progress of a run.

Names are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.display.progress import Progress as Progress

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(__name__, {"progress": "Progress"})
