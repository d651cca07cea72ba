"""The live page of durable runs, called in process: what it shows, and what it refuses."""

import json
import re
from typing import List, Optional

import pytest
from pydantic import BaseModel
from typing_extensions import Literal

from asimov_sync import (
    Agent,
    CacheUnavailable,
    MemoryCache,
    RunStatus,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    ToolCall,
    current_context,
    tool,
)
from asimov_sync.testing import ScriptedInferenceClient
from asimov_sync.web import runs_app

from ..display.runs import HOSTILE
from ..tiers import suite
from .visitor import Visitor

pytestmark = suite


def user_of(environ):
    """Admit everybody who has a name."""
    return environ.get("REMOTE_USER")


class Review(BaseModel):
    """The answer of an editor."""

    verdict: Literal["publish", "revise"]
    score: int
    urgent: bool = False
    comment: Optional[str] = None
    words: List[str] = []


class Site:
    """A store with runs of one scheduler, and the application that shows them."""

    def __init__(self, **options):
        self.store = RunStore(MemoryCache())
        self.sent = []
        self.text = "<b>hi</b>"
        self.resumed = []
        self.scheduler = TaskScheduler(
            {
                "good": lambda task, context: "fine",
                "bad": self.fail,
                "ask": lambda task, context: context.wait_for("name", **task.params),
                "agent": self.make_agent(),
            },
            max_workers=0,
            runs=self.store,
        )
        self.failing = True
        options = dict({"authorize": user_of, "read_only": False}, **options)
        self.app = runs_app(self.store, **options)
        self.ann = Visitor(self.app)

    def fail(self, task, context):
        if self.failing:
            raise ValueError("no such page")
        return "found"

    def make_agent(self):
        @tool(requires_approval=True)
        def send(to: str, text: str = "") -> str:
            """Send a text."""
            self.sent.append((to, text, current_context().name))
            return "sent"

        def answer(body):
            if len(body["messages"]) > 1:
                return "It is done."
            return [ToolCall(id="call1", name="send", arguments={"to": "bob", "text": self.text})]

        return Agent(ScriptedInferenceClient(answer), tools=[send])

    def run(self, *types, run_id="r", tags=None, **params):
        """Run, or continue, one task of each type."""
        graph = TaskGraph()
        for kind in types:
            graph.add(Task(type=kind, objective=f"do {kind}", params=params), name=kind)
        return self.scheduler.run(graph, run_id=run_id, tags=tags)


@pytest.fixture
def site():
    """A site with forms."""
    return Site()


# Who may see it


def test_it_needs_authorize():
    """Without authorize= there is no application: runs contain what their users wrote."""
    with pytest.raises(ValueError, match=r"authorize=.*asimov-sync serve"):
        runs_app(RunStore(MemoryCache()))
    with pytest.raises(TypeError, match="RunStore"):
        runs_app(MemoryCache(), authorize=user_of)


@pytest.mark.parametrize("user", [True, False, object()])
def test_the_user_is_a_name(user):
    """authorize= returns a name: a truth value would be stored as who has answered."""
    with pytest.raises(TypeError, match="name of the user"):
        Site(authorize=lambda environ: user).ann.get("/")


def test_a_stranger_sees_nothing(site):
    """A visitor who is not admitted learns nothing, not even whether a run exists."""
    site.run("good")
    stranger = Visitor(site.app, user=None)
    replies = [stranger.get(path) for path in ("/", "/runs/r", "/runs/x", "/runs/r/live", "/none")]
    assert {reply.status for reply in replies} == {403}
    assert len({reply.body for reply in replies}) == 1
    assert stranger.post("/runs/r/cancel", {}).status == 403


@pytest.mark.parametrize(
    "path", ["/", "/runs/r", "/runs/r/task?name=good", "/none", "/runs/r/live"]
)
def test_header_fields(site, path):
    """Every reply forbids foreign content, frames, guesses of its type, and copies in caches."""
    site.run("good")
    reply = site.ann.get(path)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    assert not re.search(
        r"\s(style|on\w+)=", re.sub(r"<(script|style)\b.*?</\1>", "", reply.text, flags=re.S)
    )


# The list


