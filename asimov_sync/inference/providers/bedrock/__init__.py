"""AWS Bedrock: the client, and the codecs of InvokeModel and Converse.

The names load on first use, so that a codec can be imported without requests or boto3.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.inference.providers.bedrock.client import (
        BedrockInferenceClient as BedrockInferenceClient,
    )
    from asimov_sync.inference.providers.bedrock.converse import ConverseFold as ConverseFold
    from asimov_sync.inference.providers.bedrock.invoke import InvokeFold as InvokeFold
    from asimov_sync.inference.providers.bedrock.runtime import Runtime as Runtime

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "client": "BedrockInferenceClient",
            "converse": "ConverseFold",
            "invoke": "InvokeFold",
            "runtime": "Runtime",
        },
    )
