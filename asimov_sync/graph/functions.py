"""Callables in place of tasks: handlers that are given to a graph, and plain functions.

A plain function becomes a task by means of a handler that calls it: FunctionCall with arguments
of its own, ItemCall with an item of a map.
"""

import functools
import inspect
import types
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from asimov_sync.errors import GraphError
from asimov_sync.tasks import Task

__all__ = [
    "COROUTINE_HINT",
    "FunctionCall",
    "ItemCall",
    "ResultOf",
    "describe",
    "find_argument_fault",
    "find_fault",
    "is_async",
    "make_call",
    "make_function_handler",
    "make_task",
    "replace_tasks",
    "takes_second_argument",
]

COROUTINE_HINT = "make blocking calls, or call asyncio.run() inside it"


class ResultOf(NamedTuple):
    """Stands for the result of a dependency in the params of a task.

    name: the name of the dependency, as the task uses it.
    """

    name: str


# Signatures and names


def _read_signature(function: Callable[..., Any]) -> Optional[inspect.Signature]:
    """Return the signature; None if it is unknown, as that of some functions written in C."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _without_partials(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_async(function: Any) -> bool:
    """Return whether a call of the function returns a coroutine or an async generator."""
    function = _without_partials(function)
    if not isinstance(function, (types.FunctionType, types.MethodType)):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def describe(function: Callable[..., Any]) -> Tuple[str, str]:
    """Return the task type of a callable, which is its `__qualname__`, and its short name.

    An object that is not a function has both from its attribute `name`, as an Agent does.

    Raises GraphError if that is None.
    """
    function = _without_partials(function)
    qualified = getattr(function, "__qualname__", None)
    if isinstance(qualified, str):
        return qualified, getattr(function, "__name__", qualified)
    kind = type(function)
    name = getattr(function, "name", kind.__qualname__)
    if isinstance(name, str) and name:
        return name, name
    raise GraphError(
        f"{function!r} has no name, which would be the type of its task: "
        f'make it with a name, as in {kind.__name__}(…, name="research")'
    )


def find_fault(function: Any, arguments: str = "(task, context)") -> str:
    """Return what is wrong with a callable, as the end of a sentence; "" if nothing is.

    arguments: the positional arguments that it is called with; by default those of a handler.
    """
    if not callable(function):
        return f"is a function of {arguments}, not {function!r}"
    if is_async(function):
        return f"is a coroutine function; it has to be a plain one: {COROUTINE_HINT}"
    signature = _read_signature(function)
    if signature is not None:
        try:
            signature.bind(*arguments.split(","))
        except TypeError:
            return f"is a function of {arguments}, and this one takes {signature}"
    return ""


def find_argument_fault(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Return why a function cannot be called with arguments by name; "" if it can."""
    signature = _read_signature(function)
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            return str(error)
    return ""


def takes_second_argument(function: Any) -> bool:
    """Return whether the second positional parameter of a callable exists and has no default."""
    signature = _read_signature(function)
    if signature is None:
        return False
    positional = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(positional) > 1 and positional[1].default is inspect.Parameter.empty


def make_task(
    given: Any, objective: str, params: Optional[Mapping[str, Any]], named_after: Any = None
) -> Tuple[Task, Optional[Callable[..., Any]]]:
    """Return the task for an argument of `add`, and the handler if the argument is a handler.

    given: a task or a handler.
    objective, params: those of the new task of a handler.
    named_after: the callable whose name is the type; by default the handler.

    Raises GraphError for anything else, and for arguments that do not fit.
    """
    if isinstance(given, Task):
        if objective or params is not None:
            raise GraphError(
                "objective= and params= are for a handler; a Task has its own: "
                "Task(type=…, objective=…, params=…)"
            )
        return given, None
    if not callable(given):
        raise GraphError(
            f"a graph holds Tasks and handlers, which are functions of (task, context); "
            f"not {given!r}, a {type(given).__name__}"
        )
    task_type, _ = describe(named_after or given)
    fault = find_fault(given)
    if fault:
        raise GraphError(f"the handler {task_type!r} {fault}; graph.call(…) adds a plain function")
    if not isinstance(objective, str):
        raise GraphError(f"objective= is a string, not {objective!r}")
    if params is not None and not isinstance(params, Mapping):
        raise GraphError(f"params= is a dict of the handler's arguments, not {params!r}")
    return Task(type=task_type, objective=objective, params=dict(params or {})), given


# Plain functions


def replace_tasks(value: Any, find_name: Callable[[Task], str], found: List[str]) -> Any:
    """Return the value with a ResultOf in place of each task.

    value: an argument: a task, or a list, tuple or dict of them, or anything else.
    find_name: returns the name of a task.
    found: receives the names.
    """

    def replace(one: Any) -> Any:
        if not isinstance(one, Task):
            return one
        found.append(find_name(one))
        return ResultOf(found[-1])

    if type(value) in (list, tuple) and any(isinstance(one, Task) for one in value):
        return type(value)(map(replace, value))
    if type(value) is dict and any(isinstance(one, Task) for one in value.values()):
        return {key: replace(one) for key, one in value.items()}
    return replace(value)


