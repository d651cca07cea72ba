"""The prompt of a task: its objective, and its inputs in tagged blocks. Pure: no IO, no clock.

Models and tools may produce hostile text, and their results end up in prompts. Every value is
therefore escaped, so that it cannot close its own block or open another one.
"""

import difflib
import json
import string
from typing import Any, List, Optional, Tuple

from asimov_sync._json import to_jsonable
from asimov_sync.graph.context import TaskContext
from asimov_sync.inference.tags import escape, wrap_in_tag
from asimov_sync.inference.tools.loop import ToolRun
from asimov_sync.tasks import Task

__all__ = ["PromptTemplate", "block", "escape_tags", "prompt"]


class PromptTemplate:
    """A text that replaces the objective of a task, with names in braces.

    text: the text. `{objective}` stands for the task's objective, and any other name for a param
        of the task. `{{` and `}}` stand for braces.

    Raises ValueError for anything else in braces, such as an attribute or a format.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"prompt= is a text with names in braces, not {text!r}")
        self._parts: List[Tuple[str, Optional[str]]] = []
        try:
            for literal, name, spec, conversion in string.Formatter().parse(text):
                if name is not None and (spec or conversion or not name.isidentifier()):
                    raise ValueError(f"{{{name}}} is not the plain name of a param")
                self._parts.append((literal, name))
        except ValueError as error:
            raise ValueError(f"prompt={text!r}: {error} (write {{{{ for a brace)") from None
        self.names = [name for _, name in self._parts if name is not None]

    def fill(self, task: Task) -> str:
        """Return the text for a task. A param's value is escaped (see `escape_tags`).

        Raises ValueError if the task has no such param.
        """
        texts = []
        for literal, name in self._parts:
            texts.append(literal)
            if name == "objective" and name not in task.params:
                texts.append(task.objective)
            elif name is not None:
                texts.append(escape_tags(self._param(task, name)))
        return "".join(texts)

    @staticmethod
    def _param(task: Task, name: str) -> Any:
        if name in task.params:
            return task.params[name]
        near = difflib.get_close_matches(name, task.params, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        listed = ", ".join(task.params) or "none"
        raise ValueError(
            f"prompt= names {{{name}}}, which the task does not have{hint}; its params are {listed}"
        )


def prompt(task: Task, context: TaskContext, template: Optional[PromptTemplate] = None) -> str:
    """Return the prompt of a task.

    It consists of the objective, the params, the results of the dependencies, the reasons why
    results are partial or missing, and the feedback of tasks whose Route went back to this task.

    task: the task.
    context: its context.
    template: replaces the objective, and the params that it names (default: none).
    """
    if template is None:
        parts, params = [task.objective], dict(task.params)
    else:
        parts = [template.fill(task)]
        params = {name: task.params[name] for name in task.params if name not in template.names}
    if params:
        parts.append(block("params", params))
    for name, result in context.inputs.items():
        parts.append(block("result", result, of=name))
        if name in context.partial:
            parts.append(block("partial", context.partial[name], of=name))
    parts += [block("failed", reason, of=name) for name, reason in context.failed.items()]
    parts += [
        block("skipped", reason, of=name)
        for name, reason in context.skipped.items()
        if name not in context.failed
    ]
    parts += [block("feedback", result, of=name) for name, result in context.feedback.items()]
    return "\n\n".join(part for part in parts if part)


def block(tag: str, value: Any, **attributes: str) -> str:
    """Return a value as text between tags; the value is escaped (see `escape_tags`)."""
    return wrap_in_tag(tag, escape_tags(value), **attributes)


def escape_tags(value: Any) -> str:
    """Return a value as text that contains none of our own tags.

    A string is used as it is, a ToolRun is replaced by its text and the names of its pending calls,
    and every other value is encoded as JSON. Only the "<" of a forged tag is changed: to "&lt;", or
    to "\\u003c" in JSON.
    """
    if isinstance(value, ToolRun):
        value = _run_text(value)
    if isinstance(value, str):
        return escape(value)
    return escape(json.dumps(to_jsonable(value), ensure_ascii=False), r"\u003c")


def _run_text(run: ToolRun) -> str:
    if not run.pending:
        return run.text
    names = ", ".join(dict.fromkeys(call.name for call in run.pending))
    notice = f"(These tools were not called, because they wait for approval: {names})"
    return f"{run.text}\n\n{notice}" if run.text else notice
