"""LocalServer: shows the runs of a store to the browsers of this machine.

A threading server of the standard library, since a page that follows a run holds its connection.
"""

import socketserver
import threading
from typing import Any, Optional
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.runs.store import RunStore
from asimov_sync.web.guards import LocalGuard
from asimov_sync.web.runs_application import Resume, RunsApp

__all__ = ["LocalServer"]

logger = get_logger("asimov_sync.web")

HOST = "127.0.0.1"

TIMEOUT = 30.0
"""The longest silence of a browser inside a request or between two, in seconds."""


class LocalServer:
    """A server on 127.0.0.1. It answers from the moment on when it was made.

    store, read_only, resume, title: as in `runs_app`.
    port: its port; 0 chooses a free one.
    user: the name that is stored with answers; default "local user".

    port: its port.
    address: the address with the token, which a browser exchanges for a cookie.

    Raises OSError if the port is in use.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        port: int = 0,
        read_only: bool = True,
        resume: Optional[Resume] = None,
        title: str = "Runs",
        user: str = "local user",
    ) -> None:
        self._server = _Server((HOST, port), _Handler)
        self.port: int = self._server.server_address[1]
        guard = LocalGuard(user, self.port)
        self._server.set_app(RunsApp(store, guard, read_only, resume, title))
        self.address = f"http://{HOST}:{self.port}/?token={guard.token}"
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Answer requests on a thread of its own."""
        self._thread = threading.Thread(target=self.serve, name="asimov-serve", daemon=True)
        self._thread.start()

    def serve(self) -> None:
        """Answer requests until `close`, or until an exception such as Ctrl-C."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop. Connections that are held end at their next update."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False  # held connections would delay the end of the program
    request_queue_size = 64

    def server_bind(self) -> None:
        """Bind without looking up the name of the host, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a request raised. A browser that went away is no error."""
        logger.debug("a request to the page of runs ended early", exc_info=True)


class _WSGIHandler(ServerHandler):
    wsgi_multithread = True
    server_software = "asimov-sync"

    def log_exception(self, exc_info: Any) -> None:
        """Log an exception of the application; not of a browser that went away."""
        if not isinstance(exc_info[1], OSError):
            logger.error("the page of runs failed", exc_info=exc_info)


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT

    def address_string(self) -> str:
        """Return the address of the browser, without a look-up of its name."""
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing for each request: the address of the first one has the token."""

    def handle(self) -> None:
        """Answer one request."""
        self.raw_requestline = self.rfile.readline(65537)
        if len(self.raw_requestline) > 65536:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        if not self.parse_request():
            return
        output: Any = self.wfile
        handler = _WSGIHandler(
            self.rfile, output, self.get_stderr(), self.get_environ(), multithread=True
        )
        handler.request_handler = self  # type: ignore[attr-defined]
        handler.run(self.server.get_app())  # type: ignore[attr-defined]
