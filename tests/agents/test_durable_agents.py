"""Agents in durable runs: each drive continues in the turn in which the one before it ended."""

import json
import os
import threading

import pytest
import tenacity
from pydantic import AfterValidator, BaseModel
from typing_extensions import Annotated

from asimov_sync import (
    Agent,
    Approved,
    ChatMessage,
    ChatRole,
    LeaseLost,
    ModelRouter,
    OutputInvalid,
    Refused,
    Reply,
    Retry,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    ToolCall,
    Usage,
    current_context,
    tool,
)
from asimov_sync.cache.records import RecordChange
from asimov_sync.testing import Failure, ScriptedInferenceClient, tool_results

from ..tiers import by_tier, suite
from ..waiting import wait_for


def wants(*calls):
    """A reply that makes calls, given as (id, name, arguments)."""
    return [ToolCall(id=id, name=name, arguments=arguments) for id, name, arguments in calls]


def texts(body):
    """The text of a request, with all its messages."""
    return json.dumps(body["messages"])


class Bench:
    """An agent with tools, whose calls and idempotency keys are recorded, and its runs."""

    def __init__(self, store, cache):
        self.store, self.cache = store, cache
        self.made = []
        self.keys = []
        self.client = self.agent = None

    def record(self, name):
        self.made.append(name)
        self.keys.append(current_context().idempotency_key)
        return f"result of {name}"

    def tools(self):
        @tool
        def look(word: str) -> str:
            """Look a word up."""
            return self.record(f"look {word}")

        @tool(requires_approval=True)
        def pay(amount: int) -> str:
            """Pay an amount."""
            return self.record(f"pay {amount}")

        return [look, pay]

    def employ(self, model, **options):
        """Make the agent, of a model that answers each history in the same way."""
        self.client = ScriptedInferenceClient(model, max_retries=0)
        options.setdefault("tools", self.tools())
        self.agent = Agent(self.client, **options)
        return self.agent

    def drive(self, run_id="r", objective="Work.", retry=None, max_workers=2, **options):
        """Run the agent's task on a scheduler of its own."""
        graph = TaskGraph()
        task = Task(type="work", objective=objective)
        graph.add(task, name="t", retry=retry)
        handlers = {"work": self.agent}
        with TaskScheduler(
            handlers, max_workers=max_workers, runs=self.store, cache=self.cache
        ) as scheduler:
            return scheduler.run(graph, run_id=run_id, **options)

    def transcript(self, run_id="r"):
        """The messages that the agent stored at the end."""
        run = self.cache.with_prefix("run").with_prefix(run_id)
        return run.with_prefix("transcript").get("t")


@pytest.fixture
def bench(store, cache):
    """A bench for an agent."""
    return Bench(store, cache)


def three_turns(body):
    """Look two words up at once, ask another agent, and finish."""
    if "asked" in texts(body):
        return "finished"
    if len(body["messages"]) == 1:
        return wants(("a", "look", {"word": "x"}), ("b", "look", {"word": "y"}))
    return wants(("c", "ask", {"question": "why"}), ("d", "look", {"word": "z"}))


