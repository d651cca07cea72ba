"""The rules of the two browser protocols, as their own clients check them.

`read_ui_message` follows `process-ui-message-stream.ts` of the npm package `ai`; `read_ag_ui_run`
follows `verify.ts` and `default.ts` of `@ag-ui/client`. The soak tier runs the packages themselves.
"""

import json


def read_frames(body):
    """Return the data of a body's server-sent events; comments are skipped."""
    assert body.endswith(b"\n\n")
    found = []
    for frame in body.decode("utf-8")[:-2].split("\n\n"):
        lines = [line for line in frame.split("\n") if not line.startswith(":")]
        assert all(line.startswith(("data: ", "event: ", "id: ")) for line in lines), frame
        data = [line[len("data: ") :] for line in lines if line.startswith("data: ")]
        assert len(data) == (1 if lines else 0)
        found += data
    return found


# AI SDK

PARTS = ("text", "reasoning")


def read_ui_message(body, parts=(), known=()):
    """Return the parts of the message of a body, and its chunks. Fails if a rule is broken.

    parts: the parts of the message so far.
    known: further ids of calls that the message has.
    """
    frames = read_frames(body)
    assert frames[-1] == "[DONE]" and "[DONE]" not in frames[:-1]
    chunks = [json.loads(frame) for frame in frames[:-1]]
    types = [chunk["type"] for chunk in chunks]
    assert types[0] == "start" and types.count("start") == 1
    assert types[-1] in ("finish", "abort") and not {"finish", "abort"} & set(types[:-1])
    assert "error" not in types or types[-2:] == ["error", "finish"]
    message, active, in_step = list(parts), {}, False
    for chunk in chunks[1:]:
        kind, _, action = chunk["type"].partition("-")
        if chunk["type"] == "start-step":
            assert not in_step
            in_step = True
            message.append({"type": "step-start"})
        elif chunk["type"] == "finish-step":
            assert in_step and not active
            in_step = False
        elif chunk["type"] == "reset-step":
            active = {}
            while message and message[-1]["type"] != "step-start":
                message.pop()
        elif kind in PARTS:
            _apply_text(message, active, kind, action, chunk)
        elif kind == "tool":
            _apply_tool(message, action, chunk, known)
        elif kind == "data":
            assert in_step
            same = [one for one in message if one.get("id") == chunk["id"]]
            same = [one for one in same if one["type"] == chunk["type"]]
            if same:
                same[0]["data"] = chunk["data"]
            else:
                message.append(dict(chunk))
        else:
            assert chunk["type"] in ("finish", "error", "abort"), chunk
    assert not active and not in_step
    return message, chunks


def _apply_text(message, active, kind, action, chunk):
    key = (kind, chunk["id"])
    if action == "start":
        assert key not in active
        active[key] = {"type": kind, "text": ""}
        message.append(active[key])
    elif action == "delta":
        active[key]["text"] += chunk["delta"]
    else:
        assert action == "end"
        del active[key]


def _step(message):
    starts = [index for index, part in enumerate(message) if part["type"] == "step-start"]
    return message[starts[-1] + 1 if starts else 0 :]


def _apply_tool(message, action, chunk, known):
    call_id = chunk["toolCallId"]
    found = [part for part in _step(message) if part.get("toolCallId") == call_id]
    if action == "input-available":
        if not found:
            found = [{"type": "dynamic-tool", "toolCallId": call_id}]
            message.append(found[0])
        found[0].update(state=action, toolName=chunk["toolName"], input=chunk["input"])
        return
    found = found or [part for part in message if part.get("toolCallId") == call_id][-1:]
    if not found:
        assert call_id in known, chunk
        return
    if action == "approval-request":
        found[0].update(state="approval-requested", approval=chunk["approvalId"])
    else:
        assert action in ("output-available", "output-error", "output-denied")
        found[0]["state"] = action
        found[0].update({key: chunk[key] for key in ("output", "errorText") if key in chunk})


# AG-UI


def read_ag_ui_run(body):
    """Return the events of a body, and the messages they make. Fails if a rule is broken."""
    events = [json.loads(frame) for frame in read_frames(body)]
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR")
    opened = {"TEXT_MESSAGE": {}, "REASONING_MESSAGE": {}, "REASONING": {}, "TOOL_CALL": {}}
    steps, messages = set(), {}
    for number, event in enumerate(events):
        assert None not in event.values(), event
        kind = event["type"]
        if kind == "STEP_STARTED":
            assert event["stepName"] not in steps
            steps.add(event["stepName"])
        elif kind == "STEP_FINISHED":
            steps.remove(event["stepName"])
        elif kind == "TOOL_CALL_RESULT":
            messages[event["messageId"]] = {"role": "tool", "content": event["content"]}
        elif kind == "MESSAGES_SNAPSHOT":
            messages = {message["id"]: dict(message) for message in event["messages"]}
        elif kind.startswith("RUN_"):
            assert number in (0, len(events) - 1)
        elif kind != "ACTIVITY_SNAPSHOT":
            _apply_open(opened, messages, event)
    assert not steps and not any(opened.values())
    return events, messages


def _apply_open(opened, messages, event):
    entity, _, action = event["type"].rpartition("_")
    key = event["toolCallId" if entity == "TOOL_CALL" else "messageId"]
    if action == "START":
        assert key not in opened[entity], event
        opened[entity][key] = True
        if entity == "TOOL_CALL":
            parent = messages.setdefault(event["parentMessageId"], {"role": "assistant"})
            assert parent["role"] == "assistant"
            parent.setdefault("toolCalls", []).append(key)
        elif entity != "REASONING":
            role = "reasoning" if entity == "REASONING_MESSAGE" else "assistant"
            assert key not in messages
            messages[key] = {"role": role, "content": ""}
    elif action == "END":
        del opened[entity][key]
    else:
        assert action in ("CONTENT", "ARGS") and opened[entity][key]
        if action == "CONTENT":
            messages[key]["content"] = messages[key].get("content", "") + event["delta"]
