"""Structured output: what a request says so that the reply is data of a given type, and how the reply is read.

There are three ways to ask. Which of them a model takes is its provider's matter, so they are tried in turn: a tool that the
model is made to call; the provider's own format for it; and the schema in the system prompt, which any model can read.
"""

import json
import re
from typing import Any, Callable, Dict, List, Optional

from pydantic import BaseModel, TypeAdapter, ValidationError

from asimov_sync.errors import described
from asimov_sync.inference.request import Request
from asimov_sync.messages import ChatMessage, ChatRole, Reply

__all__ = ["FORMAT", "Output", "PROMPT", "TOOL", "closed"]

TOOL, FORMAT, PROMPT = "tool", "format", "prompt"

CUT_SHORT = ("max_tokens", "refusal", "model_context_window_exceeded")
"""Stop reasons of a reply that another attempt would not make better."""

NativeFormat = Callable[[str, Dict[str, Any]], Dict[str, Any]]
"""From a name and a JSON schema to the options that ask for the provider's own structured output."""


class Output:
    """A type that a reply is to be of: a pydantic model, or whatever else has the JSON schema of an object.

    TypeError where it has none.
    """

    def __init__(self, wanted: Any) -> None:
        self._adapter: "TypeAdapter[Any]" = TypeAdapter(wanted)
        try:
            self.schema = self._adapter.json_schema()
        except Exception as error:
            raise TypeError("no JSON schema can be made of output={!r}: {}".format(wanted, described(error))) from error
        if "$ref" in self.schema:  # a model that holds itself; the wires want the object at the top
            definitions = self.schema["$defs"]
            self.schema = dict(definitions[self.schema["$ref"].split("/")[-1]], **{"$defs": definitions})
        if self.schema.get("type") != "object":
            raise TypeError("output= takes a pydantic model, or another type whose JSON is an object; not {!r}".format(wanted))
        is_model = isinstance(wanted, type) and issubclass(wanted, BaseModel)
        name = wanted.__name__ if is_model else str(self.schema.get("title") or "output")
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64].strip("_") or "output"

    def asked(self, request: Request, way: str, native: Optional[NativeFormat]) -> Request:
        """The request, asking in one of the ways."""
        options = dict(request.options)
        if way == TOOL:
            description = self.schema.get("description") or "Give the answer."
            definition = {"name": self.name, "description": description, "input_schema": self.schema}
            options["tool_choice"] = self.name
            return request._replace(tools=request.tools + [definition], options=options)
        if way == FORMAT and native is not None:
            for name, value in native(self.name, self.schema).items():
                before = options.get(name)
                options[name] = dict(before, **value) if isinstance(before, dict) else value
            return request._replace(options=options)
        instruction = "Answer with one JSON object of this JSON schema, and with nothing else:\n{}".format(
            json.dumps(self.schema, ensure_ascii=False)
        )
        system = ChatMessage(role=ChatRole.SYSTEM, content=request.system or "").blocks
        return request._replace(system=system + [{"type": "text", "text": instruction}])

    def parsed(self, reply: Reply) -> Any:
        """The data of a reply. ValueError, for the model to read, if it is not of the type."""
        call = next((call for call in reply.tool_calls if call.name == self.name), None)
        try:
            if call is not None:
                if call.malformed is not None:
                    raise ValueError("the arguments are not a JSON object")
                return self._adapter.validate_python(call.arguments)
            return self._adapter.validate_json(_bare(reply.text))
        except ValidationError as error:
            lines = [
                "{}: {}".format(".".join(map(str, wrong["loc"])) or "the whole", wrong["msg"]) for wrong in error.errors()
            ]
            raise ValueError("the answer does not fit: " + "; ".join(lines)) from None

    def correction(self, reply: Reply, wrong: ValueError) -> List[ChatMessage]:
        """What is said to a model whose reply did not fit: the reply, and what is wrong with it."""
        if reply.tool_calls:
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": str(wrong), "is_error": True}
                for call in reply.tool_calls
            ]
            return [reply.message, ChatMessage(role=ChatRole.TOOL_RESULT, content=results)]
        said = [reply.message] if reply.message.blocks else []
        return said + [ChatMessage(role=ChatRole.USER, content="{}. Answer again.".format(wrong))]


def _bare(text: str) -> str:
    """Text without the code fence that some models put around JSON."""
    fenced = re.match(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", text, re.S)
    return fenced.group(1) if fenced else text


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
