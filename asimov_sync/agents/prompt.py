"""What a task says to a model: its objective, and in blocks of their own what it was given. Pure: no IO, no clock."""

import html
import json
import re
from typing import Any

from asimov_sync.graph.context import TaskContext
from asimov_sync.inference.tools.loop import ToolRun
from asimov_sync.messages import jsonable
from asimov_sync.tasks import Task

__all__ = ["block", "fenced", "prompt", "tagged"]

_NAMES = r"(?:params|result|failed|feedback|material|choice|example)\b"

# A "<" before the name of a tag of ours, whatever stands between them that a model may overlook: a slash, spaces, characters
# without a width. But for a comparison, as programs have it: spaces alone, and no ">" behind it.
_FORGED = re.compile(r"<(?! +{names}[^<>]*(?:<|\Z))(?=[^\w<>]*{names})".format(names=_NAMES), re.IGNORECASE)


def prompt(task: Task, context: TaskContext) -> str:
    """What a model is asked for a task: the objective, the params, what its dependencies brought or failed to bring, and what
    it is told by the task that went back to it.
    """
    parts = [task.objective]
    if task.params:
        parts.append(block("params", task.params))
    parts += [block("result", result, of=name) for name, result in context.inputs.items()]
    parts += [block("failed", reason, of=name) for name, reason in context.failed.items()]
    parts += [block("feedback", told, of=name) for name, told in context.feedback.items()]
    return "\n\n".join(part for part in parts if part)


def block(tag: str, value: Any, **attributes: str) -> str:
    """A value between tags of its own, none of which it can hold itself (see `fenced`)."""
    return tagged(tag, fenced(value), **attributes)


def tagged(tag: str, text: str, **attributes: str) -> str:
    """A text, which is taken as it is, between tags; attributes: what the tag says, each on one line and within its quotes."""
    told = "".join(' {}="{}"'.format(name, html.escape(" ".join(word.split()))) for name, word in attributes.items())
    return "<{tag}{told}>\n{text}\n</{tag}>".format(tag=tag, told=told, text=text)


def fenced(value: Any) -> str:
    """A value as text for a block: text as it is, a ToolRun as its text, everything else as JSON.

    What models and tools say ends up in prompts, and may be hostile: no value can hold one of our own tags, and so pass as the
    end of its block or as a block of somebody else. There, and nowhere else, a "<" becomes "&lt;", in JSON "\\u003c".
    """
    if isinstance(value, ToolRun):
        value = value.text
    if isinstance(value, str):
        return _FORGED.sub("&lt;", value)
    return _FORGED.sub(r"\\u003c", json.dumps(jsonable(value), ensure_ascii=False))
