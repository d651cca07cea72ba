"""Must pass a type check, in which each name has its own type and not Any."""

from typing import List, Tuple

from typing_extensions import Unpack

from asimov_sync import (
    MISSING,
    Agent,
    AnthropicInferenceClient,
    Approved,
    Budget,
    ChatMessage,
    InferenceClient,
    MemoryCache,
    Refused,
    Reply,
    RequestOptions,
    RunResult,
    Task,
    TaskContext,
    TaskGraph,
    TaskScheduler,
    Timeout,
    Tool,
    ToolRun,
    run,
    tool,
)
from asimov_sync.aio import to_async

task: Task = TaskGraph().add(Task(type="a", objective="b"))


def fetch(url: str, upper: bool = False) -> str:
    """Return a text."""
    return url.upper() if upper else url


def show(task: Task, context: TaskContext) -> str:
    """Handle a task."""
    return context.name


graph = TaskGraph()
page: Task = graph.call(fetch, "u", upper=True)
graph.with_options(name="x", timeout=3).call(fetch, page)
graph.add(show, params={"a": 1}, objective="o")
graph.add(Agent(AnthropicInferenceClient(model="m", api_key="k"), name="a"), objective="o")
pages: List[Task] = graph.map(fetch, ["u"], key=str)
graph.map(lambda item: item + 1, [1])
graph.map(lambda task, context: task.params["item"], [1])
edges: List[Tuple[str, str]] = graph.edges
result: RunResult = run(graph, {"a": show}, params={"x": {"url": "v"}})
show_again: str = TaskScheduler().handler(show)(task, None)  # type: ignore[arg-type]
reply: Reply = AnthropicInferenceClient(model="m", api_key="k").generate("hello")
status: str = TaskScheduler().run(TaskGraph()).status.name
MemoryCache().get("key", default=MISSING).anything_at_all()


def ask(client: InferenceClient, **options: Unpack[RequestOptions]) -> Reply:
    """Pass on the options of a call."""
    defaults: RequestOptions = {"temperature": 0.5, "timeout": Timeout(total=30)}
    client.generate("hello", **defaults)
    return client.generate("hello", system="You are brief.", **options)


configured: AnthropicInferenceClient = AnthropicInferenceClient(
    "m", api_key="k", max_retries=0, timeout=30, budget=Budget(requests=3), top_k=5
).with_options(model="n", temperature=None, budget=None)
reply = ask(configured, temperature=0, top_p=0.5, stop_sequences=("a", "b"), tool_choice="any")
count: int = configured.count_tokens("hello", thinking={"type": "enabled"}, max_retries=1)


@tool(requires_approval=lambda call: call.arguments["amount"] != 0)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


def decide(agent: Agent, messages: List[ChatMessage]) -> ToolRun:
    """Decide about calls, and use an agent as a tool."""
    expert: Tool = agent.as_tool("ask", "Ask an expert.")
    other = Agent(configured, tools=[pay, expert], prompt="Pay {amount}.", compact_at=100_000)
    return other.run(
        messages=messages,
        approvals={"a": Approved(arguments={"n": 1}), "b": Refused("no"), "c": True, "d": "no"},
        trusted_history=True,
    )


async def main(client: AnthropicInferenceClient) -> None:
    """Check the async facade as well."""
    (await to_async(MemoryCache()).get("k")).anything_at_all()
    deleted: bool = await to_async(MemoryCache()).delete("k")
    reply: Reply = await to_async(client).generate("hello")
    async with to_async(client).stream("hello") as stream:
        texts: List[str] = [text async for text in stream.text_stream]
        reply = stream.reply
    tool_run: ToolRun = await to_async(Agent(client)).run("hello")
    result: RunResult = await to_async(TaskScheduler()).run(TaskGraph())
    kinds: List[str] = [event.type async for event in to_async(TaskScheduler()).stream(TaskGraph())]
    print(deleted, reply, texts, tool_run, result, kinds)
