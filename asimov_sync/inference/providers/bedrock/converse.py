"""Bedrock's Converse, one wire for all its models: a Request to boto3's parameters, answers and events to a Reply.

Pure: no IO, no clock. Facts: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
…/API_runtime_ConverseStream.html, and recorded traffic, which adds that only tool calls and their results have a
contentBlockStart, that figures come in `metadata`, after messageStop or (from gateways) before it, and that inputTokens
counts no cached tokens: totalTokens is the sum of all four.
"""

import base64
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from asimov_sync.inference.providers.anthropic.wire import encode_request as encode_messages
from asimov_sync.inference.providers.bedrock.blocks import (
    Outgoing,
    blob,
    cache_points,
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

_INFERENCE = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP", "stop_sequences": "stopSequences"}
"""The options that every model has, and their names in inferenceConfig."""

_STOP_REASONS = {"guardrail_intervened": "refusal", "content_filtered": "refusal"}
"""Converse's own words, in Anthropic's; the others are the same, or have no counterpart."""

# Request to wire


def encode_request(request: Request, betas: Sequence[str] = ()) -> Dict[str, Any]:
    """The parameters of a Converse request, but for modelId. TypeError for an option that there is not.

    What only some models know (top_k, thinking …) is sent as additionalModelRequestFields; `extra` is merged as it is.
    Messages of one role in a row become one, since Converse wants the roles to alternate.
    """
    options = dict(request.options)
    extra = options.pop("extra", None) or {}
    body = encode_messages(request._replace(options=options), keep_cited=True)
    del body["model"]
    outgoing = Outgoing()
    sent: Dict[str, Any] = {"messages": _messages(outgoing, body.pop("messages"))}
    system = body.pop("system", [])
    blocks = outgoing.blocks([{"type": "text", "text": system}] if isinstance(system, str) else system)
    if blocks:
        sent["system"] = blocks
    inference = {theirs: body.pop(ours) for ours, theirs in _INFERENCE.items() if ours in body}
    if inference:
        sent["inferenceConfig"] = inference
    tools = [one for tool in body.pop("tools", []) for one in _tool(tool)]
    additional = dict(body, anthropic_beta=list(betas)) if betas else body
    choice = _tool_choice(additional)
    config = {name: told for name, told in (("tools", tools), ("toolChoice", choice)) if told}
    if config:
        sent["toolConfig"] = config
    if additional:
        sent["additionalModelRequestFields"] = additional
    sent.update(extra)
    sendable = _sendable(sent)
    assert isinstance(sendable, dict)
    return sendable


def _messages(outgoing: Outgoing, messages: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    sent: List[Dict[str, Any]] = []
    for message in messages:
        content = message["content"]
        blocks = outgoing.blocks([{"type": "text", "text": content}] if isinstance(content, str) else content)
        if sent and sent[-1]["role"] == message["role"]:
            sent[-1]["content"].extend(blocks)
        elif blocks:
            sent.append({"role": message["role"], "content": blocks})
    if not sent:
        raise ValueError("there is no message to answer: all of them are blank")
    return sent


def _tool(tool: Dict[str, Any]) -> List[Dict[str, Any]]:
    """A tool, and its cachePoint if it is marked; one that is no function is sent as it is."""
    if "input_schema" not in tool:
        return [tool]
    told: Dict[str, Any] = {"name": tool["name"], "inputSchema": {"json": tool["input_schema"]}}
    if tool.get("description"):  # Converse refuses an empty one
        told["description"] = tool["description"]
    if "strict" in tool:
        told["strict"] = tool["strict"]
    return [{"toolSpec": told}] + cache_points(tool)


def _tool_choice(additional: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The toolChoice, taken out of the other options; what it has no word for (disable_parallel_tool_use) stays there."""
    choice = additional.pop("tool_choice", None)
    if choice is None:
        return None
    kind = choice.get("type")
    if kind == "none":
        raise ValueError('Converse has no tool_choice "none": leave the tools out')
    more = {name: value for name, value in choice.items() if name not in ("type", "name")}
    if more and kind == "auto":
        additional["tool_choice"] = choice  # Anthropic's own, whole: it takes none without a type
        return None
    if more:
        additional["tool_choice"] = more  # the type again would be a conflict
    return {"tool": {"name": choice["name"]}} if kind == "tool" else {kind: {}}


def _sendable(value: Any) -> Any:
    """A value whose text has UTF-8: a question mark stands for a lone surrogate (of a file name, say)."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {name: _sendable(one) for name, one in value.items()}
    return [_sendable(one) for one in value] if isinstance(value, list) else value


# Wire to reply


def decode_reply(body: Mapping[str, Any], model: str, request_id: Optional[str]) -> Reply:
    """The reply of an answer that was not streamed. ValueError, KeyError or TypeError where it is none.

    model: the one that was asked, since Converse does not say who answers. request_id: the reply's id, since it has no other.
    """
    content = body["output"]["message"]["content"]
    if not isinstance(content, list) or not isinstance(body["stopReason"], str):
        raise ValueError("a message with a list of content and a stopReason was promised")
    blocks = [from_converse(block) for block in content]
    return _reply(blocks, {}, body["stopReason"], body.get("usage"), model, request_id)


def _reply(
    blocks: List[Block],
    malformed: Mapping[int, str],
    stopped: Optional[str],
    figures: Any,
    model: str,
    request_id: Optional[str],
) -> Reply:
    return Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason=None if stopped is None else _STOP_REASONS.get(stopped, stopped),
        raw_stop_reason=stopped,
        tool_calls=tool_calls(blocks, malformed),
        usage=_usage(figures),
        model=model,
        id=request_id,
    )


def _usage(figures: Any) -> Usage:
    read, written = as_count(figures, "cacheReadInputTokens"), as_count(figures, "cacheWriteInputTokens")
    told, output = as_count(figures, "inputTokens"), as_count(figures, "outputTokens")
    if as_count(figures, "totalTokens") == told + output:
        told = max(0, told - read - written)  # some models count cached tokens as input, which their total gives away
    parts = {"5m": 0, "1h": 0}
    details = figures.get("cacheDetails") if isinstance(figures, Mapping) else None
    for detail in details if isinstance(details, list) else []:
        lifetime = detail.get("ttl") if isinstance(detail, Mapping) else None
        if lifetime in ("5m", "1h"):
            parts[lifetime] += as_count(detail, "inputTokens")
    return Usage(
        input_tokens=told,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_write_input_tokens=written,
        cache_write_5m_input_tokens=parts["5m"],
        cache_write_1h_input_tokens=parts["1h"],
        requests=1,
    )


class ConverseFold(BlockFold):
    """Folds the events of ConverseStream, each as {name: payload}, to a Reply.

    The reply is done when both messageStop and metadata have come. A stream that ends between the two cannot be told from
    one that was cut, and what it cost is not known.

    model, request_id: as in `decode_reply`.
    """

    def __init__(self, model: str, request_id: Optional[str]) -> None:
        super().__init__()
        self._model = model
        self._request_id = request_id
        self._stopped: Optional[str] = None
        self._figures: Any = None
        self._told = False  # whether metadata came

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """The typed events that a wire event amounts to; one that is new amounts to none."""
        ((kind, event),) = data.items()
        if kind == "contentBlockDelta":
            return self._delta(block_index(event["contentBlockIndex"]), event["delta"])
        if kind == "contentBlockStart":
            ((kind, told),) = without_nulls(event["start"]).items()
            if kind == "toolUse" and not (isinstance(told["toolUseId"], str) and isinstance(told["name"], str)):
                raise ValueError("a tool call without an id or a name")
            self._start_block(block_index(event["contentBlockIndex"]), {kind: dict(told)})
        elif kind == "contentBlockStop":
            index = block_index(event["contentBlockIndex"])
            # A block without a start and without a delta is empty text.
            return self._stop_block(self._at.get(index) or self._start_block(index, {"text": {}}))
        elif kind == "messageStop":
            self._stopped = event["stopReason"]
            if not isinstance(self._stopped, str):
                raise ValueError("the message stops without a stopReason")
            return self._done()
        elif kind == "metadata":
            self._told = True
            self._figures = event.get("usage")
            return self._done()
        return ()

    def _done(self) -> Sequence[Event]:
        if self._stopped is None or not self._told:
            return ()
        self.done = True
        return (ReplyDone(self.partial()),)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Sequence[Event]:
        ((kind, told),) = delta.items() if len(delta) == 1 else without_nulls(delta).items()
        if kind == "text":
            self._add(index, "text", "text", told)
            return (TextDelta(told),)
        if kind == "reasoningContent":
            ((part, piece),) = without_nulls(told).items()
            self._add(index, "reasoningContent", part, piece)
            return (ThinkingDelta(piece),) if part == "text" else ()
        if kind == "toolUse":
            self._add(index, "toolUse", "input", told["input"])
        elif kind == "citation":
            self._add(index, "text", "citations", told)
        elif kind == "toolResult":
            for one in told:
                self._add(index, "toolResult", "content", one)
        elif kind == "image":
            self._add(index, "image", "bytes", told["source"]["bytes"])
        else:
            raise ValueError(f"a delta of an unknown kind, {kind!r}")
        return ()

    def _add(self, index: int, kind: str, part: str, piece: Any) -> None:
        """Add a piece to a block. Blocks of text and reasoning begin with their first piece, the others were announced."""
        if not isinstance(piece, _PIECES[part]):
            raise ValueError("a delta that is none of its block")
        if part in ("redactedContent", "bytes"):
            piece = blob(piece)
        block = self._at.get(index)
        if block is None and kind in ("text", "reasoningContent"):
            block = self._start_block(index, {kind: {}})
        if block is None or kind not in block.start:
            raise ValueError("a delta that is none of its block")
        if kind == "reasoningContent" and block.pieces:
            if ("redactedContent" in block.pieces) != (part == "redactedContent"):
                raise ValueError("a reasoning that is redacted, and is not")
        block.pieces.setdefault(part, []).append(piece)

    def _join_block(self, block: StreamedBlock) -> Tuple[Block, Optional[str]]:
        """A block with all its deltas, and its input as text if that is not a JSON object."""
        ((kind, start),) = block.start.items()
        pieces = block.pieces
        if kind == "text":
            told = "".join(pieces.get("text", ()))
            if "citations" not in pieces:
                return from_converse({"text": told}), None
            content = [{"text": told}] if told else []
            return from_converse({"citationsContent": {"content": content, "citations": pieces["citations"]}}), None
        malformed = None
        if kind == "toolUse":
            told = "".join(pieces.get("input", ()))
            arguments, malformed = parse_object(told) if told else ({}, None)
            whole = dict(start, input=arguments)
        elif kind == "toolResult":
            whole = dict(start, content=pieces.get("content", []))
        elif kind == "image":
            whole = dict(start, source={"bytes": _joined(pieces.get("bytes", []))})
        elif kind == "reasoningContent":
            whole = _reasoning(pieces)
        else:
            return {kind: start}, None  # new, and kept as it was announced
        return from_converse({kind: whole}), malformed

    def partial(self) -> Reply:
        """The reply of what was fed so far; without a stop_reason until it is done."""
        blocks, malformed = self._join_blocks()
        stopped = self._stopped if self.done else None
        return _reply(blocks, malformed, stopped, self._figures, self._model, self._request_id)


_PIECES: Dict[str, Any] = {
    "text": str,
    "signature": str,
    "redactedContent": str,
    "citations": dict,
    "input": str,
    "content": dict,
    "bytes": str,
}
"""What a block's deltas may bring, and as what."""


def _joined(pieces: List[bytes]) -> str:
    return base64.b64encode(b"".join(pieces)).decode("ascii")


def _reasoning(pieces: Mapping[str, List[Any]]) -> Dict[str, Any]:
    if "redactedContent" in pieces:
        return {"redactedContent": _joined(pieces["redactedContent"])}
    told = {"text": "".join(pieces.get("text", ()))}
    if "signature" in pieces:
        told["signature"] = "".join(pieces["signature"])
    return {"reasoningText": told}
