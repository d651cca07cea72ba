"""Parser for server-sent events: takes bytes, returns events. Pure: no IO.

Written for the streams that servers really send (the specification is
https://html.spec.whatwg.org/multipage/server-sent-events.html): any chunking, LF, CRLF or CR,
comments, data of several lines, a byte order mark. Only LF, CRLF and CR end a line; U+2028 is an
ordinary character inside JSON. So lines are split as bytes, and an event is decoded once it is
complete.
"""

from typing import List, Tuple

__all__ = ["SSEParser", "ServerSentEvent"]

_BOM = b"\xef\xbb\xbf"


ServerSentEvent = Tuple[str, str]
"""One event: its name ("message" if the server gave none) and its data."""


class SSEParser:
    """Takes a stream's bytes in any pieces and returns each event once its blank line arrived."""

    def __init__(self) -> None:
        self._line: List[bytes] = []  # pieces of an incomplete line
        self._data: List[bytes] = []
        self._event = b""
        self._started = False
        self._after_cr = False  # the last chunk ended with CR: a leading LF belongs to it

    def feed(self, chunk: bytes) -> List[ServerSentEvent]:
        """Return the events that this chunk completes."""
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        if len(lines) == 1:
            if chunk:
                self._line.append(chunk)
            return []
        if self._line:
            lines[0] = b"".join(self._line) + lines[0]
        last = lines.pop()
        self._line = [last] if last else []
        if not self._started:
            self._started = True
            if lines[0].startswith(_BOM):
                lines[0] = lines[0][len(_BOM) :]
        events: List[ServerSentEvent] = []
        for line in lines:
            if not line:
                if self._data:
                    data = b"\n".join(self._data)
                    name = self._event.decode("utf-8", "replace") if self._event else "message"
                    events.append((name, data.decode("utf-8", "replace")))
                    self._data = []
                self._event = b""
                continue
            field, _, value = line.partition(b":")
            if value.startswith(b" "):
                value = value[1:]
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._event = value
            # Ignored: comments (an empty field name), id and retry (these streams are never
            # resumed), and unknown fields.
        return events

    def finish(self) -> List[ServerSentEvent]:
        """Return the event that the end of the stream completes, if its blank line is missing."""
        self._after_cr = False
        return self.feed(b"\n\n")
