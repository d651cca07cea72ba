"""Reports as durable runs that Celery workers run.

Needs `pip install asimov_sync[celery]` and a Redis server, at $REDIS_URL or on this machine. In
this folder, start a worker:

    celery -A reports worker -B --concurrency 4

and order reports:

    python order.py bees trains tides

Each report is a run with an id of its own. The worker writes its parts, and then the run waits for
permission to publish, without a process. `order.py` asks for the permission, and a worker
publishes the report.

Kill the worker, or its processes, whenever you like, and start it again: no part that is stored is
written again. `-B` runs Celery beat in the worker, which continues the runs of lost workers once a
minute. With several workers, start one beat of its own: `celery -A reports beat`.

The model is a stand-in, so no key is needed.
"""

import os
import time
from typing import Any, Dict

from celery import Celery

from asimov_sync import Agent, RedisCache, RunStore, Task, TaskContext, TaskGraph, TaskScheduler
from asimov_sync.integrations.celery import register_tasks
from asimov_sync.testing import ScriptedInferenceClient, last_text

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
PARTS = ["history", "state", "future"]


def model(body: Dict[str, Any]) -> str:
    """Answer like a model, which takes some time."""
    time.sleep(0.2)
    return f"All there is to know about {last_text(body)}."


# Celery imports this module before it forks its processes, and they may use all of this.
store = RunStore(RedisCache(url=URL, default_prefix="reports"))
scheduler = TaskScheduler({"write": Agent(ScriptedInferenceClient(model))}, runs=store)

app = Celery("reports", broker=URL, backend=URL)
app.conf.worker_prefetch_multiplier = 1  # a run takes long: do not reserve others meanwhile
app.conf.broker_connection_retry_on_startup = True
tasks = register_tasks(app, scheduler, soft_time_limit=600)


@scheduler.handler("publish")
def publish(task: Task, context: TaskContext) -> str:
    """Return the report, if somebody agrees."""
    if not context.wait_for("agreed", prompt="Publish the report?", type=bool):
        return "not published"
    return "\n".join(context.inputs.values())


@scheduler.flow("report")
def build_report(topic: str) -> TaskGraph:
    """Return the graph of a report: its parts, at the same time, and the publication."""
    graph = TaskGraph()
    for part in PARTS:
        graph.add(Task(type="write", objective=f"the {part} of {topic}"), name=part)
    graph.add(Task(type="publish"), name="publish", depends_on=PARTS)
    return graph
