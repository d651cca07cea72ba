"""The exceptions of this library.

::

    AsimovError
    ├── Cancelled                   the work was cancelled
    ├── GraphError                  (ValueError) the graph cannot be run as it is
    ├── IllegalTransition           (ValueError) the status table does not allow this change
    ├── RunFailed                   a run failed, or the requested task has no result; .result
    │   └── RunParked               it has none yet, because the run waits for answers; .waiting
    ├── RunTimeout                  (TimeoutError) the run did not end within the given time
    ├── RunInProgress               another process drives this run; .owner, .lease_until
    ├── LeaseLost                   another process has taken over this run
    ├── GraphChanged                (ValueError) the graph contradicts the stored run; .changes
    ├── WaitTimeout                 (TimeoutError) nobody answered a wait in time
    ├── StoredFormatError           a newer release of this library has written this
    ├── RemoteError                 an exception of another process; .type_name, .message
    ├── WorkerLost                  the process that executed a task ended before it returned
    ├── TaskTimeout                 (TimeoutError) the task took longer than its timeout
    ├── NoDecision                  the voters of a ModelRouter did not agree on a choice
    ├── NonRetryableError           for handlers to raise: do not retry this failure
    ├── ClosedError                 (RuntimeError) a scheduler, client or pool is closed
    ├── WorkersExhausted            (RuntimeError) more calls wait at once than threads are allowed
    ├── ToolDefinitionError         (ValueError) no tool can be made of this function
    ├── ToolError                   for tools to raise: the message is the answer to the model
    ├── ToolRefused                 a tool call that waited for approval was refused
    ├── CacheError
    │   ├── CacheUnavailable        (ConnectionError) the cache server or file cannot be used
    │   ├── CacheAuthenticationError  the cache server rejected the user or password
    │   ├── CacheReadOnly           the cache does not accept writes
    │   ├── CacheFull               the cache has no memory or disk space left
    │   ├── CacheKeyError           (ValueError) an invalid key, prefix or suffix
    │   ├── CacheValueError         (ValueError) a value, given or stored, that is not JSON
    │   ├── CrossSlotError          (ValueError) a guarded write to several slots of a Redis Cluster
    │   ├── OutcomeUnknown          the connection broke; the command may or may not have run
    │   ├── WrongKeyType            the key holds a value that this library did not write
    │   └── UnboundedClear          (ValueError) clear() on a cache without a namespace
    └── InferenceError
        ├── AuthenticationError     401: no key, or a wrong one
        ├── PermissionDeniedError   402, 403: the key may not do this
        ├── InvalidRequestError     400, 413, 422: the provider rejects the request
        │   └── ContextLengthExceeded   it is too long for the model
        ├── NotFoundError           404: no such model or address
        ├── RateLimitError          429: too many requests; .retry_after in seconds, or None
        ├── OverloadedError         529: the provider has no capacity at the moment
        ├── ProviderError           5xx, or a reply that breaks the provider's protocol
        ├── ConnectionFailed        (ConnectionError) no connection, or it broke before the reply
        │   └── ConnectTimeout      (TimeoutError) no connection within timeout.connect
        ├── IdleTimeout             (TimeoutError) no byte for timeout.idle seconds
        ├── DeadlineExceeded        (TimeoutError) the whole call took longer than timeout.total
        ├── StreamInterrupted       the stream ended before its final event; .partial, .usage
        ├── BudgetExceeded          a budget is used up; the request was not sent
        └── OutputInvalid           (ValueError) the reply does not match output=; .reply

All of them can be pickled, so a Celery or multiprocessing worker can pass them on.
"""

import contextlib
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Type

if TYPE_CHECKING:
    from asimov_sync.messages import ChatMessage, Reply, Usage

__all__ = [
    "AsimovError",
    "AuthenticationError",
    "BudgetExceeded",
    "CacheAuthenticationError",
    "CacheError",
    "CacheFull",
    "CacheKeyError",
    "CacheReadOnly",
    "CacheUnavailable",
    "CacheValueError",
    "Cancelled",
    "ClosedError",
    "ConnectionFailed",
    "ConnectTimeout",
    "ContextLengthExceeded",
    "CrossSlotError",
    "DeadlineExceeded",
    "GraphChanged",
    "GraphError",
    "IdleTimeout",
    "IllegalTransition",
    "InferenceError",
    "InvalidRequestError",
    "LeaseLost",
    "NoDecision",
    "NonRetryableError",
    "NotFoundError",
    "OutcomeUnknown",
    "OutputInvalid",
    "OverloadedError",
    "Parked",
    "PermissionDeniedError",
    "ProviderError",
    "RateLimitError",
    "RemoteError",
    "RunFailed",
    "RunInProgress",
    "RunParked",
    "RunTimeout",
    "StoredFormatError",
    "StreamInterrupted",
    "TaskTimeout",
    "ToolDefinitionError",
    "ToolError",
    "ToolRefused",
    "UnboundedClear",
    "WaitTimeout",
    "WorkersExhausted",
    "WrongKeyType",
]


class AsimovError(Exception):
    """Base of all exceptions that this library raises on purpose."""


