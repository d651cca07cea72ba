"""Checks an answer against the JSON schema that a wait has stored, before it is accepted.

It knows the keywords that pydantic writes for the usual types. The handler validates the answer
once more, with the type itself.
"""

from typing import Any, Dict, List, Mapping, Optional

__all__ = ["check_answer"]

_TYPES: Dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}

MAX_NESTING = 50
MAX_STEPS = 100_000
"""The deepest nesting of schemas, and the most schemas, that are followed for one answer.

A hostile schema may refer to itself. The handler validates what is beyond that.
"""


def check_answer(schema: Optional[Mapping[str, Any]], answer: Any) -> None:
    """Raise ValueError if an answer does not fit a JSON schema. None accepts any answer."""
    if schema is None:
        return
    try:
        problem = _Checker(schema).find_problem(schema, answer, 0)
    except (AttributeError, KeyError, TypeError):  # it is not a schema
        raise ValueError("the type that is stored with the wait is damaged") from None
    if problem is not None:
        raise ValueError(f"the answer does not fit the type of the wait: {problem}")


class _Checker:
    """Checks one answer. schema: the schema, whose definitions may be referred to."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._defs = schema.get("$defs", {})
        self._steps = 0

    def find_problem(self, schema: Any, value: Any, depth: int) -> Optional[str]:
        """Return what is wrong with a value; None if nothing is."""
        if not isinstance(schema, Mapping) or depth > MAX_NESTING or self._steps > MAX_STEPS:
            return None
        self._steps += 1
        depth += 1
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            return self.find_problem(self._defs.get(reference[len("#/$defs/") :]), value, depth)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                problems = [self.find_problem(one, value, depth) for one in schema[key]]
                if all(problems):
                    return (
                        str(problems[0]) if len(problems) == 1 else f"{value!r} fits none of {key}"
                    )
        for one in schema.get("allOf", ()):
            problem = self.find_problem(one, value, depth)
            if problem is not None:
                return problem
        if "const" in schema and not _equal(schema["const"], value):
            return f"{value!r} is not {schema['const']!r}"
        if "enum" in schema and not any(_equal(one, value) for one in schema["enum"]):
            return f"{value!r} is none of {schema['enum']!r}"
        kind = schema.get("type")
        if isinstance(kind, str) and not _has_type(value, kind):
            return f"{value!r} is not of the type {kind!r}"
        return _find_problem_of_number(schema, value) or self._find_problem_of_parts(
            schema, value, depth
        )

    def _find_problem_of_parts(
        self, schema: Mapping[str, Any], value: Any, depth: int
    ) -> Optional[str]:
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                problem = self.find_problem(schema["items"], item, depth)
                if problem is not None:
                    return f"item {index}: {problem}"
        if not isinstance(value, dict):
            return None
        properties = schema.get("properties", {})
        missing: List[str] = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"it lacks {', '.join(missing)}"
        for name, item in value.items():
            rule = properties.get(name, schema.get("additionalProperties"))
            if rule is False:
                return f"it has {name!r}, which is unknown"
            problem = self.find_problem(rule, item, depth)
            if problem is not None:
                return f"{name}: {problem}"
        return None


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _has_type(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return kind == "number" or float(value).is_integer()
    return kind not in _TYPES or isinstance(value, _TYPES[kind])


def _find_problem_of_number(schema: Mapping[str, Any], value: Any) -> Optional[str]:
    if isinstance(value, str):
        size, low, high = len(value), "minLength", "maxLength"
    elif isinstance(value, list):
        size, low, high = len(value), "minItems", "maxItems"
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        size, low, high = value, "minimum", "maximum"  # type: ignore[assignment]
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            return f"{value!r} is not above {schema['exclusiveMinimum']}"
        if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
            return f"{value!r} is not below {schema['exclusiveMaximum']}"
    else:
        return None
    if low in schema and size < schema[low]:
        return f"{value!r} is below {low} {schema[low]}"
    if high in schema and size > schema[high]:
        return f"{value!r} is above {high} {schema[high]}"
    return None
