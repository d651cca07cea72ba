"""A chat with an agent in Django, in one file. It streams under WSGI and under ASGI.

    pip install django uvicorn gunicorn
    uvicorn --app-dir examples django_chat.chat_site:asgi              (then open localhost:8000)
    gunicorn --chdir examples --threads 8 django_chat.chat_site:wsgi

`/chat` serves the page in chat_page, which has 130 lines of plain JavaScript. `/api/chat` serves
front ends of Vercel's AI SDK: useChat, assistant-ui and others.
"""

import os
import secrets
from typing import Callable

import django
from chat_assistant import PAGE, open_stream, read_page
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST

from asimov_sync import AsimovError
from asimov_sync.web import error_status, read_ui_messages, sse, ui_message_stream
from asimov_sync.web.django import stream_response

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
django.setup()

FILES = {
    "index.html": "text/html",
    "chat.js": "text/javascript",
    "chat.css": "text/css",
    "icon.svg": "image/svg+xml",
}

View = Callable[..., HttpResponse]


def user(request: HttpRequest) -> str:
    """Return the id of the user: that of the session, in a signed cookie."""
    return str(request.session.setdefault("user", secrets.token_hex()))


def with_errors(view: View) -> View:
    """Answer errors before the first byte with their HTTP status."""

    def call(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except ValueError as error:
            return JsonResponse({"error": str(error)}, status=400)
        except AsimovError as error:
            return JsonResponse({"error": type(error).__name__}, status=error_status(error))

    return call


def chat(request: HttpRequest) -> HttpResponse:
    """Answer the page in chat_page."""
    asked = read_page(request.body)
    stream, save = open_stream(user(request), asked)
    return stream_response(request, sse(stream, on_end=save))


def ai_sdk_chat(request: HttpRequest) -> HttpResponse:
    """Answer a front end of the AI SDK. It sends the header X-CSRFToken, as the page does."""
    asked = read_ui_messages(request.body)
    stream, save = open_stream(user(request), asked)
    return stream_response(request, ui_message_stream(stream, asked, on_end=save))


def page(request: HttpRequest, name: str = "index.html") -> HttpResponse:
    """Serve the page, its script and its style."""
    if name not in FILES:
        return HttpResponse(status=404)
    response = HttpResponse((PAGE / name).read_bytes(), content_type=FILES[name])
    response["Content-Security-Policy"] = "default-src 'self'"
    return response


urlpatterns = [
    path("chat", require_POST(with_errors(chat))),
    path("api/chat", require_POST(with_errors(ai_sdk_chat))),
    path("", ensure_csrf_cookie(page)),
    path("<name>", page),
]

asgi = get_asgi_application()
wsgi = get_wsgi_application()
