"""Tools: schemas from type hints, validated arguments, results as text."""

import enum
from typing import Any, Dict, List, Optional

import pydantic
import pytest

from asimov_sync import Tool, ToolError, tool
from asimov_sync.inference.tools import as_tools, result_text


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Place(pydantic.BaseModel):
    city: str
    zip: Optional[int] = None


@tool
def forecast(
    place: Place, days: int = 3, unit: Unit = Unit.CELSIUS, model_name: str = "", *, json: bool = False
) -> Dict[str, Any]:
    """Tell the weather of the coming days.

    days: how many.
    """
    return {"city": place.city, "days": days, "unit": unit, "model": model_name, "json": json}


def test_the_definition():
    """Name, description and schema come from the function; arguments may have any name."""
    assert forecast.definition["name"] == "forecast"
    assert forecast.definition["description"].startswith("Tell the weather of the coming days.\n\ndays: how many.")
    schema = forecast.definition["input_schema"]
    assert schema["type"] == "object"
    assert set(schema["properties"]) == {"place", "days", "unit", "model_name", "json"}
    assert schema["required"] == ["place"]
    assert schema["properties"]["days"]["default"] == 3


def test_a_call_is_validated():
    """Arguments arrive as the types of the hints, defaults where they were left out."""
    result = forecast.call({"place": {"city": "Rome"}, "unit": "fahrenheit", "days": 2})
    assert result == {"city": "Rome", "days": 2, "unit": Unit.FAHRENHEIT, "model": "", "json": False}


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({}, "place: "),
        ({"place": {"city": 1}}, "place.city: "),
        ({"place": {"city": "x"}, "days": "many"}, "days: "),
        ({"place": {"city": "x"}, "dais": 1}, "dais: "),
    ],
)
def test_arguments_that_do_not_fit(arguments, told):
    """A ValueError says which argument is wrong, without the validation library's links."""
    with pytest.raises(ValueError, match="do not fit") as caught:
        forecast.call(arguments)
    assert told in str(caught.value)
    assert "http" not in str(caught.value)


def test_a_tool_is_still_a_function():
    """Called from Python, it is the function that it was made of, and has its name and docstring."""
    assert isinstance(forecast, Tool)
    assert forecast(Place(city="Rome"))["days"] == 3
    assert (forecast.__name__, forecast.__doc__[:4]) == ("forecast", "Tell")
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


def test_a_function_that_is_no_tool():
    """Arguments without names, or of a type without a schema, are a ToolError when the tool is made."""
    with pytest.raises(ToolError, match="rest"):
        tool(lambda *rest: None)
    with pytest.raises(ToolError, match="others"):
        tool(lambda **others: None)

    def odd(x: object()):
        pass

    with pytest.raises(ToolError, match="odd"):
        tool(odd)


def test_pairs_and_plain_functions():
    """A typed function, and a function with its schema, are tools; two of one name are an error."""

    def plain(a: int) -> int:
        """Plain."""
        return a

    schema = {"type": "object", "properties": {"a": {}}}
    given = as_tools([plain, (lambda a: a, {"name": "other", "description": "d", "input_schema": schema})])
    assert given["plain"].call({"a": "1"}) == 1
    assert given["other"].definition == {"name": "other", "description": "d", "input_schema": schema}
    assert given["other"].call({"a": "1"}) == "1"
    bare = as_tools([(plain, schema)])["plain"]
    assert (bare.description, bare.input_schema) == ("Plain.", schema)
    with pytest.raises(ToolError, match="two tools named 'plain'"):
        as_tools([plain, plain])


def test_results_as_text():
    """Text is told as it is, everything else as JSON; what JSON cannot hold raises."""
    assert result_text("é") == "é"
    assert result_text({"a": [Place(city="é"), Unit.CELSIUS]}) == '{"a": [{"city": "é", "zip": null}, "celsius"]}'
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
