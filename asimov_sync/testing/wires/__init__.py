"""The wires that a ModelServer speaks, one file each, and which path leads to which."""

import re
from typing import NamedTuple, Optional
from urllib.parse import unquote

from asimov_sync.testing.wires.bedrock import INVOKE
from asimov_sync.testing.wires.chat import CHAT
from asimov_sync.testing.wires.contract import Wire
from asimov_sync.testing.wires.converse import CONVERSE
from asimov_sync.testing.wires.messages import MESSAGES

__all__ = ["CHAT", "CONVERSE", "INVOKE", "MESSAGES", "Route", "Wire", "route"]


class Route(NamedTuple):
    """What a path asks for. stream: None where the request's body says it. model: None where the body names it."""

    wire: Wire
    counts: bool = False
    stream: Optional[bool] = None
    model: Optional[str] = None


_ROUTES = [
    (re.compile(pattern), found)
    for pattern, found in [
        (r"/v1/messages$", Route(MESSAGES)),
        (r"/v1/messages/count_tokens$", Route(MESSAGES, counts=True)),
        (r"/chat/completions$", Route(CHAT)),
        (r"/model/([^/]+)/invoke$", Route(INVOKE, stream=False)),
        (r"/model/([^/]+)/invoke-with-response-stream$", Route(INVOKE, stream=True)),
        (r"/model/([^/]+)/converse$", Route(CONVERSE, stream=False)),
        (r"/model/([^/]+)/converse-stream$", Route(CONVERSE, stream=True)),
        (r"/model/([^/]+)/count-tokens$", Route(CONVERSE, counts=True)),
    ]
]


def route(path: str) -> Optional[Route]:
    """What a path asks for, by its end; None where that is none of these."""
    path = path.split("?")[0]
    for pattern, found in _ROUTES:
        match = pattern.search(path)
        if match is not None:
            return found._replace(model=unquote(match.group(1))) if pattern.groups else found
    return None
