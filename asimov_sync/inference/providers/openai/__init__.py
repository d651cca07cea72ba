"""OpenAI's chat completions: the client, and the codec of their wire.

The names load on first use, so that a codec can be imported without requests or boto3.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asimov_sync.inference.providers.openai.client import (
        OpenAIInferenceClient as OpenAIInferenceClient,
    )
    from asimov_sync.inference.providers.openai.reply import ChatFold as ChatFold

_HOMES = {
    "ChatFold": "reply",
    "OpenAIInferenceClient": "client",
}

__all__ = ["ChatFold", "OpenAIInferenceClient"]


if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