@pytest.mark.parametrize("max_workers", [2, 0], ids=["threads", "calling thread"])
def test_a_killed_agent_goes_on_in_its_turn(bench, power, max_workers):
    """After a crash at any write, no kept reply is requested and no kept call is made again."""
    inner = Agent(ScriptedInferenceClient(lambda body: "asked"))
    ask = tool(sequential=True)(inner.as_tool("ask", "Ask."))
    bench.employ(three_turns, tools=[*bench.tools(), ask], keep_transcript=True)
    expected = bench.drive("undisturbed", max_workers=max_workers)
    assert expected.results == {"t": "finished"}
    assert expected.usage.requests == 4
    inner_requests = inner.client.requests
    crashes = 0
    for number in range(100):
        run_id = f"run-{number}"
        bench.made, bench.client.requests[:], inner_requests[:] = [], [], []
        power.restore()
        power.left = number
        try:
            bench.drive(run_id, max_workers=max_workers)
            break
        except LeaseLost:
            crashes += 1
        kept_calls, kept_replies = power.kept_calls, power.kept_replies
        bench.made, bench.client.requests[:], inner_requests[:] = [], [], []
        power.restore()
        result = bench.drive(run_id, max_workers=max_workers)
        names = {"a": "look x", "b": "look y", "d": "look z"}
        assert sorted(bench.made) == sorted(names[key] for key in names if key not in kept_calls)
        assert len(bench.client.requests) == 3 - kept_replies
        assert len(inner_requests) == ("c" not in kept_calls)
        assert (result.results, result.usage) == (expected.results, expected.usage)
        assert bench.transcript(run_id) == bench.transcript("undisturbed")
    assert crashes >= 8


def test_many_drives_end_an_agent_together(bench, power):
    """Drives that die after one step each end the agent as one drive does, with the same usage."""
    inner = Agent(ScriptedInferenceClient(lambda body: "asked"))
    ask = tool(sequential=True)(inner.as_tool("ask", "Ask."))
    bench.employ(three_turns, tools=[*bench.tools(), ask], keep_transcript=True)
    expected = bench.drive("undisturbed")
    kept = []  # the number of entries, by drive
    for _ in range(20):
        power.restore()
        power.left = 2  # its start, and a step
        try:
            result = bench.drive()
            break
        except LeaseLost:
            kept.append(len(power.entries))
    assert sum(kept) == 7 and max(kept) <= 2  # three replies and four calls
    assert (result.results, result.usage) == (expected.results, expected.usage)
    assert bench.transcript() == bench.transcript("undisturbed")


def test_each_result_is_kept_when_its_call_ends(bench, power):
    """Of two parallel calls, one is kept while the other runs, and only the other is repeated."""
    kept = threading.Event()
    power.on_entry = lambda entry: kept.set() if "call" in entry else None

    @tool
    def fetch(url: str) -> str:
        """Fetch a page."""
        if url == "slow" and not bench.made.count("slow"):
            assert kept.wait(20)
            power.left = 0
        return bench.record(url)

    fetches = wants(("a", "fetch", {"url": "slow"}), ("b", "fetch", {"url": "fast"}))
    bench.employ(lambda body: "done" if tool_results(body) else fetches, tools=[fetch])
    with pytest.raises(LeaseLost):
        bench.drive()
    assert power.kept_calls == ["b"]
    assert sorted(bench.made) == ["fast", "slow"]
    power.restore()
    assert bench.drive()["t"] == "done"
    assert sorted(bench.made) == ["fast", "slow", "slow"]


def test_the_limit_of_requests_holds_over_drives(bench, power):
    """max_iterations counts the requests of all drives."""
    bench.employ(
        lambda body: wants((f"c{len(body['messages'])}", "look", {"word": "on"})),
        max_iterations=3,
    )
    power.left = 3  # a reply, a result, a reply
    with pytest.raises(LeaseLost):
        bench.drive()
    power.restore()
    assert "max_iterations, after 3 requests" in bench.drive().errors["t"]
    assert len(bench.client.requests) == 3


def test_a_summary_is_not_made_again(bench, power):
    """A conversation that was compacted is continued from its summary."""

    def model(body):
        if body["messages"][0]["content"] != "Work.":
            return "a summary"
        turn = texts(body).count("tool_use_id")
        if "summary" in texts(body):
            return "finished"
        return wants((f"c{turn}", "look", {"word": "long " * 50}))

    bench.employ(model, compact_at=150)
    expected = bench.drive("undisturbed")
    sent = len(bench.client.requests)
    assert expected["t"] == "finished"
    for number in range(100):
        bench.client.requests[:] = []
        power.restore()
        power.left = number
        try:
            bench.drive(f"run-{number}")
            break
        except LeaseLost:
            kept = power.kept_replies
        bench.client.requests[:] = []
        power.restore()
        result = bench.drive(f"run-{number}")
        assert (result.results, result.usage) == (expected.results, expected.usage)
        assert len(bench.client.requests) == sent - kept
    assert number > 6


