"""One graph with every feature, whose end is the same on every backend.

Map, subgraph results, a Route, a loop, a retry, spawned tasks, a Partial, a time-out, a nested run,
an agent with a tool, usage and a budget.
"""

from tenacity import wait_none

from asimov_sync import Budget, Retry, Task, TaskGraph, TaskScheduler
from asimov_sync.testing import ModelServer, calls, tool_results

from . import remote_handlers as handlers


def answer(body):
    return "nothing" if tool_results(body) else calls(("look_up", {"word": "asimov"}))


def build(url):
    """Return the graph; url: the address of the model server."""
    graph = TaskGraph()
    once = Retry(2, wait=wait_none())
    graph.map(handlers.double, [1, 2, 3], name="each")
    graph.with_options(name="sum").call(handlers.add_all, graph["each[0]"], graph["each[2]"])
    graph.add(Task(type="echo", params={"n": 1}), name="echo", depends_on=["each"])
    graph.add(Task(type="choose"), name="route", depends_on="sum")
    graph.add(Task(type="echo"), name="chosen", depends_on="route")
    graph.add(Task(type="echo"), name="ruled_out", depends_on="route")
    graph.add(Task(type="see_feedback"), name="start")
    graph.add(Task(type="go_back_once"), name="back", depends_on="start")
    graph.add(Task(type="fail_once"), name="retried", retry=once)
    graph.add(Task(type="raise_own"), name="failed")
    graph.add(Task(type="echo"), name="skipped", depends_on="failed")
    graph.add(Task(type="echo"), name="allowed", depends_on="failed", allow_failure=True)
    graph.add(Task(type="spawn"), name="spawner")
    graph.add(Task(type="partial"), name="partial")
    graph.add(Task(type="wait_for_cancel"), name="slow", timeout=0.1)
    graph.add(Task(type="report"), name="reports")
    graph.add(Task(type="run_nested"), name="nested")
    graph.add(Task(type="log_something"), name="logs")
    graph.add(Task(type="read_key"), name="key")
    graph.add(Task(type="ask_agent", params={"url": url}), name="agent")
    # The last one, since what runs at the end of a budget differs from run to run.
    graph.add(
        Task(type="ask_model", params={"url": url}),
        name="over_budget",
        depends_on=[name for name in graph if name != "route"],
        allow_failure=True,
    )
    return graph


def describe(event):
    """Return what is the same in an event on every backend."""
    values = event.to_dict()
    for name in ("sequence", "time", "seconds", "result", "restored"):
        values.pop(name, None)
    values.pop("run_id")
    task = values.pop("task", None)
    if task is not None:
        values["task"] = (task["status"], str(task["result"]), task["error"])
    return str(sorted(values.items()))


def run_everything(**options):
    """Run the graph on a scheduler with these options, and return what must be the same."""
    with ModelServer(answer) as server:
        budget = Budget(requests=2)
        with TaskScheduler(handlers.HANDLERS, **options) as scheduler:
            events = list(
                scheduler.stream(build(server.url), budget=budget, run_id="everything", timeout=60)
            )
        result = events[-1].result
        assert "the budget of 2 requests is used up" in result.errors["over_budget"], result
        values = result.to_dict()
        return {
            "status": result.status,
            "results": result.results,
            "errors": result.errors,
            "skipped": result.skipped,
            "exceptions": {name: type(error) for name, error in result.exceptions.items()},
            "numbers": {
                name: (task["attempt"], task["visit"]) for name, task in values["tasks"].items()
            },
            "usage": result.usage,
            "usages": result.usages,
            "spent": budget.spent,
            "spans": {
                name: [(one.kind, one.name, one.usage, one.error, one.attempt) for one in spans]
                for name, spans in result.spans.items()
            },
            "events": {describe(event) for event in events},
        }
