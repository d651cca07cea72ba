"""Tools: functions that a model may call, and how they are described to it."""

import copy
import functools
import inspect
import json
import re
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, Union, overload

import typing_extensions
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from asimov_sync._json import format_error
from asimov_sync.errors import ToolDefinitionError

__all__ = ["Tool", "as_tools", "explained", "tool"]


class Tool:
    """A function with a name, a description and a JSON schema of its arguments. Calling it calls the function.

    requires_approval: a tool loop does not call it before somebody has approved of the call. sequential: its calls are
    made alone, while no other call of the same turn is.
    """

    requires_approval = False
    sequential = False

    def __init__(self, function: Callable[..., Any], name: str, description: str, input_schema: Dict[str, Any]) -> None:
        self.function = function
        self.name = name
        self.description = description
        self.input_schema = input_schema
        functools.update_wrapper(self, function, assigned=("__doc__", "__module__", "__name__", "__qualname__"), updated=())

    @property
    def definition(self) -> Dict[str, Any]:
        """What a model is told of it."""
        return {"name": self.name, "description": self.description, "input_schema": self.input_schema}

    def call(self, arguments: Dict[str, Any]) -> Any:
        """Call the function with what a model sent. ValueError, for the model to read, if the arguments do not fit."""
        return self.function(**copy.deepcopy(arguments))  # they are in the history as well, whatever the function does to them

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return "<Tool {}>".format(self.name)


class _TypedTool(Tool):
    """A tool whose arguments are validated by the function's own type hints."""

    _arguments: "TypeAdapter[Any]"

    def call(self, arguments: Dict[str, Any]) -> Any:
        """Validate the arguments, and call the function with them; ValueError, for the model to read, if they do not fit."""
        try:
            # JSON, and not Python's values: a strict model takes a date from the one, and not from the other.
            positional, named = self._arguments.validate_json(json.dumps(arguments))
        except ValidationError as error:
            raise ValueError("the arguments do not fit: " + explained(error)) from None
        return self.function(*positional, **named)


@overload
def tool(function: Callable[..., Any]) -> Tool: ...


@overload
def tool(*, requires_approval: bool = False, sequential: bool = False) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Optional[Callable[..., Any]] = None, requires_approval: bool = False, sequential: bool = False) -> Any:
    """Make a tool of a typed function: its docstring is the description, its type hints are the schema.

    A decorator, plain or with arguments: `@tool` or `@tool(requires_approval=True, sequential=True)` (see `Tool`). Every
    argument has a name (no *args, **kwargs or positional-only ones). ToolDefinitionError where a schema cannot be made.
    """
    if function is None:
        return functools.partial(tool, requires_approval=requires_approval, sequential=sequential)
    made = function if isinstance(function, Tool) else _described(function)
    if requires_approval or sequential:
        made = copy.copy(made)
        made.requires_approval = made.requires_approval or requires_approval
        made.sequential = made.sequential or sequential
    return made


def _described(function: Callable[..., Any]) -> Tool:
    inner = _inner(function)
    name: str = getattr(inner, "__name__", type(inner).__name__)
    plain = inner if inspect.isroutine(inner) or inspect.isclass(inner) else type(inner).__call__
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise ToolDefinitionError(
            "{} is an async function, and tools are called on threads: make the tool of a function that runs it, "
            "with asyncio.run(…)".format(name)
        )
    try:
        signature = inspect.signature(function)
        gatherer: Any = _gatherer(plain, signature)
        adapter: "TypeAdapter[Any]" = TypeAdapter(gatherer)
        schema = adapter.json_schema()
    except Exception as error:
        raise ToolDefinitionError("no schema can be made for the arguments of {}: {}".format(name, format_error(error))) from error
    unnamed = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if unnamed:
        raise ToolDefinitionError("{} takes {}: a model can only give arguments by name".format(name, ", ".join(unnamed)))
    first = next(iter(signature.parameters.values()), None)
    if first is not None and first.name in ("self", "cls") and first.annotation is first.empty:
        raise ToolDefinitionError("{} is a method without its object: make the tool of the bound one, tool(thing.{})".format(name, name))
    made = _TypedTool(function, _checked(name), inspect.getdoc(inner) or "", schema)
    made._arguments = adapter
    return made


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a partial is of, with the name and the docstring."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _checked(name: str) -> str:
    if re.match(r"[A-Za-z0-9_-]{1,64}\Z", name) is None:
        raise ToolDefinitionError(
            "{!r} is no name for a tool, which is of letters, digits, _ and -, 64 at the most: give one, "
            'in (function, {{"name": …, "input_schema": …}})'.format(name)
        )
    return name


def _gatherer(plain: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """A function of that signature that returns its arguments, so that they can be validated apart from the call."""

    def gather(*args: Any, **kwargs: Any) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
        return args, kwargs

    made: Any = gather
    made.__signature__ = signature
    named = signature.parameters.values()
    try:
        hints = typing_extensions.get_type_hints(plain, include_extras=True)
    except Exception:  # a name of the function around it, say: pydantic looks further, and tells what it does not find
        hints = {}
    made.__annotations__ = {one.name: hints.get(one.name, one.annotation) for one in named if one.annotation is not one.empty}
    made.__module__ = plain.__module__  # where hints that are text are looked up
    return gather


def explained(error: ValidationError) -> str:
    """A validation error in words for a model: where, and what is wrong there."""
    lines = ["{}: {}".format(".".join(map(str, wrong["loc"])) or "the whole", wrong["msg"]) for wrong in error.errors()]
    return "; ".join(lines)


AnyTool = Union[Callable[..., Any], Tuple[Callable[..., Any], Dict[str, Any]]]
"""What is accepted where tools are asked for: a Tool, a typed function, or a function and its JSON schema."""


def as_tools(tools: Iterable[AnyTool]) -> Dict[str, Tool]:
    """Tools by name, from tools, typed functions and (function, schema) pairs.

    A schema is a definition ({"name", "description", "input_schema"}) or just the JSON schema of the arguments, which are
    then passed as they come. ToolDefinitionError for two of one name.
    """
    named: Dict[str, Tool] = {}
    for given in tools:
        made = _from_pair(*given) if isinstance(given, tuple) else tool(given)
        if made.name in named:
            raise ToolDefinitionError("there are two tools named {!r}".format(made.name))
        named[made.name] = made
    return named


def _from_pair(function: Callable[..., Any], schema: Dict[str, Any]) -> Tool:
    inner = _inner(function)
    told: Dict[str, Any] = schema if "input_schema" in schema else {"input_schema": schema}
    name = told["name"] if "name" in told else _checked(getattr(inner, "__name__", type(inner).__name__))
    return Tool(function, name, told.get("description", inspect.getdoc(inner) or ""), told["input_schema"])


def result_text(result: Any) -> str:
    """What a tool returned, as text for a model: text as it is, everything else as JSON."""
    if isinstance(result, str):
        return result
    return json.dumps(to_jsonable_python(result), ensure_ascii=False)