@suite
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_dead_process_is_replaced(tmp_path):
    """A process that dies in a tool is replaced by another one, which repeats that call only."""
    fetched = tmp_path / "fetched"

    def drive(dies):
        @tool(sequential=True)
        def fetch(url: str) -> str:
            """Fetch a page."""
            with fetched.open("a") as file:
                file.write(f"{current_context().idempotency_key}\n")
            if url == "b" and dies:
                os._exit(137)
            return url

        fetches = wants(("a", "fetch", {"url": "a"}), ("b", "fetch", {"url": "b"}))
        client = ScriptedInferenceClient(lambda body: "done" if tool_results(body) else fetches)
        graph = TaskGraph()
        graph.add(Task(type="work", objective="Work."), name="t")
        with SQLiteCache(tmp_path / "runs.db", synchronous="normal") as cache:
            handlers = {"work": Agent(client, tools=[fetch])}
            with TaskScheduler(handlers, runs=RunStore(cache, lease=600.0)) as scheduler:
                return scheduler.run(graph, run_id="r"), len(client.requests)

    child = os.fork()
    if not child:
        try:
            drive(dies=True)
        finally:
            os._exit(1)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 137
    result, requests = drive(dies=False)
    assert result["t"] == "done"
    assert requests == 1
    assert fetched.read_text().splitlines() == ["r/t/1/a", "r/t/1/b", "r/t/1/b"]


class Finding(BaseModel):
    """The answer of the agent."""

    claim: str


def test_data_is_stored_as_json(bench):
    """The result of an agent with output= is what JSON gives back, in the first drive too."""
    bench.employ(lambda body: wants(("o", "Finding", {"claim": "so"})), output=Finding)
    assert bench.drive()["t"] == {"claim": "so"}
    assert bench.drive()["t"] == {"claim": "so"}
    assert len(bench.client.requests) == 1


def test_a_retry_goes_on_after_a_failed_request(bench):
    """A retry repeats the request that failed, and no call before it."""
    answers = iter([wants(("a", "look", {"word": "x"})), Failure(529), "done"])
    bench.employ(lambda body: next(answers))
    result = bench.drive(retry=Retry(attempts=2, wait=tenacity.wait_none()))
    assert result["t"] == "done"
    assert bench.made == ["look x"]


def test_a_retry_asks_again_for_invalid_data(bench):
    """A reply that ended the agent with OutputInvalid is requested anew by a retry."""
    wrong, good = wants(("o", "Finding", {})), wants(("o", "Finding", {"claim": "so"}))
    answers = iter([wants(("a", "look", {"word": "x"})), wrong, wrong, good])
    bench.employ(lambda body: next(answers), output=Finding)
    retry = Retry(attempts=2, wait=tenacity.wait_none(), on=OutputInvalid)
    assert bench.drive(retry=retry)["t"] == {"claim": "so"}
    assert bench.made == ["look x"]
    assert bench.drive()["t"] == {"claim": "so"}


def test_a_failed_agent_continues_its_conversation(bench):
    """An agent whose request failed continues where it was when its FAILED task runs again."""
    answers = iter([wants(("a", "look", {"word": "x"})), Failure(529), "done"])
    bench.employ(lambda body: next(answers))
    assert bench.drive().status is TaskStatus.FAILED
    assert bench.store.retry("r") is True
    result = bench.drive()
    assert result["t"] == "done"
    assert bench.made == ["look x"]
    assert result.usage == bench.client.usage


def test_a_store_that_changes_the_form_fails_the_task(bench, cache):
    """An entry that `redact=` turned into something else is an error that names `redact=`."""
    bench.store = RunStore(cache, redact=str)
    bench.employ(lambda body: "done")
    assert "redact= and serializer= of the store" in bench.drive().errors["t"]


