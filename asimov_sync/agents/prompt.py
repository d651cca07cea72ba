"""What a task says to a model: its objective, and in blocks of their own what it was given. Pure: no IO, no clock."""

import html
import json
import re
from typing import Any, Optional

from asimov_sync.graph.context import TaskContext
from asimov_sync.inference.tool_loop import ToolRun
from asimov_sync.messages import jsonable
from asimov_sync.tasks import Task

__all__ = ["block", "prompt"]

_NAMES = r"(?:params|result|failed|input|choice|example)\b"

# A "<" before the name of a tag of ours, whatever stands between them that a model may overlook: a slash, spaces, characters
# without a width. But for a comparison, as programs have it: spaces alone, and no ">" behind it.
_FORGED = re.compile(r"<(?! +{names}[^<>]*(?:<|\Z))(?=[^\w<>]*{names})".format(names=_NAMES), re.IGNORECASE)


def prompt(task: Task, context: TaskContext) -> str:
    """What a model is asked for a task: the objective, the params, and what its dependencies brought or failed to bring."""
    parts = [task.objective]
    if task.params:
        parts.append(block("params", task.params))
    parts += [block("result", result, of=name) for name, result in context.inputs.items()]
    parts += [block("failed", reason, of=name) for name, reason in context.failed.items()]
    return "\n\n".join(part for part in parts if part)


def block(tag: str, value: Any, of: Optional[str] = None) -> str:
    """A value between tags: text as it is, a ToolRun as its text, everything else as JSON; of: what the value is of.

    What models and tools say ends up in prompts, and may be hostile: no value can hold one of our own tags, and so pass as the
    end of its block or as a block of somebody else. There, and nowhere else, a "<" becomes "&lt;", in JSON "\\u003c".
    """
    if isinstance(value, ToolRun):
        value = value.text
    if isinstance(value, str):
        text = _FORGED.sub("&lt;", value)
    else:
        text = _FORGED.sub(r"\\u003c", json.dumps(jsonable(value), ensure_ascii=False))
    return "<{tag}{of}>\n{text}\n</{tag}>".format(tag=tag, of="" if of is None else ' of="{}"'.format(_quoted(of)), text=text)


def _quoted(name: str) -> str:
    """A name within quotes, on one line."""
    return html.escape(" ".join(name.split()), quote=True)
