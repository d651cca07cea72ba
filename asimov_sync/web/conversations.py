"""Reads what agents have stored of their conversations, for pages that show it.

Pure: no IO, no clock.
"""

import json
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync._json import to_jsonable
from asimov_sync.display.markup import shorten
from asimov_sync.display.view import SpanView
from asimov_sync.messages import Usage

__all__ = ["read_conversation"]

MAX_CONTENT = 20_000
"""The length to which each text is shortened, in characters."""

MAX_ENTRIES = 500
"""The number of entries that are shown: the last ones."""


def read_conversation(entries: List[Any]) -> List[SpanView]:
    """Return the replies and tool calls of a conversation as spans with content.

    entries: as `agents.transcript` describes them. Those of another form are left out: `redact=`
        of the store may have changed it.
    """
    names: Dict[str, str] = {}
    spans: List[SpanView] = []
    for entry in entries:
        if isinstance(entry, dict):
            spans += _read_entry(entry, names)
    return spans[-MAX_ENTRIES:]


def _read_entry(entry: Mapping[str, Any], names: Dict[str, str]) -> Iterator[SpanView]:
    """Yield the span of an entry.

    names: the names of the tools by the ids of their calls; updated.
    """
    reply = entry.get("reply", entry.get("summary"))
    block = entry.get("block")
    if isinstance(reply, dict):
        message = reply.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        blocks = content if isinstance(content, list) else []
        for one in blocks:
            if isinstance(one, dict) and one.get("type") == "tool_use":
                names[str(one.get("id"))] = str(one.get("name"))
        name = str(reply.get("model") or "reply")
        if "summary" in entry:
            name += " (summary)"
        texts = tuple(_read_texts(content))
        yield SpanView("model", name, None, None, _read_usage(reply), content=texts)
    elif isinstance(block, dict):
        call = str(block.get("tool_use_id"))
        yield SpanView(
            "tool",
            names.get(call, call),
            None,
            None,
            _read_usage(entry),
            error="failed" if block.get("is_error") else None,
            content=(("result", _show(block.get("content"))),),
        )


def _read_texts(content: Any) -> Iterator[Tuple[str, str]]:
    """Yield the parts of a reply: pairs of a label and a text."""
    if isinstance(content, str):
        yield "text", _show(content)
    for block in content if isinstance(content, list) else []:
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        if kind == "text":
            yield "text", _show(block.get("text"))
        elif kind == "thinking":
            yield "thinking", _show(block.get("thinking"))
        elif kind == "tool_use":
            yield f"calls {block.get('name')}", _show(block.get("input"))


def _show(value: Any) -> str:
    if not isinstance(value, str):
        value = json.dumps(to_jsonable(value), ensure_ascii=False, indent=2)
    return shorten(value, MAX_CONTENT)


def _read_usage(values: Mapping[str, Any]) -> Optional[Usage]:
    try:
        return Usage(**values["usage"])
    except (KeyError, TypeError, ValueError):
        return None