def test_an_empty_list(site):
    """The page of an empty store says so."""
    assert "There are no runs yet." in site.ann.get("/").words


def test_the_list(site):
    """Runs are listed, the newest first, with status, tags and error; filters and pages work."""
    for number in range(60):
        site.run("good", run_id=f"run-{number:02}", tags={"tenant": str(number % 2)})
    site.run("bad", "good", run_id="z-broken")
    first = site.ann.get("/")
    shown = re.findall(r'href="/runs/([^"?]+)"', first.text)
    assert shown[:2] == ["z-broken", "run-59"] and len(shown) == 50
    assert "ValueError: no such page" in first.words and "tenant=1" in first.words
    older = re.search(r'rel="next" href="([^"]+)"', first.text).group(1)
    rest = re.findall(r'href="/runs/([^"?]+)"', site.ann.get(older).text)
    assert shown + rest == ["z-broken"] + [f"run-{number:02}" for number in reversed(range(60))]
    partial = site.ann.get("/?status=partial")
    assert re.findall(r'href="/runs/([^"?]+)"', partial.text) == ["z-broken"]
    odd = site.ann.get("/?tag=tenant%3D1&status=complete&status=failed")
    assert len(re.findall(r'href="/runs/([^"?]+)"', odd.text)) == 30
    assert "No run fits" in site.ann.get("/?until=2020-01-01T00:00").words
    assert "No run fits" in site.ann.get("/?since=2999-01-01T00:00").words
    assert "No run fits" not in site.ann.get("/?since=2020-01-01T00:00").words


@pytest.mark.parametrize(
    "query", ["?status=odd", "?since=yesterday", "?tag=x", "?tag=%ff", "?" + "a=1&" * 600]
)
def test_wrong_filters(site, query):
    """A filter that cannot be read is an error of the request."""
    assert site.ann.get(f"/{query}").status == 400


def test_a_page_after_a_deleted_run(site):
    """A link to the page after a run that is gone says so."""
    assert site.ann.get("/?after=gone").status == 404


def test_changes_of_the_list(site):
    """The script of the page gets the parts that change as JSON."""
    site.run("good")
    reply = site.ann.get("/", HTTP_ACCEPT="application/json")
    assert reply.headers["content-type"] == "application/json"
    assert list(json.loads(reply.text)["lists"]["runs"]["items"]) == ["r"]


# One run


def test_a_run(site):
    """The page of a run has its figures, graph, timeline, usage, and a row for each task."""
    site.run("good", "bad", "agent", tags={"tenant": "7"})
    page = site.ann.get("/runs/r")
    for word in ("parked", "ValueError: no such page", "tag tenant", "Timeline", "Usage and cost"):
        assert word in page.words
    assert page.text.count("<svg") > 5 and 'name=good"' in page.text
    assert "r" in site.ann.get("/runs/r").words
    assert site.ann.get("/runs/none").status == 404
    assert site.ann.get("/elsewhere").status == 404
    assert site.ann.get("/runs/r", REQUEST_METHOD="DELETE").status == 405
    assert site.ann.get("/runs/r/answer").status == 405


def test_a_task(site):
    """The page of a task has its error with the traceback, or what its agent has stored so far."""
    site.run("good", "bad", "agent")
    assert "fine" in site.ann.get("/runs/r/task?name=good").words
    assert "Traceback" in site.ann.get("/runs/r/task?name=bad").words
    agent = site.ann.get("/runs/r/task?name=agent").words
    assert "Answer on the page of the run" in agent
    assert "Conversation so far" in agent and 'calls send { "to": "bob"' in agent
    assert site.ann.get("/runs/r/task?name=none").status == 404


def test_a_kept_transcript():
    """The page of a task has the conversation of an agent that has ended, if the agent kept it."""
    cache = MemoryCache()
    store = RunStore(cache)
    agent = Agent(ScriptedInferenceClient(["It is <late>."]), name="clock", keep_transcript=True)
    graph = TaskGraph()
    graph.add(agent, name="clock", objective="What time is it?")
    with TaskScheduler(cache=cache, max_workers=0, runs=store) as scheduler:
        scheduler.run(graph, run_id="r")
    page = Visitor(runs_app(store, authorize=user_of)).get("/runs/r/task?name=clock")
    assert "Conversation: 2 messages" in page.words
    assert page.words.count("It is <late>.") == 2  # the result, and the message


