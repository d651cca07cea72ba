"""Replies with every kind of block, and the requests for them, for the tests of the wires."""

import requests

from asimov_sync import ChatMessage, ChatRole, Reply, Usage

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
CONVERSE_HELLO = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}

CITATION = {
    "type": "char_location",
    "cited_text": "abc",
    "document_index": 0,
    "document_title": "T",
    "start_char_index": 1,
    "end_char_index": 4,
}
WEB_CITATION = {
    "type": "web_search_result_location",
    "url": "https://x.example",
    "title": "X",
    "cited_text": "abc",
}
THINKING = {"type": "thinking", "thinking": "let me see", "signature": "sig=="}
REDACTED = {"type": "redacted_thinking", "data": "EuYB"}
TEXT = {"type": "text", "text": "Hello wörld"}
TOOL = {"type": "tool_use", "id": "tu1", "name": "f", "input": {"a": [1, "é"]}}
UNKNOWN = {"type": "hologram", "depth": {"x": None}}
USAGE = Usage(
    input_tokens=3,
    output_tokens=50,
    cache_read_input_tokens=7,
    cache_write_input_tokens=11,
    cache_write_5m_input_tokens=5,
    cache_write_1h_input_tokens=6,
    reasoning_tokens=20,
    requests=1,
)


def make_reply(*blocks, stop_reason="tool_use", **fields):
    message = ChatMessage(role=ChatRole.ASSISTANT, content=list(blocks))
    return Reply(
        **dict(
            {
                "message": message,
                "stop_reason": stop_reason,
                "usage": USAGE,
                "model": "m",
                "id": "i",
            },
            **fields,
        )
    )


def cite(text, *citations):
    return {"type": "text", "text": text, "citations": list(citations)}


def post_json(server, path, body, **options):
    return requests.post(server.bedrock_url + path, json=body, timeout=20, **options)
