"""Codec of Bedrock's Converse, one wire for all its models. Pure: no IO, no clock.

Encodes a Request as boto3's parameters, decodes answers and stream events to a Reply.

Facts: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
…/API_runtime_ConverseStream.html, and recorded traffic, which adds that only tool calls and their
results have a contentBlockStart, that usage comes in `metadata`, after messageStop or (from
gateways) before it, and that inputTokens excludes cached tokens: totalTokens is the sum of
all four.
"""

import base64
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from asimov_sync.inference.providers.anthropic.wire import encode_request as encode_messages
from asimov_sync.inference.providers.bedrock.blocks import (
    ConverseEncoder,
    cache_points,
    decode_base64,
    from_converse,
    without_nulls,
)
from asimov_sync.inference.providers.coerce import as_count, block_index, parse_object
from asimov_sync.inference.providers.fold import BlockFold, StreamedBlock, tool_calls
from asimov_sync.inference.request import Request
from asimov_sync.messages import (
    Block,
    ChatMessage,
    ChatRole,
    Event,
    Reply,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    Usage,
)

__all__ = ["ConverseFold", "decode_reply", "encode_request"]

_INFERENCE = {
    "max_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop_sequences": "stopSequences",
}
"""The options of every model, and their names in inferenceConfig."""

_STOP_REASONS = {"guardrail_intervened": "refusal", "content_filtered": "refusal"}
"""Converse's own stop reasons, in Anthropic's terms. Any other is kept."""

# Request to wire


def encode_request(request: Request, betas: Sequence[str] = ()) -> Dict[str, Any]:
    """Return the parameters of a Converse request, without modelId.

    Options of some models only (top_k, thinking …) are sent as additionalModelRequestFields.
    `extra` is merged unchanged. Consecutive messages of one role are joined, because Converse
    requires alternating roles.

    Raises TypeError for an option that the wire does not have.
    """
    options = dict(request.options)
    extra = options.pop("extra", None) or {}
    body = encode_messages(request._replace(options=options), keep_cited=True)
    del body["model"]
    encoder = ConverseEncoder()
    parameters: Dict[str, Any] = {"messages": _encode_messages(encoder, body.pop("messages"))}
    system = body.pop("system", [])
    blocks = encoder.blocks(
        [{"type": "text", "text": system}] if isinstance(system, str) else system
    )
    if blocks:
        parameters["system"] = blocks
    inference = {theirs: body.pop(ours) for ours, theirs in _INFERENCE.items() if ours in body}
    if inference:
        parameters["inferenceConfig"] = inference
    tools = [entry for tool in body.pop("tools", []) for entry in _encode_tool(tool)]
    additional = dict(body, anthropic_beta=list(betas)) if betas else body
    choice = _take_tool_choice(additional)
    config = {name: value for name, value in (("tools", tools), ("toolChoice", choice)) if value}
    if config:
        parameters["toolConfig"] = config
    if additional:
        parameters["additionalModelRequestFields"] = additional
    parameters.update(extra)
    encodable = _replace_surrogates(parameters)
    assert isinstance(encodable, dict)
    return encodable


def _encode_messages(
    encoder: ConverseEncoder, messages: List[Dict[str, Any]]
) -> List[Dict[str, Any]]:
    sent: List[Dict[str, Any]] = []
    for message in messages:
        content = message["content"]
        blocks = encoder.blocks(
            [{"type": "text", "text": content}] if isinstance(content, str) else content
        )
        if sent and sent[-1]["role"] == message["role"]:
            sent[-1]["content"].extend(blocks)
        elif blocks:
            sent.append({"role": message["role"], "content": blocks})
    if not sent:
        raise ValueError("there is no message to answer: all of them are blank")
    return sent


