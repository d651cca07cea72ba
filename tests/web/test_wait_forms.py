"""The forms of the live page: what a browser sends back is what was shown and what was typed."""

import html
import re

import pytest
from pydantic import BaseModel
from typing_extensions import Literal

from asimov_sync import Agent, ToolCall, tool
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import suite
from .test_runs_app import Site, ask

pytestmark = suite

INVISIBLE = "\U0001f468\u200d\U0001f469 \u06cc\u200c\u0647 a\xadb \u202eabc \U000e0041 \x7f"


def textarea(page, name):
    """The content of a textarea, as a browser sends it."""
    (content,) = re.findall(rf'<textarea[^>]*name="{name}"[^>]*>\n(.*?)</textarea>', page, re.S)
    return html.unescape(content).replace("\n", "\r\n")


def approval_of(arguments):
    """A site with a call that waits, the fields of its form, and the calls that were made."""
    site, sent = Site(), []

    @tool(requires_approval=True)
    def send(text: str, copies: int = 1, urgent: bool = False) -> str:
        """Send a text."""
        sent.append((text, copies, urgent))
        return "sent"

    def answer(body):
        if len(body["messages"]) > 1:
            return "It is done."
        return [ToolCall(id="call1", name="send", arguments=arguments)]

    site.scheduler.handler("sender")(Agent(ScriptedInferenceClient(answer), tools=[send]))
    site.run("sender")
    page = site.ann.get("/runs/r").text
    (form,) = site.ann.get("/runs/r").forms("/approve")
    return site, dict(form, decision="approve", arguments=textarea(page, "arguments")), sent


@pytest.mark.parametrize("text", [INVISIBLE, "a\r\nb\tc"])
def test_an_approval_keeps_every_character(text):
    """A call that is approved as it was shown gets its arguments unchanged, also the characters
    that the page shows as escapes: the joiners of emoji and of Persian among them."""
    site, form, sent = approval_of({"text": text, "copies": 2})
    assert "\u202e" not in form["arguments"] and "\u200d" not in form["arguments"]
    assert site.ann.post("/runs/r/approve", form).status == 303
    site.run("sender")
    assert sent == [(text, 2, False)]


def test_one_changed_argument_keeps_the_others():
    """A change of one argument in the form does not change the text of another."""
    site, form, sent = approval_of({"text": INVISIBLE, "copies": 2})
    form["arguments"] = form["arguments"].replace('"copies": 2', '"copies": 3')
    site.ann.post("/runs/r/approve", form)
    site.run("sender")
    assert sent == [(INVISIBLE, 3, False)]


def test_a_changed_type_is_a_change():
    """An argument that is changed from 1 to true is checked as a changed one."""
    site, form, sent = approval_of({"text": "x", "copies": 1})
    form["arguments"] = form["arguments"].replace('"copies": 1', '"copies": true')
    reply = site.ann.post("/runs/r/approve", form)
    assert reply.status == 422 and "is not of the type" in reply.words


def test_a_question_that_has_changed():
    """An answer applies to the question that the form showed, and to no other."""
    site = Site()
    price = [10]
    site.scheduler.handler("pay")(
        lambda task, context: context.wait_for("agreed", prompt=f"Pay {price[0]}?", type=bool)
    )
    site.run("pay")
    (form,) = site.ann.get("/runs/r").forms("/answer")
    (wait,) = site.store.waits("r")
    site.store.waits = lambda run_id: [wait._replace(prompt="Pay 1000?")]
    reply = site.ann.post("/runs/r/answer", dict(form, value="true"))
    assert "done=late" in reply.headers["location"]
    site.store.waits = lambda run_id: [wait._replace(data={"to": "eve"})]
    reply = site.ann.post("/runs/r/answer", dict(form, value="true"))
    assert "done=late" in reply.headers["location"]


def test_half_a_form():
    """A form of which only a part has arrived is refused: the answer in it is half an answer."""
    site = Site()
    form = dict(ask(site), value="do not delete anything")
    reply = site.ann.post("/runs/r/answer", form, CONTENT_LENGTH="5000")
    assert reply.status == 400 and "whole" in reply.words
    assert len(site.store.waits("r")) == 1


@pytest.mark.parametrize("origin", ["http://[", "http://app.example/x", "http://", "://", "\xff"])
def test_malformed_origins(origin):
    """An Origin that is none is refused, and is no error of the application."""
    site = Site()
    form = dict(ask(site), value="x")
    assert site.ann.post("/runs/r/answer", form, HTTP_ORIGIN=origin).status == 403


class Choice(BaseModel):
    """An answer with defaults."""

    level: Literal["2", "1", "0"] = "0"
    note: str = "\u200d"
    score: int


def test_defaults_and_typed_values():
    """A default is preselected by its value, and what was typed is shown again as it was."""
    site = Site()
    site.scheduler.handler("typed")(lambda task, context: context.wait_for("name", type=Choice))
    site.run("typed")
    page = site.ann.get("/runs/r")
    assert re.findall(r'<option value="(\d)" selected>', page.text) == ["2"]
    assert textarea(page.text, "value.note") == "\u200d"
    (form,) = page.forms("/answer")
    typed = {"value.level": "1", "value.note": INVISIBLE, "value.score": "many"}
    again = site.ann.post("/runs/r/answer", dict(form, **typed))
    assert again.status == 422
    assert re.findall(r'<option value="(\d)" selected>', again.text) == ["1"]
    assert textarea(again.text, "value.note") == INVISIBLE
