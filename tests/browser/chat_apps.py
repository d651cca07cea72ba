"""The example chats, with the model server of a test: its address is in CHAT_MODEL_URL."""

import os
import pathlib
import sys

from asimov_sync import Agent, AnthropicInferenceClient

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent / "examples"))

import chat_assistant  # noqa: E402

client = AnthropicInferenceClient("m", api_key="key", api_url=os.environ["CHAT_MODEL_URL"])
tools = [chat_assistant.weather, chat_assistant.find_trains, chat_assistant.book]
agent = Agent(client, tools=tools)
chat_assistant.open_agent = lambda: agent


def flask():
    """Return the application of flask_chat."""
    from flask_chat.app import app

    return app


def wsgi():
    """Return the WSGI application of django_chat."""
    from django_chat.chat_site import wsgi

    return wsgi


def asgi():
    """Return the ASGI application of django_chat."""
    from django_chat.chat_site import asgi

    return asgi
