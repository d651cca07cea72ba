"""The scope of a context: what this library carries from a caller to the work done for it.

The scope is one record in one context variable. A copy of the context (`contextvars.copy_context`)
has the same scope, so worker threads, tools and nested agents see what applied where their work was
requested. The modules that own a field interpret it; here the values are opaque.
"""

import contextvars
from typing import Any, Callable, NamedTuple, Optional, Tuple

__all__ = ["Scope", "current", "extend", "remove", "replace"]


class Scope(NamedTuple):
    """An immutable record of what applies in a context. Tuples begin with the outermost entry.

    cancellation: the chain of entered tokens, a pair (current token, enclosing chain), or None.
    usage_counters: the counters to which the usage of each reply is added.
    budgets: the budgets that limit and record each request.
    text_listeners: the callbacks that receive the text of each reply.
    worker_slots: pairs (threads, job): the threads that run the enclosing tasks and, if these are a
        WorkerPool, the job that occupies a worker there, otherwise None.
    run_inline: if True, work that usually runs on several threads at once runs on the calling
        thread, one call after the other. A scheduler with `max_workers=0` sets this: for debuggers,
        and for Django's TestCase, whose transaction belongs to one thread.
    task_context: the TaskContext of the innermost task, or None.
    agent_depth: how deep agents that call agents as tools are nested here; 0 outside of agents.
    operation: which part of the innermost task this is: the names of steps and the ids of tool
        calls around it, the outermost first.
    transcript: the Transcript that the next tool loop takes, or None.
    span_recorders: the recorders that keep the times of each request and tool call.
    """

    cancellation: Optional[Tuple[Any, Any]] = None  # first: Cancellation reads it by position
    usage_counters: Tuple[Any, ...] = ()
    budgets: Tuple[Any, ...] = ()
    text_listeners: Tuple[Any, ...] = ()
    worker_slots: Tuple[Any, ...] = ()
    run_inline: bool = False
    task_context: Any = None
    agent_depth: int = 0
    operation: Tuple[str, ...] = ()
    transcript: Any = None
    span_recorders: Tuple[Any, ...] = ()


_EMPTY = Scope()
_variable: "contextvars.ContextVar[Scope]" = contextvars.ContextVar("asimov_scope", default=_EMPTY)
_positions = {field: position for position, field in enumerate(Scope._fields)}
_make = tuple.__new__  # builds a Scope in a third of the time of Scope(...)

current: Callable[[], Scope] = _variable.get
"""Return the scope of the current context. (This is the method of the context variable itself, for
speed.)"""

# Each function below reads the scope, computes a new one, and stores it only if the scope has not
# changed since. It changes if the garbage collector closes a generator in between, because the end
# of a `with` block in that generator sets the scope, too.


def extend(
    usage_counter: Any = None,
    budget: Any = None,
    text_listener: Any = None,
    worker_slot: Any = None,
    task_context: Any = None,
    cancellation: Optional[Tuple[Any, Any]] = None,
    span_recorder: Any = None,
) -> None:
    """Append an entry to one or more fields of the scope, for the rest of the current context.

    usage_counter, budget, text_listener, worker_slot, span_recorder: the new innermost entry of the
        field; None (the default) adds none.
    task_context, cancellation: replace those of the scope; None (the default) keeps them. A new
        task_context begins a new operation.
    """
    while True:
        before = current()
        (
            chain,
            counters,
            budgets,
            listeners,
            slots,
            run_inline,
            task,
            depth,
            operation,
            transcript,
            recorders,
        ) = before
        after = _make(
            Scope,
            (
                chain if cancellation is None else cancellation,
                counters if usage_counter is None else counters + (usage_counter,),
                budgets if budget is None else budgets + (budget,),
                listeners if text_listener is None else listeners + (text_listener,),
                slots if worker_slot is None else slots + (worker_slot,),
                run_inline,
                task if task_context is None else task_context,
                depth,
                operation if task_context is None else (),
                transcript,
                recorders if span_recorder is None else recorders + (span_recorder,),
            ),
        )
        if current() is before:
            _variable.set(after)
            return


def replace(**fields: Any) -> None:
    """Replace fields of the scope, for the rest of the current context.

    fields: the new values, by the names of the fields.

    Raises KeyError for the name of an unknown field.
    """
    while True:
        before = current()
        values = list(before)
        for field, value in fields.items():
            values[_positions[field]] = value
        if current() is before:
            _variable.set(_make(Scope, values))
            return


def remove(field: str, entry: Any) -> None:
    """Remove the innermost occurrence of an entry from a field. Other entries keep their order.

    field: the name of the field, one that holds a tuple.
    entry: the entry to remove. Nothing happens if the field does not contain it.
    """
    position = _positions[field]
    while True:
        before = current()
        entries = list(reversed(getattr(before, field)))
        if entry not in entries:
            return
        entries.remove(entry)
        values = list(before)
        values[position] = tuple(reversed(entries))
        if current() is before:
            _variable.set(_make(Scope, values))
            return


def set_cancellation(chain: Optional[Tuple[Any, Any]]) -> None:
    """Replace the field `cancellation`. Takes half the time of `replace`.

    chain: the new value.
    """
    while True:
        before = current()
        after = _make(Scope, (chain,) + before[1:])
        if current() is before:
            _variable.set(after)
            return
