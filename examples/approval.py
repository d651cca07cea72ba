"""Ask a person before anything is paid: an agent waits for an answer that comes from another process, by a mailbox on Redis.

    python examples/approval.py redis://localhost:6379/0 work "Pay 40 to Ada and 900 to Bob."
    python examples/approval.py redis://localhost:6379/0 decide          (in another terminal, or on another machine)

With ANTHROPIC_API_KEY set a real model reads the request (ANTHROPIC_MODEL says which); without, a stand-in on this machine
that finds the sums and the names in it. Nothing is paid in either case: what would be is printed.
"""

import argparse
import contextlib
import os
import re
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Union

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    Cache,
    CacheError,
    InferenceClient,
    Partial,
    RedisCache,
    RunFinished,
    Task,
    TaskContext,
    TaskGraph,
    TaskProgress,
    TaskScheduler,
    tool,
)
from asimov_sync.testing import ModelServer, calls, last_text

PENDING = "pending"


def stand_in(body: Dict[str, Any]) -> Any:
    """In place of a model: a payment for every "40 to Ada" of the request; and then, what came of them."""
    blocks = body["messages"][-1]["content"]
    results = [block["content"] for block in blocks if block["type"] == "tool_result"] if isinstance(blocks, list) else []
    if results:
        return "Done: {}.".format("; ".join(str(result) for result in results))
    found = re.findall(r"(\d+) to (\w+)", last_text(body))
    return (
        calls(*[("pay", {"amount": int(amount), "to": name}) for amount, name in found])
        if found
        else "There is nothing to pay."
    )


@contextlib.contextmanager
def model() -> Iterator[InferenceClient]:
    """A client of the real API, or of the stand-in."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("ANTHROPIC_API_KEY"):
            client = AnthropicInferenceClient(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
        else:
            print("No ANTHROPIC_API_KEY is set: a stand-in on this machine reads the request.", file=sys.stderr)
            server = stack.enter_context(ModelServer(stand_in))
            client = AnthropicInferenceClient(model="stand-in", api_key="none", api_url=server.url)
        yield stack.enter_context(client)


@tool(requires_approval=True)
def pay(amount: int, to: str) -> str:
    """Pay an amount to somebody."""
    print("PAID {} to {}".format(amount, to), flush=True)
    return "paid {} to {}".format(amount, to)


class Payments:
    """Handles "pay": asks the agent, and for every call that it may not make itself asks whoever reads the mailbox."""

    def __init__(self, agent: Agent, cache: Cache) -> None:
        self.agent = agent
        self.cache = cache

    def __call__(self, task: Task, context: TaskContext) -> Union[str, Partial]:
        run = self.agent.run(task.objective)
        refused: List[str] = []
        while run.stop_reason == "approval":
            answers: Dict[str, Any] = {}
            tickets = {call.id: "{}-{}".format(context.run_id, call.id) for call in run.pending}
            until = time.time() + (context.cancellation.remaining or 0)
            for call in run.pending:
                question = {"tool": call.name, "arguments": call.arguments, "answer_to": tickets[call.id], "until": until}
                self.cache.publish_to_mailbox(PENDING, question, message_id=tickets[call.id])
            context.report(None, "{} to be decided".format(len(tickets)))
            for call_id, ticket in tickets.items():
                answers[call_id] = self.cache.get_message(ticket)  # waits, until the task's time is over
            refused += [answer for answer in answers.values() if answer is not True]
            run = self.agent.run(messages=run.messages, approvals=answers)
        return Partial(run.text, "refused: {}".format("; ".join(refused))) if refused else run.text


def work(cache: Cache, request: str, patience: float) -> int:
    """The first process: 0 if all was paid, 1 if something was refused or nobody answered in time."""
    graph = TaskGraph()
    graph.add(Task(type="pay", objective=request), name="pay", timeout=patience)
    with model() as client:
        agent = Agent(client, system="You pay what you are asked to, and tell what came of it.", tools=[pay])
        with TaskScheduler({"pay": Payments(agent, cache)}) as scheduler:
            for event in scheduler.stream(graph):
                if isinstance(event, TaskProgress):
                    print("{}: waiting".format(event.text), file=sys.stderr, flush=True)
                elif isinstance(event, RunFinished):
                    result = event.result
    print(result.results.get("pay", "Not finished."))
    for error in result.errors.values():
        print(error, file=sys.stderr)
    return 0 if result.status.name == "COMPLETE" else 1


def decide(cache: Cache, count: Optional[int]) -> int:
    """The second process: shows what is pending, one after the other, and takes the answers from the standard input."""
    while count is None or count > 0:
        delivery = cache.receive(PENDING, lease=600)
        assert delivery is not None  # it waits without limit
        question = delivery.message
        if question["until"] < time.time():
            delivery.ack()  # nobody waits for the answer any more
            continue
        print("{}({})".format(question["tool"], ", ".join("{}={!r}".format(*one) for one in question["arguments"].items())))
        print("Answer with yes, or with the reason why not: ", end="", flush=True)
        answer = sys.stdin.readline().strip()
        if not answer:
            delivery.release()  # undecided: somebody else may decide it
            return 1
        cache.publish_to_mailbox(question["answer_to"], True if answer == "yes" else answer, message_id="answer")
        delivery.ack()
        count = None if count is None else count - 1
    return 0


def main(arguments: Optional[List[str]] = None) -> int:
    """The command; 2 where Redis cannot be reached."""
    parser = argparse.ArgumentParser(prog="approval.py", description="Ask a person before anything is paid.")
    parser.add_argument("redis", metavar="REDIS_URL")
    parser.add_argument("--prefix", default="approval", help="of the mailboxes, to keep users of one server apart")
    commands = parser.add_subparsers(dest="command", metavar="work | decide", required=True)
    worker = commands.add_parser("work")
    worker.add_argument("request")
    worker.add_argument("--patience", type=float, default=600, help="seconds to wait for the answers (600)")
    commands.add_parser("decide").add_argument("--count", type=int, help="how many to decide (all that come)")
    options = parser.parse_args(arguments)
    try:
        with RedisCache(url=options.redis, default_prefix=options.prefix) as cache:
            if options.command == "work":
                return work(cache, options.request, options.patience)
            return decide(cache, options.count)
    except (CacheError, ValueError) as error:
        print("approval.py: {}".format(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
