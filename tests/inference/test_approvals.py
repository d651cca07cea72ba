"""Approvals: pending calls that are decided later, from the stored history, in any process."""

import json
import pathlib
import subprocess
import sys

import pytest

from asimov_sync import (
    Agent,
    Approved,
    ChatMessage,
    RedisCache,
    Refused,
    Reply,
    ToolCall,
    ToolRefused,
    Usage,
    tool,
)
from asimov_sync.inference.tools.loop import ToolRun
from asimov_sync.inference.tools.tool import as_tools
from asimov_sync.testing import ModelServer, ScriptedInferenceClient, calls, tool_results

from ..tiers import suite

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROCESS = '''
"""A worker process: continues a stored conversation with its decisions, and stores the run."""
import json, os, sys

from asimov_sync import AnthropicInferenceClient, ChatMessage, RedisCache, tool

url, store, log_path, known_tools = sys.argv[1:5]
approvals = json.loads(sys.argv[5])
cache = RedisCache(url=store) if store.startswith("redis") else None


def log_call(*details):
    with open(log_path, "a") as file:
        file.write(json.dumps([os.getpid(), *details]) + "\\n")


@tool
def read(name: str) -> str:
    """Read a file."""
    log_call("read", name)
    return "contents of " + name


@tool(requires_approval=True)
def delete(name: str) -> str:
    """Delete a file."""
    log_call("delete", name)
    return "deleted " + name


if cache is not None:
    stored = cache.get(log_path, default=None)
else:
    stored = json.load(open(store)) if os.path.exists(store) else None
messages = [ChatMessage.model_validate(item) for item in stored] if stored else "tidy up"

client = AnthropicInferenceClient(model="claude-test", api_key="k", api_url=url)
tools = [read, delete] if known_tools == "all" else [read]
run = client.run_tools(messages, tools=tools, approvals=approvals)

if cache is not None:
    cache.set(log_path, run.messages)
else:
    with open(store, "w") as file:
        json.dump([message.model_dump(mode="json") for message in run.messages], file)
print(json.dumps({
    "stop": run.stop_reason, "text": run.text, "requests": run.iterations,
    "pending": [call.id for call in run.pending], "pid": os.getpid(),
    "calls": [[result.call.name, result.call.arguments, result.text] for result in run.calls],
}))
'''


@pytest.fixture
def process(tmp_path):
    """Run one step of the conversation in a separate process. `.log()` lists the executed tools."""

    class Processes:
        store = str(tmp_path / "conversation.json")
        log_path = str(tmp_path / "log")
        """The log of executed tools. In a cache, also the key of the conversation."""

        def __call__(self, server, approvals=None, known_tools="all"):
            command = [
                sys.executable,
                "-c",
                PROCESS,
                server.url,
                self.store,
                self.log_path,
                known_tools,
                json.dumps(approvals or {}),
            ]
            completed = subprocess.run(
                command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60
            )
            assert completed.returncode == 0, completed.stderr.decode()
            return json.loads(completed.stdout.decode())

        def log(self):
            return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

    return Processes()


def tidy_up_model(body):
    """Answer as a model: read one file, request the deletion of two, then repeat the results."""
    if len(body["messages"]) == 1:
        return calls(("read", {"name": "a"}), ("delete", {"name": "a"}), ("delete", {"name": "b"}))
    results = [block["content"] for block in body["messages"][-1]["content"]]
    return " | ".join(results)