# General


class Cancelled(AsimovError):
    """The work ended early because its Cancellation was cancelled. The message is the reason.

    partial: the Reply received so far if the caller waited for a reply, otherwise None.
    """

    partial: "Optional[Reply]" = None


class GraphError(AsimovError, ValueError):
    """The graph cannot be run as it is: a cycle, an unknown name, a type without a handler ..."""


class IllegalTransition(AsimovError, ValueError):
    """The table of status changes does not allow this change."""


class RunFailed(AsimovError):
    """A run ended FAILED or PARTIAL, or the task whose result was requested has none.

    Raised by `RunResult.raise_for_failure` and `result["name"]`. It is chained to the exception of
    the task that failed.

    result: the RunResult. A pickled error arrives without it (None) if the results or exceptions
        in it cannot be pickled.
    """

    result: Any = None

    def __reduce__(self) -> Tuple[Any, ...]:
        from pickle import HIGHEST_PROTOCOL, dumps  # here: most programs never need it

        # The result is pickled separately, so that the error can be pickled even if the values
        # that tasks returned cannot.
        state = dict(self.__dict__)
        pickled = None
        if state.pop("result", None) is not None:
            with contextlib.suppress(Exception):
                pickled = dumps(self.result, HIGHEST_PROTOCOL)
        return _restore_run_failed, (type(self), self.args, state, pickled)


def _restore_run_failed(
    kind: Type[RunFailed], args: Tuple[Any, ...], state: Dict[str, Any], pickled: Optional[bytes]
) -> RunFailed:
    """Return a RunFailed from its pickle."""
    from pickle import loads

    error = kind(*args)
    error.__dict__.update(state)
    if pickled is not None:
        with contextlib.suppress(Exception):
            error.result = loads(pickled)
    return error


class RunParked(RunFailed):
    """A durable run waits for answers, so that it, or the requested task, has no result yet.

    Raised by `RunResult.raise_for_failure` and `result["name"]`.

    waiting: for each task that waits, by name, the names of its waits or the ids of its calls.
    """

    waiting: Dict[str, List[str]] = {}


class RunInProgress(AsimovError):
    """Another process, or another thread, drives this durable run.

    owner: the host and the process id of the driver.
    lease_until: when its lease ends unless it is renewed, in seconds since the epoch.
    """

    owner: str = ""
    lease_until: float = 0.0


class LeaseLost(AsimovError):
    """Another process has taken over this durable run, or its store has lost the last writes.

    Nothing more of this drive is kept.
    """


class GraphChanged(AsimovError, ValueError):
    """The graph contradicts what was stored of the run: a finished task was changed or removed.

    changes: for each such task, by name, what has changed.
    """

    changes: Dict[str, str] = {}


class Parked(BaseException):
    """Raised by `context.wait_for` to end the handler until the answer is there.

    Not an Exception, so that handlers do not catch it by mistake. Let it pass.
    """


class WaitTimeout(AsimovError, TimeoutError):
    """Nobody answered a wait within its time-out."""


class StoredFormatError(AsimovError):
    """A newer release of this library has written this; upgrade to read it."""


class RemoteError(AsimovError):
    """An exception that was raised in another process, and whose class is not known in this one.

    type_name: the name of its class.
    message: its message.
    traceback_text: its traceback; empty if it is not known.
    """

    type_name: str = ""
    message: str = ""
    traceback_text: str = ""


class WorkerLost(AsimovError):
    """The process that executed a task ended before the handler returned, or cannot be reached.

    The handler may have run in part. A `Retry` covers this error as any other.
    """


class RunTimeout(AsimovError, TimeoutError):
    """The run did not end within the timeout of `Run.result(timeout)`. The run itself continues."""


class TaskTimeout(AsimovError, TimeoutError):
    """The handler of a task took longer than the task's `timeout`."""


class NonRetryableError(AsimovError):
    """Raise this, or a subclass, from a handler to skip retries."""


class NoDecision(AsimovError):
    """The voters of a ModelRouter did not agree, and it has no default.

    The message lists the votes.
    """


class ClosedError(AsimovError, RuntimeError):
    """A scheduler, client or worker pool was used after its `close()`, or no thread can be started.

    From Python 3.12 on, no thread starts once the main thread has ended: neither in a function of
    `atexit` nor on a thread that outlives the main thread.
    """


class WorkersExhausted(AsimovError, RuntimeError):
    """More calls of an async facade wait at once than its `max_threads` allows."""


class ToolDefinitionError(AsimovError, ValueError):
    """No tool can be made of a function, because its arguments cannot be described to a model."""


class ToolError(AsimovError):
    """Raise this, or a subclass, from a tool to answer the model with an error of your own.

    The model receives the message, as an error result, and nothing else of the exception. For any
    other exception, it receives the type and the message.
    """


class ToolRefused(AsimovError):
    """A tool call that waited for approval was refused.

    The message is the reason, which the model receives.
    """


# Cache


class CacheError(AsimovError):
    """Base of all cache errors, chained to the error of the backend."""


