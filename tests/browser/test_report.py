"""The report of a run in Chromium: it opens fast, looks right, and runs no script of a model."""

import pytest

from asimov_sync import TaskScheduler

from ..display.runs import HANDLERS, survey
from ..tiers import soak
from .conftest import PHONE

pytestmark = soak


@pytest.fixture
def report(tmp_path):
    """The report of a run with every status."""
    with TaskScheduler(HANDLERS, max_workers=2) as scheduler:
        result = scheduler.run(survey())
    path = tmp_path / "run.html"
    result.save_report(path)
    return path


def test_it_looks_the_same_everywhere(report, take_screenshots):
    """The report fits a desktop and a phone, light and dark, without an error on the console."""
    assert len(take_screenshots(report)) == 3


def test_a_box_of_the_graph_opens_its_task(report, open_page):
    """A click on a box of the graph opens the task in the list, which the keyboard then has."""
    page = open_page(report, size=PHONE)
    page.click("a[href='#t1'] >> nth=0")
    assert page.evaluate("document.getElementById('t1').open")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
