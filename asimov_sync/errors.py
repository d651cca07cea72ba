"""The whole error tree: every exception that this library raises on purpose.

::

    AsimovError
    ├── Cancelled                   the caller asked for the work to end
    ├── GraphError                  (ValueError) a graph that cannot be run as it is written
    ├── IllegalTransition           (ValueError) a status move that the status table does not have
    ├── RunFailed                   a run ended FAILED or PARTIAL, and raise_for_failure() was asked
    ├── RunTimeout                  (TimeoutError) a run did not end in the time that was given
    ├── TaskTimeout                 (TimeoutError) a task took longer than its timeout
    ├── NoDecision                  the voters of a ModelRouter did not agree on a choice
    ├── NonRetryableError           raised by handlers: this failure is not to be retried
    ├── WorkersClosed               (RuntimeError) work was handed to something already closed
    ├── WorkersExhausted            (RuntimeError) more calls wait at once than there may be threads
    ├── ToolError                   (ValueError) a tool that cannot be described to a model
    ├── ToolRefused                 a tool call that waited for approval was refused
    ├── CacheError
    │   ├── CacheUnavailable        (ConnectionError) the cache's server cannot be reached
    │   ├── CacheAuthenticationError  the cache's server refused the user or password
    │   ├── CacheReadOnly           the cache's server does not accept writes
    │   ├── CacheFull               the cache's server has no memory left
    │   ├── CacheKeyError           (ValueError) a key, prefix or suffix that cannot be one
    │   ├── CacheValueError         (ValueError) a value that is not JSON, on its way in or out
    │   ├── CrossSlotError          (ValueError) a guarded write over several slots of a Redis Cluster
    │   ├── OutcomeUnknown          the connection broke, and the command may or may not have been executed
    │   ├── WrongKeyType            the key holds something that is not a value of this library
    │   └── UnboundedClear          (ValueError) clear() on a cache without a namespace
    └── InferenceError
        ├── AuthenticationError     401: no key, or a wrong one
        ├── PermissionDeniedError   402, 403: the key may not do this
        ├── InvalidRequestError     400, 413, 422: the provider rejects the request as it stands
        │   └── ContextLengthExceeded   it is too long for the model
        ├── NotFoundError           404: no such model or address
        ├── RateLimitError          429: too many requests; .retry_after in seconds, where told
        ├── OverloadedError         529: the provider has no capacity just now
        ├── ProviderError           5xx, or a reply that is not what the wire promises
        ├── ConnectionFailed        (ConnectionError) no connection, or it broke before the reply
        │   └── ConnectTimeout      (TimeoutError) no connection within timeout.connect
        ├── IdleTimeout             (TimeoutError) not a byte for timeout.idle seconds
        ├── DeadlineExceeded        (TimeoutError) the whole call took longer than timeout.total
        ├── StreamInterrupted       the stream ended before its own final event; .partial, .usage
        ├── BudgetExceeded          a budget is used up; the request was not sent
        └── OutputInvalid           (ValueError) the reply is not of the model that output= asked for; .reply

Every one of them survives pickling, so that a Celery or multiprocessing worker can hand it on.
"""

from typing import TYPE_CHECKING, Any, Dict, List, Optional

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
    "ConnectionFailed",
    "ConnectTimeout",
    "ContextLengthExceeded",
    "CrossSlotError",
    "DeadlineExceeded",
    "GraphError",
    "IdleTimeout",
    "IllegalTransition",
    "InferenceError",
    "InvalidRequestError",
    "NoDecision",
    "NonRetryableError",
    "NotFoundError",
    "OutcomeUnknown",
    "OutputInvalid",
    "OverloadedError",
    "PermissionDeniedError",
    "ProviderError",
    "RateLimitError",
    "RunFailed",
    "RunTimeout",
    "StreamInterrupted",
    "TaskTimeout",
    "ToolError",
    "ToolRefused",
    "UnboundedClear",
    "WorkersClosed",
    "WorkersExhausted",
    "WrongKeyType",
    "described",
]


def described(error: BaseException) -> str:
    """An exception in one line: its type and its message."""
    try:
        message = str(error)
    except Exception:  # somebody's own __str__ may fail, and what describes errors must not
        message = ""
    return "{}: {}".format(type(error).__name__, message) if message else type(error).__name__


class AsimovError(Exception):
    """The base of every error that this library raises on purpose."""


# What is asked of the library itself


class Cancelled(AsimovError):
    """The work was ended early because its Cancellation was cancelled; the message is the reason.

    partial: the Reply that had arrived by then, where it was a reply that was waited for.
    """

    partial: "Optional[Reply]" = None


class GraphError(AsimovError, ValueError):
    """A graph that cannot be run as it is written: a cycle, an unknown name, a type without a handler."""


class IllegalTransition(AsimovError, ValueError):
    """A task was asked to move between two statuses that its table does not join."""


class RunFailed(AsimovError):
    """A run ended FAILED or PARTIAL; chained to the first task's exception. Raised by `RunResult.raise_for_failure`."""


class RunTimeout(AsimovError, TimeoutError):
    """`Run.result(timeout)` was called and the run is still going on; the run itself is not touched."""


class TaskTimeout(AsimovError, TimeoutError):
    """A task's handler took longer than the `timeout` with which the task was added."""


