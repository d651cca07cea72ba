"""Measures a streamed text event against a loop by hand, and against Anthropic's SDK if installed.

    python benchmarks/streaming.py [ROUNDS]

ROUNDS: rounds to measure (15 by default). In each round, all readers read the same Messages
    stream, one after the other. Each ratio compares two readers in one round.

It measures the CPU time of this process (user and system) for one text event. The server is another
process. The stream arrives in three ways: one event in each write with a pause after it, so that
each read returns one event; one event in each chunk, without pauses; and in chunks of 16 KB, as
behind a proxy that buffers.

By hand means: requests, http.client's read1, split at blank lines, json.loads, and the text of each
text_delta. It builds no reply, cannot be cancelled, and does not detect a cut stream. The goal is
1.5 times its time.

Prints the minimum, median and maximum of the time in microseconds, and of the ratio to the loop by
hand.
"""

import http.server
import importlib
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

import requests

from asimov_sync import AnthropicInferenceClient

EVENTS = 5000
PACED_EVENTS = 1000
PAUSE_SECONDS = 0.0005
PACKED_BYTES = 16384
GOAL = 1.5
WORDS = (
    "a stream comes in pieces, of a word or a few of them: “so”, say, or the half of a longer one"
).split(" ")
REQUEST = {
    "model": "any",
    "max_tokens": 4096,
    "stream": True,
    "messages": [{"role": "user", "content": "Go on."}],
}

Reader = Callable[[str], Iterator[str]]
"""Reads the stream at an address and yields the pieces of its text."""


# The server


def make_events(count: int) -> List[bytes]:
    """Return the events of a reply with `count` pieces of text, encoded as the real API does."""
    usage = {"input_tokens": 12, "output_tokens": 1}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "any",
        "content": [],
        "usage": usage,
    }
    decoded: List[Dict[str, Any]] = [
        {"type": "message_start", "message": dict(message, stop_reason=None, stop_sequence=None)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    words = itertools.cycle(WORDS)
    for number in range(count):
        piece = " ".join(itertools.islice(words, 1 + number % 3)) + " "
        decoded.append(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": piece},
            }
        )
    decoded.append({"type": "content_block_stop", "index": 0})
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    decoded.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": count}})
    decoded.append({"type": "message_stop"})
    return [encode_event(event) for event in decoded]


def encode_event(event: Dict[str, Any]) -> bytes:
    """Encode a server-sent event."""
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode("utf-8")


def chunk(data: bytes) -> bytes:
    """Encode a chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def make_writes(way: str) -> List[bytes]:
    """Return the writes of the server for a stream. It pauses after each."""
    if way == "paced":
        return [chunk(event) for event in make_events(PACED_EVENTS)] + [chunk(b"")]
    whole = make_events(EVENTS)
    if way == "packed":
        joined = b"".join(whole)
        whole = [
            joined[start : start + PACKED_BYTES] for start in range(0, len(joined), PACKED_BYTES)
        ]
    return [b"".join(chunk(data) for data in whole + [b""])]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a POST to /WAY/v1/messages with the stream written in that way."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    streams: Dict[str, List[bytes]] = {}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        """Send the headers, and then the prepared writes."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for data in self.streams[self.path.split("/")[1]]:
            self.wfile.write(data)
            time.sleep(PAUSE_SECONDS)


def serve() -> None:
    """Run the server process: print the port, and serve until terminated."""
    Handler.streams = {way: make_writes(way) for way in ("paced", "chunks", "packed")}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


# The readers


def make_reader_by_hand(session: requests.Session) -> Reader:
    """Return a fast reader with requests that yields events as they arrive."""
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "x-api-key": "none",
    }

    def read(address: str) -> Iterator[str]:
        body = json.dumps(REQUEST).encode("utf-8")
        with session.post(
            address + "/v1/messages", data=body, headers=headers, stream=True
        ) as response:
            response.raise_for_status()
            source: Any = response.raw
            rest = b""
            while True:
                # The last urllib3 for Python 3.7 has no read1 itself.
                piece = source._fp.read1(65536)
                if not piece:
                    return
                *whole, rest = (rest + piece).split(b"\n\n")
                for event in whole:
                    for line in event.split(b"\n"):
                        if line.startswith(b"data: "):
                            data = json.loads(line[6:])
                            if data["type"] == "content_block_delta":
                                if data["delta"]["type"] == "text_delta":
                                    yield data["delta"]["text"]

    return read


