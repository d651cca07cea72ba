"""A Flask application whose scheduler is made, and used, before gunicorn forks the workers that go on with it."""

import os
import threading

from flask import Flask, jsonify

from asimov_sync import Task, TaskGraph, TaskScheduler

app = Flask(__name__)
scheduler = TaskScheduler(max_workers=4)
never = threading.Event()
over = set()  # the ids of the runs whose end the callback was told


@scheduler.handler("start")
def start(task, context):
    return task.params["number"]


@scheduler.handler("power")
def power(task, context):
    return context.inputs["start"] ** task.params["item"]


@scheduler.handler("inside")
def inside(task, context):
    """A run inside of a task: it waits on a worker of the very scheduler that runs it."""
    return scheduler.run(powers(context.inputs["start"] + 1, [5, 6])).results


@scheduler.handler("total")
def total(task, context):
    return sum(value for value in context.inputs.values() if isinstance(value, int))


@scheduler.handler("wait")
def wait(task, context):
    never.wait()


@scheduler.on_event
def note_the_end(event):
    if event.type == "run_finished":
        over.add(event.result.run_id)


def powers(number, exponents):
    """A graph of the powers of a number, all of which wait for the number."""
    graph = TaskGraph()
    first = graph.add(Task(type="start", params={"number": number}), name="start")
    graph.map(Task(type="power"), exponents, name="power", depends_on=first)
    return graph


def whole(number):
    """Eight tasks: powers, a run inside of a task beside them, and a total that waits for all."""
    graph = powers(number, [1, 2, 3, 4, 5])
    graph.add(Task(type="inside"), name="inside", depends_on="start")
    graph.add(Task(type="total"), name="total", depends_on=list(graph.tasks))
    return graph


@app.route("/<int:number>")
def view(number):
    result = scheduler.run(whole(number))
    return jsonify(pid=os.getpid(), errors=result.errors, results=result.results, told=result.run_id in over)


def before_the_fork():
    """Leave idle workers and callers of the callback, and a worker in a task that never ends, to be lost in the fork."""
    assert scheduler.run(whole(3)).run_id in over
    graph = TaskGraph()
    graph.add(Task(type="wait"), name="wait")
    return scheduler.submit(graph)


lost = before_the_fork()