def _encode_tool(tool: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Return a tool, and its cachePoint if it is marked. Without a schema it is sent unchanged."""
    if "input_schema" not in tool:
        return [tool]
    spec: Dict[str, Any] = {"name": tool["name"], "inputSchema": {"json": tool["input_schema"]}}
    if tool.get("description"):  # Converse rejects an empty one
        spec["description"] = tool["description"]
    if "strict" in tool:
        spec["strict"] = tool["strict"]
    return [{"toolSpec": spec}] + cache_points(tool)


def _take_tool_choice(additional: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Remove the tool_choice from the other options and return Converse's toolChoice.

    A part that Converse does not have (disable_parallel_tool_use) stays among the options.
    """
    choice = additional.pop("tool_choice", None)
    if choice is None:
        return None
    kind = choice.get("type")
    if kind == "none":
        raise ValueError('Converse has no tool_choice "none": leave the tools out')
    others = {name: value for name, value in choice.items() if name not in ("type", "name")}
    if others and kind == "auto":
        additional["tool_choice"] = choice  # unchanged: Anthropic requires its type
        return None
    if others:
        additional["tool_choice"] = others  # a second type would be a conflict
    return {"tool": {"name": choice["name"]}} if kind == "tool" else {kind: {}}


def _replace_surrogates(value: Any) -> Any:
    """Replace lone surrogates (of a file name, say) by question marks: they have no UTF-8 form."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {name: _replace_surrogates(item) for name, item in value.items()}
    return [_replace_surrogates(item) for item in value] if isinstance(value, list) else value


# Wire to reply


def decode_reply(body: Mapping[str, Any], model: str, request_id: Optional[str]) -> Reply:
    """Return the reply of an answer that was not streamed.

    model: the requested model; Converse's answer does not name one.
    request_id: used as the reply's id; it has no other.

    Raises ValueError, KeyError or TypeError if the body is not a reply.
    """
    content = body["output"]["message"]["content"]
    if not isinstance(content, list) or not isinstance(body["stopReason"], str):
        raise ValueError("the answer is not a message with a list of content and a stopReason")
    blocks = [from_converse(block) for block in content]
    return _reply(blocks, {}, body["stopReason"], body.get("usage"), model, request_id)


def _reply(
    blocks: List[Block],
    malformed: Mapping[int, str],
    stop_reason: Optional[str],
    figures: Any,
    model: str,
    request_id: Optional[str],
) -> Reply:
    return Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason=None if stop_reason is None else _STOP_REASONS.get(stop_reason, stop_reason),
        raw_stop_reason=stop_reason,
        tool_calls=tool_calls(blocks, malformed),
        usage=_usage(figures),
        model=model,
        id=request_id,
    )


def _usage(figures: Any) -> Usage:
    read = as_count(figures, "cacheReadInputTokens")
    written = as_count(figures, "cacheWriteInputTokens")
    uncached, output = as_count(figures, "inputTokens"), as_count(figures, "outputTokens")
    if as_count(figures, "totalTokens") == uncached + output:
        # The total shows that this model counts cached tokens as input.
        uncached = max(0, uncached - read - written)
    parts = {"5m": 0, "1h": 0}
    details = figures.get("cacheDetails") if isinstance(figures, Mapping) else None
    for detail in details if isinstance(details, list) else []:
        lifetime = detail.get("ttl") if isinstance(detail, Mapping) else None
        if lifetime in ("5m", "1h"):
            parts[lifetime] += as_count(detail, "inputTokens")
    return Usage(
        input_tokens=uncached,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_write_input_tokens=written,
        cache_write_5m_input_tokens=parts["5m"],
        cache_write_1h_input_tokens=parts["1h"],
        requests=1,
    )


class ConverseFold(BlockFold):
    """Folds the events of ConverseStream, each as {name: payload}, to a Reply.

    The reply is done when both messageStop and metadata have arrived. A stream that ends between
    the two looks like one that was cut, and its usage is unknown.

    model, request_id: as in `decode_reply`.
    """

    def __init__(self, model: str, request_id: Optional[str]) -> None:
        super().__init__()
        self._model = model
        self._request_id = request_id
        self._stop_reason: Optional[str] = None
        self._figures: Any = None
        self._has_metadata = False

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """Take a wire event and return its typed events; an unknown one has none."""
        ((kind, event),) = data.items()
        if kind == "contentBlockDelta":
            return self._delta(block_index(event["contentBlockIndex"]), event["delta"])
        if kind == "contentBlockStart":
            ((kind, start),) = without_nulls(event["start"]).items()
            if kind == "toolUse" and not (
                isinstance(start["toolUseId"], str) and isinstance(start["name"], str)
            ):
                raise ValueError("a tool call without an id or a name")
            self._start_block(block_index(event["contentBlockIndex"]), {kind: dict(start)})
        elif kind == "contentBlockStop":
            index = block_index(event["contentBlockIndex"])
            # A block without a start and without a delta is an empty text.
            return self._stop_block(self._at.get(index) or self._start_block(index, {"text": {}}))
        elif kind == "messageStop":
            self._stop_reason = event["stopReason"]
            if not isinstance(self._stop_reason, str):
                raise ValueError("the message stops without a stopReason")
            return self._finish_if_complete()
        elif kind == "metadata":
            self._has_metadata = True
            self._figures = event.get("usage")
            return self._finish_if_complete()
        return ()

    def _finish_if_complete(self) -> Sequence[Event]:
        if self._stop_reason is None or not self._has_metadata:
            return ()
        self.done = True
        return (ReplyDone(self.partial()),)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Sequence[Event]:
        ((kind, value),) = delta.items() if len(delta) == 1 else without_nulls(delta).items()
        if kind == "text":
            self._add_piece(index, "text", "text", value)
            return (TextDelta(value),)
        if kind == "reasoningContent":
            ((part, piece),) = without_nulls(value).items()
            self._add_piece(index, "reasoningContent", part, piece)
            return (ThinkingDelta(piece),) if part == "text" else ()
        if kind == "toolUse":
            self._add_piece(index, "toolUse", "input", value["input"])
        elif kind == "citation":
            self._add_piece(index, "text", "citations", value)
        elif kind == "toolResult":
            for piece in value:
                self._add_piece(index, "toolResult", "content", piece)
        elif kind == "image":
            self._add_piece(index, "image", "bytes", value["source"]["bytes"])
        else:
            raise ValueError(f"a delta of an unknown kind, {kind!r}")
        return ()

    def _add_piece(self, index: int, kind: str, part: str, piece: Any) -> None:
        """Add a piece to a block. Text and reasoning start with their first piece."""
        if not isinstance(piece, _PIECES[part]):
            raise ValueError("a delta that does not fit its block")
        if part in ("redactedContent", "bytes"):
            piece = decode_base64(piece)
        block = self._at.get(index)
        if block is None and kind in ("text", "reasoningContent"):
            block = self._start_block(index, {kind: {}})
        if block is None or kind not in block.start:
            raise ValueError("a delta that does not fit its block")
        if kind == "reasoningContent" and block.pieces:
            if ("redactedContent" in block.pieces) != (part == "redactedContent"):
                raise ValueError("a block of both redacted and readable reasoning")
        block.pieces.setdefault(part, []).append(piece)

    def _join_block(self, block: StreamedBlock) -> Tuple[Block, Optional[str]]:
        """Return a block with its deltas, and its input as text if that is not a JSON object."""
        ((kind, start),) = block.start.items()
        pieces = block.pieces
        if kind == "text":
            text = "".join(pieces.get("text", ()))
            if "citations" not in pieces:
                return from_converse({"text": text}), None
            content = [{"text": text}] if text else []
            cited = {"content": content, "citations": pieces["citations"]}
            return from_converse({"citationsContent": cited}), None
        malformed = None
        if kind == "toolUse":
            text = "".join(pieces.get("input", ()))
            arguments, malformed = parse_object(text) if text else ({}, None)
            joined = dict(start, input=arguments)
        elif kind == "toolResult":
            joined = dict(start, content=pieces.get("content", []))
        elif kind == "image":
            joined = dict(start, source={"bytes": _encode_base64(pieces.get("bytes", []))})
        elif kind == "reasoningContent":
            joined = _join_reasoning(pieces)
        else:
            return {kind: start}, None  # unknown, and kept as it started
        return from_converse({kind: joined}), malformed

    def partial(self) -> Reply:
        """Return the reply of the events fed so far; its stop_reason is None until it is done."""
        blocks, malformed = self._join_blocks()
        stop_reason = self._stop_reason if self.done else None
        return _reply(blocks, malformed, stop_reason, self._figures, self._model, self._request_id)


_PIECES: Dict[str, Any] = {
    "text": str,
    "signature": str,
    "redactedContent": str,
    "citations": dict,
    "input": str,
    "content": dict,
    "bytes": str,
}
"""The parts of a block that deltas add to, and the types of their pieces."""


def _encode_base64(pieces: List[bytes]) -> str:
    return base64.b64encode(b"".join(pieces)).decode("ascii")


def _join_reasoning(pieces: Mapping[str, List[Any]]) -> Dict[str, Any]:
    if "redactedContent" in pieces:
        return {"redactedContent": _encode_base64(pieces["redactedContent"])}
    reasoning = {"text": "".join(pieces.get("text", ()))}
    if "signature" in pieces:
        reasoning["signature"] = "".join(pieces["signature"])
    return {"reasoningText": reasoning}
