"""Forms for what a parked task waits for: inputs by the JSON schema of the answer, and back.

The value of an input is escaped as HTML and no further, so that the browser sends it back as it is.

Pure: no IO, no clock.
"""

import hashlib
import html
import json
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from asimov_sync._json import loads, to_jsonable
from asimov_sync.display.markup import escape, escape_json, shorten
from asimov_sync.graph.journal import Wait

__all__ = [
    "FormError",
    "call_digest",
    "draw_inputs",
    "read_answer",
    "read_arguments",
    "to_text",
]

MAX_OPTIONS = 200
"""The number of choices that a list shows; an answer to a longer one is typed."""

MAX_INPUTS = 40
"""The number of properties of an object up to which each has an input."""


class FormError(ValueError):
    """The input of a form is not an answer."""


class _Input(NamedTuple):
    """One input of a form.

    kind: "text", "number", "boolean", "choice" or "json".
    options: the values of a choice.
    """

    name: str
    label: str
    kind: str
    required: bool
    hint: str
    options: Tuple[Any, ...] = ()
    default: Any = None
    whole: bool = False


def draw_inputs(wait: Wait, typed: Mapping[str, str], prefix: str) -> str:
    """Return the inputs for the answer to a wait, as HTML.

    typed: what was typed before, by the names of the inputs.
    prefix: makes the ids of the inputs unique in the page.
    """
    if wait.type is None:
        return _draw_free(typed, prefix)
    inputs, _ = _plan(wait.type)
    return "".join(
        _draw(one, typed.get(one.name), f"{prefix}-{number}") for number, one in enumerate(inputs)
    )


def read_answer(wait: Wait, form: Mapping[str, str]) -> Any:
    """Return the answer that a form has. Raises FormError if it is none."""
    if wait.type is None:
        text = form.get("value", "")
        return _parse(text, "the answer") if form.get("format") == "json" else _as_typed(text)
    inputs, is_object = _plan(wait.type)
    if not is_object:
        found, value = _read(inputs[0], form)
        if not found:
            raise FormError("there is no answer")
        return value
    answer = {}
    for one in inputs:
        found, value = _read(one, form)
        if found:
            answer[one.name[len("value.") :]] = value
    return answer


def read_arguments(wait: Wait, form: Mapping[str, str]) -> Optional[Dict[str, Any]]:
    """Return the arguments of a tool call that were changed in a form; None if they were not.

    Raises FormError if they are not a JSON object.
    """
    assert wait.call is not None
    text = form.get("arguments", "").strip()
    if not text:
        return None
    arguments = _parse(text, "the arguments")
    if not isinstance(arguments, dict):
        raise FormError("the arguments are a JSON object")
    # Compared as JSON: in Python, 1 equals true.
    shown = _parse(to_text(wait.call.arguments), "the arguments")
    return None if _to_canonical(arguments) == _to_canonical(shown) else arguments


def call_digest(wait: Wait) -> str:
    """Return a digest of a wait as it is shown, so that a decision applies to that alone."""
    call = wait.call
    shown = None if call is None else [call.id, call.name, call.arguments]
    question = [wait.prompt, wait.data, wait.type]
    text = _to_canonical([wait.task, wait.name, wait.visit, shown, to_jsonable(question)])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def to_text(value: Any) -> str:
    """Return a value as text: a string as it is, another value as JSON.

    In the JSON, characters that are invisible or change the direction of text are escaped. So a
    person sees them, and a browser sends back the same value.
    """
    if isinstance(value, str):
        return value
    return escape_json(json.dumps(to_jsonable(value), ensure_ascii=False, indent=2))


def _to_canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _plan(schema: Mapping[str, Any]) -> Tuple[List[_Input], bool]:
    """Return the inputs for a schema, and whether they are the properties of an object."""
    definitions = schema.get("$defs")
    definitions = definitions if isinstance(definitions, dict) else {}
    schema = _resolve(schema, definitions)
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, dict):
        if 0 < len(properties) <= MAX_INPUTS:
            required = schema.get("required")
            needed = required if isinstance(required, list) else []
            inputs = [
                _make_input(f"value.{name}", name, one, definitions, name in needed)
                for name, one in properties.items()
            ]
            return inputs, True
    return [_make_input("value", "Answer", schema, definitions, True)], False


