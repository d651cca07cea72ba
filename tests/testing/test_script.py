"""Scripts receive the same Messages body on every wire."""

import base64

from asimov_sync.testing import ModelServer, last_text, tool_results
from asimov_sync.testing.wires import CHAT, CONVERSE

from .replies import REDACTED, TEXT, THINKING, TOOL, post_json

TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PICTURE = base64.b64encode(b"picture").decode("ascii")
EXPECTED = {
    "model": "m:1/x",
    "system": "be brief",
    "max_tokens": 7,
    "temperature": 0.5,
    "stop_sequences": ["END"],
    "tools": [{"name": "f", "description": "does it", "input_schema": TOOL_SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f"},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PICTURE},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [THINKING, REDACTED, TEXT, TOOL, dict(TOOL, id="tu2", input={})],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "tu1", "content": "seven"},
                {"type": "tool_result", "tool_use_id": "tu2", "content": "eight"},
            ],
        },
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "go on"},
    ],
}
IN_CHAT = {
    "model": "m:1/x",
    "max_completion_tokens": 7,
    "temperature": 0.5,
    "stop": "END",
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "description": "does it", "parameters": TOOL_SCHEMA},
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "messages": [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PICTURE}},
            ],
        },
        {
            "role": "assistant",
            "content": "Hello wörld",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "let me see", "signature": "sig=="},
                {"type": "reasoning.encrypted", "data": "EuYB"},
            ],
            "tool_calls": [
                {
                    "id": "tu1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a": [1, "é"]}'},
                },
                {"id": "tu2", "type": "function", "function": {"name": "f", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "tu1", "content": "seven"},
        {"role": "tool", "tool_call_id": "tu2", "content": [{"type": "text", "text": "eight"}]},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "go on"},
    ],
}
IN_CONVERSE = {
    "system": [{"text": "be brief"}],
    "inferenceConfig": {"maxTokens": 7, "temperature": 0.5, "stopSequences": ["END"]},
    "toolConfig": {
        "tools": [
            {
                "toolSpec": {
                    "name": "f",
                    "description": "does it",
                    "inputSchema": {"json": TOOL_SCHEMA},
                }
            }
        ],
        "toolChoice": {"tool": {"name": "f"}},
    },
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "look"},
                {"image": {"format": "png", "source": {"bytes": PICTURE}}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {
                    "reasoningContent": {
                        "reasoningText": {"text": "let me see", "signature": "sig=="}
                    }
                },
                {
                    "reasoningContent": {
                        "redactedContent": base64.b64encode(b"EuYB").decode("ascii")
                    }
                },
                {"text": "Hello wörld"},
                {"toolUse": {"toolUseId": "tu1", "name": "f", "input": {"a": [1, "é"]}}},
                {"toolUse": {"toolUseId": "tu2", "name": "f", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "tu1",
                        "content": [{"text": "seven"}],
                        "status": "success",
                    }
                },
                {"toolResult": {"toolUseId": "tu2", "content": [{"text": "eight"}]}},
            ],
        },
        {"role": "assistant", "content": [{"text": "well"}]},
        {"role": "user", "content": [{"text": "go on"}]},
    ],
}


def test_script_receives_messages_body():
    """The same request is the same body on each wire; ServedRequest.body is the original."""
    bodies = []
    invoke = {name: value for name, value in EXPECTED.items() if name != "model"}
    with ModelServer(lambda body: bodies.append(body) or "ok") as server:
        post_json(server, "/v1/messages", EXPECTED)
        post_json(server, "/v1/chat/completions", IN_CHAT)
        post_json(server, "/model/m%3A1%2Fx/invoke", invoke)
        post_json(server, "/model/m%3A1%2Fx/converse", IN_CONVERSE)
        post_json(server, "/model/m%3A1%2Fx/converse-stream", IN_CONVERSE)
        assert [request.body for request in server.requests[:4]] == [
            EXPECTED,
            IN_CHAT,
            invoke,
            IN_CONVERSE,
        ]
        assert [request.wire for request in server.requests] == [
            "messages",
            "chat",
            "invoke",
            "converse",
            "converse",
        ]
        assert server.requests[2].path == "/model/m%3A1%2Fx/invoke"
    assert [body.pop("stream", None) for body in bodies] == [None, None, False, False, True]
    assert bodies == [EXPECTED] * 5


def test_script_helpers():
    """last_text and tool_results return the same on each wire."""
    found = []
    with ModelServer(
        lambda body: found.append((last_text(body), tool_results(body))) or "ok"
    ) as server:
        for path, body, length in (
            ("/v1/messages", EXPECTED, 3),
            ("/v1/chat/completions", IN_CHAT, 5),
            ("/model/m/converse", IN_CONVERSE, 3),
        ):
            post_json(server, path, dict(body, messages=body["messages"][:length]))
            post_json(server, path, body)
    assert found == [("", {"f": "eight"}), ("go on", {})] * 3


def test_unknown_fields():
    """Options, parts and tools that the Messages API does not have keep their names."""
    odd = {"type": "input_audio", "input_audio": {"data": "x"}}
    body = CHAT.read_request(
        {
            "messages": [
                {"role": "developer", "content": "a"},
                {"role": "system", "content": "b"},
                {"role": "user", "content": [odd]},
            ],
            "seed": 7,
            "tools": [{"type": "custom", "custom": {}}],
            "tool_choice": "required",
        }
    )
    assert body == {
        "system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "messages": [{"role": "user", "content": [odd]}],
        "seed": 7,
        "tools": [{"type": "custom", "custom": {}}],
        "tool_choice": {"type": "any"},
    }
    video = {"video": {"format": "mp4", "source": {"bytes": "x"}}}
    body = CONVERSE.read_request(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"text": "a"},
                        {"cachePoint": {"type": "default", "ttl": "1h"}},
                        video,
                    ],
                }
            ],
            "toolConfig": {
                "tools": [{"systemTool": {"name": "g"}}, {"cachePoint": {"type": "default"}}],
                "toolChoice": {"any": {}},
            },
            "additionalModelRequestFields": {"thinking": {"type": "adaptive"}},
            "guardrailConfig": {"a": 1},
        }
    )
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert body == {
        "messages": [{"role": "user", "content": [marked, video]}],
        "tools": [{"systemTool": {"name": "g"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "adaptive"},
        "guardrailConfig": {"a": 1},
    }