def test_tasks_that_have_not_started(site):
    """The page shows the whole graph of a run, also the tasks that have not started."""
    graph = TaskGraph()
    graph.add(Task(type="ask"), name="first")
    graph.add(Task(type="good"), name="second", depends_on=["first"])
    site.scheduler.run(graph, run_id="r")
    assert 'name=second"' in site.ann.get("/runs/r").text
    assert list(site.store.get("r").tasks) == ["first"]
    assert list(site.store.get("r").graph) == ["first", "second"]
    assert site.store.get("r").graph["second"].depends_on == ("first",)


@pytest.mark.parametrize("mount", ["", "/ops/runs", "/ü ber"])
def test_links_below_a_path(mount):
    """Every link, form and redirect stays below the path at which the application is mounted."""
    site = Site()
    site.run("ask", "good")
    path = mount.encode().decode("latin-1")
    ann = Visitor(site.app, mount=path)
    start = {"": "/", "/ops/runs": "/ops/runs/", "/ü ber": "/%C3%BC%20ber/"}[mount]
    for address in ("/", "/runs/r", "/runs/r/task?name=good"):
        links = re.findall(r'(?:href|action|data-live|data-poll)="([^"]+)"', ann.get(address).text)
        assert links and all(link.startswith((start, "data:")) for link in links)
    (form,) = ann.get("/runs/r").forms("/answer")
    reply = ann.post("/runs/r/answer", dict(form, value="x"))
    assert reply.status == 303 and reply.headers["location"].startswith(f"{start}runs/r?")


def test_hostile_content():
    """Names, tags, objectives, prompts, data and errors of a run cannot add elements to a page."""
    site = Site()
    name = HOSTILE.replace("\ud800", "")  # names are stored as UTF-8

    def shout(task, context):
        raise ValueError(HOSTILE * 200)

    site.scheduler.handler("shout")(shout)
    graph = TaskGraph()
    graph.add(Task(type="shout", objective=HOSTILE), name=name)
    question = {"prompt": name, "data": {name: name * 2_000}}
    graph.add(Task(type="ask", objective=HOSTILE, params=question), name="ask")
    site.scheduler.run(graph, run_id="r", tags={name: name})
    pages = [site.ann.get(path) for path in ("/", "/runs/r")]
    link = re.search(r'href="(/runs/r/task\?name=%3C[^"]+)"', pages[1].text).group(1)
    pages.append(site.ann.get(link))
    for page in pages:
        assert page.status == 200 and len(page.body) < 400_000
        assert "<img" not in page.text and page.text.count("<script>") == 1
        assert "\u202e" not in page.text and "\x1b" not in page.text and "\x00" not in page.text
        assert "hacked" in page.words
    updates = site.ann.get("/runs/r/live?hold=no").text
    assert "\u202e" not in updates and "<script" not in updates.replace("&lt;script", "")


@pytest.mark.parametrize(
    "path",
    [
        "/runs/..%2f..%2fetc",
        "/runs/" + "x" * 201,
        "/runs/<script>",
        "/runs/r\n",
        "/runs/r/../s",
        "//evil.example/",
        "/runs/r/live/x",
    ],
)
def test_hostile_addresses(site, path):
    """An address that no run can have is not found, and is not repeated in the page."""
    reply = site.ann.get("/", PATH_INFO=path)
    assert reply.status == 404 and "evil" not in reply.text and "<script>alert" not in reply.text
    assert site.ann.get("/", PATH_INFO="/\xff").status == 400


def test_a_store_that_fails(site):
    """A store that cannot be read is an error of the service, with its reason."""

    def fail(*args, **options):
        raise CacheUnavailable("the disk is gone")

    site.store.list = site.store.get = fail
    for path in ("/", "/runs/r", "/runs/r/live", "/runs/r/task?name=x"):
        reply = site.ann.get(path)
        assert reply.status == 503 and "the disk is gone" in reply.words


# Answers


