"""Chat completions, the tool calls: they arrive in pieces, and what says which piece is whose differs by server. Pure.

Recorded, or reported in public: the id only with the first piece, with each, or "" from the second on; the name with each
piece; all calls under index 0, told apart by their ids, or without an index; whole calls in one piece; no ids at all.
"""

import json
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from asimov_sync.inference.providers.coerce import json_object, text
from asimov_sync.inference.providers.openai.request import KEPT_OF_CALLS
from asimov_sync.messages import Block, ToolCall

__all__ = ["ChatCalls"]

ID_CHARACTERS = 28
"""How much of a reply's id is in one that is made up for a call; OpenAI takes 40 characters at most."""


class _Call:
    """One call, as far as it has come. announced: under which id it was handed on, once it was."""

    def __init__(self, index: Optional[int]) -> None:
        self.index = index
        self.id = self.name = ""
        self.pieces: List[str] = []
        self.own: Dict[str, Any] = {}
        self.announced: Optional[str] = None

    def told(self) -> Tuple[Dict[str, Any], Optional[str]]:
        """The arguments, and the text in their place if that is not a JSON object; no text is an empty object."""
        told = "".join(self.pieces)
        return json_object(told) if told.strip() else ({}, None)

    def whole(self) -> bool:
        """Whether what has come of the arguments is a JSON object, and so nothing can follow."""
        return bool(self.pieces) and json_object("".join(self.pieces))[1] is None


class ChatCalls:
    """The tool calls of one reply.

    Each gets an id that is its own, made up where the server gives none or the same to two: results are matched by it.
    """

    def __init__(self) -> None:
        self._calls: List[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: Mapping[str, Any], reply_id: str) -> List[ToolCall]:
        """Take a piece; returns the calls that are whole now that another begins. ValueError for a piece of one that was."""
        function = piece.get("function") or {}
        told_id, name = text(piece.get("id")) or "", text(function.get("name")) or ""
        call = self._meant(piece.get("index"), told_id, name)
        ready: List[ToolCall] = []
        if call is None:
            ready = self.ready(reply_id, only_whole=True)
            call = _Call(piece.get("index"))
            self._calls.append(call)
        call.id = call.id or told_id
        call.name = call.name or name
        call.own.update((key, piece[key]) for key in KEPT_OF_CALLS if piece.get(key))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # Ollama's own form
            arguments = json.dumps(arguments, ensure_ascii=False)
        if arguments is not None and not isinstance(arguments, str):
            raise ValueError("a tool call's arguments are no text")
        if arguments:
            if call.announced is not None:
                raise ValueError("a piece of a tool call that was whole before")
            call.pieces.append(arguments)
        return ready

    def _meant(self, index: Any, told_id: str, name: str) -> Optional[_Call]:
        """The call that a piece belongs to, or None if it begins one."""
        if index is not None:
            same = [call for call in self._calls if call.index == index]
        elif told_id:
            same = [call for call in self._calls if call.id == told_id]
        else:
            same = self._calls
        if not same:
            return None
        call = same[-1]
        if told_id and call.id:
            return call if told_id == call.id else None
        # Without ids: a name says that another call begins, unless it is the same one before its arguments are whole.
        begins = name and call.name and (name != call.name or call.whole())
        return None if begins else call

    def ready(self, reply_id: str, only_whole: bool = False) -> List[ToolCall]:
        """The calls that were not returned by this before. only_whole: without those whose arguments may still go on."""
        ready = []
        for call, (_block, made) in zip(self._calls, self.told(reply_id)):
            if call.announced is None and (call.whole() or not only_whole):
                call.announced = made.id
                ready.append(made)
        return ready

    def told(self, reply_id: str) -> List[Tuple[Block, ToolCall]]:
        """Each call, as far as it has come, and the block that goes into the history."""
        told = []
        taken: Set[str] = {call.announced for call in self._calls if call.announced}
        for place, call in enumerate(self._calls):
            own_id = call.announced or call.id
            if call.announced is None:
                if not own_id or own_id in taken:
                    own_id = "call_{}_{}".format(reply_id[-ID_CHARACTERS:], place)
                taken.add(own_id)
            arguments, malformed = call.told()
            block = dict({"type": "tool_use", "id": own_id, "name": call.name, "input": arguments}, **call.own)
            told.append((block, ToolCall(id=own_id, name=call.name, arguments=arguments, malformed=malformed)))
        return told
