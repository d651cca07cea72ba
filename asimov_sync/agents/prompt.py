"""The prompt of a task: its objective, and its inputs in tagged blocks. Pure: no IO, no clock.

Models and tools may produce hostile text, and their results end up in prompts. Every value is
therefore escaped, so that it cannot close its own block or open another one.
"""

import html
import json
import re
from typing import Any

from asimov_sync._json import to_jsonable
from asimov_sync.graph.context import TaskContext
from asimov_sync.inference.tools.loop import ToolRun
from asimov_sync.tasks import Task

__all__ = ["block", "escape_tags", "prompt", "wrap_in_tag"]

_NAMES = r"(?:params|result|failed|feedback|material|choice|example)\b"

# Matches a "<" before the name of one of our tags, and tolerates between them what a model may
# overlook: a slash, spaces, zero-width characters. It does not match a comparison in a program,
# which has only spaces between the two and no ">" after them.
_FORGED = re.compile(rf"<(?! +{_NAMES}[^<>]*(?:<|\Z))(?=[^\w<>]*{_NAMES})", re.IGNORECASE)


def prompt(task: Task, context: TaskContext) -> str:
    """Return the prompt of a task.

    It consists of the objective, the params, the results and failures of the dependencies, and the
    feedback of a task that sent the graph back to this one.
    """
    parts = [task.objective]
    if task.params:
        parts.append(block("params", task.params))
    parts += [block("result", result, of=name) for name, result in context.inputs.items()]
    parts += [block("failed", reason, of=name) for name, reason in context.failed.items()]
    parts += [block("feedback", result, of=name) for name, result in context.feedback.items()]
    return "\n\n".join(part for part in parts if part)


def block(tag: str, value: Any, **attributes: str) -> str:
    """Return a value as text between tags; the value is escaped (see `escape_tags`)."""
    return wrap_in_tag(tag, escape_tags(value), **attributes)


def wrap_in_tag(tag: str, text: str, **attributes: str) -> str:
    """Put a text, unchanged, between tags.

    attributes: written into the opening tag, each quoted, escaped and on one line.
    """
    written = "".join(
        f' {name}="{html.escape(" ".join(value.split()))}"' for name, value in attributes.items()
    )
    return f"<{tag}{written}>\n{text}\n</{tag}>"


def escape_tags(value: Any) -> str:
    """Return a value as text that contains none of our own tags.

    A string is used as it is, a ToolRun is replaced by its text, and every other value is encoded
    as JSON. Only the "<" of a forged tag is changed: to "&lt;", or to "\\u003c" in JSON.
    """
    if isinstance(value, ToolRun):
        value = value.text
    if isinstance(value, str):
        return _FORGED.sub("&lt;", value)
    return _FORGED.sub(r"\\u003c", json.dumps(to_jsonable(value), ensure_ascii=False))
