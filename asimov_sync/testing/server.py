"""A loopback HTTP server that speaks every provider's wire from one script: what tests and examples have for a provider."""

import socket
import ssl
import threading
from typing import Any, Callable, ContextManager, List, Mapping, Optional

from asimov_sync.errors import described
from asimov_sync.foreign_json import parsed
from asimov_sync.messages import Usage
from asimov_sync.testing.answering import Response, counted, failed, replied
from asimov_sync.testing.connections import Listener
from asimov_sync.testing.script import Failure, Script, Scripted, tokens
from asimov_sync.testing.sending import Gone, Sender
from asimov_sync.testing.served import ServedRequest
from asimov_sync.testing.wires import MESSAGES, Route, route

__all__ = ["ModelServer"]


class ModelServer:
    """Serves the Messages API, chat completions and Bedrock on a free loopback port, streamed or not, as each request asks.

    answers: a list of replies, one a request, or a function from a request's body (a Messages body, whatever the wire) to a
    reply (see `testing.script`). api_key: where given, requests with another key get a 401; Bedrock's have to carry it as a
    bearer token. framing: how streams end, "chunked", or "close" for a body without a length that ends with the connection.
    before_event: called with the request and the number of each event before it is sent; it may return an Event to wait for,
    and so hold the stream while a test looks. tls: a server's SSLContext, to be served over HTTPS.

    Use it in a `with`. `url`, `chat_url` and `bedrock_url` are its addresses, `requests` what came in, `usage` what the
    replies that were sent whole used.
    """

    def __init__(
        self,
        answers: Scripted,
        api_key: Optional[str] = None,
        framing: str = "chunked",
        before_event: Optional[Callable[[ServedRequest, int], Optional[threading.Event]]] = None,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        if framing not in ("chunked", "close"):
            raise ValueError('framing is "chunked" or "close", not {!r}'.format(framing))
        self.requests: List[ServedRequest] = []
        self.api_key = api_key
        self.framing = framing
        self.before_event = before_event
        self.script = Script(answers)
        self._scheme = "http" if tls is None else "https"
        self._lock = threading.Lock()
        self._listener = Listener(self._respond, tls)

    @property
    def bedrock_url(self) -> str:
        """The address of the server: `endpoint_url` for boto3."""
        return "{}://{}:{}".format(self._scheme, *self._listener.address)

    @property
    def url(self) -> str:
        """The address of the messages endpoint."""
        return self.bedrock_url + "/v1/messages"

    @property
    def chat_url(self) -> str:
        """The address of the chat completions endpoint."""
        return self.bedrock_url + "/v1/chat/completions"

    @property
    def usage(self) -> Usage:
        """The sum of all replies that were sent whole."""
        return sum((one.reply.usage for one in list(self.requests) if one.whole and one.reply is not None), Usage())

    def not_accepting(self) -> ContextManager[None]:
        """A `with` in which new connections are not taken: a client's connect() waits, as it does when packets are lost.

        Connections that are open are served on. Where it ends, a client that still waits is taken when its system tries
        again, after a second or more. Linux; OSError on a system whose backlog cannot be filled.
        """
        return self._listener.not_accepting()

    def close(self) -> None:
        """Stop, and break the connections that are still open; afterwards there is no thread and no socket left.

        A thread that is busy in the script's own function is left behind after a second.
        """
        self._listener.close()

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    # Answering

    def _respond(self, connection: socket.socket, port: int, path: str, headers: Mapping[str, str], data: bytes) -> bool:
        """Answer a request; returns whether its connection goes on."""
        try:
            body = parsed(data.decode("utf-8"))
        except (ValueError, RecursionError):
            body = None
        found = route(path)
        with self._lock:
            wire = found.wire.name if found is not None else None
            request = ServedRequest(len(self.requests), port, path, wire, headers, body)
            self.requests.append(request)
        try:
            response = self._response(request, found)
            request.faults.extend(response.faults)
            Sender(connection, request, response, self._listener.closing).send(self.before_event)
            return response.framing != "close"
        except (Gone, OSError):
            if not self._listener.closing.is_set():
                request.disconnected.set()
            return False
        finally:
            request.finished.set()

    def _response(self, request: ServedRequest, found: Optional[Route]) -> Response:
        """What a request is answered. A script is asked only for what can be answered."""
        request_id = "req_{:06d}".format(request.number)
        if found is None:
            return failed(MESSAGES, Failure(404, "not_found_error", "there is no {}".format(request.path)), request_id)
        wire = found.wire
        try:
            body = (wire.read_count if found.counts else wire.read_request)(request.body)
        except (AttributeError, LookupError, TypeError, ValueError) as wrong:
            failure = Failure(400, "invalid_request_error", "not a request of this wire: {}".format(described(wrong)))
            return failed(wire, failure, request_id)
        if self.api_key is not None and not wire.admits(request.headers, self.api_key):
            return failed(wire, Failure(401, "authentication_error", "invalid x-api-key"), request_id)
        if found.counts:
            return counted(wire, tokens([body.get(name) for name in ("messages", "system", "tools")]), request_id)
        for name, told in (("model", found.model), ("stream", found.stream)):
            if told is not None:
                body[name] = told
        try:
            answer, fault = self.script.answer(body)
            if isinstance(answer, Failure):
                return failed(wire, answer, request_id, fault)
            response = replied(wire, answer, body, request_id, fault, self.framing)
        except Exception as error:  # the script's author is to read it, in the client's error
            failure = Failure(500, "api_error", "the script failed: {}".format(described(error)), {"x-should-retry": "false"})
            return failed(wire, failure, request_id)
        request.reply = answer
        return response