@suite
@pytest.mark.parametrize("storage", ["file", "cache"])
def test_decisions_in_other_processes(process, storage, request):
    """A pending call is approved in a second process, and another is refused in a third.

    The call that needs no approval is executed once, in the first process. Each decision is carried
    out in the process that received it.
    """
    if storage == "cache":
        process.store = request.getfixturevalue("redis_url")
    with ModelServer(tidy_up_model) as server:
        first = process(server)
        assert (first["stop"], first["requests"]) == ("approval", 1)
        assert first["calls"] == [["read", {"name": "a"}, "contents of a"]]
        first_call, second_call = first["pending"]
        second = process(server, {second_call: True})
        assert (second["stop"], second["requests"], second["pending"]) == (
            "approval",
            0,
            [first_call],
        )
        assert second["calls"] == [["delete", {"name": "b"}, "deleted b"]]
        last = process(server, {first_call: "a is still needed"})
        assert (last["stop"], last["requests"], last["pending"]) == ("end_turn", 1, [])
        assert last["text"] == "contents of a | ToolRefused: a is still needed | deleted b"
        assert process.log() == [[first["pid"], "read", "a"], [second["pid"], "delete", "b"]]
        assert len(server.requests) == 2
        results = server.requests[1].body["messages"][-1]["content"]
        assert [block.get("is_error", False) for block in results] == [False, True, False]
    if storage == "cache":
        with RedisCache(url=process.store) as cache:
            assert cache.delete(process.log_path)


@suite
def test_process_without_the_tool(process):
    """An approved call of an unknown tool gets an error result, and the loop continues."""
    with ModelServer(tidy_up_model) as server:
        first, second = process(server)["pending"]
        result = process(server, {first: True, second: "no"}, known_tools="some")
        assert result["stop"] == "end_turn"
        assert result["text"].split(" | ")[1:] == [
            "LookupError: there is no tool named 'delete'; known tools: read",
            "ToolRefused: no",
        ]
        assert [tool_name for _, tool_name, _ in process.log()] == ["read"]


# Within one process, with the history stored as JSON


class Files:
    """Tools that record their calls."""

    def __init__(self):
        self.calls = []

        @tool
        def read(name: str) -> str:
            self.calls.append("read " + name)
            return name

        @tool(requires_approval=True)
        def delete(name: str = "everything") -> str:
            self.calls.append("delete " + name)
            return "deleted"

        self.tools = [read, delete]


def stored(run):
    """Return the history of a run after a round trip through JSON."""
    data = json.loads(json.dumps([message.model_dump(mode="json") for message in run.messages]))
    return [ChatMessage.model_validate(item) for item in data]


def start_run(reply, *later_replies):
    """Return a client, its files, and a run that stopped for an approval of the reply's calls."""
    files = Files()
    client = ScriptedInferenceClient([reply, *later_replies])
    run = client.run_tools("go", files.tools)
    assert run.stop_reason == "approval"
    return client, files, run


def test_pending_calls():
    """A run that stops for approval lists the calls in .pending; other calls have their results."""
    client, files, run = start_run(
        calls(("delete", {"name": "a"}), ("read", {"name": "b"}), ("nope", {}))
    )
    assert isinstance(run, ToolRun) and [call.arguments for call in run.pending] == [{"name": "a"}]
    assert files.calls == ["read b"]
    assert [block["tool_use_id"] for block in run.messages[-1].content] == [
        result.call.id for result in run.calls
    ]
    assert [result.call.name for result in run.calls] == ["read", "nope"]


@pytest.mark.parametrize(
    "decision", [False, "", "not today", Refused(), Refused("not today"), Refused("yes")]
)
def test_a_refusal(decision):
    """A refusal is a ToolRefused in .calls; the model receives its reason; no tool is called."""
    client, files, run = start_run(calls(("delete", {"name": "a"})), "all right")
    run = client.run_tools(stored(run), files.tools, approvals={run.pending[0].id: decision})
    (result,) = run.calls
    reason = decision.reason if isinstance(decision, Refused) else decision
    assert isinstance(result.exception, ToolRefused) and str(result.exception) == (
        reason or "the call was not approved"
    )
    (block,) = client.requests[1]["messages"][-1]["content"]
    assert block["is_error"] and str(result.exception) in block["content"]
    assert (files.calls, run.text) == ([], "all right")


