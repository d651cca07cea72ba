"""A run's budget: it applies to all tasks together, and ends the run when it is used up."""

import pytest

from asimov_sync import Budget, BudgetExceeded, Retry, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.testing import ScriptedInferenceClient

from .graphs import chain, single


@pytest.fixture(params=[4, 0], ids=["threads", "calling thread"])
def scheduler(request):
    client = ScriptedInferenceClient(lambda body: "fine")
    with TaskScheduler(
        {"ask": lambda task, context: client.generate("hello").text}, max_workers=request.param
    ) as made:
        made.client = client
        yield made


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
    """Not even by a Retry that covers every exception."""
    retry = Retry(attempts=3, wait=lambda state: 60.0)
    result = scheduler.run(single("ask", retry=retry), budget=Budget(requests=0), timeout=10)
    assert isinstance(result.exceptions["x"], BudgetExceeded)


def test_running_tasks_are_cancelled():
    """Other running tasks are cancelled; tasks that allow failure do not start."""
    client = ScriptedInferenceClient(lambda body: "fine")
    with TaskScheduler({"ask": lambda task, context: client.generate("hello")}) as scheduler:
        scheduler.handlers["wait"] = lambda task, context: context.cancellation.wait(20)
        graph = TaskGraph()
        graph.add(Task(type="wait"), name="beside")
        graph.add(Task(type="ask"), name="refused")
        graph.add(Task(type="ask"), name="after", depends_on="refused", allow_failure=True)
        result = scheduler.run(graph, budget=Budget(requests=0))
    assert set(result.errors) == {"beside", "refused"}
    assert result.errors["beside"].startswith("Cancelled: ")
    assert "used up" in result.skipped["after"]
    assert client.usage.requests == 0


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
    """A nested run charges both budgets; its own ends it alone, the outer one ends both."""
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
