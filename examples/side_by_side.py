"""Ask several models the same question at once, from asyncio, and print their answers in order.

    python examples/side_by_side.py "How long is the Nile, and where does it end?" short long slow
    python examples/side_by_side.py --seconds 1 "What is a hive?" short slow

A model that takes longer than --seconds is cancelled: its request is closed, and its partial answer
is printed. With ANTHROPIC_API_KEY set, the arguments are names of real models. Otherwise stand-ins
on this machine repeat the question: "short" repeats its first words, "long" all of it, and "slow"
all of it, a word a second.
"""

import argparse
import asyncio
import contextlib
import sys
import threading
from typing import Any, Dict, Iterator, List, Optional, Tuple

from model import has_key

from asimov_sync import AnthropicInferenceClient, AsimovError
from asimov_sync.aio import AsyncInferenceClient, to_async
from asimov_sync.testing import ModelServer, ServedRequest, last_text

STAND_INS = ("short", "long", "slow")


def stand_in(body: Dict[str, Any]) -> str:
    """Reply like a model: repeat the question, or its first three words."""
    words = last_text(body).split()
    return "You asked: " + " ".join(words[:3] if body["model"] == "short" else words)


def slow_down(request: ServedRequest, number: int) -> None:
    """Make the model "slow" take a second for each event."""
    if request.body["model"] == "slow":
        threading.Event().wait(1)


@contextlib.contextmanager
def open_client(models: List[str]) -> Iterator[AnthropicInferenceClient]:
    """Open a client of the real API, or of the stand-ins. ValueError for an unknown stand-in."""
    if has_key():
        yield AnthropicInferenceClient(model=models[0])
        return
    for model in models:
        if model not in STAND_INS:
            raise ValueError(f"no stand-in is called {model!r}; stand-ins: {', '.join(STAND_INS)}")
    print(
        "No ANTHROPIC_API_KEY is set: stand-ins on this machine repeat the question.",
        file=sys.stderr,
    )
    with ModelServer(stand_in, before_event=slow_down) as server:
        yield AnthropicInferenceClient(model=models[0], api_key="none", api_url=server.url)


async def ask(
    client: AsyncInferenceClient, model: str, question: str, seconds: float
) -> Tuple[str, str]:
    """Ask one model. Return its text, and how the answer ended."""
    pieces: List[str] = []

    async def read() -> None:
        async with client.with_options(model=model).stream(question) as stream:
            async for piece in stream.text_stream:
                pieces.append(piece)
                print(f"{model}: …{piece}", file=sys.stderr)

    try:
        await asyncio.wait_for(read(), seconds)
        end = "complete"
    except asyncio.TimeoutError:
        end = f"cancelled after {seconds} s"
    except AsimovError as error:
        end = f"{type(error).__name__}: {error}"
    return "".join(pieces), end


async def ask_all(
    client: AsyncInferenceClient, models: List[str], question: str, seconds: float
) -> List[Tuple[str, str]]:
    """Ask all models at once, and return their answers in the order of the models."""
    async with client:
        return await asyncio.gather(*[ask(client, model, question, seconds) for model in models])


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command.

    Return 0 if every answer is complete, 1 if one is not, 2 for invalid arguments.
    """
    parser = argparse.ArgumentParser(
        prog="side_by_side.py", description="Ask several models the same question at once."
    )
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="models, or short, long, slow")
    parser.add_argument("--seconds", type=float, default=30.0, help="the limit for a model (30)")
    options = parser.parse_args(arguments)
    models, question, seconds = options.models, options.question, options.seconds
    try:
        with open_client(models) as client:
            answers = asyncio.run(ask_all(to_async(client), models, question, seconds))
    except ValueError as error:
        print(f"side_by_side.py: {error}", file=sys.stderr)
        return 2
    for model, (text, end) in zip(models, answers):
        print(f"{model} ({end}): {text}")
    return 0 if all(end == "complete" for _, end in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
