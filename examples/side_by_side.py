"""Put one question to several models at once, in an asyncio program, and print their answers as they grow, side by side.

    python examples/side_by_side.py "How long is the Nile, and where does it end?" short long slow
    python examples/side_by_side.py --seconds 1 "What is a hive?" short slow

A model that takes longer than --seconds is cancelled, which closes its request, and what it had said is printed as it is. With
ANTHROPIC_API_KEY set the models are real ones, by their names; without, stand-ins on this machine, which repeat the question:
"short" its first words, "long" all of it, and "slow" as "long", but a word a second.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from typing import Any, Dict, Iterator, List, Optional, Tuple

from asimov_sync import AnthropicInferenceClient, AsimovError
from asimov_sync.aio import AsyncInferenceClient, to_async
from asimov_sync.testing import ModelServer, ServedRequest, last_text

STAND_INS = ("short", "long", "slow")


def stand_in(body: Dict[str, Any]) -> str:
    """In place of a model: the words of the question, or the first three."""
    words = last_text(body).split()
    return "You asked: " + " ".join(words[:3] if body["model"] == "short" else words)


def pace(request: ServedRequest, number: int) -> None:
    """Have the model "slow" take a second for each piece."""
    if request.body["model"] == "slow":
        threading.Event().wait(1)


@contextlib.contextmanager
def models(names: List[str]) -> Iterator[AnthropicInferenceClient]:
    """A client of the real API, or of the stand-ins; ValueError for a stand-in that there is not."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("ANTHROPIC_API_KEY"):
            client = AnthropicInferenceClient(model=names[0])
        else:
            for name in names:
                if name not in STAND_INS:
                    raise ValueError("no stand-in is called {!r}; there are {}".format(name, ", ".join(STAND_INS)))
            print("No ANTHROPIC_API_KEY is set: stand-ins on this machine repeat the question.", file=sys.stderr)
            server = stack.enter_context(ModelServer(stand_in, before_event=pace))
            client = AnthropicInferenceClient(model=names[0], api_key="none", api_url=server.url)
        yield client


async def ask(client: AsyncInferenceClient, model: str, question: str, seconds: float) -> Tuple[str, str]:
    """What a model says, and how that ended."""
    said: List[str] = []

    async def read() -> None:
        async with client.with_options(model=model).stream(question) as stream:
            async for text in stream.text_stream:
                said.append(text)
                print("{}: …{}".format(model, text), file=sys.stderr)

    try:
        await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError:
        return "".join(said), "cancelled after {} s".format(seconds)
    except AsimovError as error:
        return "".join(said), "{}: {}".format(type(error).__name__, error)
    return "".join(said), "whole"


async def ask_all(client: AsyncInferenceClient, names: List[str], question: str, seconds: float) -> List[Tuple[str, str]]:
    """The answers of all of them, which are asked at once."""
    async with client:
        return await asyncio.gather(*[ask(client, name, question, seconds) for name in names])


def main(arguments: Optional[List[str]] = None) -> int:
    """The command: 0 if every answer is whole, 1 if one is not, 2 for a call that makes no sense."""
    parser = argparse.ArgumentParser(prog="side_by_side.py", description="Put one question to several models at once.")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="names of models, or short, long and slow")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each of them may take (30)")
    options = parser.parse_args(arguments)
    try:
        with models(options.models) as client:
            answers = asyncio.run(ask_all(to_async(client), options.models, options.question, options.seconds))
    except ValueError as error:
        print("side_by_side.py: {}".format(error), file=sys.stderr)
        return 2
    for name, (text, end) in zip(options.models, answers):
        print("{} ({}): {}".format(name, end, text))
    return 0 if all(end == "whole" for _, end in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
