"""The record that a ModelServer keeps of each request."""

import threading
from typing import Any, List, Mapping, Optional

from asimov_sync.messages import Reply

__all__ = ["ServedRequest"]


class ServedRequest:
    """A request that a ModelServer received, and what the server did with it.

    number: the index of the request, from 0.
    port: the client's port; it identifies the connection.
    path: the path as received.
    wire: "messages", "chat", "invoke" or "converse"; None if the path belongs to none of them.
    headers: the headers, with lower-case names.
    body: the JSON as received, in the wire's own format; None if it is not JSON.
    reply: the reply that the script chose, or None.
    faults: the faults that were carried out: "status=429", "stall=headers", "error_at=4",
        "cut_at=17", "reset" …
    sent: the number of events sent. A body that is not streamed is one event.
    whole: whether all events were sent.
    disconnected: an Event, set if the client disconnected before the end of the answer.
    finished: an Event, set when the server is done with the request.
    """

    def __init__(
        self,
        number: int,
        port: int,
        path: str,
        wire: Optional[str],
        headers: Mapping[str, str],
        body: Any,
    ) -> None:
        self.number = number
        self.port = port
        self.path = path
        self.wire = wire
        self.body = body
        self.headers = headers
        self.reply: Optional[Reply] = None
        self.faults: List[str] = []
        self.sent = 0
        self.whole = False
        self.disconnected = threading.Event()
        self.finished = threading.Event()

    def __repr__(self) -> str:
        return f"<request {self.number} to {self.path}>"
