"""A Django site that streams an agent, called in process as a WSGI and as an ASGI application.

`python -m tests.web.django_check` prints a report as JSON.
"""

import asyncio
import json
import threading

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.test import Client
from django.urls import path

from asimov_sync import Agent, AnthropicInferenceClient
from asimov_sync.aio import to_async
from asimov_sync.testing import ModelServer
from asimov_sync.web import sse
from asimov_sync.web.django import stream_response

from ..waiting import DEADLINE

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x")
django.setup()

silent = threading.Event()
silence_at = []  # the number of the event before which the model is silent


def blocking(request):
    return stream_response(request, sse(agent.stream("hi"), keep_alive=0.05))


async def awaiting(request):
    events = await to_async(agent).stream("hi")
    return stream_response(request, sse(events, keep_alive=0.05))


async def of_a_thread(request):
    return stream_response(request, sse(agent.stream("hi"), keep_alive=0.05))


def nothing(request):
    return stream_response(request, None)


urlpatterns = [path(view.__name__, view) for view in (blocking, awaiting, of_a_thread, nothing)]


async def ask(view, leave_at=None):
    """Return the status and the body of a request; leave when the body has a text."""
    sent, left = [], asyncio.Event()

    async def receive():
        if not received:
            received.append(True)
            return {"type": "http.request"}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if leave_at is not None and leave_at in message.get("body", b""):
            left.set()

    received = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/{view}",
        "headers": [],
        "query_string": b"",
    }
    await asyncio.wait_for(application(scope, receive, send), DEADLINE)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body.decode()


def is_closed(request):
    return request.disconnected.wait(DEADLINE)


def main():
    """Call each view to its end, and once with a browser that leaves during a silence."""
    report = {}
    response = Client().get("/blocking")
    report["wsgi"] = [response.status_code, b"".join(response.streaming_content).decode()]
    report["headers"] = dict(response.items())
    report["nothing"] = Client().get("/nothing").status_code
    silence_at.append(4)
    response = Client().get("/blocking")
    chunks = iter(response.streaming_content)
    while b"keep-alive" not in next(chunks):
        pass
    response.close()
    report["wsgi left"] = is_closed(server.requests[-1])
    silence_at.clear()
    try:
        Client().get("/awaiting").streaming_content
    except TypeError as error:
        report["async under WSGI"] = str(error)
    if django.VERSION >= (4, 2):
        for view in ("blocking", "awaiting", "of_a_thread"):
            report[view] = asyncio.run(ask(view))
        silence_at.append(4)
        for view in ("blocking", "awaiting", "of_a_thread"):
            asyncio.run(ask(view, b"keep-alive"))
            report[f"{view} left"] = is_closed(server.requests[-1])
    print(json.dumps(report))


def wait_at(request, number):
    return silent if silence_at and number == silence_at[0] else None


if __name__ == "__main__":
    application = get_asgi_application()
    with ModelServer(lambda body: "one two three", before_event=wait_at) as server:
        agent = Agent(AnthropicInferenceClient(model="m", api_key="key", api_url=server.url))
        main()
        silent.set()
