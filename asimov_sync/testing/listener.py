"""A loopback HTTP listener with one thread per connection. Closing it ends its threads."""

import contextlib
import http.server
import socket
import socketserver
import ssl
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.testing.writer import ConnectionCut

__all__ = ["HttpListener"]

Respond = Callable[[socket.socket, int, str, Mapping[str, str], bytes], bool]
"""Answers a request: `respond(connection, client_port, path, headers, body)`.

Returns whether to keep the connection open. May raise ConnectionCut.
"""

BACKLOG = 128
CLOSE_TIMEOUT = 1.0
"""Seconds that `close()` waits for threads. A thread inside a script's function cannot be ended."""
CONNECT_TIMEOUT = 0.1
"""Seconds after which a loopback connect() is taken to be blocked by a full backlog."""
MAX_FILLERS = 300
"""The most connections that are opened to fill the backlog."""


class HttpListener(socketserver.TCPServer):
    """Listens on a free loopback port and passes each POST to `respond`.

    respond: answers a request.
    tls: the SSLContext for HTTPS, or None for HTTP.
    """

    allow_reuse_address = True
    request_queue_size = BACKLOG

    def __init__(self, respond: Respond, tls: Optional[ssl.SSLContext]) -> None:
        self.respond = respond
        self.closing = threading.Event()
        self._tls = tls
        self._connections: Dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._accept_thread: Optional[threading.Thread] = None
        super().__init__(("127.0.0.1", 0), _Handler)
        self._start_accepting()

    @property
    def address(self) -> Tuple[str, int]:
        """The host and the port."""
        host, port = self.server_address[:2]
        return str(host), int(port)

    # Accepting

    def _start_accepting(self) -> None:
        self._accept_thread = threading.Thread(
            target=self.serve_forever,
            kwargs={"poll_interval": 0.005},
            name="asimov-server",
            daemon=True,
        )
        self._accept_thread.start()

    def _stop_accepting(self) -> None:
        if self._accept_thread is not None:
            self.shutdown()
            self._accept_thread.join()
            self._accept_thread = None

    @contextlib.contextmanager
    def pause_accepting(self) -> Iterator[None]:
        """Fill the backlog so that a new connect() blocks; accept again on exit.

        Raises RuntimeError if accepting is already paused or the listener is closed, and OSError if
        the system's backlog cannot be filled.
        """
        if self._accept_thread is None:
            raise RuntimeError("the server is closed or accepting is already paused")
        self._stop_accepting()
        fillers: List[socket.socket] = []
        try:
            self.socket.listen(0)
            while _fill_backlog(self.address, fillers):
                if len(fillers) == MAX_FILLERS:
                    raise OSError(f"cannot fill the backlog: {MAX_FILLERS} connections accepted")
            yield
        finally:
            for filler in fillers:
                filler.close()
            if not self.closing.is_set():
                self.socket.listen(BACKLOG)
                self._start_accepting()

    def get_request(self) -> Tuple[socket.socket, Any]:
        """Accept a connection. Its TLS handshake is left to the connection's own thread."""
        connection, address = super().get_request()
        if self._tls is None:
            return connection, address
        try:
            tls_connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
            return tls_connection, address
        except BaseException:
            connection.close()
            raise

    # Connections

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="asimov-served", daemon=True
        )
        with self._lock:
            self._connections[thread] = request
        try:
            thread.start()
        except BaseException:
            self._forget(thread)
            raise

    def _serve(self, connection: socket.socket, address: Any) -> None:
        close = self.shutdown_request
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            _Handler(connection, address, self)
            _send_close_notify(connection)
        except ConnectionCut as cut:
            close = self.close_request if cut.reset else close
        except OSError:
            pass  # clients may disconnect, or fail the TLS handshake
        finally:
            close(connection)
            self._forget(threading.current_thread())

    def _forget(self, thread: threading.Thread) -> None:
        with self._lock:
            self._connections.pop(thread, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing. The connection is closed by the base class."""

    def close(self) -> None:
        """Stop accepting, break open connections and wait up to CLOSE_TIMEOUT for their threads."""
        self.closing.set()
        self._stop_accepting()
        self.server_close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections.values():
            with contextlib.suppress(OSError):
                # SSLSocket.shutdown() would drop the TLS state that the other thread still uses.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        end = time.monotonic() + CLOSE_TIMEOUT
        for thread in connections:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))


def _fill_backlog(address: Tuple[str, int], fillers: List[socket.socket]) -> bool:
    """Add one connection to the backlog. Returns False if it is full."""
    try:
        fillers.append(socket.create_connection(address, timeout=CONNECT_TIMEOUT))
    except socket.timeout:
        return False
    return True


def _send_close_notify(connection: socket.socket) -> None:
    """Tell a TLS client that the data is complete, without waiting for its answer."""
    if isinstance(connection, ssl.SSLSocket):
        connection.setblocking(False)
        with contextlib.suppress(OSError, ValueError):
            connection.unwrap()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HttpListener

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        """Read a request and pass it to the listener's `respond`."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if not length.isdigit() or "transfer-encoding" in headers:
            return self.send_error(411)
        data = self.rfile.read(int(length))
        client_port = self.client_address[1]
        if not self.server.respond(self.connection, client_port, self.path, headers, data):
            self.close_connection = True
