"""Tools: functions that a model may call, and their descriptions for it."""

import collections.abc
import copy
import functools
import inspect
import json
import re
import warnings
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union, overload

import typing_extensions
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from asimov_sync._json import format_error
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import ToolDefinitionError
from asimov_sync.messages import ToolCall

__all__ = [
    "AnyTool",
    "RequiresApproval",
    "Tool",
    "as_tools",
    "format_validation_error",
    "make_tool",
    "result_text",
    "tool",
]

logger = get_logger("asimov_sync.inference")

RequiresApproval = Union[bool, Callable[[ToolCall], bool]]
"""True if the calls of a tool need an approval, False if not, or a function that decides it for a
call. A call is made without an approval only if the function returns False."""


class Tool:
    """A function with a name, a description and a JSON schema of its arguments.

    Calling the tool calls the function.

    function: the function.
    name: its name for the model.
    description: its description for the model.
    input_schema: the JSON schema of its arguments.

    requires_approval: whether a tool loop stops for an approval before it makes a call: a bool, or
        a function of the ToolCall.
    sequential: whether no other call of the same turn runs during a call of this tool.
    """

    requires_approval: RequiresApproval = False
    sequential = False

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        description: str,
        input_schema: Dict[str, Any],
    ) -> None:
        self.function = function
        self.name = name
        self.description = description
        self.input_schema = input_schema
        copied = ("__doc__", "__module__", "__name__", "__qualname__")
        functools.update_wrapper(self, function, assigned=copied, updated=())

    @property
    def definition(self) -> Dict[str, Any]:
        """The definition that is sent to the model."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": self.input_schema,
        }

    def needs_approval(self, call: ToolCall) -> bool:
        """Return whether a call needs an approval.

        call: a call of this tool.

        If the function in `requires_approval` raises an exception, the call needs an approval.
        """
        if not callable(self.requires_approval):
            return self.requires_approval
        try:
            return self.requires_approval(call) is not False
        except Exception as error:
            # The message may quote the arguments, so it is not logged.
            logger.error(
                "requires_approval= of the tool %s failed with %s; the call needs an approval",
                self.name,
                type(error).__name__,
            )
            return True

    def check_arguments(self, arguments: Dict[str, Any]) -> None:
        """Raise ValueError if the arguments do not match the schema.

        If the schema was passed with the function, only the names of the arguments are checked.
        """
        names = self.input_schema.get("properties", {})
        missing = [name for name in self.input_schema.get("required", ()) if name not in arguments]
        unknown = [name for name in arguments if name not in names]
        if missing:
            raise ValueError(f"the arguments do not fit: {', '.join(missing)} missing")
        if unknown and self.input_schema.get("additionalProperties") is False:
            raise ValueError(f"the arguments do not fit: there is no {', '.join(unknown)}")

    def call(self, arguments: Dict[str, Any]) -> Any:
        """Call the function with a model's arguments.

        Raises ValueError, with a message for the model, if the arguments do not match the schema.
        """
        # The history holds the same arguments, and the function may change its own.
        return self.function(**copy.deepcopy(arguments))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


class _TypedTool(Tool):
    """A tool whose arguments are validated against the function's type hints."""

    _arguments: "TypeAdapter[Any]"

    def check_arguments(self, arguments: Dict[str, Any]) -> None:
        """Raise ValueError if the arguments do not match the schema."""
        self._validate(arguments)

    def call(self, arguments: Dict[str, Any]) -> Any:
        """Validate a model's arguments, and call the function with them.

        Raises ValueError, with a message for the model, if the arguments do not match the schema.
        """
        positional, named = self._validate(arguments)
        return self.function(*positional, **named)

    def _validate(self, arguments: Dict[str, Any]) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
        try:
            # Validate JSON, not Python values: a strict model accepts a date from JSON only.
            validated: Tuple[Tuple[Any, ...], Dict[str, Any]] = self._arguments.validate_json(
                json.dumps(arguments)
            )
        except ValidationError as error:
            message = "the arguments do not fit: " + format_validation_error(error)
            raise ValueError(message) from None
        return validated