def read_with_client(address: str) -> Iterator[str]:
    """Read the stream of this library's client."""
    client = AnthropicInferenceClient(model="any", api_key="none", api_url=address + "/v1/messages")
    with client, client.stream("Go on.") as stream:
        for text in stream.text_stream:
            yield text


def make_sdk_reader(anthropic: Any) -> Reader:
    """Return a reader with Anthropic's client."""
    clients: Dict[str, Any] = {}

    def read(address: str) -> Iterator[str]:
        if address not in clients:
            clients[address] = anthropic.Anthropic(api_key="none", base_url=address, max_retries=0)
        arguments = {name: value for name, value in REQUEST.items() if name != "stream"}
        with clients[address].messages.stream(**arguments) as stream:
            for text in stream.text_stream:
                yield text

    return read


def make_readers() -> Dict[str, Reader]:
    """Return the readers to compare, by name."""
    found: Dict[str, Reader] = {
        "by hand": make_reader_by_hand(requests.Session()),
        "asimov_sync": read_with_client,
    }
    try:
        anthropic: Any = importlib.import_module("anthropic")
    except ImportError:
        return found
    return dict(found, **{f"anthropic {anthropic.__version__}": make_sdk_reader(anthropic)})


# Measuring


def measure(read: Reader, address: str, count: int) -> Tuple[float, int]:
    """Return the CPU seconds for one of `count` events, and the number of characters read."""
    start = time.process_time()
    pieces = characters = 0
    for text in read(address):
        pieces += 1
        characters += len(text)
    seconds = (time.process_time() - start) / count
    if pieces != count:
        sys.exit(f"{pieces} pieces of text instead of {count}")
    return seconds, characters


def main(rounds: int) -> int:
    """Measure and print. Returns the exit status: 1 if the goal is missed, else 0."""
    named = make_readers()
    ways = {
        "an event a read": ("paced", PACED_EVENTS),
        "an event a chunk": ("chunks", EVENTS),
        "16 KB": ("packed", EVENTS),
    }
    figures: Dict[Tuple[str, str], List[float]] = {
        (way, name): [] for way in ways for name in named
    }
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            root = f"http://127.0.0.1:{int(server.stdout.readline())}/"
            for number in range(rounds + 1):
                for way, (path, count) in ways.items():
                    results = {
                        name: measure(read, root + path, count) for name, read in named.items()
                    }
                    if len({characters for _, characters in results.values()}) != 1:
                        sys.exit(f"the readers did not read the same text: {results}")
                    if number:  # the first round imports and opens connections
                        for name, (seconds, _) in results.items():
                            figures[way, name].append(seconds)
        finally:
            server.terminate()
    print(
        f"Python {platform.python_version()}, requests {requests.__version__}, {rounds} rounds; "
        "microseconds of CPU time for a text event, and the ratio to by hand"
    )
    print(f"{'':36} {'min':>7} {'median':>7} {'max':>7}   {'min':>6} {'median':>6} {'max':>6}")
    missed = []
    for (way, name), all_seconds in figures.items():
        ratios = sorted(one / other for one, other in zip(all_seconds, figures[way, "by hand"]))
        ratio = statistics.median(ratios)
        times = [1e6 * seconds for seconds in all_seconds]
        label = f"{way}: {name}"
        print(
            f"{label:36} {min(times):7.1f} {statistics.median(times):7.1f} {max(times):7.1f}   "
            f"{ratios[0]:6.2f} {ratio:6.2f} {ratios[-1]:6.2f}"
        )
        if name == "asimov_sync" and ratio > GOAL:
            missed.append(way)
    print(f"goal of {GOAL} missed: {', '.join(missed) or 'never'}")
    return 1 if missed else 0


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