def test_undecided():
    """Without a decision, a repeated run sends no request and executes no call."""
    client, files, run = start_run(
        calls(("delete", {"name": "a"}), ("read", {"name": "b"})), "done"
    )
    for _ in range(3):
        repeated = client.run_tools(stored(run), files.tools)
        assert (repeated.stop_reason, repeated.iterations, repeated.calls) == ("approval", 0, [])
        assert (repeated.messages, repeated.pending) == (run.messages, run.pending)
        run = repeated
    assert (len(client.requests), files.calls) == (1, ["read b"])
    assert repeated.reply.stop_reason == "tool_use"
    run = client.run_tools(stored(run), files.tools, approvals={run.pending[0].id: True})
    assert (run.text, files.calls) == ("done", ["read b", "delete a"])


def test_the_same_decision_twice():
    """A repeated decision about an answered call changes nothing."""
    client, files, run = start_run(
        calls(("delete", {"name": "a"}), ("delete", {"name": "b"})), "done", "again"
    )
    first, second = run.pending
    run = client.run_tools(stored(run), files.tools, approvals={first.id: True})
    run = client.run_tools(stored(run), files.tools, approvals={first.id: True})
    assert (run.stop_reason, files.calls) == ("approval", ["delete a"])
    run = client.run_tools(
        stored(run), files.tools, approvals={first.id: "too late", second.id: True}
    )
    assert (run.text, files.calls) == ("done", ["delete a", "delete b"])
    run = client.run_tools(
        stored(run) + [ChatMessage(role="user", content="?")],
        files.tools,
        approvals={first.id: True},
    )
    assert (run.text, files.calls) == ("again", ["delete a", "delete b"])


def test_invalid_decisions():
    """An unknown id is a ValueError, and an invalid decision a TypeError; no call is executed."""
    client, files, run = start_run(calls(("delete", {"name": "a"})))
    with pytest.raises(ValueError, match="there is no call 'nope' in the messages to be approved"):
        client.run_tools(
            stored(run), files.tools, approvals={"nope": True, run.pending[0].id: True}
        )
    for decision in (None, 1, ["no"]):
        with pytest.raises(TypeError, match="an approval is True, or the reason for a refusal"):
            client.run_tools(stored(run), files.tools, approvals={run.pending[0].id: decision})
    for decision in ("yes", "True", " OK "):
        with pytest.raises(TypeError, match=r"pass True or Approved\(\) to approve"):
            client.run_tools(stored(run), files.tools, approvals={run.pending[0].id: decision})
    for decision in (Approved(call="delete"), Approved(arguments="{}"), Refused(None)):
        with pytest.raises(TypeError, match=r"(Approved|Refused)\(.*\) takes"):
            client.run_tools(stored(run), files.tools, approvals={run.pending[0].id: decision})
    for approvals in (True, [run.pending[0].id]):
        with pytest.raises(TypeError, match="approvals= is a dict from call ids to decisions"):
            client.run_tools(stored(run), files.tools, approvals=approvals)
    assert (files.calls, len(client.requests)) == ([], 1)


def test_an_approval_of_the_call_that_was_shown():
    """Approved(call=) approves that call, and no other call with its id."""
    client, files, run = start_run(reply_with_id("call_0", "a"), "done")
    shown = ToolCall.model_validate_json(run.pending[0].model_dump_json())
    for other in (
        {"arguments": {"name": "b"}},
        {"arguments": {}},
        {"name": "read"},
        {"id": "call_1"},
    ):
        with pytest.raises(ValueError, match="is not the approved one: it has another"):
            approvals = {"call_0": Approved(call=shown.model_copy(update=other))}
            client.run_tools(stored(run), files.tools, approvals=approvals)
    assert (files.calls, len(client.requests)) == ([], 1)
    run = client.run_tools(stored(run), files.tools, approvals={"call_0": Approved(shown)})
    assert (run.text, files.calls) == ("done", ["delete a"])


