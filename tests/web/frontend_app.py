"""A Flask application for the front ends of npm: every kind of part, in both protocols."""

import time

import flask
from tenacity import wait_none

from asimov_sync import (
    Agent,
    MemoryCache,
    Retry,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    TextDelta,
    ThinkingDelta,
    ToolCall,
)
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results
from asimov_sync.web import ag_ui, follow, read_ag_ui, read_ui_messages, ui_message_stream
from asimov_sync.web.flask import stream_response

from .conftest import delete, locate, weather


def answer(body):
    """Call two tools at once, then one that needs an approval, then answer."""
    results = tool_results(body)
    if "delete" in results:
        return f"It is done: {results['delete']}."
    if "weather" in results:
        return [
            ToolCall(id=f"c{len(body['messages'])}", name="delete", arguments={"path": "/tmp/x"})
        ]
    return calls(("weather", {"city": "Oslo"}), ("locate", {"city": "Oslo"}))


conversations = MemoryCache()
agent = Agent(ScriptedInferenceClient(answer), tools=[weather, locate, delete])
attempts = []


def write(task, context):
    text = ScriptedInferenceClient([f"{context.name} writes"]).generate("x").text
    attempts.append(context.name)
    if context.name == "two" and context.attempt == 1:
        raise ConnectionError("cut")
    return text


def ask_user(task, context):
    return context.wait_for("ok?", prompt="May it go?", type=bool)


store = RunStore(MemoryCache())
scheduler = TaskScheduler({"write": write, "ask": ask_user, "agent": agent}, runs=store)


def two_tasks():
    graph = TaskGraph()
    graph.add(Task(type="write"), name="one")
    graph.add(Task(type="write"), name="two", depends_on="one", retry=Retry(2, wait=wait_none()))
    return graph


def one_task(type):
    graph = TaskGraph()
    graph.add(Task(type=type, objective="clean up"), name="one")
    return graph


def failing():
    yield TextDelta("half an ans")
    raise ConnectionError("cut")


def thinking():
    yield ThinkingDelta("hmm")
    time.sleep(0.1)  # for comments
    yield TextDelta("\u202e<b>yes</b>\r\n\r\ndata: x\u2028")
    yield ThinkingDelta("\ud800 or no")


EVENTS = {
    "retry": lambda: scheduler.stream(two_tasks()),
    "error": failing,
    "thinking": thinking,
    "question": lambda: scheduler.stream(one_task("ask"), run_id="question", restart=True),
}

app = flask.Flask(__name__)


def converse(chat, request):
    """Continue the conversation of a chat, which the server has stored."""
    stored = conversations.get(chat, [])
    stream = agent.stream(request.messages, messages=stored, approvals=request.approvals)
    return stream, lambda: conversations.set(chat, stream.run.messages)


@app.post("/chat")
def chat():
    request = read_ui_messages(flask.request.get_data())
    stream, save = converse(request.chat_id, request)
    return stream_response(ui_message_stream(stream, request, on_end=save))


@app.post("/<name>")
def stream_parts(name):
    return stream_response(ui_message_stream(EVENTS[name](), keep_alive=0.02))


@app.get("/chat/<run_id>/stream")
def resume(run_id):
    scheduler.run(one_task("agent"), run_id=run_id)
    log = follow(store, run_id)
    return stream_response(None if log is None else ui_message_stream(log))


@app.post("/ag-ui")
def ag_ui_chat():
    request = read_ag_ui(flask.request.get_data())
    stream, save = converse(request.chat_id, request)
    return stream_response(ag_ui(stream, request, on_end=save))


@app.post("/ag-ui/<name>")
def ag_ui_parts(name):
    request = read_ag_ui(flask.request.get_data())
    return stream_response(ag_ui(EVENTS[name](), request, keep_alive=0.02))


PAGE = (
    '<!doctype html><link rel="icon" href="data:,">'
    '<div id="root"></div><script src="chat.js"></script>'
)


@app.get("/")
def page():
    return PAGE


@app.get("/chat.js")
def script():
    return flask.send_file(app.config["BUNDLE"])
