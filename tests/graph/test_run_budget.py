"""A run's budget: what holds for all of its tasks together, and ends the run when it is used up."""

import pytest

from asimov_sync import Budget, BudgetExceeded, Retry, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.testing import ScriptedInferenceClient

from .graphs import chain, single


@pytest.fixture(params=[4, 0], ids=["threads", "calling thread"])
def scheduler(request):
    client = ScriptedInferenceClient(lambda body: "fine")
    with TaskScheduler({"ask": lambda task, context: client.generate("hello").text}, max_workers=request.param) as made:
        made.client = client
        yield made


@pytest.mark.parametrize("options", [{"requests": 2}, {"tokens": 1}], ids=["requests", "tokens"])
def test_it_ends_the_run(scheduler, options):
    """The task whose request is refused FAILS with BudgetExceeded, what follows is skipped, and nothing more is sent."""
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


def test_it_ends_the_run_also_where_a_handler_wraps_it(scheduler):
    """BudgetExceeded behind another exception ends the run as well."""

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


def test_it_is_not_retried(scheduler):
    """A Retry that covers everything does not wait for a budget to become larger."""
    retry = Retry(attempts=3, wait=lambda state: 60.0)
    result = scheduler.run(single("ask", retry=retry), budget=Budget(requests=0), timeout=10)
    assert isinstance(result.exceptions["x"], BudgetExceeded)


def test_it_ends_what_goes_on():
    """Tasks that go on beside the one that was refused are cancelled, and those that allow failure are not started."""
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


def test_a_clients_own_budget_ends_its_task_only(scheduler):
    """BudgetExceeded of another budget is a failure like others."""
    own = ScriptedInferenceClient(lambda body: "fine", budget=Budget(requests=0))
    scheduler.handlers["own"] = lambda task, context: own.generate("hello")
    graph = TaskGraph()
    graph.add(Task(type="own"), name="own")
    graph.add(Task(type="ask"), name="after", depends_on="own", allow_failure=True)
    result = scheduler.run(graph, budget=Budget(requests=5))
    assert result.results == {"after": "fine"}
    assert isinstance(result.exceptions["own"], BudgetExceeded)


def test_budgets_of_nested_runs(scheduler):
    """A nested run's requests are charged to both; its own budget ends it alone, and the outer one's refusal both."""
    seen = []

    def outer(task, context):
        result = scheduler.run(chain("ask", "ask", "ask"), budget=Budget(requests=task.params["inner"]))
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


def test_a_budget_for_several_runs(scheduler):
    """One budget given to several runs holds for all of them together."""
    budget = Budget(requests=3)
    assert scheduler.run(chain("ask", "ask"), budget=budget).status is TaskStatus.COMPLETE
    assert scheduler.run(chain("ask", "ask"), budget=budget).status is TaskStatus.PARTIAL
    assert scheduler.run(chain("ask", "ask"), budget=budget).status is TaskStatus.FAILED
    assert budget.spent.requests == 3
    assert scheduler.run(chain("ask", "ask")).status is TaskStatus.COMPLETE
