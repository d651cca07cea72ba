"""Runs for the tests of pictures and reports."""

from asimov_sync import Partial, Route, Task, TaskGraph

HOSTILE = (
    "<script>document.title='hacked'</script></title></style><img src=x onerror=alert(1)>"
    "\u202eevil\u2066 \x1b[2J\x00 \ud800 ]]>--> \"' &amp; `${x}`"
)
"""Text that breaks pages which do not escape it."""


def read(task, context):
    """A handler that fails for one of its items."""
    if task.params["item"] == 2:
        raise ValueError("no such page")
    return f"page {task.params['item']}"


def spawn(task, context):
    """A handler that adds a task to the run."""
    context.spawn(Task(type="good"), name="extra")
    return "planned"


def judge(task, context):
    """A handler that sends the draft back once."""
    if "critic" in context.feedback or context.visit > 1:
        return Route("publish", result="fine")
    return Route("write", result="once more")


HANDLERS = {
    "good": lambda task, context: "done",
    "read": read,
    "spawn": spawn,
    "judge": judge,
    "half": lambda task, context: Partial(["page 1"], "page 2 is missing"),
    "hostile": lambda task, context: HOSTILE,
}


def survey():
    """Return a graph whose run has a loop, a Route, a spawned task and a task of most statuses."""
    graph = TaskGraph("survey")
    graph.add(Task(type="good", objective="Find sources"), name="search")
    graph.map(Task(type="read"), range(4), name="page", depends_on="search")
    graph.add(Task(type="spawn"), name="plan", depends_on="search")
    graph.add(Task(type="good"), name="rare", depends_on="search", when=lambda inputs: False)
    graph.add(
        Task(type="good"), name="merge", depends_on=["page", "plan"], allow_failure=True, timeout=30
    )
    graph.add(Task(type="good"), name="index", depends_on="page")
    graph.add(Task(type="half"), name="summary", depends_on="merge")
    graph.add(Task(type="good"), name="write", depends_on="merge")
    graph.add(Task(type="judge"), name="critic", depends_on="write")
    graph.add(Task(type="good"), name="publish", depends_on="critic")
    graph.add(Task(type="good"), name="reject", depends_on="critic")
    return graph