def ask(site, **params):
    """Run a task that waits for an answer, and return the hidden fields of its form."""
    site.run("ask", **params)
    (form,) = site.ann.get("/runs/r").forms("/answer")
    return form


def test_an_answer(site):
    """A form answers what a task waits for; who answered is stored, and the run continues."""
    form = ask(site, prompt="Who are you?", data={"hint": 7})
    words = site.ann.get("/runs/r").words
    assert "Who are you?" in words and '"hint": 7' in words
    reply = site.ann.post("/runs/r/answer", dict(form, value="Bob", format="text"))
    assert reply.status == 303
    assert "The answer is stored." in site.ann.get(reply.headers["location"]).words
    assert site.run("ask")["ask"] == "Bob"


def test_who_answered_is_stored():
    """The name that authorize= returned is stored with the answer."""
    site = Site(authorize=lambda environ: f"user {environ['REMOTE_USER']}")
    form = ask(site)
    answers = []
    answer = site.store.answer
    site.store.answer = lambda *args, **options: answers.append(options) or answer(*args, **options)
    site.ann.post("/runs/r/answer", dict(form, value="Bob"))
    assert answers == [{"task": "ask", "by": "user ann"}]


@pytest.mark.parametrize(
    "typed, answer",
    [
        ({"value": "7", "format": "json"}, 7),
        ({"value": "[1, 2]", "format": "json"}, [1, 2]),
        ({"value": "7", "format": "text"}, "7"),
        ({"value": "a\r\nb"}, "a\nb"),
    ],
)
def test_answers_of_any_type(site, typed, answer):
    """An answer to a wait without a type is text, or a JSON value."""
    form = ask(site)
    assert site.ann.post("/runs/r/answer", dict(form, **typed)).status == 303
    assert site.run("ask")["ask"] == answer


def answer_type(kind):
    """Return a site whose task waits for an answer of a type, and a function that sends one."""
    site = Site()
    site.scheduler.handler("typed")(lambda task, context: context.wait_for("name", type=kind))
    site.run("typed")
    (form,) = site.ann.get("/runs/r").forms("/answer")

    def send(**values):
        named = {name.replace("__", "."): value for name, value in values.items()}
        return site.ann.post("/runs/r/answer", dict(form, **named))

    return site, send


@pytest.mark.parametrize(
    "kind, typed, answer",
    [
        (str, "line", "line"),
        (bool, "false", False),
        (int, "7", 7),
        (float, "0.5", 0.5),
        (Literal["a", 2], "1", 2),
        (List[int], "[1, 2]", [1, 2]),
    ],
)
def test_inputs_by_type(kind, typed, answer):
    """The type of the wait decides the input, and what is typed becomes a value of it."""
    site, send = answer_type(kind)
    assert send(value=typed).status == 303
    result = site.run("typed")["typed"]
    assert result == answer and type(result) is type(answer)


def test_inputs_of_an_object():
    """Each property of an object has its input; what is optional may be left empty."""
    site, send = answer_type(Review)
    page = site.ann.get("/runs/r").text
    for name in ("verdict", "score", "urgent", "comment", "words"):
        assert f'name="value.{name}"' in page
    reply = send(value__verdict="0", value__score="9", value__urgent="", value__comment="")
    assert reply.status == 303
    expected = {"verdict": "publish", "score": 9, "urgent": False, "comment": None, "words": []}
    result = site.run("typed")
    assert result.status is TaskStatus.COMPLETE, result.errors
    assert result["typed"] == expected


@pytest.mark.parametrize(
    "kind, typed",
    [
        (bool, "maybe"),
        (int, "many"),
        (int, "0.5"),
        (float, "nan"),
        (Literal["a", "b"], "2"),
        (Literal["a", "b"], ""),
        (List[int], "[1, "),
        (List[int], '["x"]'),
        (List[int], "[" * 100_000),
        (List[float], "[NaN]"),
    ],
)
def test_answers_that_do_not_fit(kind, typed):
    """An answer that does not fit is not stored: the page says why, and keeps the input."""
    site, send = answer_type(kind)
    reply = send(value=typed)
    assert reply.status == 422 and 'role="alert"' in reply.text
    if len(typed) < 100 and kind is not bool and "a" not in str(kind):
        assert typed.replace('"', "&quot;") in reply.text
    assert len(site.store.waits("r")) == 1