def test_another_question_begins_anew(bench, power):
    """If the task has changed, nothing of the conversation about the old one is used."""
    bench.employ(
        lambda body: (
            f"done: {body['messages'][0]['content']}"
            if tool_results(body)
            else wants(("a", "look", {"word": "x"}))
        )
    )
    power.left = 2
    with pytest.raises(LeaseLost):
        bench.drive()
    assert power.kept_calls == ["a"]
    power.restore()
    assert bench.drive(objective="Work well.")["t"] == "done: Work well."
    assert bench.made == ["look x", "look x"]


def test_text_arrives_as_before(bench, power):
    """The text of each reply that is received arrives as TaskText; that of a kept one does not."""
    first = Reply(
        message=ChatMessage(
            role=ChatRole.ASSISTANT,
            content=[
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "a", "name": "look", "input": {"word": "x"}},
            ],
        ),
        stop_reason="tool_use",
        usage=Usage(input_tokens=3, output_tokens=5),
    )
    bench.employ(lambda body: "done" if tool_results(body) else first)
    seen = []

    def drive():
        graph = TaskGraph()
        graph.add(Task(type="work", objective="Work."), name="t")
        with TaskScheduler({"work": bench.agent}, runs=bench.store) as scheduler:
            with scheduler.stream(graph, run_id="r") as events:
                for event in events:
                    if event.type == "task_text":
                        seen.append(event.text)

    power.left = 1
    with pytest.raises(LeaseLost):
        drive()
    assert "".join(seen) == "Let me look."
    seen.clear()
    power.restore()
    drive()
    assert "".join(seen) == "done"


def test_a_routers_decision_is_kept(bench, power):
    """A router that was killed after its decision does not ask its voters again."""
    vote = wants(("v", "Vote", {"choice": "next", "reason": "so"}))
    bench.client = ScriptedInferenceClient(lambda body: vote)
    bench.agent = ModelRouter(bench.client, {"next": "Go on."}, voters=3)

    def drive():
        graph = TaskGraph()
        graph.add(Task(type="work", objective="Choose."), name="t")
        graph.add(lambda task, context: context.inputs["t"]["choice"], name="next", depends_on="t")
        with TaskScheduler({"work": bench.agent}, runs=bench.store) as scheduler:
            return scheduler.run(graph, run_id="r")

    power.on_entry = lambda entry: setattr(power, "left", 0)
    with pytest.raises(LeaseLost):
        drive()
    power.on_entry = lambda entry: None
    power.restore()
    assert drive()["next"] == "next"
    assert len(bench.client.requests) == 3


@pytest.fixture
def scheduler_without_store():
    """A scheduler whose runs are not durable."""
    with TaskScheduler() as scheduler:
        yield scheduler


# Approvals


def pays_twice(body):
    """Look a word up and pay two sums in one turn, and finish."""
    if tool_results(body):
        return json.dumps([block["content"] for block in body["messages"][-1]["content"]])
    return wants(
        ("a", "pay", {"amount": 1}), ("b", "look", {"word": "x"}), ("c", "pay", {"amount": 2})
    )


def test_a_call_that_needs_approval_parks_the_run(bench):
    """Each pending call is a wait; approved, refused and edited calls end as decided, once."""
    bench.employ(pays_twice)
    result = bench.drive()
    assert result.status is TaskStatus.WAITING
    assert result.waiting == {"t": ["a", "c"]}
    assert bench.made == ["look x"]
    waits = bench.store.waits("r")
    assert [wait.call.arguments for wait in waits] == [{"amount": 1}, {"amount": 2}]
    assert waits[0].prompt == "May 't' call pay?"
    with pytest.raises(ValueError, match="not the approved one"):
        changed = ToolCall(id="a", name="pay", arguments={"amount": 100})
        bench.store.approve("r", {"a": Approved(changed)})
    assert bench.store.approve("r", {"c": Approved(waits[1].call, {"amount": 5})}) is True
    assert bench.store.approve("r", {"c": False}) is False
    result = bench.drive()
    assert result.waiting == {"t": ["a"]}
    assert bench.made == ["look x", "pay 5"]
    bench.store.approve("r", {"a": Refused("too much")})
    result = bench.drive()
    assert "too much" in result["t"] and 'to {\\"amount\\": 5}' in result["t"]
    assert bench.made == ["look x", "pay 5"]
    assert len(bench.client.requests) == 2
    assert result.usage == bench.client.usage


