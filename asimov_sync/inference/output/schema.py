"""Structured output: what a request says so that the reply is data of a given type, and how the reply is read.

There are three ways to ask. Which of them a model takes is its provider's matter, so they are tried in turn: a tool that the
model is made to call; the provider's own format for it; and the schema in the system prompt, which any model can read.
"""

import json
import re
from typing import Any, Dict, Iterable, List

from pydantic import BaseModel, TypeAdapter, ValidationError

from asimov_sync._json import format_error
from asimov_sync.inference.request import Request
from asimov_sync.inference.tools.tool import explained
from asimov_sync.messages import ChatMessage, ChatRole, Reply

__all__ = ["FORMAT", "Output", "PROMPT", "TOOL", "closed"]

TOOL, FORMAT, PROMPT = "tool", "format", "prompt"

CUT_SHORT = ("max_tokens", "refusal", "model_context_window_exceeded")
"""Stop reasons of a reply that is not whole, whatever it looks like, and that another attempt would not make better."""


class Output:
    """A type that a reply is to be of: a pydantic model, or whatever else has the JSON schema of an object.

    taken: names that other tools have. TypeError for a type that has no such schema. open_ended: whether somewhere in it is
    an object of any keys, which constrained decoding cannot give.
    """

    def __init__(self, wanted: Any, taken: Iterable[str] = ()) -> None:
        try:
            self._adapter: "TypeAdapter[Any]" = TypeAdapter(wanted)
            self.schema = _at_the_top(self._adapter.json_schema())
        except Exception as error:
            raise TypeError("no JSON schema can be made of output={!r}: {}".format(wanted, format_error(error))) from error
        if self.schema.get("type") != "object":
            raise TypeError("output= takes a pydantic model, or another type whose JSON is an object; not {!r}".format(wanted))
        is_model = isinstance(wanted, type) and issubclass(wanted, BaseModel)
        name = wanted.__name__ if is_model else str(self.schema.get("title") or "output")
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:48].strip("_") or "output"
        while self.name in taken:
            self.name += "_output"
        self.open_ended = _open_ended(self.schema)

    @property
    def definition(self) -> Dict[str, Any]:
        """The tool whose arguments are the answer."""
        description = self.schema.get("description") or "Give the answer."
        return {"name": self.name, "description": description, "input_schema": self.schema}

    def asked(self, request: Request, way: str, native: Dict[str, Any]) -> Request:
        """The request, asking in one of the ways; native: the options of the provider's own format."""
        options = dict(request.options)
        if way == TOOL:
            options["tool_choice"] = self.name
            there = any(definition["name"] == self.name for definition in request.tools)
            return request._replace(tools=request.tools + ([] if there else [self.definition]), options=options)
        if way == FORMAT:
            for name, value in native.items():
                before = options.get(name)
                options[name] = dict(before, **value) if isinstance(before, dict) else value
            return request._replace(options=options)
        instruction = "Answer with one JSON object of this JSON schema, and with nothing else:\n{}".format(
            json.dumps(self.schema, ensure_ascii=False)
        )
        system = ChatMessage(role=ChatRole.SYSTEM, content=request.system or "").blocks
        return request._replace(system=system + [{"type": "text", "text": instruction}])

    def filled(self, reply: Reply) -> Reply:
        """The reply with its data in `.parsed`. ValueError, for the model to read, if it is not of the type."""
        if reply.stop_reason in CUT_SHORT:
            raise ValueError("it was cut short")
        call = next((call for call in reply.tool_calls if call.name == self.name), None)
        if call is not None and call.malformed is not None:
            raise ValueError("the arguments are not a JSON object")
        # JSON, and not Python's values: a strict model takes a date from the one, and not from the other.
        told = _bare(reply.text) if call is None else json.dumps(call.arguments)
        try:
            return reply.model_copy(update={"parsed": self._adapter.validate_json(told)})
        except ValidationError as error:
            wrong = explained(error)
        raise ValueError("the answer does not fit: " + wrong)

    def correction(self, reply: Reply, wrong: str) -> List[ChatMessage]:
        """What is said to a model whose reply did not fit: the reply, and what is wrong with it."""
        if reply.tool_calls:
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": wrong, "is_error": True}
                for call in reply.tool_calls
            ]
            return [reply.message, ChatMessage(role=ChatRole.TOOL_RESULT, content=results)]
        said = [reply.message] if reply.message.blocks else []
        return said + [ChatMessage(role=ChatRole.USER, content="{}. Answer again.".format(wrong))]


def _at_the_top(schema: Dict[str, Any]) -> Dict[str, Any]:
    """The schema with its object at the top, as the wires want it: that of a model which holds itself only refers to it."""
    told = schema.get("allOf") or [schema]  # pydantic before 2.10 wraps the reference
    if len(told) != 1 or "$ref" not in told[0]:
        return schema
    definitions = schema["$defs"]
    return dict(definitions[told[0]["$ref"].split("/")[-1]], **{"$defs": definitions})


def _bare(text: str) -> str:
    """Text without the code fence that some models put around JSON."""
    bare = text.strip()
    if not (bare.startswith("```") and bare.endswith("```")):
        return text
    first, _, rest = bare[3:-3].partition("\n")
    return rest if first.strip() in ("", "json") else text


_UNKNOWN_TO_STRICT = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems uniqueItems "
    "minProperties maxProperties pattern default examples".split()
)


def closed(schema: Any) -> Any:
    """A schema within what constrained decoding takes: no further keys in objects, no limits on values; we check these.

    Source: Anthropic's documentation, "Structured outputs", JSON schema limitations.
    """
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept: Dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
            kept[name] = {key: closed(one) for key, one in value.items()}
        elif name not in _UNKNOWN_TO_STRICT:
            kept[name] = value if name in ("enum", "const", "required") else closed(value)
    if kept.get("type") == "object":
        kept["additionalProperties"] = False
    return kept


def _open_ended(schema: Any) -> bool:
    """Whether a schema has an object of any keys. `closed` would make it one of none."""
    if isinstance(schema, list):
        return any(_open_ended(one) for one in schema)
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "object" and (schema.get("additionalProperties") or "properties" not in schema):
        return True
    named = [schema.get(name) or {} for name in ("properties", "$defs")]
    others = [value for name, value in schema.items() if name not in ("properties", "$defs", "enum", "const", "default")]
    return _open_ended(others + [one for group in named for one in group.values()])
