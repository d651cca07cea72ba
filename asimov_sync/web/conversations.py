"""Reads what agents have stored of their conversations, for pages that show it.

Pure: no IO, no clock.
"""

from typing import Any, Dict, List, Mapping, Optional

from asimov_sync.messages import ChatMessage, ChatRole

__all__ = ["read_conversation"]


def read_conversation(entries: List[Any]) -> List[ChatMessage]:
    """Return the replies, the summaries and the results of tools of a conversation.

    entries: as `agents.transcript` describes them. Those of another form are left out: `redact=`
        of the store may have changed it.
    """
    messages: List[ChatMessage] = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        if entry.get("discarded") is True and messages:
            messages.pop()
        block = entry.get("block")
        if isinstance(block, dict):
            _add_result(messages, block)
            continue
        message = _read_reply(entry)
        if message is not None:
            messages.append(message)
    return messages


def _add_result(messages: List[ChatMessage], block: Dict[str, Any]) -> None:
    """Add the result of a tool: the results after one reply are one message."""
    before: List[Dict[str, Any]] = []
    if messages and messages[-1].role is ChatRole.TOOL_RESULT:
        before = messages.pop().blocks
    messages.append(ChatMessage(role=ChatRole.TOOL_RESULT, content=[*before, block]))


def _read_reply(entry: Mapping[str, Any]) -> Optional[ChatMessage]:
    """Return the message of a reply or of a summary; None for another entry."""
    reply = entry.get("reply", entry.get("summary"))
    try:
        message = ChatMessage.model_validate(reply["message"])
    except (KeyError, TypeError, ValueError):
        return None
    if "summary" in entry:
        text = f"a summary replaces the messages before it: {message.text}"
        return ChatMessage(role=ChatRole.SYSTEM, content=text)
    return message
