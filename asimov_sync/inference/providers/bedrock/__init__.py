"""AWS Bedrock: the client, and the codecs of InvokeModel and Converse.

The names load on first use, so that a codec can be imported without requests or boto3.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asimov_sync.inference.providers.bedrock.client import (
        BedrockInferenceClient as BedrockInferenceClient,
    )
    from asimov_sync.inference.providers.bedrock.converse import ConverseFold as ConverseFold
    from asimov_sync.inference.providers.bedrock.invoke import InvokeFold as InvokeFold
    from asimov_sync.inference.providers.bedrock.runtime import Runtime as Runtime

_HOMES = {
    "BedrockInferenceClient": "client",
    "ConverseFold": "converse",
    "InvokeFold": "invoke",
    "Runtime": "runtime",
}

__all__ = ["BedrockInferenceClient", "ConverseFold", "InvokeFold", "Runtime"]


if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
