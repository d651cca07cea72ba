"""Async views of django_site, behind uvicorn: they await the async facade on its event loop.

`python -m tests.hosts.django_async_site DATABASE` serves the site, sends requests to it, and prints
the answers as JSON.
"""

import concurrent.futures
import http.client
import json
import socket
import threading

import uvicorn
from django.core.asgi import get_asgi_application
from django.db import connection
from django.http import HttpResponse, JsonResponse
from django.urls import path

from asimov_sync import AnthropicInferenceClient, Task, TaskGraph
from asimov_sync.aio import to_async
from asimov_sync.testing import ModelServer

from ..waiting import DEADLINE, wait_for
from . import django_site as site

tasks = to_async(site.scheduler)


def notes_graph(number):
    graph = TaskGraph()
    written = graph.map(Task(type="write", params={"page": number}), [1, 2, 3], name="write")
    graph.add(Task(type="read", params={"page": number}), name="read", depends_on=written)
    return graph


async def run(request, number):
    result = await tasks.run(notes_graph(number))
    return JsonResponse({"errors": result.errors, "notes": result.results.get("read")})


async def events(request, number):
    types = [event.type async for event in tasks.stream(notes_graph(number))]
    return JsonResponse({"count": len(types), "last": types[-1]})


async def text(request, number):
    async with model.stream("hello") as stream:
        return HttpResponse("".join([piece async for piece in stream.text_stream]))


async def blocking(request, number):
    """Call the blocking scheduler. This works here; it blocks the loop, as everywhere."""
    return JsonResponse({"notes": site.scheduler.run(notes_graph(number)).results["read"]})


def ask(port, view, number):
    """Return the body of the site's answer."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        client.request("GET", f"/{view}/{number}")
        return client.getresponse().read().decode("utf-8")
    finally:
        client.close()


site.urlpatterns[:] = [
    path(f"{view.__name__}/<int:number>", view) for view in (run, events, text, blocking)
]

if __name__ == "__main__":
    site.make_tables()
    connection.close()
    site.scheduler.middleware(site.close_connections)
    listener = (
        socket.create_server(("127.0.0.1", 0))
        if hasattr(socket, "create_server")
        else socket.socket()
    )
    if listener.getsockname()[1] == 0:  # Python 3.7
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
    port = listener.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(get_asgi_application(), log_level="warning", lifespan="off")
    )
    with ModelServer(lambda body: "one two three four") as models:
        client = AnthropicInferenceClient(model="m", api_key="key", api_url=models.url)
        model = to_async(client)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started, "the start of the server")
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = list(
                clients.map(lambda number: json.loads(ask(port, "run", number)), range(40))
            )
        report = {"run": answers, "text": ask(port, "text", 1)}
        report.update(
            {view: json.loads(ask(port, view, 1000 + len(view))) for view in ("events", "blocking")}
        )
        server.should_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive()
    print(json.dumps(report))
