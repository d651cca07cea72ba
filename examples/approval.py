"""Ask a person before money is paid. The answer comes from another process, through Redis.

    python examples/approval.py redis://localhost:6379/0 work "Pay 40 to Ada and 900 to Bob."
    python examples/approval.py redis://localhost:6379/0 decide     (in another terminal)

With ANTHROPIC_API_KEY set, a real model reads the request (ANTHROPIC_MODEL names it). Otherwise a
stand-in on this machine finds the amounts and names. No money moves: payments are printed.
"""

import argparse
import re
import sys
import time
from typing import Any, Dict, List, Optional, Union

from model import open_client

from asimov_sync import (
    Agent,
    Cache,
    CacheError,
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
from asimov_sync.testing import calls, last_text

PENDING = "pending"
"""The mailbox of the questions."""


def stand_in(body: Dict[str, Any]) -> Any:
    """Reply like a model: call `pay` for every "40 to Ada", then report the results."""
    content = body["messages"][-1]["content"]
    blocks = content if isinstance(content, list) else []
    results = [str(block["content"]) for block in blocks if block["type"] == "tool_result"]
    if results:
        return f"Done: {'; '.join(results)}."
    payments = re.findall(r"(\d+) to (\w+)", last_text(body))
    if not payments:
        return "There is nothing to pay."
    return calls(*[("pay", {"amount": int(amount), "to": name}) for amount, name in payments])


@tool(requires_approval=True)
def pay(amount: int, to: str) -> str:
    """Pay an amount to somebody."""
    print(f"PAID {amount} to {to}", flush=True)
    return f"paid {amount} to {to}"


class Payments:
    """Handles "pay": runs the agent, and asks through the mailbox for each call it may not make."""

    def __init__(self, agent: Agent, cache: Cache) -> None:
        self.agent = agent
        self.cache = cache

    def __call__(self, task: Task, context: TaskContext) -> Union[str, Partial]:
        run = self.agent.run(task.objective)
        refusals: List[str] = []
        while run.stop_reason == "approval":
            reply_to = {call.id: f"{context.run_id}-{call.id}" for call in run.pending}
            deadline = time.time() + (context.cancellation.remaining or 0)
            for call in run.pending:
                question = {
                    "tool": call.name,
                    "arguments": call.arguments,
                    "reply_to": reply_to[call.id],
                    "deadline": deadline,
                }
                self.cache.publish_to_mailbox(PENDING, question, message_id=reply_to[call.id])
            context.report(None, f"{len(reply_to)} to be decided")
            # Each get_message waits for an answer, until the task times out.
            answers: Dict[str, Any] = {
                call_id: self.cache.get_message(mailbox) for call_id, mailbox in reply_to.items()
            }
            refusals += [answer for answer in answers.values() if answer is not True]
            run = self.agent.run(messages=run.messages, approvals=answers)
        return Partial(run.text, f"refused: {'; '.join(refusals)}") if refusals else run.text


def work(cache: Cache, request: str, timeout: float) -> int:
    """Run the first process. Return 0 if everything was paid, otherwise 1."""
    graph = TaskGraph()
    graph.add(Task(type="pay", objective=request), name="pay", timeout=timeout)
    with open_client(stand_in, "a stand-in on this machine reads the request.") as client:
        system = "Make the payments you are asked for, and report the results."
        handlers = {"pay": Payments(Agent(client, system=system, tools=[pay]), cache)}
        with TaskScheduler(handlers) as scheduler:
            for event in scheduler.stream(graph):
                if isinstance(event, TaskProgress):
                    print(f"{event.text}: waiting", file=sys.stderr, flush=True)
                elif isinstance(event, RunFinished):
                    result = event.result
    print(result.results.get("pay", "Not finished."))
    for error in result.errors.values():
        print(error, file=sys.stderr)
    return 0 if result.status.name == "COMPLETE" else 1


def decide(cache: Cache, count: Optional[int]) -> int:
    """Run the second process: print each question, and read its answer from standard input."""
    while count is None or count > 0:
        delivery = cache.receive(PENDING, lease=600)
        assert delivery is not None  # without a timeout, receive() returns a message
        question = delivery.message
        if question["deadline"] < time.time():
            delivery.ack()  # the first process has timed out
            continue
        arguments = ", ".join(f"{name}={value!r}" for name, value in question["arguments"].items())
        print(f"{question['tool']}({arguments})")
        print("Answer with yes, or with the reason why not: ", end="", flush=True)
        answer = sys.stdin.readline().strip()
        if not answer:
            delivery.release()  # undecided: another process may decide
            return 1
        decision = True if answer == "yes" else answer
        cache.publish_to_mailbox(question["reply_to"], decision, message_id="answer")
        delivery.ack()
        count = None if count is None else count - 1
    return 0


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command. Return 2 if Redis cannot be reached."""
    parser = argparse.ArgumentParser(
        prog="approval.py", description="Ask a person before money is paid."
    )
    parser.add_argument("redis", metavar="REDIS_URL")
    parser.add_argument("--prefix", default="approval", help="the namespace of the mailboxes")
    commands = parser.add_subparsers(dest="command", metavar="work | decide", required=True)
    worker = commands.add_parser("work")
    worker.add_argument("request")
    worker.add_argument("--timeout", type=float, default=600, help="seconds to wait (600)")
    decider = commands.add_parser("decide")
    decider.add_argument("--count", type=int, help="the number of decisions (default: no limit)")
    options = parser.parse_args(arguments)
    try:
        with RedisCache(url=options.redis, default_prefix=options.prefix) as cache:
            if options.command == "work":
                return work(cache, options.request, options.timeout)
            return decide(cache, options.count)
    except (CacheError, ValueError) as error:
        print(f"approval.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
