"""Tools: functions that a model may call, and how they are described to it."""

import copy
import functools
import inspect
import json
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, Union, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from asimov_sync.errors import ToolError, described

__all__ = ["Tool", "as_tools", "tool"]


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
        return self.function(**arguments)

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
            positional, named = self._arguments.validate_python(dict(arguments))
        except ValidationError as error:
            raise ValueError(_explained(error)) from None
        return self.function(*positional, **named)


@overload
def tool(function: Callable[..., Any]) -> Tool: ...


@overload
def tool(*, requires_approval: bool = False, sequential: bool = False) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Optional[Callable[..., Any]] = None, requires_approval: bool = False, sequential: bool = False) -> Any:
    """Make a tool of a typed function: its docstring is the description, its type hints are the schema.

    A decorator, plain or with arguments: `@tool` or `@tool(requires_approval=True, sequential=True)` (see `Tool`). Every
    argument has a name (no *args, **kwargs or positional-only ones). ToolError where a schema cannot be made.
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
    name = getattr(function, "__name__", type(function).__name__)
    try:
        signature = inspect.signature(function)
        gatherer: Any = _gatherer(function)
        adapter: "TypeAdapter[Any]" = TypeAdapter(gatherer)
        schema = adapter.json_schema()
    except Exception as error:
        raise ToolError("no schema can be made for the arguments of {}: {}".format(name, described(error))) from error
    unnamed = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if unnamed:
        raise ToolError("{} takes {}: a model can only give arguments by name".format(name, ", ".join(unnamed)))
    first = next(iter(signature.parameters.values()), None)
    if first is not None and first.name in ("self", "cls") and first.annotation is first.empty:
        raise ToolError("{} is a method without its object: make the tool of the bound one, tool(thing.{})".format(name, name))
    made = _TypedTool(function, name, inspect.getdoc(function) or "", schema)
    made._arguments = adapter
    return made


def _gatherer(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same signature that returns its arguments, so that they can be validated apart from the call."""

    @functools.wraps(function)
    def gather(*args: Any, **kwargs: Any) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
        return args, kwargs

    return gather


def _explained(error: ValidationError) -> str:
    """A validation error in words for a model: which argument, what is wrong."""
    lines = ["{}: {}".format(".".join(map(str, wrong["loc"])), wrong["msg"]) for wrong in error.errors()]
    return "the arguments do not fit: " + "; ".join(lines)


AnyTool = Union[Callable[..., Any], Tuple[Callable[..., Any], Dict[str, Any]]]
"""What is accepted where tools are asked for: a Tool, a typed function, or a function and its JSON schema."""


def as_tools(tools: Iterable[AnyTool]) -> Dict[str, Tool]:
    """Tools by name, from tools, typed functions and (function, schema) pairs.

    A schema is a definition ({"name", "description", "input_schema"}) or just the JSON schema of the arguments, which are
    then passed as they come. ToolError for two of one name.
    """
    named: Dict[str, Tool] = {}
    for given in tools:
        made = _from_pair(*given) if isinstance(given, tuple) else tool(given)
        if made.name in named:
            raise ToolError("there are two tools named {!r}".format(made.name))
        named[made.name] = made
    return named


def _from_pair(function: Callable[..., Any], schema: Dict[str, Any]) -> Tool:
    name = getattr(function, "__name__", type(function).__name__)
    description = inspect.getdoc(function) or ""
    if "input_schema" in schema:
        return Tool(function, schema.get("name", name), schema.get("description", description), schema["input_schema"])
    return Tool(function, name, description, schema)


def result_text(result: Any) -> str:
    """What a tool returned, as text for a model: text as it is, everything else as JSON."""
    if isinstance(result, str):
        return result
    return json.dumps(to_jsonable_python(result), ensure_ascii=False)
