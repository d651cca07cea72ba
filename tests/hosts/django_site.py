"""A Django site in one file, on an sqlite file. Its view runs a graph whose handlers use the ORM.

`python -m tests.hosts.django_site DATABASE` serves the site, sends it requests from many threads,
and prints as JSON the answers and the number of connections. With a second argument, a middleware
closes the connections after each task.
"""

import concurrent.futures
import functools
import http.client
import json
import sys
import threading

import django
from django.conf import settings
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.db import connection, connections, models
from django.db.backends.signals import connection_created
from django.http import JsonResponse
from django.urls import path

from asimov_sync import Task, TaskGraph, TaskScheduler

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": sys.argv[1],
            "OPTIONS": {"timeout": 20},
            "TEST": {"NAME": sys.argv[1]},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    ROOT_URLCONF=__name__,
    USE_TZ=True,
)
django.setup()

WORKER = "asimov-task"


class Note(models.Model):
    """A text on a page."""

    page = models.IntegerField()
    text = models.TextField()

    class Meta:
        app_label = "site"


def make_tables():
    """Create the table of the notes."""
    with connection.schema_editor() as editor:
        editor.create_model(Note)


def close_connections(call_next, task, context):
    """Middleware: close the thread's connections after a task, except for open transactions."""
    try:
        return call_next()
    finally:
        for each in connections.all():
            if not each.in_atomic_block:
                each.close()


def write(task, context):
    Note.objects.create(page=task.params["page"], text=f"note {task.params['item']}")


def read(task, context):
    return sorted(Note.objects.filter(page=task.params["page"]).values_list("text", flat=True))


scheduler = TaskScheduler({"write": write, "read": read}, max_workers=4)


def page(request, number):
    graph = TaskGraph()
    written = graph.map(Task(type="write", params={"page": number}), [1, 2, 3], name="write")
    graph.add(Task(type="read", params={"page": number}), name="read", depends_on=written)
    result = scheduler.run(graph)
    return JsonResponse({"errors": result.errors, "notes": result.results.get("read")})


urlpatterns = [path("<int:number>", page)]


class Server(ThreadedWSGIServer):
    """Django's own server, with a thread for each request."""

    daemon_threads = True
    request_queue_size = 64


class SilentHandler(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, format, *args):
        pass


def ask(port, number):
    """Return the site's answer for a page."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request("GET", f"/{number}")
        return json.loads(client.getresponse().read().decode("utf-8"))
    finally:
        client.close()


def main(closing):
    """Serve some pages to threads of this process, and print the report."""
    make_tables()
    connection.close()
    # (name of the thread, connection); kept, since garbage collection closes connections.
    opened = []
    connection_created.connect(
        lambda sender, connection, **kwargs: opened.append(
            (threading.current_thread().name, connection)
        ),
        weak=False,
    )
    if closing:
        scheduler.middleware(close_connections)
    server = Server(("127.0.0.1", 0), SilentHandler)
    server.set_app(get_wsgi_application())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(functools.partial(ask, server.server_port), range(40)))
    server.shutdown()
    server.server_close()
    by_workers = [connection for name, connection in opened if name == WORKER]
    print(
        json.dumps(
            {
                "answers": answers,
                "opened by workers": len(by_workers),
                "open": sum(one.connection is not None for one in by_workers),
            }
        )
    )


if __name__ == "__main__":
    main(closing=len(sys.argv) > 2)