def test_calls_of_several_tasks_with_one_id(bench):
    """Models reuse the ids of calls: then task= names the task, and nothing is decided without."""
    bench.employ(pays_twice)
    graph = TaskGraph()
    for name in ("one", "two"):
        graph.add(Task(type="agent", objective="pay"), name=name)
    with TaskScheduler({"agent": bench.agent}, max_workers=0, runs=bench.store) as scheduler:
        scheduler.run(graph, run_id="r")
    with pytest.raises(ValueError, match="task=, of 'one', 'two'"):
        bench.store.approve("r", {"a": False})
    with pytest.raises(ValueError, match="no call 'a'"):
        bench.store.approve("r", {"a": False}, task="three")
    assert bench.store.approve("r", {"a": False}, task="two")
    assert not bench.store.approve("r", {"a": False}, task="two")
    assert [(one.task, one.name) for one in bench.store.waits("r")] == [
        ("one", "a"),
        ("one", "c"),
        ("two", "c"),
    ]
    assert bench.store.approve("r", {"a": True})


@pytest.mark.parametrize(
    "decision",
    [
        "yes",
        "True",
        " ok ",
        1,
        None,
        [True],
        {"approved": True},
        Refused(5),
        Approved(arguments=[]),
    ],
    ids=repr,
)
def test_a_value_that_is_no_decision(bench, decision):
    """approve() refuses other values than decisions, and stores none of the decisions beside."""
    bench.employ(pays_twice)
    bench.drive()
    with pytest.raises(TypeError):
        bench.store.approve("r", {"a": True, "c": decision})
    with pytest.raises(TypeError, match="by call id"):
        bench.store.approve("r", [("a", True)])
    assert [wait.name for wait in bench.store.waits("r")] == ["a", "c"]
    assert bench.store.ready() == []


def test_an_approval_continues_a_run_that_has_a_driver(bench):
    """A task that is parked continues at once, while another task of its run is executing."""
    bench.employ(pays_twice)
    done = threading.Event()
    graph = TaskGraph()
    graph.add(Task(type="work", objective="Work."), name="t")
    graph.add(lambda task, context: done.wait(20), name="other")
    with TaskScheduler({"work": bench.agent}, max_workers=2, runs=bench.store) as scheduler:
        with scheduler.stream(graph, run_id="r") as events:
            for event in events:
                if event.type == "task_parked" and event.wait.name == "c":
                    wait_for(lambda: len(bench.store.waits("r")) == 2)
                    bench.store.approve("r", {"a": True, "c": False})
                elif event.type == "task_finished" and event.name == "t":
                    done.set()
    assert "result of pay 1" in event.result["t"]
    assert event.result["other"] is True
    assert event.result.usage == bench.client.usage
    assert len(bench.client.requests) == 2


def test_a_crash_after_an_approval(bench, power):
    """An approved call whose result was kept is not made again, whenever the process dies."""
    bench.employ(pays_twice)
    for number in range(1, by_tier(5, soak=9)):
        run_id = f"run-{number}"
        bench.made, bench.client.requests[:] = [], []
        power.restore()
        assert bench.drive(run_id).waiting
        bench.store.approve(run_id, {"a": True, "c": "no"})
        power.restore()
        power.left = number
        try:
            bench.drive(run_id)
        except LeaseLost:
            pass
        paid = bench.made.count("pay 1")
        kept = power.kept_calls
        power.restore()
        assert "result of pay 1" in bench.drive(run_id)["t"]
        assert bench.made.count("pay 1") == paid + (kept != ["a"])
        assert bench.made.count("look x") == 1


