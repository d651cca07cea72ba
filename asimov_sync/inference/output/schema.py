"""Structured output: how a request asks for data of a type, and how a reply is parsed.

There are three methods: a tool that the model must call, the provider's own output format, and the
schema in the system prompt, which every model can read. A provider may support any of them, so they
are tried in turn (see `strategy`).
"""

import json
import re
from typing import Any, Dict, Iterable, List

from pydantic import BaseModel, TypeAdapter, ValidationError

from asimov_sync._json import format_error
from asimov_sync.inference.request import Request
from asimov_sync.inference.tools.tool import format_validation_error
from asimov_sync.messages import ChatMessage, ChatRole, Reply

__all__ = ["FORMAT", "Output", "PROMPT", "TOOL", "TRUNCATED_REASONS", "strict_schema"]

TOOL, FORMAT, PROMPT = "tool", "format", "prompt"

TRUNCATED_REASONS = ("max_tokens", "refusal", "model_context_window_exceeded")
"""Stop reasons of an incomplete reply. Another attempt would not help."""


class Output:
    """A type of structured output: a pydantic model, or another type whose JSON is an object.

    output_type: the type.
    taken_names: names of other tools, which the output's name avoids.

    name: the name of the tool whose arguments are the data.
    schema: the JSON schema.
    has_free_form_objects: whether the schema contains an object with arbitrary keys, which
        constrained decoding cannot produce.

    Raises TypeError for a type without such a schema.
    """

    def __init__(self, output_type: Any, taken_names: Iterable[str] = ()) -> None:
        try:
            self._adapter: "TypeAdapter[Any]" = TypeAdapter(output_type)
            self.schema = _inline_root(self._adapter.json_schema())
        except Exception as error:
            raise TypeError(
                f"output={output_type!r} has no JSON schema: {format_error(error)}"
            ) from error
        if self.schema.get("type") != "object":
            raise TypeError(
                "output= takes a pydantic model, or another type whose JSON is an object; "
                f"not {output_type!r}"
            )
        is_model = isinstance(output_type, type) and issubclass(output_type, BaseModel)
        name = output_type.__name__ if is_model else str(self.schema.get("title") or "output")
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:48].strip("_") or "output"
        while self.name in taken_names:
            self.name += "_output"
        self.has_free_form_objects = _has_free_form_objects(self.schema)

    @property
    def definition(self) -> Dict[str, Any]:
        """The definition of the tool whose arguments are the data."""
        description = self.schema.get("description") or "Give the answer."
        return {"name": self.name, "description": description, "input_schema": self.schema}

    def apply_to(self, request: Request, method: str, native: Dict[str, Any]) -> Request:
        """Return the request, changed to ask for the data.

        method: TOOL, FORMAT or PROMPT.
        native: the options of the provider's own output format, for FORMAT.
        """
        options = dict(request.options)
        if method == TOOL:
            options["tool_choice"] = self.name
            has_tool = any(definition["name"] == self.name for definition in request.tools)
            tools = request.tools + ([] if has_tool else [self.definition])
            return request._replace(tools=tools, options=options)
        if method == FORMAT:
            for name, value in native.items():
                before = options.get(name)
                options[name] = dict(before, **value) if isinstance(before, dict) else value
            return request._replace(options=options)
        schema = json.dumps(self.schema, ensure_ascii=False)
        instruction = (
            f"Answer with one JSON object of this JSON schema, and with nothing else:\n{schema}"
        )
        system = ChatMessage(role=ChatRole.SYSTEM, content=request.system or "").blocks
        return request._replace(system=system + [{"type": "text", "text": instruction}])

    def parse(self, reply: Reply) -> Reply:
        """Return the reply with its data in `.parsed`.

        Raises ValueError, with a message for the model, if the reply does not match the type.
        """
        if reply.stop_reason in TRUNCATED_REASONS:
            raise ValueError("it was cut short")
        call = next((call for call in reply.tool_calls if call.name == self.name), None)
        if call is not None and call.malformed is not None:
            raise ValueError("the arguments are not a JSON object")
        # Validate JSON, not Python values: a strict model accepts a date from JSON only.
        data = _strip_fence(reply.text) if call is None else json.dumps(call.arguments)
        try:
            return reply.model_copy(update={"parsed": self._adapter.validate_json(data)})
        except ValidationError as error:
            problem = format_validation_error(error)
        raise ValueError("the answer does not fit: " + problem)

    def correction(self, reply: Reply, problem: str) -> List[ChatMessage]:
        """Return the messages that ask for a corrected answer: the reply, and its problem."""
        if reply.tool_calls:
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": call.id,
                    "content": problem,
                    "is_error": True,
                }
                for call in reply.tool_calls
            ]
            return [reply.message, ChatMessage(role=ChatRole.TOOL_RESULT, content=results)]
        messages = [reply.message] if reply.message.blocks else []
        text = f"{problem}. Answer again."
        return messages + [ChatMessage(role=ChatRole.USER, content=text)]


def _inline_root(schema: Dict[str, Any]) -> Dict[str, Any]:
    """Return the schema with an object at its root, as providers require it.

    The schema of a self-referencing model has only a reference there.
    """
    root = schema.get("allOf") or [schema]  # pydantic before 2.10 wraps the reference
    if len(root) != 1 or "$ref" not in root[0]:
        return schema
    definitions = schema["$defs"]
    return dict(definitions[root[0]["$ref"].split("/")[-1]], **{"$defs": definitions})


def _strip_fence(text: str) -> str:
    """Return the text without the code fence that some models put around JSON."""
    stripped = text.strip()
    if not (stripped.startswith("```") and stripped.endswith("```")):
        return text
    first, _, rest = stripped[3:-3].partition("\n")
    return rest if first.strip() in ("", "json") else text


_UNSUPPORTED_BY_STRICT = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems "
    "maxItems uniqueItems minProperties maxProperties pattern default examples".split()
)


def strict_schema(schema: Any) -> Any:
    """Return the schema, restricted to what constrained decoding supports.

    Objects get no additional keys, and limits on values are removed; `Output.parse` still checks
    them. Source: Anthropic's documentation, "Structured outputs", JSON schema limitations.
    """
    if isinstance(schema, list):
        return [strict_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict: Dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
            strict[name] = {key: strict_schema(one) for key, one in value.items()}
        elif name not in _UNSUPPORTED_BY_STRICT:
            is_data = name in ("enum", "const", "required")
            strict[name] = value if is_data else strict_schema(value)
    if strict.get("type") == "object":
        strict["additionalProperties"] = False
    return strict


def _has_free_form_objects(schema: Any) -> bool:
    """Return whether a schema contains an object with arbitrary keys.

    `strict_schema` would turn it into an object without keys.
    """
    if isinstance(schema, list):
        return any(_has_free_form_objects(one) for one in schema)
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "object" and (
        schema.get("additionalProperties") or "properties" not in schema
    ):
        return True
    groups = [schema.get(name) or {} for name in ("properties", "$defs")]
    skip = ("properties", "$defs", "enum", "const", "default")
    others = [value for name, value in schema.items() if name not in skip]
    return _has_free_form_objects(others + [one for group in groups for one in group.values()])