@overload
def tool(function: Callable[..., Any]) -> Tool: ...


@overload
def tool(
    *, requires_approval: RequiresApproval = False, sequential: bool = False
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Optional[Callable[..., Any]] = None,
    *,
    requires_approval: RequiresApproval = False,
    sequential: bool = False,
) -> Any:
    """Make a tool of a typed function, as a decorator with or without arguments.

    The docstring is the description; the type hints are the schema. Every argument needs a name:
    *args, **kwargs and positional-only arguments are rejected. A function without a docstring, or
    with a parameter without a type hint, causes a warning.

    function: the function.
    requires_approval: whether a tool loop stops for an approval before it makes a call (False). A
        function is called with the ToolCall; the call is made without an approval only if it
        returns False.
    sequential: whether no other call of the same turn runs during a call of this tool (False).

    Raises ToolDefinitionError if no schema can be made, and TypeError unless requires_approval is
    a bool or a function that is not async.
    """
    if not isinstance(requires_approval, bool) and not _is_function(requires_approval):
        raise TypeError(
            "requires_approval= is True, False, or a function of the ToolCall that returns one of "
            f"them; not {requires_approval!r}"
        )
    if function is None:
        return functools.partial(tool, requires_approval=requires_approval, sequential=sequential)
    made = function if isinstance(function, Tool) else make_tool(function)
    if requires_approval or sequential:
        made = copy.copy(made)
        made.requires_approval = requires_approval or made.requires_approval
        made.sequential = made.sequential or sequential
    return made


def _is_function(value: Any) -> bool:
    """Return whether a value is a function that is not async: a coroutine would count as True."""
    if not callable(value):
        return False
    function = value if inspect.isroutine(value) else type(value).__call__
    return not inspect.iscoroutinefunction(function)


def make_tool(
    function: Callable[..., Any], name: Optional[str] = None, description: Optional[str] = None
) -> Tool:
    """Make a tool of a typed function.

    function: the function.
    name: the tool's name (default: the function's).
    description: the tool's description (default: the function's docstring).

    Raises ToolDefinitionError if no schema can be made.
    """
    inner = _unwrap_partial(function)
    name = name if name is not None else getattr(inner, "__name__", type(inner).__name__)
    is_plain = inspect.isroutine(inner) or inspect.isclass(inner)
    plain = inner if is_plain else type(inner).__call__
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise ToolDefinitionError(
            f"{name} is an async function, but tools are called on threads: make a tool of a "
            "function that runs it with asyncio.run(…)"
        )
    try:
        signature = inspect.signature(function)
        gatherer: Any = _gatherer(plain, signature)
        adapter: "TypeAdapter[Any]" = TypeAdapter(gatherer)
        schema = adapter.json_schema()
    except Exception as error:
        raise ToolDefinitionError(
            f"no schema can be made for the arguments of {name}: {format_error(error)}"
        ) from error
    unnamed = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if unnamed:
        raise ToolDefinitionError(
            f"{name} takes {', '.join(unnamed)}: a model can only give arguments by name"
        )
    first = next(iter(signature.parameters.values()), None)
    if first is not None and first.name in ("self", "cls") and first.annotation is first.empty:
        raise ToolDefinitionError(
            f"{name} is a method without its object: make a tool of the bound method, "
            f"tool(thing.{name})"
        )
    if description is None:
        description = inspect.getdoc(inner) or ""
        _warn_of_gaps(name, description, inner, signature)
    made = _TypedTool(function, _check_name(name), description, schema)
    made._arguments = adapter
    return made


def _warn_of_gaps(
    name: str, description: str, inner: Callable[..., Any], signature: inspect.Signature
) -> None:
    """Warn if the docstring or a type hint is missing: the model gets no other description."""
    untyped = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
    ]
    gaps: List[str] = []
    if not description:
        gaps.append("no docstring: the model gets no description of it")
    if untyped:
        gaps.append(f"no type hint for {', '.join(untyped)}: the model gets no type")
    for gap in gaps:
        message = f"the tool {name} has {gap}"
        code = getattr(inner, "__code__", None)
        if code is None:
            warnings.warn(message, stacklevel=4)
        else:  # show the line of the function, by default only once
            warnings.warn_explicit(
                message,
                UserWarning,
                code.co_filename,
                code.co_firstlineno,
                module=inner.__module__,
                registry=getattr(inner, "__globals__", {}).setdefault("__warningregistry__", {}),
            )


