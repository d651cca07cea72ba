"""Agents without an event loop: task graphs, inference clients and a cache.

The interface consists of plain blocking calls and plain iterators. Every public name can be
imported from here. A name's module is loaded when the name is first used: `import asimov_sync`
alone loads none of them. requests, redis and boto3 are loaded by the first client or cache that
needs them.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from asimov_sync.agents.agent import Agent as Agent
    from asimov_sync.agents.model_router import (
        Choice as Choice,
        Decision as Decision,
        ModelRouter as ModelRouter,
    )
    from asimov_sync.cache.base import MISSING as MISSING, Cache as Cache
    from asimov_sync.cache.delivery import Delivery as Delivery, Letter as Letter
    from asimov_sync.cache.memory import MemoryCache as MemoryCache
    from asimov_sync.cache.redis import RedisCache as RedisCache
    from asimov_sync.cache.sqlite import SQLiteCache as SQLiteCache
    from asimov_sync.cancellation import Cancellation as Cancellation
    from asimov_sync.concurrency.log_context import LogFilter as LogFilter
    from asimov_sync.errors import (
        AsimovError as AsimovError,
        AuthenticationError as AuthenticationError,
        BudgetExceeded as BudgetExceeded,
        CacheAuthenticationError as CacheAuthenticationError,
        CacheError as CacheError,
        CacheFull as CacheFull,
        CacheKeyError as CacheKeyError,
        CacheReadOnly as CacheReadOnly,
        CacheUnavailable as CacheUnavailable,
        CacheValueError as CacheValueError,
        Cancelled as Cancelled,
        ClosedError as ClosedError,
        ConnectionFailed as ConnectionFailed,
        ConnectTimeout as ConnectTimeout,
        ContextLengthExceeded as ContextLengthExceeded,
        CrossSlotError as CrossSlotError,
        DeadlineExceeded as DeadlineExceeded,
        GraphChanged as GraphChanged,
        GraphError as GraphError,
        IdleTimeout as IdleTimeout,
        IllegalTransition as IllegalTransition,
        InferenceError as InferenceError,
        InvalidRequestError as InvalidRequestError,
        LeaseLost as LeaseLost,
        NoDecision as NoDecision,
        NonRetryableError as NonRetryableError,
        NotFoundError as NotFoundError,
        OutcomeUnknown as OutcomeUnknown,
        OutputInvalid as OutputInvalid,
        OverloadedError as OverloadedError,
        Parked as Parked,
        PermissionDeniedError as PermissionDeniedError,
        ProviderError as ProviderError,
        RateLimitError as RateLimitError,
        RemoteError as RemoteError,
        RunFailed as RunFailed,
        RunInProgress as RunInProgress,
        RunParked as RunParked,
        RunTimeout as RunTimeout,
        StoredFormatError as StoredFormatError,
        StreamInterrupted as StreamInterrupted,
        TaskTimeout as TaskTimeout,
        ToolDefinitionError as ToolDefinitionError,
        ToolError as ToolError,
        ToolRefused as ToolRefused,
        UnboundedClear as UnboundedClear,
        WaitTimeout as WaitTimeout,
        WorkerLost as WorkerLost,
        WorkersExhausted as WorkersExhausted,
        WrongKeyType as WrongKeyType,
    )
    from asimov_sync.graph.context import (
        TaskContext as TaskContext,
        current_context as current_context,
    )
    from asimov_sync.graph.events import (
        RunEvent as RunEvent,
        RunFinished as RunFinished,
        RunStarted as RunStarted,
        TaskEvent as TaskEvent,
        TaskFinished as TaskFinished,
        TaskParked as TaskParked,
        TaskProgress as TaskProgress,
        TaskRetried as TaskRetried,
        TaskSkipped as TaskSkipped,
        TaskStarted as TaskStarted,
        TaskText as TaskText,
        TaskUndone as TaskUndone,
    )
    from asimov_sync.graph.journal import Wait as Wait
    from asimov_sync.graph.results import Partial as Partial, Route as Route, RunResult as RunResult
    from asimov_sync.graph.retry import Retry as Retry
    from asimov_sync.graph.run import Run as Run
    from asimov_sync.graph.task_graph import TaskGraph as TaskGraph
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
    from asimov_sync.messages import (
        ChatMessage as ChatMessage,
        ChatRole as ChatRole,
        Event as Event,
        Reply as Reply,
        ReplyDone as ReplyDone,
        TextDelta as TextDelta,
        ThinkingDelta as ThinkingDelta,
        ToolCall as ToolCall,
        ToolCallReady as ToolCallReady,
        Usage as Usage,
    )
    from asimov_sync.runs.status import RunStatus as RunStatus
    from asimov_sync.runs.store import RunRecord as RunRecord, RunStore as RunStore
    from asimov_sync.scheduler import TaskScheduler as TaskScheduler, run as run
    from asimov_sync.spans import Span as Span
    from asimov_sync.tasks import (
        Task as Task,
        TaskSnapshot as TaskSnapshot,
        TaskStatus as TaskStatus,
    )
    from asimov_sync.usage import Budget as Budget, Price as Price

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "agents.agent": "Agent",
            "agents.model_router": "Choice Decision ModelRouter",
            "cache.base": "Cache MISSING",
            "cache.delivery": "Delivery Letter",
            "cache.memory": "MemoryCache",
            "cache.redis": "RedisCache",
            "cache.sqlite": "SQLiteCache",
            "cancellation": "Cancellation",
            "concurrency.log_context": "LogFilter",
            "errors": (
                "AsimovError AuthenticationError BudgetExceeded CacheAuthenticationError "
                "CacheError CacheFull CacheKeyError CacheReadOnly CacheUnavailable "
                "CacheValueError Cancelled ClosedError ConnectionFailed ConnectTimeout "
                "ContextLengthExceeded CrossSlotError DeadlineExceeded GraphChanged GraphError "
                "IdleTimeout IllegalTransition InferenceError InvalidRequestError LeaseLost "
                "NoDecision NonRetryableError NotFoundError OutcomeUnknown OutputInvalid "
                "OverloadedError Parked PermissionDeniedError ProviderError RateLimitError "
                "RemoteError RunFailed RunInProgress RunParked RunTimeout StoredFormatError "
                "StreamInterrupted TaskTimeout ToolDefinitionError ToolError ToolRefused "
                "UnboundedClear WaitTimeout WorkerLost WorkersExhausted WrongKeyType"
            ),
            "graph.context": "TaskContext current_context",
            "graph.events": (
                "RunEvent RunFinished RunStarted TaskEvent TaskFinished TaskParked TaskProgress "
                "TaskRetried TaskSkipped TaskStarted TaskText TaskUndone"
            ),
            "graph.journal": "Wait",
            "graph.results": "Partial Route RunResult",
            "graph.retry": "Retry",
            "graph.run": "Run",
            "graph.task_graph": "TaskGraph",
            "inference.client": "InferenceClient",
            "inference.options": "RequestOptions",
            "inference.providers.anthropic.client": "AnthropicInferenceClient",
            "inference.providers.bedrock.client": "BedrockInferenceClient",
            "inference.providers.openai.client": "OpenAIInferenceClient",
            "inference.rate_limit": "RateLimit",
            "inference.request": "Timeout",
            "inference.stream": "ReplyStream ToolStream",
            "inference.tools.approvals": "Approved Refused",
            "inference.tools.loop": (
                "CalledTool HistoryCompacted ToolFinished ToolRun ToolRunDone ToolStarted"
            ),
            "inference.tools.tool": "Tool tool",
            "messages": (
                "ChatMessage ChatRole Event Reply ReplyDone TextDelta ThinkingDelta ToolCall "
                "ToolCallReady Usage"
            ),
            "runs.status": "RunStatus",
            "runs.store": "RunRecord RunStore",
            "scheduler": "TaskScheduler run",
            "spans": "Span",
            "tasks": "Task TaskSnapshot TaskStatus",
            "usage": "Budget Price",
        },
    )