class CacheUnavailable(CacheError, ConnectionError):
    """The cache server cannot be reached, the connection broke, or the cache's file is unusable.

    The cache object remains usable.
    """


class CacheAuthenticationError(CacheError):
    """The cache server rejected the user name or password, or this user may not run the command."""


class CacheReadOnly(CacheError):
    """The cache server does not accept writes: it is a replica, or it cannot persist.

    For a cache in a file: this user has no permission to write to the file or its folder.
    """


class CacheFull(CacheError):
    """The cache server reached its memory limit and evicts nothing, or the disk is full."""


class CacheKeyError(CacheError, ValueError):
    """An invalid key, prefix, suffix or mailbox name. An absent key is a plain KeyError."""


class CacheValueError(CacheError, ValueError):
    """A value that JSON cannot hold, or stored bytes that are not JSON or have the wrong type.

    A call that stores the value raises this before it writes anything.
    """


class CrossSlotError(CacheError, ValueError):
    """A guarded write to several slots of a Redis Cluster cannot be atomic. Nothing was sent."""


class OutcomeUnknown(CacheError):
    """The call was cut off before its outcome was known: the command may or may not have run.

    Check before you repeat it.
    """


class WrongKeyType(CacheError):
    """The key holds a Redis type that this library does not store: another program wrote it."""


class UnboundedClear(CacheError, ValueError):
    """`clear()` on a cache without prefix and suffix, which would empty a shared database."""


# Inference


class InferenceError(AsimovError):
    """Base of all errors between a client and a model. Each attribute may be None.

    provider: "anthropic", "bedrock", "openai" ...
    status: the HTTP status.
    error_type: the provider's name of the error.
    request_id: the provider's id of the request.
    attempts: the number of attempts made.
    retry_after: seconds that the provider asks to wait.
    should_retry: whether the provider recommends a retry.
    partial: the Reply received before a stream failed.
    messages: the history of a failed tool loop, ready to be sent again.
    """

    def __init__(
        self,
        message: str = "",
        *,
        provider: Optional[str] = None,
        status: Optional[int] = None,
        error_type: Optional[str] = None,
        request_id: Optional[str] = None,
        attempts: Optional[int] = None,
        retry_after: Optional[float] = None,
        should_retry: Optional[bool] = None,
        partial: "Optional[Reply]" = None,
        messages: "Optional[List[ChatMessage]]" = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.error_type = error_type
        self.request_id = request_id
        self.attempts = attempts
        self.retry_after = retry_after
        self.should_retry = should_retry
        self.partial = partial
        self.messages = messages

    def __str__(self) -> str:
        details: Dict[str, Any] = {
            "status": self.status,
            "type": self.error_type,
            "request id": self.request_id,
            "attempts": self.attempts if self.attempts and self.attempts > 1 else None,
        }
        known = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
        message = super().__str__()
        return f"{message} ({known})" if known else message


class AuthenticationError(InferenceError):
    """The provider rejects the key, or no key was given (401)."""


class PermissionDeniedError(InferenceError):
    """The key is valid but may not do this, or its account cannot pay for it (402, 403)."""


class InvalidRequestError(InferenceError):
    """The provider rejects the request; sending it again does not help (400, 413, 422)."""


class ContextLengthExceeded(InvalidRequestError):
    """The request, or the request plus its max_tokens, exceeds the model's context window."""


class NotFoundError(InferenceError):
    """The provider does not know the model or the address (404)."""


class RateLimitError(InferenceError):
    """Too many requests or tokens (429).

    retry_after: seconds that the provider asks to wait, or None.
    """


class OverloadedError(InferenceError):
    """The provider has no capacity at the moment (529, or `overloaded_error` in a stream)."""


class ProviderError(InferenceError):
    """The provider failed (5xx), or its answer breaks its own protocol."""


class ConnectionFailed(InferenceError, ConnectionError):
    """No connection could be made, or it broke before the reply began."""


class ConnectTimeout(ConnectionFailed, TimeoutError):
    """No connection was made within `Timeout.connect` seconds."""


class IdleTimeout(InferenceError, TimeoutError):
    """No byte arrived for `Timeout.idle` seconds. The pings of a provider count as bytes."""


class DeadlineExceeded(InferenceError, TimeoutError):
    """The call, retries included, did not end within `Timeout.total` seconds."""


class StreamInterrupted(InferenceError):
    """The stream ended before the provider's final event, so the reply is incomplete.

    partial: the Reply received so far; its stop_reason is None.
    """

    @property
    def usage(self) -> "Optional[Usage]":
        """The usage received before the interruption, or None."""
        return self.partial.usage if self.partial is not None else None

    @property
    def text(self) -> str:
        """The text received before the interruption."""
        return self.partial.text if self.partial is not None else ""


class BudgetExceeded(InferenceError):
    """A budget is used up, so the request was not sent.

    The message names the limit and the amount spent.

    budget: the Budget.
    """

    budget: object = None


class OutputInvalid(InferenceError, ValueError):
    """The model's reply does not match `output=`, not even after one correction.

    reply: the reply as received.
    """

    @property
    def reply(self) -> "Optional[Reply]":
        """The reply that could not be validated."""
        return self.partial
