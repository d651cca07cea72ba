"""What a ModelServer has been asked, and what came of it: for the test that looks afterwards."""

import threading
from typing import Any, List, Mapping, Optional

from asimov_sync.messages import Reply

__all__ = ["ServedRequest"]


class ServedRequest:
    """A request that a ModelServer has received.

    port: the client's, the same for all requests of a connection. path: as it came. wire: "messages", "chat", "invoke" or
    "converse"; None where the path is none of theirs. headers: lower-case names. body: the JSON that came, in the wire's own
    words. reply: what was decided on, or None. faults: those of its answer that were carried out: "status=429",
    "stall=headers", "error_at=4", "cut_at=17", "reset" … sent: how many events of the answer went out; one in one piece is
    one. whole: whether all of them did. disconnected: set when the client closed its connection before the end of the
    answer; finished: set when the answer is over, either way.
    """

    def __init__(self, number: int, port: int, path: str, wire: Optional[str], headers: Mapping[str, str], body: Any) -> None:
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
        return "<request {} to {}>".format(self.number, self.path)
