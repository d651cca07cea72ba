"""A Django test case whose graphs use the ORM: `python -m tests.hosts.django_testcase DATABASE` is Django's test runner."""

import sys

from django.test import TestCase
from django.test.runner import DiscoverRunner

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler, tool
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results

from .django_site import Note, close_connections, make_tables


def count(task, context):
    return Note.objects.count()


def write(task, context):
    Note.objects.create(page=2, text="by a handler")


@tool
def notes() -> int:
    """How many notes there are."""
    return Note.objects.count()


def answer(body):
    """A model's part: call the tool, and pass on what it returned."""
    return tool_results(body).get("notes") or calls(("notes", {}))


def results(max_workers, *types):
    """The results of a graph of these types, one after the other."""
    graph, before = TaskGraph(), []
    for type in types:
        before = [graph.add(Task(type=type, objective="Count the notes."), name=type, depends_on=before)]
    agent = Agent(ScriptedInferenceClient(answer), tools=[notes])
    with TaskScheduler({"count": count, "write": write, "ask": agent}, max_workers=max_workers) as scheduler:
        scheduler.middleware(close_connections)
        return scheduler.run(graph).results


class UncommittedNotes(TestCase):
    """A test owns a transaction, and handlers have part in it where they run on its thread."""

    def setUp(self):
        self.assertEqual(Note.objects.count(), 0)  # whichever test came before
        Note.objects.create(page=1, text="by the test")

    def test_the_calling_thread_sees_them(self):
        self.assertEqual(results(0, "count"), {"count": 1})

    def test_worker_threads_do_not(self):
        self.assertEqual(results(2, "count"), {"count": 0})

    def test_a_tool_sees_them(self):
        self.assertEqual(results(0, "ask"), {"ask": "1"})

    def test_what_a_handler_writes_is_of_the_transaction_too(self):
        self.assertEqual(results(0, "write", "count"), {"write": None, "count": 2})


class Runner(DiscoverRunner):
    """Makes the table, which belongs to no installed app."""

    def setup_databases(self, **kwargs):
        made = super().setup_databases(**kwargs)
        make_tables()
        return made


if __name__ == "__main__":
    sys.exit(Runner(interactive=False).run_tests([__name__]))
