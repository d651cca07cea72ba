"""A run's budget: it applies to all tasks together, and ends the run when it is used up."""

import threading

import pytest

from asimov_sync import Budget, BudgetExceeded, Retry, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.testing import ScriptedInferenceClient

from ..waiting import DEADLINE
from .graphs import chain, single


@pytest.fixture(params=[4, 0], ids=["threads", "calling thread"])
def scheduler(request):
    client = ScriptedInferenceClient(lambda body: "fine")
    with TaskScheduler(
        {"ask": lambda task, context: client.generate("hello").text}, max_workers=request.param
    ) as new_scheduler:
        new_scheduler.client = client
        yield new_scheduler


@pytest.mark.parametrize("options", [{"requests": 2}, {"tokens": 1}], ids=["requests", "tokens"])
def test_used_up_budget_ends_the_run(scheduler, options):
    """The refused task fails with BudgetExceeded, the rest is skipped, nothing more is sent."""
    budget = Budget(**options)
    graph = chain("ask", "ask", "ask", "ask", "ask")
    result = scheduler.run(graph, budget=budget)
    sent = options.get("requests", 1)
    assert list(result.results) == list("abcde"[:sent])
    refused = "abcde"[sent]
    assert list(result.errors) == [refused]
    assert isinstance(result.exceptions[refused], BudgetExceeded)
    assert result.exceptions[refused].budget is budget
    assert set(result.skipped) == set("abcde"[sent + 1 :])
    assert result.status is TaskStatus.PARTIAL
    assert budget.spent.requests == scheduler.client.usage.requests == sent


def test_wrapped_budget_error_ends_the_run(scheduler):
    """BudgetExceeded as the cause of another exception ends the run as well."""

    def wrap(task, context):
        try:
            return scheduler.client.generate("hello").text
        except BudgetExceeded as error:
            raise RuntimeError("no answer") from error

    scheduler.handlers["wrap"] = wrap
    graph = single("wrap")
    graph.add(Task(type="ask"), name="after", depends_on="x", allow_failure=True)
    result = scheduler.run(graph, budget=Budget(requests=0))
    assert result.errors == {"x": "RuntimeError: no answer"}
    assert list(result.skipped) == ["after"]


def test_budget_error_is_not_retried(scheduler):
    """A task that fails with BudgetExceeded is not retried, even if its Retry is on=Exception."""
    retry = Retry(attempts=3, wait=lambda state: 60.0)
    result = scheduler.run(single("ask", retry=retry), budget=Budget(requests=0), timeout=10)
    assert isinstance(result.exceptions["x"], BudgetExceeded)


def test_requests_in_flight_end_and_are_charged():
    """Of eight requests at once, a budget of seven refuses one; the seven have their results."""
    refused = threading.Event()

    def reply(body):
        assert refused.wait(DEADLINE)
        return "fine"

    client = ScriptedInferenceClient(reply)
    with TaskScheduler({"ask": lambda task, context: client.generate("hello").text}) as scheduler:

        @scheduler.on_event
        def watch(event):
            if event.type == "task_finished" and event.task.status is TaskStatus.FAILED:
                refused.set()

        graph = TaskGraph()
        graph.map(Task(type="ask"), range(8), name="page")
        retry = Retry(attempts=3, wait=lambda state: 60.0, on=Exception)
        graph.add(
            Task(type="ask"), name="after", depends_on="page", allow_failure=True, retry=retry
        )
        budget = Budget(requests=7)
        result = scheduler.run(graph, budget=budget, timeout=DEADLINE)
    assert list(result.results.values()) == ["fine"] * 7
    (error,) = result.exceptions.values()
    assert isinstance(error, BudgetExceeded)
    assert "used up" in result.skipped["after"]
    assert budget.spent.requests == client.usage.requests == 7
    assert budget.spent.tokens == result.usage.total_tokens == client.usage.total_tokens > 0


def test_nothing_starts_or_is_retried_after_the_refusal(scheduler):
    """Tasks that were ready do not start, nor does an attempt that waits for its time."""
    retried = threading.Event()

    def fail(task, context):
        raise ConnectionError("later")

    def wait(task, context):
        assert retried.wait(DEADLINE)

    @scheduler.on_event
    def watch(event):
        if event.type == "task_retried":
            retried.set()

    scheduler.handlers.update(fail=fail, wait=wait)
    graph = TaskGraph()
    retry = Retry(attempts=3, wait=lambda state: 60.0)
    graph.add(Task(type="fail"), name="fail", retry=retry)
    graph.add(Task(type="ask"), name="refused", depends_on="x")
    graph.add(Task(type="wait"), name="x")
    result = scheduler.run(graph, budget=Budget(requests=0), timeout=DEADLINE)
    assert list(result.errors) == ["refused"]
    assert result.skipped["fail"].startswith("the run ended early: the budget")


def test_budget_of_a_client_fails_its_task_only(scheduler):
    """BudgetExceeded of another budget is a failure like any other."""
    own = ScriptedInferenceClient(lambda body: "fine", budget=Budget(requests=0))
    scheduler.handlers["own"] = lambda task, context: own.generate("hello")
    graph = TaskGraph()
    graph.add(Task(type="own"), name="own")
    graph.add(Task(type="ask"), name="after", depends_on="own", allow_failure=True)
    result = scheduler.run(graph, budget=Budget(requests=5))
    assert result.results == {"after": "fine"}
    assert isinstance(result.exceptions["own"], BudgetExceeded)


def test_budgets_of_nested_runs(scheduler):
    """A nested run charges both budgets. Its own budget ends it alone; the outer one ends both."""
    seen = []

    def outer(task, context):
        result = scheduler.run(
            chain("ask", "ask", "ask"), budget=Budget(requests=task.params["inner"])
        )
        seen.append((len(result.results), len(result.errors), len(result.skipped)))
        result.raise_for_failure()

    scheduler.handlers["outer"] = outer
    graph = TaskGraph()
    graph.add(Task(type="outer", params={"inner": 1}), name="a")
    graph.add(Task(type="ask"), name="b", depends_on="a", allow_failure=True)
    budget = Budget(requests=5)
    result = scheduler.run(graph, budget=budget)
    assert seen == [(1, 1, 1)]
    assert result.results == {"b": "fine"}
    assert budget.spent.requests == 2


def test_budget_shared_by_several_runs(scheduler):
    """One budget given to several runs applies to all of them together."""
    budget = Budget(requests=3)
    assert scheduler.run(chain("ask", "ask"), budget=budget).status is TaskStatus.COMPLETE
    assert scheduler.run(chain("ask", "ask"), budget=budget).status is TaskStatus.PARTIAL
    assert scheduler.run(chain("ask", "ask"), budget=budget).status is TaskStatus.FAILED
    assert budget.spent.requests == 3
    assert scheduler.run(chain("ask", "ask")).status is TaskStatus.COMPLETE
