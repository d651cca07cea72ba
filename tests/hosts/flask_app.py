"""A Flask application whose scheduler is created and used before gunicorn forks its workers."""

import os
import threading

from flask import Flask, jsonify

from asimov_sync import Task, TaskGraph, TaskScheduler

app = Flask(__name__)
scheduler = TaskScheduler(max_workers=4)
never = threading.Event()
finished = set()  # the ids of the runs whose end was reported to the callback


@scheduler.handler("start")
def start(task, context):
    return task.params["number"]


@scheduler.handler("power")
def power(task, context):
    return context.inputs["start"] ** task.params["item"]


@scheduler.handler("inside")
def inside(task, context):
    """Run another graph on the same scheduler, from one of its workers."""
    return scheduler.run(powers_graph(context.inputs["start"] + 1, [5, 6])).results


@scheduler.handler("total")
def total(task, context):
    return sum(value for value in context.inputs.values() if isinstance(value, int))


@scheduler.handler("wait")
def wait(task, context):
    never.wait()


@scheduler.on_event
def note_end(event):
    if event.type == "run_finished":
        finished.add(event.result.run_id)


def powers_graph(number, exponents):
    """Return a graph of the powers of a number; each power depends on the number."""
    graph = TaskGraph()
    first = graph.add(Task(type="start", params={"number": number}), name="start")
    graph.map(Task(type="power"), exponents, name="power", depends_on=first)
    return graph


def request_graph(number):
    """Return a graph of eight tasks: powers, a task that runs a graph, and a total."""
    graph = powers_graph(number, [1, 2, 3, 4, 5])
    graph.add(Task(type="inside"), name="inside", depends_on="start")
    graph.add(Task(type="total"), name="total", depends_on=list(graph.tasks))
    return graph


@app.route("/<int:number>")
def view(number):
    result = scheduler.run(request_graph(number))
    return jsonify(
        pid=os.getpid(),
        errors=result.errors,
        results=result.results,
        reported=result.run_id in finished,
    )


def prepare_fork():
    """Leave idle workers and a busy worker behind, all of which the fork loses."""
    assert scheduler.run(request_graph(3)).run_id in finished
    graph = TaskGraph()
    graph.add(Task(type="wait"), name="wait")
    return scheduler.submit(graph)


lost_run = prepare_fork()
