"""A Django site with the page of runs, called in process as a WSGI and as an ASGI application.

`python -m tests.web.django_runs` prints a report as JSON.
"""

import asyncio
import json
import re

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.test import Client
from django.urls import re_path

from asimov_sync import MemoryCache, RunStore, TaskGraph, TaskScheduler
from asimov_sync.web import runs_app
from asimov_sync.web.django import runs_view

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
)
django.setup()

store = RunStore(MemoryCache())
scheduler = TaskScheduler(max_workers=0, runs=store)
seen = []


def authorize(environ):
    """Admit everybody who sends a name, and note what the application receives."""
    request = environ["django.request"]
    seen.append((environ["SCRIPT_NAME"], environ["PATH_INFO"], environ.get("wsgi.multithread")))
    return request.headers.get("X-User")


view = runs_view(runs_app(store, authorize=authorize, read_only=False))
urlpatterns = [re_path(r"^ops/runs/(?P<path>.*)$", view)]


def build():
    """A graph whose task waits for a name."""
    graph = TaskGraph()
    graph.add(lambda task, context: context.wait_for("name", type=str), name="sign")
    return graph


async def ask(path):
    """Return the status and the body of a GET under ASGI."""
    sent, received = [], []

    async def receive():
        if received:
            await asyncio.sleep(60)
        received.append(True)
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"x-user", b"ann"), (b"host", b"testserver")],
    }
    await asyncio.wait_for(get_asgi_application()(scope, receive, send), 30)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], body.decode()


def main():
    """Print the report."""
    scheduler.run(build(), run_id="r")
    browser = Client(enforce_csrf_checks=True)
    ann = {"HTTP_X_USER": "ann"}
    page = browser.get("/ops/runs/runs/r", **ann)
    report = {
        "stranger": browser.get("/ops/runs/runs/r").status_code,
        "page": page.status_code,
        "frames": page["X-Frame-Options"],
        "seen": seen[0],
    }
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', page.content.decode()))
    fields["value"] = "Ann"
    action = re.search(r'action="([^"]+/answer)"', page.content.decode()).group(1)
    report["forged"] = browser.post(action, fields, **ann).status_code
    form = "&".join(f"{name}={value}" for name, value in fields.items())
    browser.cookies.load(page["Set-Cookie"].partition(";")[0])
    answer = browser.post(
        action,
        form,
        content_type="application/x-www-form-urlencoded",
        HTTP_ORIGIN="http://testserver",
        HTTP_HOST="testserver",
        **ann,
    )
    report["answer"] = [answer.status_code, answer["Location"]]
    report["asgi"] = [asyncio.run(ask(f"/ops/runs/{path}")) for path in ("", "runs/r/live")]
    report["result"] = scheduler.run(build(), run_id="r")["sign"]
    live = browser.get("/ops/runs/runs/r/live", **ann)
    report["live"] = b"".join(live.streaming_content).decode()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