def test_invalid_edited_arguments_are_refused(bench):
    """Edited arguments that do not fit the tool are refused at once, and decide nothing."""
    bench.employ(pays_twice)
    bench.drive()
    with pytest.raises(ValueError, match="'much' is not of the type 'integer'"):
        bench.store.approve("r", {"a": Approved(arguments={"amount": "much"})})
    assert bench.drive().waiting == {"t": ["a", "c"]}


def test_edited_arguments_are_validated_by_the_tool(bench):
    """A rule that the schema does not express fails the task before the tool is called."""

    def refuse_thirteen(number):
        if number == 13:
            raise ValueError("not thirteen")
        return number

    @tool(requires_approval=True)
    def order(count: Annotated[int, AfterValidator(refuse_thirteen)]) -> str:
        """Order some."""
        return bench.record("order")

    bench.employ(lambda body: wants(("a", "order", {"count": 1})), tools=[order])
    bench.drive()
    bench.store.approve("r", {"a": Approved(arguments={"count": 13})})
    assert "not thirteen" in bench.drive().errors["t"]
    assert bench.made == []


def test_a_call_that_was_changed_in_the_store_is_refused(bench, power):
    """An approval holds for the call that was shown; stored bytes that differ fail the task."""
    bench.employ(pays_twice)
    bench.drive()
    claim = power.claim("r", "me", 60.0, "running", ["parked"])
    changed = {
        name: data.replace(b'"amount":1', b'"amount":1000')
        for name, data in claim.snapshot.fields.items()
        if name.startswith('["entry"')
    }
    assert changed != {name: claim.snapshot.fields[name] for name in changed}
    change = RecordChange(changed, [], None, "parked")
    assert power.commit("r", "me", claim.snapshot.epoch, change).applied
    assert bench.store.waits("r")[0].call.arguments == {"amount": 1}
    bench.store.approve("r", {"a": True})
    assert "not the approved one" in bench.drive().errors["t"]
    assert bench.made == ["look x"]


def test_a_call_that_was_made_needs_no_approval_later(bench, power):
    """A call that was made before its tool began to need an approval is not asked for again."""
    bench.strict = False

    @tool(requires_approval=lambda call: bench.strict)
    def send(text: str) -> str:
        """Send a text."""
        return bench.record("send")

    sends = wants(("a", "send", {"text": "x"}))
    bench.employ(lambda body: "done" if tool_results(body) else sends, tools=[send])
    power.left = 2
    with pytest.raises(LeaseLost):
        bench.drive()
    power.restore()
    bench.strict = True
    assert bench.drive()["t"] == "done"
    assert bench.made == ["send"]


def test_a_tool_on_the_handlers_thread_may_wait(bench):
    """With max_workers=0, a tool that calls wait_for parks the run, and is called again."""

    @tool
    def ask(question: str) -> str:
        """Ask a person."""
        bench.record("ask")
        return current_context().wait_for("person", prompt=question)

    asks = wants(("a", "ask", {"question": "Red?"}))
    bench.employ(
        lambda body: tool_results(body)["ask"] if tool_results(body) else asks, tools=[ask]
    )
    assert bench.drive(max_workers=0).waiting == {"t": ["person"]}
    bench.store.answer("r", "person", "blue")
    assert bench.drive(max_workers=0)["t"] == "blue"
    assert bench.made == ["ask", "ask"]
    assert len(bench.client.requests) == 2


def test_results_are_stored_as_the_model_reads_them(bench, power):
    """Text that `redact=` of the agent takes out of a result is not in the store either."""
    bench.employ(
        lambda body: "done" if tool_results(body) else wants(("a", "look", {"word": "x"})),
        redact=lambda text: text.replace("result", "[withheld]"),
    )
    bench.drive()
    assert "[withheld] of look x" in json.dumps(power.entries)
    assert "result of look x" not in json.dumps(power.entries)


