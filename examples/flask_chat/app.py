"""A chat with an agent in Flask: it streams text and tool calls, and asks before it books.

    pip install flask gunicorn
    gunicorn --chdir examples --threads 8 flask_chat.app:app          (then open localhost:8000)

`/chat` serves the page in chat_page, which has 130 lines of plain JavaScript. `/api/chat` serves
front ends of Vercel's AI SDK: useChat, assistant-ui and others.
"""

import os
import secrets
from typing import Any

from chat_assistant import PAGE, open_stream, read_page
from flask import Flask, Response, request, send_from_directory, session

from asimov_sync import AsimovError
from asimov_sync.web import error_status, read_ui_messages, sse, ui_message_stream
from asimov_sync.web.flask import stream_response

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY") or secrets.token_hex()
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"


def user() -> str:
    """Return the id of the user: that of the session, in a signed cookie."""
    return str(session.setdefault("user", secrets.token_hex()))


@app.post("/chat")
def chat() -> Response:
    """Answer the page in chat_page."""
    asked = read_page(request.get_data())
    stream, save = open_stream(user(), asked)
    return stream_response(sse(stream, on_end=save))


@app.post("/api/chat")
def ai_sdk_chat() -> Response:
    """Answer a front end of the AI SDK."""
    asked = read_ui_messages(request.get_data())
    stream, save = open_stream(user(), asked)
    return stream_response(ui_message_stream(stream, asked, on_end=save))


@app.errorhandler(ValueError)
def refuse(error: ValueError) -> Any:
    """Refuse a request of another form, and a decision about a call that does not wait."""
    return {"error": str(error)}, 400


@app.errorhandler(AsimovError)
def fail(error: AsimovError) -> Any:
    """Report that the model could not be asked."""
    app.logger.error("no answer: %s", error)
    return {"error": type(error).__name__}, error_status(error)


@app.get("/")
@app.get("/<name>")
def page(name: str = "index.html") -> Response:
    """Serve the page, its script and its style."""
    response = send_from_directory(PAGE, name)
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response
