"""Runs and agents in browsers: the live page of durable runs.

Names are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.web.runs_app import runs_app as runs_app

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(__name__, {"runs_app": "runs_app"})