def test_the_first_answer_counts(site):
    """An answer that comes second is not stored, and the page says so."""
    form = ask(site)
    site.ann.post("/runs/r/answer", dict(form, value="first"))
    reply = site.ann.post("/runs/r/answer", dict(form, value="second"))
    assert "The first answer counts" in site.ann.get(reply.headers["location"]).words
    assert site.run("ask")["ask"] == "first"


# Approvals


def approve(site):
    """Run an agent whose call waits for approval; return the hidden fields of the form."""
    site.run("agent")
    page = site.ann.get("/runs/r")
    assert "May it call send?" in page.words and "&lt;b&gt;hi&lt;/b&gt;" in page.text
    (form,) = page.forms("/approve")
    return form


def test_an_approval(site):
    """An approved call is made as it was shown, once the run continues."""
    form = dict(approve(site), decision="approve")
    site.ann.post("/runs/r/approve", form)
    assert site.run("agent")["agent"] == "It is done."
    assert site.sent == [("bob", "<b>hi</b>", "agent")]


def test_changed_arguments(site):
    """Arguments that were changed in the form are checked, and used for the call."""
    form = dict(approve(site), decision="approve")
    wrong = site.ann.post("/runs/r/approve", dict(form, arguments='{"to": 7}'))
    assert wrong.status == 422 and "is not of the type" in wrong.words
    assert "&quot;to&quot;: 7" in wrong.text
    assert site.ann.post("/runs/r/approve", dict(form, arguments="[]")).status == 422
    assert site.ann.post("/runs/r/approve", dict(form, decision="maybe")).status == 422
    assert site.ann.post("/runs/r/answer", form).status == 422
    site.ann.post("/runs/r/approve", dict(form, arguments='{"to": "eve"}'))
    site.run("agent")
    assert site.sent == [("eve", "", "agent")]


def test_calls_of_two_tasks_with_one_id(site):
    """Models reuse the ids of calls: a decision applies to the task whose form it was."""
    graph = TaskGraph()
    for name in ("one", "two"):
        graph.add(Task(type="agent", objective="do it"), name=name)
    site.scheduler.run(graph, run_id="r")
    page = site.ann.get("/runs/r")
    first, second = page.forms("/approve")
    site.ann.post("/runs/r/approve", dict(second, decision="approve"))
    site.ann.post("/runs/r/approve", dict(first, decision="refuse"))
    site.scheduler.run(graph, run_id="r")
    assert [call[2] for call in site.sent] == ["two"]


def test_a_refusal(site):
    """The reason for a refusal reaches the model, and the tool is not called."""
    form = dict(approve(site), decision="refuse", reason="too early")
    reply = site.ann.post("/runs/r/approve", form)
    assert "The call is refused." in site.ann.get(reply.headers["location"]).words
    site.run("agent")
    assert site.sent == []


def test_arguments_that_are_not_shown_whole(site):
    """A call whose arguments are too long for the page can be refused there, and not approved."""
    site.text = "x" * 30_000
    site.run("agent")
    page = site.ann.get("/runs/r")
    assert "too long to be shown whole" in page.words
    assert 'value="approve"' not in page.text and 'value="refuse"' in page.text
    (form,) = page.forms("/approve")
    site.ann.post("/runs/r/approve", dict(form, decision="refuse"))
    site.run("agent")
    assert site.sent == []


def test_an_approval_of_another_call(site):
    """A decision about a call that is not shown any more, or never was, has no effect."""
    form = dict(approve(site), decision="approve", shown="0" * 32)
    reply = site.ann.post("/runs/r/approve", form)
    assert "done=late" in reply.headers["location"]
    assert site.run("agent").status is TaskStatus.WAITING and site.sent == []


# Cancel and retry