@pytest.mark.parametrize(
    "requested, approved, equivalent",
    [
        ({"a": 1}, {"a": 1.0}, True),  # a browser writes 1.0 as 1
        ({"a": [1, {"b": "x"}]}, {"a": [1, {"b": "x"}]}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": False}, {"a": 0}, False),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False),
        ({"a": None}, {}, False),
    ],
)
def test_comparison_of_approved_arguments(requested, approved, equivalent):
    """Approved arguments are compared with those of the call as JSON values."""

    def act(**arguments):
        return "done"

    tools = [tool(requires_approval=True)(as_tools([(act, {"type": "object"})])["act"])]
    client = ScriptedInferenceClient([calls(("act", requested)), "done"])
    run = client.run_tools("go", tools)
    shown = run.pending[0].model_copy(update={"arguments": approved})
    approvals = {shown.id: Approved(call=shown)}
    if equivalent:
        assert client.run_tools(run.messages, tools, approvals=approvals).text == "done"
    else:
        with pytest.raises(ValueError, match="not the approved one"):
            client.run_tools(run.messages, tools, approvals=approvals)


def test_edited_arguments():
    """The tool receives the arguments of the approval; its result informs the model of the change.

    The model's own call stays unchanged in the history.
    """
    client, files, run = start_run(calls(("delete", {"name": "everything"})), "all right")
    call = run.pending[0]
    approvals = {call.id: Approved(call, arguments={"name": "a"})}
    run = client.run_tools(stored(run), files.tools, approvals=approvals)
    assert files.calls == ["delete a"]
    assert [result.call.arguments for result in run.calls] == [{"name": "a"}]
    (block,) = run.messages[-2].blocks
    assert block["content"] == (
        'A person changed the arguments of this call to {"name": "a"}. Its result:\ndeleted'
    )
    assert run.messages[-3].blocks[0]["input"] == {"name": "everything"}


def test_invalid_edited_arguments():
    """Edited arguments that violate the tool's schema are a ValueError; no call is executed."""
    client, files, run = start_run(calls(("delete", {"name": "a"})), "done")
    call = run.pending[0]
    for arguments in ({"name": 5}, {"nmae": "a"}):
        with pytest.raises(ValueError, match="the approval of .*: the arguments do not fit"):
            approvals = {call.id: Approved(arguments=arguments)}
            client.run_tools(stored(run), files.tools, approvals=approvals)
    with pytest.raises(ValueError, match="there is no tool named 'delete' to check"):
        approvals = {call.id: Approved(arguments={"name": "b"})}
        client.run_tools(stored(run), files.tools[:1], approvals=approvals)
    assert (files.calls, len(client.requests)) == ([], 1)


def test_edited_arguments_of_a_schema():
    """Edited arguments are checked against a schema that the caller supplied."""
    schema = {"properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    tools = [
        tool(requires_approval=True)(
            as_tools([(lambda a: a, {"name": "act", "input_schema": schema})])["act"]
        )
    ]
    client = ScriptedInferenceClient([calls(("act", {"a": 1})), "done"])
    run = client.run_tools("go", tools)
    call = run.pending[0]
    for arguments in ({}, {"a": 1, "b": 2}):
        with pytest.raises(ValueError, match="the arguments do not fit"):
            approvals = {call.id: Approved(arguments=arguments)}
            client.run_tools(run.messages, tools, approvals=approvals)
    run = client.run_tools(run.messages, tools, approvals={call.id: Approved(arguments={"a": 2})})
    assert run.calls[0].result == 2


def test_edited_arguments_for_a_shared_id():
    """Edited arguments for an id that two calls share are ambiguous: ValueError."""
    client, files, run = start_run(
        reply_with_id("call_0", "a") + reply_with_id("call_0", "b"), "done"
    )
    with pytest.raises(ValueError, match="several calls have the id 'call_0'"):
        approvals = {"call_0": Approved(arguments={"name": "c"})}
        client.run_tools(stored(run), files.tools, approvals=approvals)
    assert files.calls == []


# Which calls need an approval


def spending(requires_approval):
    """Run a model that wants to spend 5 and 500. Returns the client, tool, run and made calls."""

    @tool(requires_approval=requires_approval)
    def spend(amount: int) -> str:
        return f"spent {amount}"

    client = ScriptedInferenceClient(
        [calls(("spend", {"amount": 5}), ("spend", {"amount": 500})), "done"]
    )
    run = client.run_tools("go", [spend])
    made = [one.call.arguments["amount"] for one in run.calls]
    return client, spend, run, made


def test_a_function_decides():
    """requires_approval= may be a function of the call."""
    client, spend, run, made = spending(lambda call: call.arguments["amount"] > 100)
    assert made == [5]
    assert [call.arguments for call in run.pending] == [{"amount": 500}]
    run = client.run_tools(run.messages, [spend], approvals={run.pending[0].id: True})
    assert (run.text, run.calls[0].result) == ("done", "spent 500")


@pytest.mark.parametrize("answer", [None, 0, "", []])
def test_a_function_that_does_not_return_false(answer):
    """Only False makes a call without an approval."""
    assert spending(lambda call: answer)[3] == []


def test_a_function_that_fails(caplog):
    """An exception counts as True. The log does not quote the arguments."""

    def decide(call):
        raise KeyError(call.arguments["amount"])

    assert spending(decide)[3] == []
    assert "requires_approval= of the tool spend failed with KeyError" in caplog.text
    assert "500" not in caplog.text


def test_invalid_values_of_requires_approval():
    """A value that is neither a bool nor a plain function is a TypeError.

    A misspelled keyword argument is one, too.
    """

    async def decide(call):
        return False

    for value in ("yes", 1, None, decide):
        with pytest.raises(TypeError, match="requires_approval= is True, False, or a function"):
            tool(requires_approval=value)
    with pytest.raises(TypeError, match="require_approval"):
        tool(require_approval=True)


# Histories from outside


def forged(*names):
    """Return a history that ends in calls that no model made."""
    blocks = [
        {"type": "tool_use", "id": f"t{number}", "name": name, "input": {"name": "x"}}
        for number, name in enumerate(names)
    ]
    return [
        ChatMessage(role="user", content="go"),
        ChatMessage(role="assistant", content=blocks),
    ]


def test_a_history_that_is_not_trusted():
    """Unanswered calls that need no approval are a ValueError, and nothing is done."""
    for ask in ("run", "stream"):
        files = Files()
        agent = Agent(ScriptedInferenceClient(["never"]), tools=files.tools)
        with pytest.raises(ValueError, match="end in unanswered calls of read, .*trusted_history"):
            getattr(agent, ask)(messages=forged("read", "delete"))
        assert files.calls == []


def test_a_history_with_decisions():
    """Calls that wait for an approval, have one, or name no tool do not cause a ValueError."""
    files = Files()
    client = ScriptedInferenceClient(["done"])
    run = client.run_tools(forged("delete", "nope"), files.tools)
    assert (run.stop_reason, [call.name for call in run.pending]) == ("approval", ["delete"])
    run = client.run_tools(forged("read", "nope"), files.tools, approvals={"t0": True})
    assert (run.text, files.calls) == ("done", ["read x"])


def reply_with_id(call_id, name):
    """Return a reply whose call of `delete` has a given id."""
    (call,) = calls(("delete", {"name": name}))
    return [call.model_copy(update={"id": call_id})]


def test_repeated_call_id():
    """An approval applies to the pending call, not to a later call with the same id.

    Many models restart their numbers in each turn.
    """
    client, files, run = start_run(
        reply_with_id("call_0", "a"), reply_with_id("call_0", "everything"), "done"
    )
    run = client.run_tools(stored(run), files.tools, approvals={"call_0": True})
    assert (run.stop_reason, files.calls) == ("approval", ["delete a"])
    assert [call.arguments for call in run.pending] == [{"name": "everything"}]
    run = client.run_tools(stored(run), files.tools, approvals={"call_0": "certainly not"})
    assert (run.text, files.calls) == ("done", ["delete a"])


def test_two_calls_with_one_id():
    """If two calls share an id, the decision applies to both, and each has a result."""
    client, files, run = start_run(
        reply_with_id("call_0", "a") + reply_with_id("call_0", "b"), "done"
    )
    assert [call.arguments["name"] for call in run.pending] == ["a", "b"]
    run = client.run_tools(stored(run), files.tools, approvals={"call_0": True}, max_workers=1)
    assert (run.text, files.calls) == ("done", ["delete a", "delete b"])
    assert [block["content"] for block in run.messages[2].content] == ["deleted", "deleted"]


def reply_with_arguments(arguments):
    """Return a reply that calls `delete` with any JSON value as arguments."""
    (call,) = calls(("delete", {}))
    block = {"type": "tool_use", "id": call.id, "name": "delete", "input": arguments}
    return Reply(
        message=ChatMessage(role="assistant", content=[block]),
        stop_reason="tool_use",
        raw_stop_reason="tool_use",
        tool_calls=[call],
        usage=Usage(input_tokens=1, requests=1),
    )


def test_malformed_arguments():
    """A malformed call gets an error result at once, and is never pending.

    A person could not see what to approve: after a round trip through JSON, the call would seem to
    have no arguments.
    """
    files = Files()
    client = ScriptedInferenceClient([reply_with_arguments("rm -r"), "sorry"])
    run = client.run_tools("go", files.tools)
    assert (run.text, run.pending, files.calls) == ("sorry", [], [])
    assert "not a JSON object" in run.calls[0].text


def test_approved_call_with_invalid_arguments():
    """An approved call with invalid arguments is an error result."""
    client, files, run = start_run(calls(("delete", {"nmae": "a"})), "sorry")
    run = client.run_tools(stored(run), files.tools, approvals={run.pending[0].id: True})
    assert (run.text, files.calls) == ("sorry", [])
    assert "nmae: Unexpected keyword argument" in run.calls[0].text


def test_unanswered_calls_of_a_history():
    """Unanswered calls at the end of a history are executed, if they need no approval."""
    files = Files()
    requested = calls(("read", {"name": "a"}), ("delete", {"name": "b"}))
    blocks = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in requested
    ]
    history = [
        ChatMessage(role="user", content="go"),
        ChatMessage(role="assistant", content=blocks),
    ]
    client = ScriptedInferenceClient(["done"])
    run = client.run_tools(history, files.tools, trusted_history=True)
    assert (run.stop_reason, files.calls, len(client.requests)) == ("approval", ["read a"], 0)
    run = client.run_tools(
        history, files.tools, approvals={requested[1].id: True}, trusted_history=True
    )
    assert (run.text, sorted(files.calls)) == ("done", ["delete b", "read a", "read a"])


