"""OpenAI's chat completions: the client, and the codec of their wire.

The names load on first use, so that a codec can be imported without requests or boto3.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.inference.providers.openai.client import (
        OpenAIInferenceClient as OpenAIInferenceClient,
    )
    from asimov_sync.inference.providers.openai.reply import ChatFold as ChatFold

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "client": "OpenAIInferenceClient",
            "reply": "ChatFold",
        },
    )