def test_cancel_and_retry(site):
    """A run is cancelled for good, and failed tasks run again."""
    site.run("bad", "ask")
    page = site.ann.get("/runs/r")
    (form,) = page.forms("/cancel")
    assert not page.forms("/retry")
    site.ann.post("/runs/r/cancel", form)
    assert site.store.get("r").status is RunStatus.CANCELLED
    assert site.store.get("r").error.startswith("ValueError")
    assert "done=ended" in site.ann.post("/runs/r/cancel", form).headers["location"]
    site.run("bad", "good", run_id="s")
    (form,) = site.ann.get("/runs/s").forms("/retry")
    site.failing = False
    site.ann.post("/runs/s/retry", form)
    assert "scheduler.run(graph, run_id='s')" in site.ann.get("/runs/s").words
    assert site.run("bad", "good", run_id="s").status is TaskStatus.COMPLETE
    assert "done=nothing" in site.ann.post("/runs/s/retry", form).headers["location"]


def test_resume():
    """resume= is called with the run after an answer or a retry; the page says if it fails."""
    resumed = []
    site = Site(resume=resumed.append)
    form = ask(site)
    site.ann.post("/runs/r/answer", dict(form, value="Bob"))
    assert resumed == ["r"]
    site.run("bad", run_id="s")
    site.ann.post("/runs/s/retry", form)
    assert resumed == ["r", "s"]
    assert "No process drives" not in site.ann.get("/runs/s").words
    broken = Site(resume=lambda run_id: 1 / 0)
    form = ask(broken)
    reply = broken.ann.post("/runs/r/answer", dict(form, value="Bob"))
    assert "could not be continued" in broken.ann.get(reply.headers["location"]).words
    assert broken.run("ask")["ask"] == "Bob"


def test_what_to_run():
    """Without resume= the page of a run without a driver says what to run."""
    site = Site()
    site.scheduler.flow("report")(TaskGraph)
    site.scheduler.enqueue("report", run_id="r")
    words = site.ann.get("/runs/r").words
    assert "asimov-sync work module:scheduler" in words and "scheduler.resume('r')" in words


# Forged writes


ACTIONS = ["answer", "approve", "cancel", "retry"]


@pytest.mark.parametrize("action", ACTIONS)
def test_read_only(action):
    """By default there are no forms, and every write is refused."""
    site = Site(read_only=True)
    site.run("ask", "agent")
    page = site.ann.get("/runs/r")
    assert "<form" not in page.text and "set-cookie" not in page.headers
    assert "store.answer('r', 'name', …)" in page.words
    form = {"csrf": "x", "shown": "x", "value": "x"}
    assert site.ann.post(f"/runs/r/{action}", form).status == 403
    assert len(site.store.waits("r")) == 2


