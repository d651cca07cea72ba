"""Airflow's trigger rules over every state of one to three upstream tasks.

An upstream task is successful, failed, upstream_failed (it did not run because of a failure) or
skipped (a branch did not choose it). Here these are COMPLETE, FAILED, skipped and ruled out.
"""

import itertools

import pytest

from asimov_sync import Task, TaskGraph, TaskScheduler

ALWAYS = {"always": True, "timeout": 10}
LENIENT = {"allow_failure": True}


def ruled_out(context):
    return context.skipped.keys() - context.failed.keys()


# By rule: the arguments of graph.add, and Airflow's definition by the numbers of the upstream tasks
# that succeeded, failed, are upstream_failed, were skipped.
RULES = {
    "all_success": (
        {"when": lambda inputs, context: not context.skipped},
        lambda success, failed, upstream_failed, skipped: (
            not (failed or upstream_failed or skipped)
        ),
    ),
    "all_failed": (
        dict(LENIENT, when=lambda inputs, context: not inputs and not ruled_out(context)),
        lambda success, failed, upstream_failed, skipped: not (success or skipped),
    ),
    "all_done": (
        ALWAYS,
        lambda success, failed, upstream_failed, skipped: True,
    ),
    "all_skipped": (
        dict(ALWAYS, when=lambda inputs, context: not inputs and not context.failed),
        lambda success, failed, upstream_failed, skipped: (
            not (success or failed or upstream_failed)
        ),
    ),
    "one_failed": (
        dict(LENIENT, when=lambda inputs, context: context.failed),
        lambda success, failed, upstream_failed, skipped: failed or upstream_failed,
    ),
    "one_success": (
        dict(LENIENT, when=lambda inputs: inputs),
        lambda success, failed, upstream_failed, skipped: success,
    ),
    "one_done": (
        dict(
            LENIENT,
            when=lambda inputs, context: inputs or context.failed.keys() - context.skipped.keys(),
        ),
        lambda success, failed, upstream_failed, skipped: success or failed,
    ),
    "none_failed": (
        dict(ALWAYS, when=lambda inputs, context: not context.failed),
        lambda success, failed, upstream_failed, skipped: not (failed or upstream_failed),
    ),
    "none_failed_min_one_success": (
        {},
        lambda success, failed, upstream_failed, skipped: (
            success and not (failed or upstream_failed)
        ),
    ),
    "none_skipped": (
        dict(LENIENT, when=lambda inputs, context: not ruled_out(context)),
        lambda success, failed, upstream_failed, skipped: not skipped,
    ),
    "all_done_min_one_success": (
        dict(LENIENT, when=lambda inputs: inputs),
        lambda success, failed, upstream_failed, skipped: success,
    ),
}

STATES = ["success", "failed", "upstream_failed", "skipped"]


def fail(task, context):
    raise ValueError("no")


def states_of(count):
    return itertools.product(STATES, repeat=count)


@pytest.mark.parametrize("count, number", [(1, 4), (2, 16), (3, 64)])
def test_each_rule_in_each_state(count, number):
    """Each of the eleven rules runs its task in exactly the states in which Airflow does."""
    assert len(RULES) == 11
    seen = 0
    with TaskScheduler({"done": lambda task, context: 1, "fail": fail}, max_workers=0) as scheduler:
        for states in states_of(count):
            graph = TaskGraph()
            graph.add(Task(type="fail"), name="cause")
            for index, state in enumerate(states):
                options = {}
                if state == "upstream_failed":
                    options["depends_on"] = "cause"
                elif state == "skipped":
                    options["when"] = lambda inputs: False
                kind = "fail" if state == "failed" else "done"
                graph.add(Task(type=kind), name=str(index), **options)
            upstream = [str(index) for index in range(count)]
            for rule, (options, _) in RULES.items():
                graph.add(Task(type="done"), name=rule, depends_on=upstream, **options)
            result = scheduler.run(graph)
            numbers = [states.count(state) for state in STATES]
            ran = [rule for rule in RULES if rule in result.results]
            assert ran == [rule for rule, (_, holds) in RULES.items() if holds(*numbers)], states
            seen += 1
    assert seen == number


def test_decided_when_the_last_dependency_is_settled():
    """A rule about one dependency is not decided early: the condition sees all dependencies."""
    order = []

    def step(task, context):
        order.append(context.name)
        if context.name == "first":
            raise ValueError("no")

    with TaskScheduler({"step": step}, max_workers=0) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="step"), name="first")
        options, _ = RULES["one_failed"]
        graph.add(Task(type="step"), name="alarm", depends_on=["first", "last"], **options)
        graph.add(Task(type="step"), name="last")
        scheduler.run(graph)
    assert order == ["first", "last", "alarm"]