def test_an_approval_is_for_one_call(bench):
    """A model that uses an id again does not use its approval again; nor is the key the same."""

    def model(body):
        turns = len(body["messages"]) // 2
        return "done" if turns == 2 else wants(("call_0", "pay", {"amount": 1}))

    bench.employ(model)
    assert bench.drive().waiting == {"t": ["call_0"]}
    bench.store.approve("r", {"call_0": True})
    assert bench.drive().waiting == {"t": ["call_0#2"]}
    assert bench.made == ["pay 1"]
    bench.store.approve("r", {"call_0#2": True})
    assert bench.drive()["t"] == "done"
    assert bench.keys == ["r/t/1/call_0", "r/t/1/call_0%232"]


@pytest.mark.parametrize("name", [None, "t"])
def test_an_early_answer_approves_nothing(bench, name):
    """An answer that was given before the call was shown is no approval of it."""
    bench.employ(pays_twice)
    call = {"id": "a", "name": "pay", "arguments": {"amount": 1}}

    def handle(task, context):
        bench.store.answer("r", "a", {"approved": True, "call": call}, task=name)
        return agent(task, context)

    agent, bench.agent = bench.agent, handle
    assert bench.drive().waiting == {"t": ["a", "c"]}
    assert bench.made == ["look x"]
    assert bench.store.approve("r", {"a": True}) is True
    bench.drive()
    assert bench.made == ["look x", "pay 1"]


def test_two_agents_in_one_handler(bench, power):
    """Agents that a handler calls with its context have transcripts and approvals of their own."""

    def model(body):
        return "done" if tool_results(body) else wants(("call_0", "pay", {"amount": 1}))

    agent = bench.employ(model)
    bench.agent = lambda task, context: [agent(task, context), agent(task, context)]
    assert bench.drive().waiting == {"t": ["call_0"]}
    bench.store.approve("r", {"call_0": True})
    assert bench.drive().waiting == {"t": ["call_0@2.1"]}
    bench.store.approve("r", {"call_0@2.1": True})
    power.left = 1
    with pytest.raises(LeaseLost):
        bench.drive()
    power.restore()
    assert bench.drive()["t"] == ["done", "done"]
    assert len(bench.client.requests) == 4
    assert set(bench.keys) == {"r/t/1/call_0", "r/t/1/2.1/call_0"}


# Other agents


def test_the_key_of_a_call(bench, scheduler_without_store):
    """An idempotency key names the steps and the calls around it, in runs of every kind."""
    look = wants(("a", "look", {"word": "x"}))
    inner = bench.employ(lambda body: "done" if tool_results(body) else look)
    ask = wants(("o", "ask", {"question": "why"}))
    client = ScriptedInferenceClient(lambda body: "done" if tool_results(body) else ask)
    outer = Agent(client, tools=[inner.as_tool("ask", "Ask.")])

    def handle(task, context):
        inner.run("Why?")
        context.step("twice", lambda: inner.run("Why?").text)
        outer.run("Why?")
        return context.idempotency_key

    graph = TaskGraph()
    graph.add(handle, name="t")
    result = scheduler_without_store.run(graph, run_id="r")
    assert result["t"] == "r/t/1"
    assert bench.keys == ["r/t/1/a", "r/t/1/twice/a", "r/t/1/o/a"]


def test_a_character_that_a_stream_has_cut(bench):
    """Halves of a character, as a stream may deliver them, end neither the task nor the run."""
    bench.employ(
        lambda body: (
            "\ud83d\ude00" if tool_results(body) else wants(("a", "look", {"word": "\ud83d"}))
        )
    )
    assert bench.drive()["t"] == "\U0001f600"
    assert bench.drive()["t"] == "\U0001f600"
