"""A loopback HTTP server that speaks the Messages wire from a script: what tests and examples have for a provider."""

import http.server
import json
import select
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from asimov_sync.messages import Reply
from asimov_sync.testing.script import Failure, Script, Scripted, failure_body
from asimov_sync.testing.wire import reply_body, reply_events, sse

__all__ = ["ModelServer", "ServedRequest"]

LOOK_SECONDS = 0.02
"""How often a server that waits between two events looks whether its client is still there."""


class ServedRequest:
    """A request that a ModelServer has received.

    body: the decoded JSON. headers: lower-case names. sent: how many events of the reply went out. disconnected: set when
    the client closed its connection before the end of the reply; finished: set when the reply is over, either way.
    """

    def __init__(self, number: int, body: Any, headers: Mapping[str, str]) -> None:
        self.number = number
        self.body = body
        self.headers = headers
        self.sent = 0
        self.disconnected = threading.Event()
        self.finished = threading.Event()


class ModelServer:
    """Serves the Messages API on a free loopback port, streamed or not, as each request asks.

    answers: a list of replies, one a request, or a function from a request's body to a reply (see `testing.script`).
    api_key: where given, requests with another key get a 401. framing: how streams end, "chunked", or "close" for a body
    without a length that ends with the connection. before_event: called with the request and the number of each event
    before it is sent; it may return an Event to wait for, and so hold the stream while a test looks.

    Use it in a `with`; `url` is the address for `api_url`, `requests` what came in.
    """

    def __init__(
        self,
        answers: Scripted,
        api_key: Optional[str] = None,
        framing: str = "chunked",
        before_event: Optional[Callable[[ServedRequest, int], Optional[threading.Event]]] = None,
    ) -> None:
        if framing not in ("chunked", "close"):
            raise ValueError('framing is "chunked" or "close", not {!r}'.format(framing))
        self.requests: List[ServedRequest] = []
        self.api_key = api_key
        self.framing = framing
        self.before_event = before_event
        self.script = Script(answers)
        self._lock = threading.Lock()
        self._http = _Server(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address of the messages endpoint."""
        return "http://127.0.0.1:{}/v1/messages".format(self._http.server_address[1])

    def received(self, body: Any, headers: Mapping[str, str]) -> ServedRequest:
        """Note a request that came in."""
        with self._lock:
            request = ServedRequest(len(self.requests), body, headers)
            self.requests.append(request)
            return request

    def close(self) -> None:
        """Stop, and break the connections that are still open."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


class _Server(http.server.ThreadingHTTPServer):
    """Knows its connections, so that closing it ends them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, model: ModelServer) -> None:
        self.model = model
        self.closing = threading.Event()
        self._connections: Dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(id(request), None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.closing.set()
        with self._lock:
            connections = list(self._connections.values())
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away is no news; a script's own failure is answered with a 500


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        """Answer a request to the messages endpoint."""
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        model = self.server.model
        try:
            body = json.loads(data.decode("utf-8"))
        except ValueError:
            body = None
        request = model.received(body, {name.lower(): value for name, value in self.headers.items()})
        try:
            self._answer(model, request)
        except OSError:
            request.disconnected.set()
            self.close_connection = True
        finally:
            request.finished.set()

    def _answer(self, model: ModelServer, request: ServedRequest) -> None:
        if self.path.split("?")[0] != "/v1/messages":
            return self._fail(request, Failure(404, "not_found_error", "there is no {}".format(self.path)))
        if not isinstance(request.body, dict) or not isinstance(request.body.get("messages"), list):
            return self._fail(request, Failure(400, "invalid_request_error", "messages: Field required"))
        if model.api_key is not None and request.headers.get("x-api-key") != model.api_key:
            return self._fail(request, Failure(401, "authentication_error", "invalid x-api-key"))
        try:
            answer = model.script.answer(request.body)
        except Exception as error:  # the script's author is to read it, in the client's error
            message = "the script failed: {}: {}".format(type(error).__name__, error)
            return self._fail(request, Failure(500, "api_error", message, {"x-should-retry": "false"}))
        if isinstance(answer, Failure):
            return self._fail(request, answer)
        if request.body.get("stream"):
            return self._stream(model, request, answer)
        return self._send(200, {}, reply_body(answer), request)

    def _fail(self, request: ServedRequest, failure: Failure) -> None:
        self._send(failure.status, failure.headers, failure_body(failure, _request_id(request)), request)

    def _send(self, status: int, headers: Mapping[str, str], body: Any, request: ServedRequest) -> None:
        data = json.dumps(body, ensure_ascii=False).encode("utf-8")
        self._head(status, dict(headers, **{"content-type": "application/json", "content-length": str(len(data))}), request)
        self.wfile.write(data)

    def _head(self, status: int, headers: Mapping[str, str], request: ServedRequest) -> None:
        self.send_response(status)
        self.send_header("request-id", _request_id(request))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _stream(self, model: ModelServer, request: ServedRequest, reply: Reply) -> None:
        chunked = model.framing == "chunked"
        framing = {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
        self._head(200, dict(framing, **{"content-type": "text/event-stream; charset=utf-8"}), request)
        for data in self._events(model, request, reply):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            self.wfile.flush()
            request.sent += 1
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = not chunked

    def _events(self, model: ModelServer, request: ServedRequest, reply: Reply) -> Iterator[bytes]:
        for number, event in enumerate(reply_events(reply)):
            gate = model.before_event(request, number) if model.before_event is not None else None
            while gate is not None and not gate.wait(LOOK_SECONDS):
                if self.server.closing.is_set() or self._gone():
                    raise ConnectionAbortedError("the client is gone, or the server is to close")
            yield sse(event)

    def _gone(self) -> bool:
        """Whether the client has closed its side."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)


def _request_id(request: ServedRequest) -> str:
    return "req_{:06d}".format(request.number)
