"""Agents without an event loop: task graphs, inference clients and a cache, in plain blocking calls and plain iterators.

Every public name can be imported from here, and is loaded when it is first asked for: `import asimov_sync` alone reads no
file but this one, and nothing loads requests, redis or boto3 before a client or cache that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

__version__ = "0.1.0"

if TYPE_CHECKING:
    from asimov_sync.agents.agent import Agent as Agent
    from asimov_sync.cache.contract import MISSING as MISSING
    from asimov_sync.cache.contract import Cache as Cache
    from asimov_sync.cache.delivery import Delivery as Delivery
    from asimov_sync.cache.mailboxes import Letter as Letter
    from asimov_sync.cache.memory import MemoryCache as MemoryCache
    from asimov_sync.cache.redis import RedisCache as RedisCache
    from asimov_sync.cancellation import Cancellation as Cancellation
    from asimov_sync.errors import (
        AsimovError as AsimovError,
    )
    from asimov_sync.errors import (
        AuthenticationError as AuthenticationError,
    )
    from asimov_sync.errors import (
        CacheAuthenticationError as CacheAuthenticationError,
    )
    from asimov_sync.errors import (
        CacheError as CacheError,
    )
    from asimov_sync.errors import (
        CacheFull as CacheFull,
    )
    from asimov_sync.errors import (
        CacheKeyError as CacheKeyError,
    )
    from asimov_sync.errors import (
        CacheReadOnly as CacheReadOnly,
    )
    from asimov_sync.errors import (
        CacheUnavailable as CacheUnavailable,
    )
    from asimov_sync.errors import (
        CacheValueError as CacheValueError,
    )
    from asimov_sync.errors import (
        Cancelled as Cancelled,
    )
    from asimov_sync.errors import (
        ConnectionFailed as ConnectionFailed,
    )
    from asimov_sync.errors import (
        ConnectTimeout as ConnectTimeout,
    )
    from asimov_sync.errors import (
        ContextLengthExceeded as ContextLengthExceeded,
    )
    from asimov_sync.errors import (
        CrossSlotError as CrossSlotError,
    )
    from asimov_sync.errors import (
        DeadlineExceeded as DeadlineExceeded,
    )
    from asimov_sync.errors import (
        GraphError as GraphError,
    )
    from asimov_sync.errors import (
        IdleTimeout as IdleTimeout,
    )
    from asimov_sync.errors import (
        IllegalTransition as IllegalTransition,
    )
    from asimov_sync.errors import (
        InferenceError as InferenceError,
    )
    from asimov_sync.errors import (
        InvalidRequestError as InvalidRequestError,
    )
    from asimov_sync.errors import (
        NotFoundError as NotFoundError,
    )
    from asimov_sync.errors import (
        OutcomeUnknown as OutcomeUnknown,
    )
    from asimov_sync.errors import (
        OverloadedError as OverloadedError,
    )
    from asimov_sync.errors import (
        PermissionDeniedError as PermissionDeniedError,
    )
    from asimov_sync.errors import (
        ProviderError as ProviderError,
    )
    from asimov_sync.errors import (
        RateLimitError as RateLimitError,
    )
    from asimov_sync.errors import (
        RunFailed as RunFailed,
    )
    from asimov_sync.errors import (
        RunTimeout as RunTimeout,
    )
    from asimov_sync.errors import (
        StreamInterrupted as StreamInterrupted,
    )
    from asimov_sync.errors import (
        ToolError as ToolError,
    )
    from asimov_sync.errors import (
        UnboundedClear as UnboundedClear,
    )
    from asimov_sync.errors import (
        WorkersClosed as WorkersClosed,
    )
    from asimov_sync.errors import (
        WrongKeyType as WrongKeyType,
    )
    from asimov_sync.graph.building import TaskGraph as TaskGraph
    from asimov_sync.graph.context import TaskContext as TaskContext
    from asimov_sync.graph.events import (
        RunFinished as RunFinished,
    )
    from asimov_sync.graph.events import (
        TaskFinished as TaskFinished,
    )
    from asimov_sync.graph.events import (
        TaskProgress as TaskProgress,
    )
    from asimov_sync.graph.events import (
        TaskSkipped as TaskSkipped,
    )
    from asimov_sync.graph.events import (
        TaskStarted as TaskStarted,
    )
    from asimov_sync.graph.results import Partial as Partial
    from asimov_sync.graph.results import RunResult as RunResult
    from asimov_sync.graph.run import Run as Run
    from asimov_sync.graph.scheduler import TaskScheduler as TaskScheduler
    from asimov_sync.inference.anthropic import AnthropicInferenceClient as AnthropicInferenceClient
    from asimov_sync.inference.contract import InferenceClient as InferenceClient
    from asimov_sync.inference.request import Timeout as Timeout
    from asimov_sync.inference.stream import ReplyStream as ReplyStream
    from asimov_sync.inference.tool_loop import CalledTool as CalledTool
    from asimov_sync.inference.tool_loop import ToolRun as ToolRun
    from asimov_sync.inference.tools import Tool as Tool
    from asimov_sync.inference.tools import tool as tool
    from asimov_sync.messages import (
        ChatMessage as ChatMessage,
    )
    from asimov_sync.messages import (
        ChatRole as ChatRole,
    )
    from asimov_sync.messages import (
        Event as Event,
    )
    from asimov_sync.messages import (
        Reply as Reply,
    )
    from asimov_sync.messages import (
        ReplyDone as ReplyDone,
    )
    from asimov_sync.messages import (
        TextDelta as TextDelta,
    )
    from asimov_sync.messages import (
        ThinkingDelta as ThinkingDelta,
    )
    from asimov_sync.messages import (
        ToolCall as ToolCall,
    )
    from asimov_sync.messages import (
        ToolCallReady as ToolCallReady,
    )
    from asimov_sync.messages import (
        Usage as Usage,
    )
    from asimov_sync.tasks import Task as Task
    from asimov_sync.tasks import TaskSnapshot as TaskSnapshot
    from asimov_sync.tasks import TaskStatus as TaskStatus

_HOMES = {
    "agents.agent": "Agent",
    "cache.contract": "Cache MISSING",
    "cache.delivery": "Delivery",
    "cache.mailboxes": "Letter",
    "cache.memory": "MemoryCache",
    "cache.redis": "RedisCache",
    "cancellation": "Cancellation",
    "errors": (
        "AsimovError AuthenticationError CacheAuthenticationError CacheError CacheFull CacheKeyError CacheReadOnly "
        "CacheUnavailable CacheValueError Cancelled ConnectionFailed ConnectTimeout ContextLengthExceeded CrossSlotError "
        "DeadlineExceeded GraphError IdleTimeout IllegalTransition InferenceError InvalidRequestError NotFoundError "
        "OutcomeUnknown OverloadedError "
        "PermissionDeniedError ProviderError RateLimitError RunFailed RunTimeout StreamInterrupted ToolError "
        "UnboundedClear WorkersClosed WrongKeyType"
    ),
    "graph.building": "TaskGraph",
    "graph.events": "RunFinished TaskFinished TaskProgress TaskSkipped TaskStarted",
    "graph.results": "Partial RunResult",
    "graph.context": "TaskContext",
    "graph.run": "Run",
    "graph.scheduler": "TaskScheduler",
    "inference.anthropic": "AnthropicInferenceClient",
    "inference.contract": "InferenceClient",
    "inference.request": "Timeout",
    "inference.stream": "ReplyStream",
    "inference.tool_loop": "CalledTool ToolRun",
    "inference.tools": "Tool tool",
    "messages": ("ChatMessage ChatRole Event Reply ReplyDone TextDelta ThinkingDelta ToolCall ToolCallReady Usage"),
    "tasks": "Task TaskSnapshot TaskStatus",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME, key=lambda name: (name.casefold(), name))

if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError("module {!r} has no attribute {!r}".format(__name__, name))
        value = getattr(importlib.import_module("asimov_sync." + _HOME[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> List[str]:
        return sorted(set(globals()) | set(__all__))