def _insert_results(value: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the value with the result of the dependency in place of each ResultOf.

    A dependency without a result is replaced by None.
    """

    def insert(one: Any) -> Any:
        return inputs.get(one.name) if type(one) is ResultOf else one

    if type(value) in (list, tuple):
        return type(value)(map(insert, value))
    if type(value) is dict:
        return {key: insert(one) for key, one in value.items()}
    return insert(value)


class FunctionCall:
    """The handler that calls a plain function. The params of its task are the arguments, by name.

    function: the function. A function whose signature is unknown has the params "args" and
        "kwargs".
    has_references: whether an argument holds a ResultOf.
    """

    def __init__(self, function: Callable[..., Any], has_references: bool = False) -> None:
        self.function = function
        self.has_references = has_references
        self._signature = _read_signature(function)

    def bind(self, args: Iterable[Any], kwargs: Dict[str, Any]) -> Dict[str, Any]:
        """Return the params for these arguments; raises TypeError if the function refuses them."""
        if self._signature is None:
            return {"args": tuple(args), "kwargs": kwargs}
        return dict(self._signature.bind(*args, **kwargs).arguments)

    @property
    def parameters(self) -> Iterable[str]:
        """The names that the params may have."""
        return ("args", "kwargs") if self._signature is None else self._signature.parameters

    def __call__(self, task: Task, context: Any) -> Any:
        params = task.params
        if self._signature is None:
            args, kwargs = params["args"], params["kwargs"]
        else:
            bound = inspect.BoundArguments(self._signature, params)
            args, kwargs = bound.args, bound.kwargs
        if self.has_references:
            args = [_insert_results(one, context.inputs) for one in args]
            kwargs = {key: _insert_results(one, context.inputs) for key, one in kwargs.items()}
        return self.function(*args, **kwargs)

    def __reduce__(self) -> Tuple[Any, ...]:
        return FunctionCall, (self.function, self.has_references)

    def __repr__(self) -> str:
        return f"<FunctionCall of {describe(self.function)[0]}>"


def make_call(
    function: Any, args: List[Any], kwargs: Dict[str, Any], has_references: bool
) -> Tuple[Task, FunctionCall]:
    """Return a task that calls a plain function, and its handler.

    args, kwargs: the arguments, with a ResultOf in place of each task.
    has_references: whether there is any.

    Raises GraphError for a function that refuses them.
    """
    if not callable(function):
        raise GraphError(f"call takes a function and its arguments, not {function!r}")
    task_type, name = describe(function)
    if is_async(function):
        raise GraphError(f"the function {task_type!r} {find_fault(function)}")
    handler = FunctionCall(function, has_references)
    try:
        params = handler.bind(args, kwargs)
    except TypeError as error:
        raise GraphError(f"{name!r} cannot be called with these arguments: {error}") from error
    return Task(type=task_type, params=params), handler


class ItemCall:
    """The handler that calls a function with the item of a map, which is the param "item".

    function: the function of one argument.
    has_references: whether the item holds a ResultOf.
    """

    def __init__(self, function: Callable[..., Any], has_references: bool = False) -> None:
        self.function = function
        self.has_references = has_references

    def __call__(self, task: Task, context: Any) -> Any:
        item = task.params["item"]
        if self.has_references:
            item = _insert_results(item, context.inputs)
        return self.function(item)

    def __repr__(self) -> str:
        return f"<ItemCall of {describe(self.function)[0]}>"


def make_function_handler(function: Any) -> Union[ItemCall, Callable[..., Any]]:
    """Return the handler for a callable that was given to `map`.

    A function with one required parameter is called with the item; one with two is a handler.

    Raises GraphError for any other signature.
    """
    if not callable(function):
        raise GraphError(
            f"map takes a Task, a handler, or a function of the item; not {function!r}"
        )
    fault = find_fault(function) if is_async(function) else ""
    signature = None if fault else _read_signature(function)
    required = 1  # a function in C, which is not a handler
    if signature is not None:
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = signature.parameters.values()
        required = sum(one.default is one.empty and one.kind not in kinds for one in parameters)
        try:
            signature.bind(*[None] * required)
        except TypeError:  # a keyword-only parameter
            required = 0
        if required not in (1, 2):
            fault = (
                "is a function of the item, or a handler of (task, context), "
                f"and this one takes {signature}"
            )
    if fault:
        raise GraphError(f"the function {describe(function)[0]!r} of a map {fault}")
    return ItemCall(function) if required == 1 else function