def _unwrap_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside a partial, which has the name and the docstring."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _check_name(name: str) -> str:
    if re.match(r"[A-Za-z0-9_-]{1,64}\Z", name) is None:
        raise ToolDefinitionError(
            f"{name!r} is not a valid tool name (1 to 64 letters, digits, _ and -): give one, "
            'in (function, {"name": …, "input_schema": …})'
        )
    return name


def _gatherer(plain: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """Return a function of this signature that returns its arguments.

    It validates the arguments without calling the tool's function.
    """

    def gather(*args: Any, **kwargs: Any) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
        return args, kwargs

    gatherer: Callable[..., Any] = gather
    gatherer.__signature__ = signature  # type: ignore[attr-defined]
    try:
        hints = typing_extensions.get_type_hints(plain, include_extras=True)
    except Exception:
        # A hint may name a local variable of the enclosing function. pydantic finds it, or reports
        # the missing name.
        hints = {}
    gatherer.__annotations__ = {
        parameter.name: hints.get(parameter.name, parameter.annotation)
        for parameter in signature.parameters.values()
        if parameter.annotation is not parameter.empty
    }
    gatherer.__module__ = plain.__module__  # pydantic resolves hints given as strings there
    return gatherer


def format_validation_error(error: ValidationError) -> str:
    """Return a validation error as text for a model: each location and its problem."""
    lines = [
        f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "; ".join(lines)


AnyTool = Union[Callable[..., Any], Tuple[Callable[..., Any], Dict[str, Any]]]
"""An item of `tools=`: a Tool, a typed function, or a function and its JSON schema."""


def as_tools(tools: Iterable[AnyTool]) -> Dict[str, Tool]:
    """Return the tools by name.

    tools: tools, typed functions, and (function, schema) pairs. A schema is a definition ({"name",
        "description", "input_schema"}) or only the JSON schema of the arguments, which are then
        passed without validation.

    Raises ToolDefinitionError for two tools with one name, and TypeError if `tools` is not a
    list of tools.
    """
    if callable(tools) or isinstance(tools, (str, bytes, collections.abc.Mapping)):
        raise TypeError(f"tools= is a list of tools: [{tools!r}], for example")
    named: Dict[str, Tool] = {}
    for one in tools:
        if not callable(one) and not (isinstance(one, tuple) and len(one) == 2):
            raise TypeError(
                f"a tool is a function, a Tool or a pair (function, schema); not {one!r}"
            )
        made = _from_pair(*one) if isinstance(one, tuple) else tool(one)
        if made.name in named:
            raise ToolDefinitionError(f"there are two tools named {made.name!r}")
        named[made.name] = made
    return named


def _from_pair(function: Callable[..., Any], schema: Dict[str, Any]) -> Tool:
    inner = _unwrap_partial(function)
    definition: Dict[str, Any] = schema if "input_schema" in schema else {"input_schema": schema}
    if "name" in definition:
        name = definition["name"]
    else:
        name = _check_name(getattr(inner, "__name__", type(inner).__name__))
    description = definition.get("description", inspect.getdoc(inner) or "")
    return Tool(function, name, description, definition["input_schema"])


def result_text(result: Any) -> str:
    """Return a tool's result as text for a model: text unchanged, anything else as JSON.

    Raises TypeError or ValueError if JSON cannot represent it.
    """
    if isinstance(result, str):
        return result
    try:
        return json.dumps(to_jsonable_python(result), ensure_ascii=False)
    except PydanticSerializationError as error:
        raise TypeError(
            f"the tool returned {type(result).__name__}, which JSON cannot represent ({error}): "
            "return text, numbers, lists, dicts or pydantic models"
        ) from error