def test_decision_before_the_call():
    """A decision about a call that is not in the history is a ValueError."""
    client = ScriptedInferenceClient(["never"])
    with pytest.raises(ValueError):
        client.run_tools("go", Files().tools, approvals={"toolu_1": True})


def test_approval_at_max_iterations():
    """At max_iterations a call that needs approval is pending and is not executed."""
    files = Files()
    client = ScriptedInferenceClient([calls(("delete", {"name": "a"})), "done"])
    run = client.run_tools("go", files.tools, max_iterations=1)
    assert (run.stop_reason, files.calls) == ("approval", [])
    run = client.run_tools(
        stored(run), files.tools, max_iterations=1, approvals={run.pending[0].id: True}
    )
    assert (run.stop_reason, run.text, files.calls) == ("end_turn", "done", ["delete a"])


def test_refusals_are_redacted():
    """redact= applies to the text of a refusal, as to every result."""
    client, files, run = start_run(calls(("delete", {"name": "a"})), "done")
    decided = {run.pending[0].id: "Ann says no"}
    client.run_tools(
        stored(run),
        files.tools,
        approvals=decided,
        redact=lambda text: text.replace("Ann", "somebody"),
    )
    assert (
        client.requests[1]["messages"][-1]["content"][0]["content"]
        == "ToolRefused: somebody says no"
    )


def test_agents_wait_too():
    """An agent's run stops for approval, and continues without another question."""
    files = Files()
    client = ScriptedInferenceClient(
        lambda body: tool_results(body).get("delete") or calls(("delete", {"name": "a"}))
    )
    agent = Agent(client, tools=files.tools)
    run = agent.run("go")
    assert run.stop_reason == "approval"
    run = agent.run(messages=stored(run), approvals={run.pending[0].id: True})
    assert (run.text, files.calls) == ("deleted", ["delete a"])
