"""Tools: schemas from type hints, validated arguments, results as text."""

import asyncio
import dataclasses
import datetime
import enum
import functools
import json
import math
import threading
import warnings
from typing import Any, Dict, List, Optional, Tuple, Union

import pydantic
import pytest
from typing_extensions import Annotated, Literal, TypedDict

from asimov_sync import Agent, Tool, ToolDefinitionError, ToolError, tool
from asimov_sync.inference.tools.tool import as_tools, result_text
from asimov_sync.testing import ScriptedInferenceClient, calls


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Place(pydantic.BaseModel):
    city: str
    zip: Optional[int] = None


@tool
def forecast(
    place: Place,
    days: int = 3,
    unit: Unit = Unit.CELSIUS,
    model_name: str = "",
    *,
    json: bool = False,
) -> Dict[str, Any]:
    """Report the weather of the coming days.

    days: number of days.
    """
    return {"city": place.city, "days": days, "unit": unit, "model": model_name, "json": json}


def test_definition():
    """Name, description and schema come from the function. Arguments may have any name."""
    assert forecast.definition["name"] == "forecast"
    assert forecast.definition["description"].startswith(
        "Report the weather of the coming days.\n\ndays: number of days."
    )
    schema = forecast.definition["input_schema"]
    assert schema["type"] == "object"
    assert set(schema["properties"]) == {"place", "days", "unit", "model_name", "json"}
    assert schema["required"] == ["place"]
    assert schema["properties"]["days"]["default"] == 3


def test_a_call_is_validated():
    """Arguments arrive as the types of the hints, with defaults for absent ones."""
    result = forecast.call({"place": {"city": "Rome"}, "unit": "fahrenheit", "days": 2})
    assert result == {
        "city": "Rome",
        "days": 2,
        "unit": Unit.FAHRENHEIT,
        "model": "",
        "json": False,
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "place: "),
        ({"place": {"city": 1}}, "place.city: "),
        ({"place": {"city": "x"}, "days": "many"}, "days: "),
        ({"place": {"city": "x"}, "dais": 1}, "dais: "),
    ],
)
def test_invalid_arguments(arguments, message):
    """A ValueError names the invalid argument, without the validation library's links."""
    with pytest.raises(ValueError, match="do not fit") as caught:
        forecast.call(arguments)
    assert message in str(caught.value)
    assert "http" not in str(caught.value)


def test_tool_as_a_function():
    """Called from Python, a tool behaves as its function, with its name and docstring."""
    assert isinstance(forecast, Tool)
    assert forecast(Place(city="Rome"))["days"] == 3
    assert (forecast.__name__, forecast.__doc__[:4]) == ("forecast", "Repo")
    assert tool(forecast) is forecast


def test_methods_and_functions_without_arguments():
    """A bound method is a tool without self; a function without arguments takes an empty object."""

    class Library:
        def find(self, title: str) -> str:
            return title

    assert tool(Library().find).call({"title": "x"}) == "x"

    def now() -> int:
        return 7

    assert tool(now).call({}) == 7
    assert tool(now).definition["input_schema"]["properties"] == {}
    assert tool(now).definition["description"] == ""


def test_functions_that_cannot_be_tools():
    """Arguments without names, or of a type without a schema, are a ToolDefinitionError."""
    with pytest.raises(ToolDefinitionError, match="rest"):
        tool(lambda *rest: None)
    with pytest.raises(ToolDefinitionError, match="others"):
        tool(lambda **others: None)

    def invalid(x: object()):
        pass

    with pytest.raises(ToolDefinitionError, match="invalid"):
        tool(invalid)


def test_pairs_and_plain_functions():
    """A typed function, and a function with its schema, are tools; a repeated name is an error."""

    def plain(a: int) -> int:
        """Plain."""
        return a

    schema = {"type": "object", "properties": {"a": {}}}
    tools = as_tools(
        [plain, (lambda a: a, {"name": "other", "description": "d", "input_schema": schema})]
    )
    assert tools["plain"].call({"a": "1"}) == 1
    assert tools["other"].definition == {
        "name": "other",
        "description": "d",
        "input_schema": schema,
    }
    assert tools["other"].call({"a": "1"}) == "1"
    with_schema = as_tools([(plain, schema)])["plain"]
    assert (with_schema.description, with_schema.input_schema) == ("Plain.", schema)
    with pytest.raises(ToolDefinitionError, match="two tools named 'plain'"):
        as_tools([plain, plain])


