"""Inference clients: requests to models, streams, tools and structured output.

The names below load on first use, so that `import asimov_sync.inference` loads no provider.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from asimov_sync.inference.client import InferenceClient as InferenceClient
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
    from asimov_sync.inference.tools.loop import (
        CalledTool as CalledTool,
        ToolFinished as ToolFinished,
        ToolRun as ToolRun,
        ToolRunDone as ToolRunDone,
        ToolStarted as ToolStarted,
    )
    from asimov_sync.inference.tools.tool import Tool as Tool, tool as tool

_HOMES = {
    "client": "InferenceClient",
    "providers.anthropic.client": "AnthropicInferenceClient",
    "providers.bedrock.client": "BedrockInferenceClient",
    "providers.openai.client": "OpenAIInferenceClient",
    "rate_limit": "RateLimit",
    "request": "Timeout",
    "stream": "ReplyStream ToolStream",
    "tools.loop": "CalledTool ToolFinished ToolRun ToolRunDone ToolStarted",
    "tools.tool": "Tool tool",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME, key=lambda name: (name.casefold(), name))

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> List[str]:
        return sorted(set(globals()) | set(__all__))