def _resolve(schema: Any, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow references. A hostile schema may refer to itself."""
    for _ in range(10):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
            return schema
        schema = definitions.get(reference[len("#/$defs/") :])
    return {}


def _make_input(
    name: str, label: str, schema: Any, definitions: Mapping[str, Any], required: bool
) -> _Input:
    schema = _resolve(schema, definitions)
    title, hint = schema.get("title"), schema.get("description")
    label = title if isinstance(title, str) and title else label
    hint = hint if isinstance(hint, str) else ""
    default = schema.get("default")
    alternatives = schema.get("anyOf")
    if isinstance(alternatives, list):
        others = [one for one in alternatives if one != {"type": "null"}]
        if len(others) == 1 and len(others) < len(alternatives):  # optional
            schema, required = _resolve(others[0], definitions), False
    options = schema.get("enum")
    if "const" in schema:
        options = [schema["const"]]
    if isinstance(options, list) and 0 < len(options) <= MAX_OPTIONS:
        return _Input(name, label, "choice", required, hint, tuple(options), default)
    kind = schema.get("type")
    kinds = {"string": "text", "boolean": "boolean", "integer": "number", "number": "number"}
    known = kinds.get(kind, "json") if isinstance(kind, str) else "json"
    return _Input(name, label, known, required, hint, (), default, kind == "integer")


def _draw(one: _Input, typed: Optional[str], id: str) -> str:
    """Return one input with its label."""
    label = f'<label for="{id}"><bdi>{escape(shorten(one.label, 200))}</bdi>'
    label += "" if one.required else ' <span class="quiet">optional</span>'
    label += "</label>"
    hint = f'<p class="hint" dir="auto">{escape(shorten(one.hint, 500))}</p>' if one.hint else ""
    name = f'id="{id}" name="{html.escape(one.name)}"'
    needed = " required" if one.required else ""
    value = _default(one) if typed is None else typed
    if one.kind == "boolean":
        shown = [("true", "Yes"), ("false", "No")]
        return _draw_select(label, name, needed, shown, value, hint)
    if one.kind == "choice":
        choices = [(str(number), _show(item)) for number, item in enumerate(one.options)]
        return _draw_select(label, name, needed, choices, value, hint)
    if one.kind == "number":
        step = "1" if one.whole else "any"
        return (
            f'<div class="field">{label}<input type="number" step="{step}" {name}{needed} '
            f'value="{html.escape(value)}">{hint}</div>'
        )
    rows = 3 if one.kind == "text" else 5
    note = hint if one.kind == "text" else f'{hint}<p class="hint">A JSON value.</p>'
    return (
        f'<div class="field">{label}<textarea rows="{rows}" dir="auto" {name}'
        f"{needed if one.kind == 'json' else ''}>\n{html.escape(value)}</textarea>{note}</div>"
    )


def _default(one: _Input) -> str:
    """Return what an input contains before somebody types."""
    if one.default is None:
        return ""
    if one.kind == "choice":
        shown = [_dump(option) for option in one.options]
        default = _dump(one.default)
        return str(shown.index(default)) if default in shown else ""
    return _show(one.default)


def _draw_select(
    label: str, name: str, needed: str, choices: List[Tuple[str, str]], value: str, hint: str
) -> str:
    options = "".join(
        f'<option value="{escape(number)}"{" selected" if number == value else ""}>'
        f"{escape(shorten(text, 200))}</option>"
        for number, text in choices
    )
    return (
        f'<div class="field">{label}<select {name}{needed}><option value="">choose …</option>'
        f"{options}</select>{hint}</div>"
    )


def _draw_free(typed: Mapping[str, str], prefix: str) -> str:
    """Return the inputs for an answer of any type."""
    chosen = typed.get("format", "text")
    options = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{label}</option>'
        for value, label in (("text", "text"), ("json", "a JSON value"))
    )
    return (
        f'<div class="field"><label for="{prefix}-0">Answer</label>'
        f'<textarea rows="3" dir="auto" id="{prefix}-0" name="value">\n'
        f"{html.escape(typed.get('value', ''))}</textarea></div>"
        f'<div class="field"><label for="{prefix}-1">It is</label>'
        f'<select id="{prefix}-1" name="format">{options}</select></div>'
    )


def _read(one: _Input, form: Mapping[str, str]) -> Tuple[bool, Any]:
    """Return whether an input has a value, and the value."""
    text = form.get(one.name)
    if text is None or (text == "" and (one.kind != "text" or not one.required)):
        if one.required:
            raise FormError(f"{one.label}: there is no answer")
        return False, None
    if one.kind == "text":
        return True, _as_typed(text)
    if one.kind == "boolean":
        if text not in ("true", "false"):
            raise FormError(f"{one.label}: choose yes or no")
        return True, text == "true"
    if one.kind == "choice":
        if not text.isdecimal() or int(text) >= len(one.options):
            raise FormError(f"{one.label}: choose one of the list")
        return True, one.options[int(text)]
    if one.kind == "number":
        try:
            number = float(text)
            return True, int(text) if one.whole else number
        except ValueError:
            raise FormError(f"{one.label}: {text!r} is not a number") from None
    return True, _parse(text, one.label)


def _as_typed(text: str) -> str:
    """Return a text with the line ends that the person typed: forms send others."""
    return text.replace("\r\n", "\n")


def _parse(text: str, what: str) -> Any:
    try:
        value = loads(text)
        json.dumps(value, allow_nan=False)
        return value
    except (ValueError, RecursionError) as error:
        raise FormError(f"{what}: this is not a JSON value: {error}") from None


def _show(value: Any) -> str:
    return value if isinstance(value, str) else _dump(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