FORGERIES = {
    "no token": ({"csrf": None}, {}),
    "another token": ({"csrf": "0" * 32}, {}),
    "no cookie": ({}, {"HTTP_COOKIE": ""}),
    "no origin": ({}, {"HTTP_ORIGIN": None}),
    "a foreign origin": ({}, {"HTTP_ORIGIN": "http://evil.example"}),
    "another port": ({}, {"HTTP_ORIGIN": "http://app.example:81"}),
    "an opaque origin": ({}, {"HTTP_ORIGIN": "null"}),
    "a subdomain": ({}, {"HTTP_ORIGIN": "http://x.app.example"}),
    "plain text at https": ({}, {"wsgi.url_scheme": "https"}),
    "a foreign frame": ({}, {"HTTP_SEC_FETCH_SITE": "cross-site"}),
    "a sister site": ({}, {"HTTP_SEC_FETCH_SITE": "same-site"}),
    "no host": ({}, {"HTTP_HOST": ""}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_forms(site, forgery):
    """A form that no page of the application sent has no effect."""
    site.run("ask", "agent", "bad")
    (form,) = site.ann.get("/runs/r").forms("/answer")
    changes, environ = FORGERIES[forgery]
    fields = {key: value for key, value in dict(form, **changes).items() if value is not None}
    fields.update(value="x", decision="approve")
    cookies = site.ann.cookies
    if "HTTP_COOKIE" in environ:
        site.ann.cookies, environ = {}, {}
    for action in ACTIONS:
        assert site.ann.post(f"/runs/r/{action}", fields, **environ).status == 403
    assert len(site.store.waits("r")) == 2 and site.store.get("r").status is RunStatus.PARKED
    site.ann.cookies = cookies
    assert site.ann.post("/runs/r/answer", dict(fields, csrf=form["csrf"])).status == 303


@pytest.mark.parametrize(
    "environ, status",
    [
        ({"CONTENT_LENGTH": "3000000"}, 413),
        ({"CONTENT_LENGTH": None}, 411),
        ({"CONTENT_TYPE": "application/json"}, 415),
        ({"CONTENT_TYPE": "multipart/form-data; boundary=x"}, 415),
        ({"CONTENT_TYPE": None}, 415),
    ],
)
def test_bodies_that_are_no_forms(site, environ, status):
    """A body that is too long, of unknown length, or not a form is refused before it is read."""
    form = ask(site)
    assert site.ann.post("/runs/r/answer", dict(form, value="x"), **environ).status == status


def test_forms_with_many_fields(site):
    """A form with thousands of fields, or with broken encoding, is refused."""
    ask(site)
    assert site.ann.post("/runs/r/answer", {f"f{n}": "x" for n in range(1000)}).status == 400
    broken = {"method": "POST", "body": b"a=%ff", "CONTENT_LENGTH": "5"}
    kind = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
    assert site.ann.get("/runs/r/answer", **broken, **kind).status == 400


# Updates


def events_of(text):
    """The updates of a stream: pairs of a type and its data, and the id of the last one."""
    found, last = [], None
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
            last = fields["id"]
    return found, last


@pytest.mark.parametrize("environ", [{"wsgi.multithread": False}, {"QUERY_STRING": "hold=no"}])
def test_updates_without_held_connections(site, environ):
    """On a server with one thread, each request gets what is new at once, and ends."""
    site.run("ask", "good")
    reply = site.ann.get("/runs/r/live", **environ)
    assert reply.headers["content-type"].startswith("text/event-stream")
    (update,), position = events_of(reply.text)
    assert update[0] == "update" and len(update[1]["lists"]["tasks"]["items"]) == 2
    again = site.ann.get("/runs/r/live", HTTP_LAST_EVENT_ID=position, **environ)
    assert events_of(again.text) == ([], None) and "retry:" in again.text
    (form,) = site.ann.get("/runs/r").forms("/answer")
    site.ann.post("/runs/r/answer", dict(form, value="x"))
    ((kind, values),), position = events_of(
        site.ann.get("/runs/r/live", HTTP_LAST_EVENT_ID=position, **environ).text
    )
    assert values["lists"]["waits"]["items"] == {}
    site.run("ask", "good")
    last, _ = events_of(site.ann.get("/runs/r/live", HTTP_LAST_EVENT_ID=position, **environ).text)
    assert [kind for kind, _ in last] == ["update", "end"]
    assert len(last[0][1]["lists"]["tasks"]["items"]) == 1


def test_updates_of_a_run_that_has_ended(site):
    """The updates of a run that has ended are its last state, and the end."""
    site.run("good")
    events, _ = events_of(site.ann.get("/runs/r/live").text)
    assert [kind for kind, _ in events] == ["update", "end"]
    assert 'data-live=""' in site.ann.get("/runs/r").text


@pytest.mark.parametrize("position", ["x", "-1", "1.zz", "9" * 30, "<b>"])
def test_wrong_positions(site, position):
    """An id that is not one of an update is an error of the request."""
    site.run("good")
    assert site.ann.get("/runs/r/live", HTTP_LAST_EVENT_ID=position).status == 400


def test_updates_of_a_run_that_is_deleted(site, caplog):
    """The updates end, and the next request for them says that there is no such run."""
    site.run("ask")
    _, _, chunks = site.ann.open("/runs/r/live")
    assert b"retry:" in next(chunks) and b"event: update" in next(chunks)
    site.store.delete("r")
    assert list(chunks) == []
    chunks.close()
    assert "the updates of run r have ended" in caplog.text
    assert site.ann.get("/runs/r/live").status == 404


def test_methods(site):
    """A reply to another method says which one an address takes."""
    site.run("good")
    for path, allowed in [("/", "GET, HEAD"), ("/runs/r", "GET, HEAD"), ("/runs/r/cancel", "POST")]:
        reply = site.ann.get(path, method="OPTIONS")
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
