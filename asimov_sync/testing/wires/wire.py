"""The interface of a wire format on the server's side, and helpers that the formats share. Pure.

A wire reads requests into the format of the Messages API, so that one script serves all wires.
"""

import abc
import json
import re
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional

from asimov_sync.messages import Reply
from asimov_sync.testing.script import ERROR_STATUSES, Failure

__all__ = ["Wire", "dump_json", "encode_sse", "messages_status", "split_words", "unwrap_text"]

_WORD = re.compile(r"\s*\S+\s*")


class Wire(abc.ABC):
    """One provider's wire format.

    The methods that read a request raise AttributeError, LookupError, TypeError or ValueError if it
    is invalid.
    """

    name: ClassVar[str]
    request_id_header: ClassVar[str]
    stream_headers: ClassVar[Mapping[str, str]]
    """The content headers of a streamed response."""
    uses_sse: ClassVar[bool] = True
    """True if streams consist of server-sent events."""

    @abc.abstractmethod
    def read_request(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Translate a request's JSON to a Messages body. Unknown fields keep their names."""

    def read_count(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Translate a request that counts tokens to a Messages body."""
        return self.read_request(request)

    @abc.abstractmethod
    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the JSON of a reply that is not streamed.

        body: the request's Messages body.

        Raises ValueError if the wire cannot express the reply.
        """

    @abc.abstractmethod
    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the events of a streamed reply: text word by word, a tool's input in pieces.

        Raises ValueError if the wire cannot express the reply.
        """

    @abc.abstractmethod
    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """Encode an event. newline: the line end of server-sent events."""

    @abc.abstractmethod
    def count_body(self, tokens: int) -> Dict[str, Any]:
        """Return the JSON of the response to a request that counts tokens."""

    @abc.abstractmethod
    def error_event(self, failure: Failure) -> Any:
        """Return the event that ends a stream with an error."""

    @abc.abstractmethod
    def failure_status(self, failure: Failure) -> int:
        """Return the failure's status, or the provider's closest one if it does not know that."""

    @abc.abstractmethod
    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """Return the JSON of an error response."""

    def failure_headers(self, failure: Failure) -> Dict[str, str]:
        """Return the headers of an error response, without the failure's own."""
        return {}

    def authorizes(self, headers: Mapping[str, str], key: str) -> bool:
        """Return whether a request carries the key."""
        return headers.get("authorization") == f"Bearer {key}"


def messages_status(failure: Failure) -> Optional[int]:
    """Return the status that the Messages API has for a failure's error type.

    Without an error type, that is the failure's own status. None if the type is not one of the
    Messages API and so has to be sent as it is.
    """
    if failure.error_type is None:
        return failure.status
    return ERROR_STATUSES.get(failure.error_type)


def unwrap_text(blocks: Any) -> Any:
    """Return the text of a list with a single plain text block; anything else unchanged."""
    if isinstance(blocks, list) and len(blocks) == 1 and set(blocks[0]) == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def split_words(text: str) -> List[str]:
    """Split a text into words with their surrounding white space. Joined, they are the text."""
    return _WORD.findall(text) or ([text] if text else [])


def encode_sse(data: str, name: Optional[str], newline: str) -> bytes:
    """Encode one server-sent event. name: its `event` field, or None for none."""
    lines = [f"event: {name}"] if name is not None else []
    return newline.join(lines + [f"data: {data}", "", ""]).encode("utf-8")


def dump_json(value: Any) -> str:
    """Encode a value as JSON without escaping non-ASCII characters."""
    return json.dumps(value, ensure_ascii=False)