def test_results_as_text():
    """Text is unchanged, everything else is JSON; a value that JSON cannot represent raises."""
    assert result_text("é") == "é"
    assert (
        result_text({"a": [Place(city="é"), Unit.CELSIUS]})
        == '{"a": [{"city": "é", "zip": null}, "celsius"]}'
    )
    assert result_text(None) == "null"
    with pytest.raises(Exception, match="serialize"):
        result_text(object())


def test_lists_and_optionals():
    """Containers and optionals of the typing module work on every Python."""

    @tool
    def add(numbers: List[int], start: Optional[int] = None) -> int:
        return sum(numbers, start or 0)

    assert add.call({"numbers": ["1", 2]}) == 3
    assert add.call({"numbers": [], "start": None}) == 0


# Types of arguments, on every Python


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Label(TypedDict):
    name: str


class Tree(pydantic.BaseModel):
    name: str
    children: "List[Tree]" = []


class Strict(pydantic.BaseModel):
    model_config = {"strict": True}

    day: datetime.date


Tree.model_rebuild()


def a_bool(value: bool):
    return value


def an_optional(value: Optional[int] = None):
    return value


def a_list(value: List[Point]):
    return value


def a_dict(value: Dict[str, List[int]]):
    return value


def a_tuple(value: Tuple[int, str]):
    return value


def a_choice(value: Literal["a", "b"] = "a"):
    return value


def an_enum(value: Unit):
    return value


def a_dataclass(value: Point):
    return value


def a_typed_dict(value: Label):
    return value


def a_model(value: Tree):
    return value


def a_strict_model(value: Strict):
    return value


def a_union(value: Union[int, Point]):
    return value


def a_date(value: datetime.date):
    return value


def a_described(value: Annotated[int, pydantic.Field(ge=1, description="number of items")]):
    return value


def a_hint_in_quotes(value: "Optional[Point]" = None):
    return value


def an_untyped(value):
    return value


@pytest.mark.parametrize(
    "function, argument, expected",
    [
        (a_bool, True, True),
        (an_optional, None, None),
        (an_optional, "3", 3),
        (a_list, [{"x": "1"}], [Point(1)]),
        (a_dict, {"a": ["1"]}, {"a": [1]}),
        (a_tuple, [1, "x"], (1, "x")),
        (a_choice, "b", "b"),
        (an_enum, "celsius", Unit.CELSIUS),
        (a_dataclass, {"x": 1, "y": 2}, Point(1, 2)),
        (a_typed_dict, {"name": "x"}, {"name": "x"}),
        (
            a_model,
            {"name": "a", "children": [{"name": "b"}]},
            Tree(name="a", children=[Tree(name="b")]),
        ),
        (a_strict_model, {"day": "2026-11-22"}, Strict(day=datetime.date(2026, 11, 22))),
        (a_union, {"x": 1}, Point(1)),
        (a_date, "2026-11-22", datetime.date(2026, 11, 22)),
        (a_described, 2, 2),
        (a_hint_in_quotes, {"x": 1}, Point(1)),
        (an_untyped, {"any": ["thing"]}, {"any": ["thing"]}),
    ],
)
def test_types_of_arguments(function, argument, expected):
    """JSON arrives as the type of the hint, and the schema itself is valid JSON."""
    typed_tool = tool(function)
    assert typed_tool.call({"value": argument}) == expected
    schema = json.loads(json.dumps(typed_tool.definition))["input_schema"]
    assert (schema["type"], list(schema["properties"])) == ("object", ["value"])


@pytest.mark.parametrize(
    "function, argument, message",
    [
        (a_choice, "c", "Input should be 'a' or 'b'"),
        (an_enum, "kelvin", "Input should be 'celsius' or 'fahrenheit'"),
        (a_described, 0, "greater than or equal to 1"),
        (a_list, [{"x": 1}, {}], "value.1.x: "),
        (a_strict_model, {"day": 5}, "value.day: "),
    ],
)
def test_arguments_of_the_wrong_type(function, argument, message):
    """The error for the model has the location and the expected type."""
    with pytest.raises(ValueError, match="the arguments do not fit") as caught:
        tool(function).call({"value": argument})
    assert message in str(caught.value)


