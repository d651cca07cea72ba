"""The model behind the examples: the real API, or a stand-in on this machine if there is no key."""

import contextlib
import os
import sys
from typing import Any, Callable, Dict, Iterator

from asimov_sync import AnthropicInferenceClient, InferenceClient
from asimov_sync.testing import ModelServer


def has_key() -> bool:
    """Return whether the examples use the real API."""
    return bool(os.environ.get("ANTHROPIC_API_KEY"))


@contextlib.contextmanager
def open_client(stand_in: Callable[[Dict[str, Any]], Any], note: str) -> Iterator[InferenceClient]:
    """Open a client of the real API if ANTHROPIC_API_KEY is set; ANTHROPIC_MODEL names the model.

    Otherwise start a local server that speaks the same API, and open a client of it.

    stand_in: returns the reply of the local server to the body of a request.
    note: printed if the local server is used.
    """
    if has_key():
        model = os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")
        with AnthropicInferenceClient(model=model) as client:
            yield client
    else:
        print(f"No ANTHROPIC_API_KEY is set: {note}", file=sys.stderr, flush=True)
        with ModelServer(stand_in) as server:
            with AnthropicInferenceClient("stand-in", api_key="none", api_url=server.url) as client:
                yield client
