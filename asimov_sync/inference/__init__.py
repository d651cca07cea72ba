"""Inference clients: requests to models, streams, tools and structured output.

The names below load on first use, so that `import asimov_sync.inference` loads no provider.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.inference.client import InferenceClient as InferenceClient
    from asimov_sync.inference.options import RequestOptions as RequestOptions
    from asimov_sync.inference.providers.anthropic.client import (
        AnthropicInferenceClient as AnthropicInferenceClient,
    )
    from asimov_sync.inference.providers.bedrock.client import (
        BedrockInferenceClient as BedrockInferenceClient,
    )
    from asimov_sync.inference.providers.openai.client import (
        OpenAIInferenceClient as OpenAIInferenceClient,
    )
    from asimov_sync.inference.rate_limit import RateLimit as RateLimit
    from asimov_sync.inference.request import Timeout as Timeout
    from asimov_sync.inference.stream import ReplyStream as ReplyStream, ToolStream as ToolStream
    from asimov_sync.inference.tools.approvals import Approved as Approved, Refused as Refused
    from asimov_sync.inference.tools.loop import (
        CalledTool as CalledTool,
        HistoryCompacted as HistoryCompacted,
        ToolFinished as ToolFinished,
        ToolRun as ToolRun,
        ToolRunDone as ToolRunDone,
        ToolStarted as ToolStarted,
    )
    from asimov_sync.inference.tools.tool import Tool as Tool, tool as tool

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "client": "InferenceClient",
            "options": "RequestOptions",
            "providers.anthropic.client": "AnthropicInferenceClient",
            "providers.bedrock.client": "BedrockInferenceClient",
            "providers.openai.client": "OpenAIInferenceClient",
            "rate_limit": "RateLimit",
            "request": "Timeout",
            "stream": "ReplyStream ToolStream",
            "tools.approvals": "Approved Refused",
            "tools.loop": (
                "CalledTool HistoryCompacted ToolFinished ToolRun ToolRunDone ToolStarted"
            ),
            "tools.tool": "Tool tool",
        },
    )
