"""A loopback HTTP server that speaks every provider's API from one script."""

import socket
import ssl
import threading
from typing import Any, ContextManager, List, Mapping, Optional

from asimov_sync._json import format_error, loads
from asimov_sync.messages import Usage
from asimov_sync.testing.listener import HttpListener
from asimov_sync.testing.request_log import ServedRequest
from asimov_sync.testing.responses import (
    Response,
    count_response,
    failure_response,
    reply_response,
)
from asimov_sync.testing.script import Answers, Failure, Script, estimate_tokens
from asimov_sync.testing.wires import MESSAGES, Endpoint, find_endpoint
from asimov_sync.testing.writer import BeforeEvent, ClientGone, ResponseWriter

__all__ = ["ModelServer"]


class ModelServer:
    """Serves the Messages API, chat completions and Bedrock on a free loopback port.

    Each request decides whether its reply is streamed. Use the server in a `with` block. `url`,
    `chat_url` and `bedrock_url` are its addresses; `requests` lists the requests it received;
    `usage` is the sum of the replies that it sent whole.

    answers: a list with one answer for each request, or a function from a request's Messages body
        to its answer (see `asimov_sync.testing.script`).
    api_key: the only accepted key; other requests get a 401. Bedrock requests must carry it as a
        bearer token. Default: every key is accepted.
    framing: how streams end: "chunked" (the default), or "close" for a body without a length that
        ends with its connection.
    before_event: called as `before_event(request, number)` before each event of a stream. If it
        returns an Event, the stream waits for it.
    tls: a server-side SSLContext, to serve HTTPS. Default: HTTP.

    Raises ValueError for an unknown framing.
    """

    def __init__(
        self,
        answers: Answers,
        api_key: Optional[str] = None,
        framing: str = "chunked",
        before_event: Optional[BeforeEvent] = None,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        if framing not in ("chunked", "close"):
            raise ValueError(f'framing must be "chunked" or "close", not {framing!r}')
        self.requests: List[ServedRequest] = []
        self.api_key = api_key
        self.framing = framing
        self.before_event = before_event
        self.script = Script(answers)
        self._scheme = "http" if tls is None else "https"
        self._lock = threading.Lock()
        self._listener = HttpListener(self._respond, tls)

    @property
    def bedrock_url(self) -> str:
        """The address of the server: `endpoint_url` for boto3."""
        host, port = self._listener.address
        return f"{self._scheme}://{host}:{port}"

    @property
    def url(self) -> str:
        """The address of the messages endpoint."""
        return f"{self.bedrock_url}/v1/messages"

    @property
    def chat_url(self) -> str:
        """The address of the chat completions endpoint."""
        return f"{self.bedrock_url}/v1/chat/completions"

    @property
    def usage(self) -> Usage:
        """The summed usage of all replies that were sent whole."""
        requests = list(self.requests)
        usages = (one.reply.usage for one in requests if one.whole and one.reply is not None)
        return sum(usages, Usage())

    def pause_accepting(self) -> ContextManager[None]:
        """Return a context manager in which new connections are not accepted.

        A client's connect() blocks in it, as if packets were lost; open connections are served. On
        exit, a client that is still waiting connects when its system retries, after one second or
        more.

        Linux only. Raises RuntimeError if accepting is already paused or the server is closed, and
        OSError if the system's backlog cannot be filled.
        """
        return self._listener.pause_accepting()

    def close(self) -> None:
        """Stop the server and break open connections. Its threads and sockets are gone afterwards.

        A thread that is inside the script's function is left running after a second.
        """
        self._listener.close()

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    # Answering

    def _respond(
        self,
        connection: socket.socket,
        port: int,
        path: str,
        headers: Mapping[str, str],
        data: bytes,
    ) -> bool:
        """Answer a request. Returns whether to keep its connection open."""
        try:
            body = loads(data)
        except (ValueError, RecursionError):
            body = None
        endpoint = find_endpoint(path)
        with self._lock:
            wire = endpoint.wire.name if endpoint is not None else None
            request = ServedRequest(len(self.requests), port, path, wire, headers, body)
            self.requests.append(request)
        try:
            response = self._response(request, endpoint)
            request.faults.extend(response.faults)
            writer = ResponseWriter(connection, request, response, self._listener.closing)
            writer.write(self.before_event)
            return response.framing != "close"
        except (ClientGone, OSError):
            if not self._listener.closing.is_set():
                request.disconnected.set()
            return False
        finally:
            request.finished.set()

    def _response(self, request: ServedRequest, endpoint: Optional[Endpoint]) -> Response:
        """Choose the response. A request that cannot be answered does not use up an answer."""
        request_id = f"req_{request.number:06d}"
        if endpoint is None:
            failure = Failure(404, "not_found_error", f"unknown path {request.path}")
            return failure_response(MESSAGES, failure, request_id)
        wire = endpoint.wire
        try:
            read = wire.read_count if endpoint.counts_tokens else wire.read_request
            body = read(request.body)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            message = f"not a valid {wire.name} request: {format_error(error)}"
            failure = Failure(400, "invalid_request_error", message)
            return failure_response(wire, failure, request_id)
        if self.api_key is not None and not wire.authorizes(request.headers, self.api_key):
            failure = Failure(401, "authentication_error", "invalid x-api-key")
            return failure_response(wire, failure, request_id)
        if endpoint.counts_tokens:
            prompt = [body.get(name) for name in ("messages", "system", "tools")]
            return count_response(wire, estimate_tokens(prompt), request_id)
        if endpoint.model is not None:
            body["model"] = endpoint.model
        if endpoint.stream is not None:
            body["stream"] = endpoint.stream
        try:
            answer, fault = self.script.answer(body)
            if isinstance(answer, Failure):
                return failure_response(wire, answer, request_id, fault)
            response = reply_response(wire, answer, body, request_id, fault, self.framing)
        except Exception as error:  # the client's error shows it to the author of the script
            message = f"the script failed: {format_error(error)}"
            failure = Failure(500, "api_error", message, {"x-should-retry": "false"})
            return failure_response(wire, failure, request_id)
        request.reply = answer
        return response
