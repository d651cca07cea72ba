"""The contract of a wire, seen from the server: what a request says, and how a reply, a stream and a failure look on it.

Pure: no IO, no clock. A wire reads requests into the dialect of the Messages API, so that one script serves them all.
"""

import abc
import json
from typing import Any, ClassVar, Dict, Iterator, Mapping, Optional

from asimov_sync.messages import Reply
from asimov_sync.testing.script import WORDS, Failure

__all__ = ["Wire", "as_json", "canonical", "plain", "sse"]


class Wire(abc.ABC):
    """One provider's wire. What is no request of it raises an AttributeError, LookupError, TypeError or ValueError."""

    name: ClassVar[str]
    request_id_header: ClassVar[str]
    stream_headers: ClassVar[Mapping[str, str]]
    """What a streamed response says of its content."""
    lines: ClassVar[bool] = True
    """Whether streams are server-sent events, which have line ends."""

    @abc.abstractmethod
    def read_request(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """A request's JSON as a Messages body. What that has no word for stays under its own name."""

    def read_count(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """A request to count tokens, as a Messages body."""
        return self.read_request(told)

    @abc.abstractmethod
    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """The JSON of a reply in one piece. body: the Messages body that asked. ValueError: the wire has no such block."""

    @abc.abstractmethod
    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Any]:
        """The events of a streamed reply: text word by word, a tool's input in pieces. ValueError as above."""

    @abc.abstractmethod
    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """An event as bytes; newline: the line ends of server-sent events."""

    @abc.abstractmethod
    def count_body(self, tokens: int) -> Dict[str, Any]:
        """The answer to a request to count tokens."""

    @abc.abstractmethod
    def error_event(self, failure: Failure) -> Any:
        """The event that says, in the middle of a stream, that there will be no more of it."""

    @abc.abstractmethod
    def failure_status(self, failure: Failure) -> int:
        """The status of a failure: as it is given, or what this provider has in its place."""

    @abc.abstractmethod
    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """The JSON of a response with an error status."""

    def failure_headers(self, failure: Failure) -> Dict[str, str]:
        """What a response with an error status says in its headers, beside the failure's own."""
        return {}

    def admits(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether a request carries the key."""
        return headers.get("authorization") == "Bearer " + key


def canonical(failure: Failure) -> Optional[int]:
    """The status that a failure amounts to, or None where its word is not of the Messages API and has to be sent as it is."""
    if failure.error_type is None:
        return failure.status
    return WORDS.get(failure.error_type)


def plain(blocks: Any) -> Any:
    """Blocks as they are, or the text of a single text block without anything beside it."""
    if isinstance(blocks, list) and len(blocks) == 1 and set(blocks[0]) == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def sse(data: str, name: Optional[str], newline: str) -> bytes:
    """One server-sent event."""
    lines = (["event: " + name] if name is not None else []) + ["data: " + data, "", ""]
    return newline.join(lines).encode("utf-8")


def as_json(value: Any) -> str:
    """A value as JSON text, with all characters as they are."""
    return json.dumps(value, ensure_ascii=False)