class NonRetryableError(AsimovError):
    """Raised by a handler, or a subclass of it is, for a failure that trying again cannot mend: no Retry is made."""


class NoDecision(AsimovError):
    """The voters of a ModelRouter did not agree on a choice, and it has no default; the message says what they said."""


class WorkersClosed(AsimovError, RuntimeError):
    """Work was handed to a scheduler, a client or a pool of workers after its `close()`."""


class WorkersExhausted(AsimovError, RuntimeError):
    """More calls of an async facade wait at once than it may have threads: its `max_threads`."""


class ToolError(AsimovError, ValueError):
    """A function that cannot be made into a tool: a model could not be told how to call it."""


class ToolRefused(AsimovError):
    """A tool call that waited for approval was refused; the message is the reason, which the model is told."""


# The cache


class CacheError(AsimovError):
    """The base of what goes wrong between the caller and a cache; chained to the backend's own error."""


class CacheUnavailable(CacheError, ConnectionError):
    """The cache's server cannot be reached, or the connection broke. The same cache object may be used again."""


class CacheAuthenticationError(CacheError):
    """The cache's server refused the user name or the password, or this user may not run the command."""


class CacheReadOnly(CacheError):
    """The cache's server is a replica, or cannot persist, and does not accept writes."""


class CacheFull(CacheError):
    """The cache's server has reached its memory limit and evicts nothing."""


class CacheKeyError(CacheError, ValueError):
    """A key, prefix, suffix or mailbox name that cannot be one. An absent key is a plain KeyError."""


class CacheValueError(CacheError, ValueError):
    """A value that JSON cannot hold (nothing was written), or stored bytes that are not JSON or not of the asked type."""


class CrossSlotError(CacheError, ValueError):
    """A guarded write over several slots of a Redis Cluster, which could not be one step; nothing was sent."""


class OutcomeUnknown(CacheError):
    """The connection broke before the answer came: the command may or may not have been executed. Look before repeating it."""


class WrongKeyType(CacheError):
    """The key holds a Redis type that this library does not store there: another program's key."""


class UnboundedClear(CacheError, ValueError):
    """`clear()` on a cache without prefix and suffix, which would empty a database that others share."""


# Inference


class InferenceError(AsimovError):
    """The base of everything that goes wrong between a client and a model.

    provider: "anthropic" …; status: the HTTP status, where there was one; error_type: the provider's own word;
    request_id: the provider's id of the request; attempts: how many were made; retry_after: how many seconds the provider
    asks to wait; should_retry: its own word on whether that makes sense; partial: the Reply that had arrived before a
    stream failed; messages: the history of a tool loop that could not go on, ready to be sent again. Each may be None.
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
        facts: Dict[str, Any] = {
            "status": self.status,
            "type": self.error_type,
            "request id": self.request_id,
            "attempts": self.attempts if self.attempts and self.attempts > 1 else None,
        }
        told = ", ".join("{} {}".format(name, fact) for name, fact in facts.items() if fact is not None)
        message = super().__str__()
        return "{} ({})".format(message, told) if told else message


class AuthenticationError(InferenceError):
    """The provider does not accept the key, or none was given (401)."""


class PermissionDeniedError(InferenceError):
    """The key is valid and may not do this, or its account cannot pay for it (402, 403)."""


class InvalidRequestError(InferenceError):
    """The provider rejects the request as it stands; sending it again changes nothing (400, 413, 422)."""


class ContextLengthExceeded(InvalidRequestError):
    """The request, or the request and its max_tokens, is longer than the model's context window."""


class NotFoundError(InferenceError):
    """The provider does not know the model or the address (404)."""


class RateLimitError(InferenceError):
    """Too many requests or tokens (429); retry_after is in seconds, None where the provider told none."""


class OverloadedError(InferenceError):
    """The provider has no capacity just now (529, or an `overloaded_error` inside a stream)."""


class ProviderError(InferenceError):
    """The provider failed (5xx), or answered with something that its own wire does not allow."""


class ConnectionFailed(InferenceError, ConnectionError):
    """There was no connection, or it broke before the reply began."""


class ConnectTimeout(ConnectionFailed, TimeoutError):
    """No connection was made within `Timeout.connect` seconds."""


class IdleTimeout(InferenceError, TimeoutError):
    """Not a single byte arrived for `Timeout.idle` seconds. A provider's pings are bytes."""


class DeadlineExceeded(InferenceError, TimeoutError):
    """The call did not end within `Timeout.total` seconds, retries included."""


class StreamInterrupted(InferenceError):
    """The stream ended before the provider's own final event: what was received is not a whole reply.

    partial: the Reply so far, its stop_reason None; text and usage: those of it.
    """

    @property
    def usage(self) -> "Optional[Usage]":
        """The usage figures that had arrived before the cut, or None."""
        return self.partial.usage if self.partial is not None else None

    @property
    def text(self) -> str:
        """The text that had arrived before the cut."""
        return self.partial.text if self.partial is not None else ""


class BudgetExceeded(InferenceError):
    """A budget is used up, so the request was not sent; the message says which, and by how much.

    budget: the Budget itself.
    """

    budget: object = None


class OutputInvalid(InferenceError, ValueError):
    """The model did not give what `output=` asked for, nor when it was told what was wrong.

    reply: the raw reply, as it came.
    """

    @property
    def reply(self) -> "Optional[Reply]":
        """The raw reply that could not be validated."""
        return self.partial