def test_keyword_only_and_defaults():
    """Keyword-only arguments work; a mutable default is not shared with a model's arguments."""

    @tool
    def note(
        text: str,
        *,
        tags: List[str] = [],  # noqa: B006
        urgent: bool = False,
    ) -> Dict[str, Any]:
        return {"text": text, "tags": tags, "urgent": urgent}

    assert note.definition["input_schema"]["required"] == ["text"]
    assert note.call({"text": "x", "urgent": True, "tags": ["a"]}) == {
        "text": "x",
        "tags": ["a"],
        "urgent": True,
    }
    assert note.call({"text": "x"}) == {"text": "x", "tags": [], "urgent": False}


# Kinds of callables


class Shelf:
    """A shelf."""

    kind = "books"

    def find(self, title: str, copies: int = 1) -> str:
        """Find a book."""
        return f"{copies} {self.kind} of {title}"

    @classmethod
    def named(cls, title: str) -> str:
        """By its name."""
        return cls.kind + title

    @staticmethod
    def static(title: str) -> str:
        """Without a shelf."""
        return title

    def __call__(self, title: str) -> str:
        return self.find(title)


def with_log(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return "logged " + function(*args, **kwargs)

    return wrapper


@with_log
def decorated(title: str) -> str:
    """Return a title."""
    return title


@pytest.mark.parametrize(
    "function, name, description, result",
    [
        (Shelf().find, "find", "Find a book.", "1 books of x"),
        (Shelf.named, "named", "By its name.", "booksx"),
        (Shelf.static, "static", "Without a shelf.", "x"),
        (functools.partial(Shelf().find, copies=3), "find", "Find a book.", "3 books of x"),
        (
            functools.partial(functools.partial(Shelf.find, Shelf()), copies=2),
            "find",
            "Find a book.",
            "2 books of x",
        ),
        (Shelf(), "Shelf", "A shelf.", "1 books of x"),
        (decorated, "decorated", "Return a title.", "logged x"),
    ],
)
def test_kinds_of_callables(function, name, description, result):
    """Methods, partials, callable objects and decorated functions have their own names and
    docstrings.
    """
    function_tool = tool(function)
    assert (function_tool.name, function_tool.description) == (name, description)
    assert function_tool.call({"title": "x"}) == result
    assert function_tool.definition["input_schema"]["required"] == ["title"]
    with pytest.raises(ValueError, match="title: "):
        function_tool.call({})
    assert as_tools([(function, {"type": "object"})])[name].description == description


def test_a_method_without_its_object():
    """An unbound method raises a ToolDefinitionError that says what to do."""
    with pytest.raises(
        ToolDefinitionError, match=r"make a tool of the bound method, tool\(thing.find\)"
    ):
        tool(Shelf.find)


def test_names():
    """An invalid name raises ToolDefinitionError at creation; a definition may give another."""
    for function in (lambda: None, functools.partial(lambda: None)):
        with pytest.raises(ToolDefinitionError, match="'<lambda>' is not a valid tool name"):
            tool(function)
        with pytest.raises(ToolDefinitionError, match="'<lambda>' is not a valid tool name"):
            as_tools([(function, {"type": "object"})])
        assert list(as_tools([(function, {"name": "mine", "input_schema": {}})])) == ["mine"]

    def météo():
        pass

    with pytest.raises(ToolDefinitionError, match="météo"):
        tool(météo)


async def fetch(url: str) -> str:
    """Fetch a page."""
    return url


async def fetch_all(url: str):
    yield url


class Fetcher:
    async def __call__(self, url: str) -> str:
        return url

    async def fetch(self, url: str) -> str:
        return url


@pytest.mark.parametrize(
    "function",
    [
        fetch,
        fetch_all,
        functools.partial(fetch, url="x"),
        Fetcher(),
        Fetcher().fetch,
        functools.partial(Fetcher()),
    ],
)
def test_async_functions(function):
    """An async function raises a ToolDefinitionError that says what to do."""
    with pytest.raises(ToolDefinitionError, match="is an async function, .*asyncio.run"):
        tool(function)
    with pytest.raises(ToolDefinitionError, match="is an async function"):
        ScriptedInferenceClient([]).run_tools("x", [function])


def test_a_function_that_returns_a_coroutine():
    """A tool that returns a coroutine gets an error result, and the coroutine is closed."""

    @tool
    def returns_coroutine(url: str):
        return fetch(url)

    @tool
    def awaits(url: str) -> str:
        return asyncio.run(fetch(url))

    client = ScriptedInferenceClient(
        [calls(("returns_coroutine", {"url": "x"}), ("awaits", {"url": "y"})), "done"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = client.run_tools("x", [returns_coroutine, awaits])
    blocks = client.requests[1]["messages"][-1]["content"]
    assert blocks[0]["is_error"] and "returned a coroutine" in blocks[0]["content"]
    assert (blocks[1]["content"], run.calls[1].result) == ("y", "y")


# Results


class FailingStr(Exception):
    def __str__(self):
        raise RuntimeError("even this")


class InvalidStr(Exception):
    def __str__(self):
        return None


def call_tool(function):
    """Return the result block that the model receives for a call of a function, and the call."""
    client = ScriptedInferenceClient([calls((function.__name__, {})), "done"])
    run = client.run_tools("x", [function])
    (block,) = client.requests[1]["messages"][-1]["content"]
    assert run.calls[0].text == block["content"]
    return block, run.calls[0]


def function_returning(value):
    def function():
        return value

    return function


def cycle():
    items = []
    items.append(items)
    return items


def deep():
    items = []
    for _ in range(100000):
        items = [items]
    return items


@pytest.mark.parametrize(
    "value, content",
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, "null"),
        (["é", 1.5, True], '["é", 1.5, true]'),
        (
            {"day": datetime.date(2026, 11, 22), 5: Point(1)},
            '{"day": "2026-11-22", "5": {"x": 1, "y": 0}}',
        ),
        (Place(city="Rome"), '{"city": "Rome", "zip": null}'),
        ((1, {2}), "[1, [2]]"),
        (b"bytes", '"bytes"'),
        (math.inf, "Infinity"),
    ],
)
def test_results(value, content):
    """The model receives text unchanged, and everything else as JSON."""
    block, call = call_tool(function_returning(value))
    assert (block["content"], call.result) == (content, value)
    assert "is_error" not in block


@pytest.mark.parametrize("value", [object(), {"a": threading.Lock()}, b"\xff\xfe", print])
def test_results_that_json_cannot_hold(value):
    """A result that is not JSON is the tool's error: the model receives it, the loop continues."""
    block, call = call_tool(function_returning(value))
    assert block["is_error"] and call.exception is not None and call.result is None


@pytest.mark.parametrize("make", [cycle, deep])
def test_recursive_results(make):
    """A result that contains itself, or is nested too deeply, is the tool's error as well."""
    block, call = call_tool(function_returning(make()))
    assert block["is_error"] and call.exception is not None


def test_generators():
    """The result of an iterator is the list of its items; it runs once, on the tool's thread."""
    threads = []

    @tool
    def numbers():
        for number in range(3):
            threads.append(threading.get_ident())
            yield number

    @tool
    def lazily():
        return map(str, [1, 2])

    @tool
    def failing():
        yield 1
        raise RuntimeError("half-way")

    block, call = call_tool(numbers)
    assert (block["content"], call.result) == ("[0, 1, 2]", [0, 1, 2])
    assert len(threads) == 3 and threading.get_ident() not in threads
    assert call_tool(lazily)[0]["content"] == '["1", "2"]'
    block, call = call_tool(failing)
    assert (block["content"], block["is_error"]) == ("RuntimeError: half-way", True)


def test_a_huge_result():
    """Ten megabytes are sent unchanged."""
    block, call = call_tool(function_returning("x" * 10_000_000))
    assert len(block["content"]) == 10_000_000
    block, call = call_tool(function_returning(list(range(300_000))))
    assert json.loads(block["content"]) == list(range(300_000))


@pytest.mark.parametrize(
    "error, content",
    [(FailingStr(), "FailingStr"), (InvalidStr(), "InvalidStr"), (SystemExit(3), "SystemExit: 3")],
)
def test_exceptions(error, content):
    """An exception without a valid str(), or one that would end the program, is an error result."""

    def function():
        raise error

    block, call = call_tool(function)
    assert (block["content"], block["is_error"], call.exception) == (content, True, error)


class NotFound(ToolError):
    """A subclass of ToolError."""


@pytest.mark.parametrize(
    "error, content",
    [
        (ToolError("There is no such user."), "There is no such user."),
        (NotFound("Ask for another name."), "Ask for another name."),
        (ToolError(), "the tool failed"),
    ],
)
def test_tool_errors(error, content):
    """The model receives the message of a ToolError, without its type or its cause."""

    def function():
        raise error from RuntimeError("secret")

    block, call = call_tool(function)
    assert (block["content"], block["is_error"], call.exception) == (content, True, error)


def test_tool_errors_are_redacted():
    """redact= applies to the message of a ToolError."""

    def function():
        raise ToolError("Ann is not here")

    client = ScriptedInferenceClient([calls(("function", {})), "done"])
    client.run_tools("x", [function], redact=lambda text: text.replace("Ann", "***"))
    (block,) = client.requests[1]["messages"][-1]["content"]
    assert block["content"] == "*** is not here"


# Missing descriptions


def test_functions_without_a_docstring_or_type_hints():
    """A tool without a docstring or a type hint causes a warning, at the line of its function."""

    def search(text, limit=3):
        return text

    with pytest.warns(UserWarning) as caught:
        Agent(ScriptedInferenceClient([]), tools=[search])
    assert [str(warning.message) for warning in caught] == [
        "the tool search has no docstring: the model gets no description of it",
        "the tool search has no type hint for text, limit: the model gets no type",
    ]
    code = search.__code__
    assert {(warning.filename, warning.lineno) for warning in caught} == {
        (code.co_filename, code.co_firstlineno)
    }


def test_functions_with_a_description():
    """A described tool causes no warning: with a docstring and hints, or with its own schema."""

    def search(text: str, limit: int = 3) -> str:
        """Search."""
        return text

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_tools([search, (lambda text: text, {"name": "find", "input_schema": {}})])


@pytest.mark.parametrize(
    "tools, message",
    [
        (forecast, r"tools= is a list of tools: \[<Tool forecast>\]"),
        ("forecast", "tools= is a list of tools"),
        ({"forecast": forecast}, "tools= is a list of tools"),
        ([forecast, "forecast"], "a tool is a function, a Tool or a pair .*; not 'forecast'"),
        ([(forecast,)], "a tool is a function, a Tool or a pair"),
    ],
)
def test_invalid_lists_of_tools(tools, message):
    """Anything but a list of tools is a TypeError, also in the constructor of an agent."""
    client = ScriptedInferenceClient(["never"])
    for function in (lambda: Agent(client, tools=tools), lambda: client.run_tools("x", tools)):
        with pytest.raises(TypeError, match=message):
            function()


def test_result_that_changes_later():
    """The model receives the result as it was when the tool returned."""
    returned = []

    @tool
    def first():
        returned.append(["as returned"])
        return returned[0]

    @tool(sequential=True)
    def second():
        returned[0].append("changed later")
        return ""

    client = ScriptedInferenceClient([calls(("first", {}), ("second", {})), "done"])
    client.run_tools("x", [first, second])
    assert client.requests[1]["messages"][-1]["content"][0]["content"] == '["as returned"]'


def test_function_that_changes_its_arguments():
    """A function's changes to its arguments do not reach the history."""

    def sort(words, options=None):
        words.sort()
        options["done"] = True
        return words

    @tool
    def sort_typed(words: List[Any], options: Dict[str, Any]) -> List[Any]:
        return sort(words, options)

    arguments = {"words": ["b", "a"], "options": {}}
    client = ScriptedInferenceClient(
        [calls(("sort", arguments), ("sort_typed", arguments)), "done"]
    )
    run = client.run_tools("x", [(sort, {"type": "object"}), sort_typed])
    assert [result.result for result in run.calls] == [["a", "b"]] * 2
    blocks = client.requests[1]["messages"][1]["content"]
    assert (
        [block["input"] for block in blocks]
        == [arguments] * 2
        == [{"words": ["b", "a"], "options": {}}] * 2
    )
    assert run.calls[0].call.arguments == arguments
