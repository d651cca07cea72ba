"""The wire formats that a ModelServer speaks, one file each, and the endpoints that use them."""

import re
from typing import NamedTuple, Optional
from urllib.parse import unquote

from asimov_sync.testing.wires.bedrock import INVOKE
from asimov_sync.testing.wires.chat import CHAT
from asimov_sync.testing.wires.converse import CONVERSE
from asimov_sync.testing.wires.messages import MESSAGES
from asimov_sync.testing.wires.wire import Wire

__all__ = ["CHAT", "CONVERSE", "INVOKE", "MESSAGES", "Endpoint", "Wire", "find_endpoint"]


class Endpoint(NamedTuple):
    """The endpoint that a path names.

    wire: the wire format of requests and replies.
    counts_tokens: whether the endpoint counts tokens instead of replying.
    stream: whether replies are streamed, or None if the request's body decides.
    model: the model named in the path, or None if the request's body names it.
    """

    wire: Wire
    counts_tokens: bool = False
    stream: Optional[bool] = None
    model: Optional[str] = None


_ENDPOINTS = [
    (re.compile(pattern), endpoint)
    for pattern, endpoint in [
        (r"/v1/messages$", Endpoint(MESSAGES)),
        (r"/v1/messages/count_tokens$", Endpoint(MESSAGES, counts_tokens=True)),
        (r"/chat/completions$", Endpoint(CHAT)),
        (r"/model/([^/]+)/invoke$", Endpoint(INVOKE, stream=False)),
        (r"/model/([^/]+)/invoke-with-response-stream$", Endpoint(INVOKE, stream=True)),
        (r"/model/([^/]+)/converse$", Endpoint(CONVERSE, stream=False)),
        (r"/model/([^/]+)/converse-stream$", Endpoint(CONVERSE, stream=True)),
        (r"/model/([^/]+)/count-tokens$", Endpoint(CONVERSE, counts_tokens=True)),
    ]
]


def find_endpoint(path: str) -> Optional[Endpoint]:
    """Return the endpoint that matches the end of a path, or None if there is none."""
    path = path.split("?")[0]
    for pattern, endpoint in _ENDPOINTS:
        match = pattern.search(path)
        if match is not None:
            return endpoint._replace(model=unquote(match.group(1))) if pattern.groups else endpoint
    return None
