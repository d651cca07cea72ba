"""The assistant of flask_chat and django_chat: it looks for trains, and books one if you agree.

With ANTHROPIC_API_KEY set, a real model answers (ANTHROPIC_MODEL names it). Otherwise a stand-in on
this machine does, which always suggests the same train.
"""

import functools
import json
import os
import pathlib
import sys
import time
from typing import Any, Callable, Dict, List, Tuple

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    ChatMessage,
    ChatRole,
    MemoryCache,
    Refused,
    ToolStream,
    tool,
)
from asimov_sync.testing import ModelServer, calls, last_text, tool_results
from asimov_sync.web import BrowserRequest

PAGE = pathlib.Path(__file__).parent / "chat_page"
"""The folder of the page and of its script and style."""

conversations = MemoryCache()
"""The conversations by user. A SQLiteCache or a RedisCache keeps them, and shares them among
processes."""


# The tools


def weather(city: str) -> Dict[str, Any]:
    """Look up the weather in a city."""
    time.sleep(0.3)
    return {"city": city, "sky": "clear", "degrees": 21}


def find_trains(city: str) -> List[Dict[str, Any]]:
    """List the next trains to a city."""
    time.sleep(0.6)
    if city == "Atlantis":
        raise LookupError("no line goes there")
    return [
        {"train": "EC 151", "to": city, "leaves": "10:33", "price": 39},
        {"train": "IC 720", "to": city, "leaves": "12:04", "price": 27},
    ]


@tool(requires_approval=True)
def book(train: str, seats: int) -> str:
    """Book seats on a train."""
    return f"booked: {train}, {seats} seat(s)"


# The model


def stand_in(body: Dict[str, Any]) -> Any:
    """Answer like a model: look up train and weather, book a seat, then say what happened."""
    results = tool_results(body)
    if "book" in results:
        return f"Your ticket: {results['book']}. Have a good journey!"
    if "find_trains" in results:
        return calls(("book", {"train": "IC 720", "seats": 1}))
    words = last_text(body).rstrip("?!. ").split() or ["Lisbon"]
    city = words[-1].capitalize()
    return calls(("weather", {"city": city}), ("find_trains", {"city": city}))


def type_slowly(request: Any, number: int) -> None:
    """Wait before each event of the stand-in, so that its text arrives in pieces."""
    time.sleep(0.05)


@functools.lru_cache(maxsize=None)
def open_agent() -> Agent:
    """Make the agent at the first question, after a server has forked its workers."""
    if os.environ.get("ANTHROPIC_API_KEY"):
        model = os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")
        client = AnthropicInferenceClient(model=model)
    else:
        print("No ANTHROPIC_API_KEY is set: a stand-in answers.", file=sys.stderr, flush=True)
        server = ModelServer(stand_in, before_event=type_slowly)
        client = AnthropicInferenceClient("stand-in", api_key="none", api_url=server.url)
    system = "You help with journeys by train. Look for trains, then book the cheapest one."
    return Agent(client, system=system, tools=[weather, find_trains, book])


# The conversation


def read_page(body: bytes) -> BrowserRequest:
    """Read what the page in chat_page has posted: a chat, and a text or decisions.

    Raises ValueError for anything else.
    """
    posted = json.loads(body)
    if not isinstance(posted, dict) or not isinstance(posted.get("decisions", {}), dict):
        raise ValueError("this is not a request of the page")
    text, decisions = posted.get("text"), posted.get("decisions", {})
    return BrowserRequest(
        messages=[ChatMessage(role=ChatRole.USER, content=str(text))] if text else [],
        approvals={call: True if yes is True else Refused() for call, yes in decisions.items()},
        chat_id=str(posted.get("chat")),
    )


def open_stream(user: str, request: BrowserRequest) -> Tuple[ToolStream, Callable[[], None]]:
    """Continue a conversation, and return the stream and the function that stores it at the end.

    This server has stored the conversation so far. The request adds text and decisions to it, and
    nothing else. A decision that is sent twice before the answer has ended books twice: a shop
    uses a durable run.

    Raises ValueError for decisions about calls that do not wait.
    """
    key = f"{user}/{request.chat_id}"
    stored = conversations.get(key, {"messages": [], "waiting": False})
    if stored["waiting"] and not request.approvals and not request.regenerate:
        raise ValueError("decide first about the call that waits")
    messages = stored["messages"]
    if request.regenerate:  # the request repeats the last question
        questions = [index for index, one in enumerate(messages) if one["role"] == "user"]
        messages = messages[: questions[-1]] if questions else []
    stream = open_agent().stream(request.messages, messages=messages, approvals=request.approvals)

    def save() -> None:
        run = stream.run
        conversations.set(key, {"messages": run.messages, "waiting": bool(run.pending)})

    return stream, save
