"""Shows the log of a command on stderr, where it cannot act on the terminal."""

import logging
from typing import Any

from asimov_sync.cli.text import escape

__all__ = ["show_log"]


class _Formatter(logging.Formatter):
    """Escapes control characters: messages and tracebacks may have texts of models and tools."""

    def format(self, record: Any) -> str:
        return escape(super().format(record))


def show_log(level: int) -> None:
    """Show records of this level and above. Without effect if the program has set up logging.

    level: a level of the module logging.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
