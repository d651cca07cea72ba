"""A loopback HTTP listener that knows its connections: a thread for each, none of them left when it is closed."""

import contextlib
import http.server
import socket
import socketserver
import ssl
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.testing.sending import Cut

__all__ = ["Listener"]

Respond = Callable[[socket.socket, int, str, Mapping[str, str], bytes], bool]
"""Answers a request (connection, the client's port, path, headers, body); True if the connection goes on. May raise Cut."""

BACKLOG = 128
LEAVE_SECONDS = 1.0
"""How long closing waits for threads: those that are busy with a script's own function cannot be ended."""
FILL_SECONDS = 0.1
"""How long a connection on this machine may take before it is held for one that is not taken."""
MOST_FILLERS = 300


class Listener(socketserver.TCPServer):
    """Listens on a free loopback port, and hands each POST to `respond`. tls: how to speak HTTPS, None for HTTP."""

    allow_reuse_address = True
    request_queue_size = BACKLOG

    def __init__(self, respond: Respond, tls: Optional[ssl.SSLContext]) -> None:
        self.respond = respond
        self.closing = threading.Event()
        self._tls = tls
        self._open: Dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._accepting: Optional[threading.Thread] = None
        super().__init__(("127.0.0.1", 0), _Handler)
        self._accept()

    @property
    def address(self) -> Tuple[str, int]:
        """The host and the port."""
        host, port = self.server_address[:2]
        return str(host), int(port)

    # Accepting

    def _accept(self) -> None:
        self._accepting = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, name="asimov-server", daemon=True
        )
        self._accepting.start()

    def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self.shutdown()
            self._accepting.join()
            self._accepting = None

    @contextlib.contextmanager
    def not_accepting(self) -> Iterator[None]:
        """Accept nothing, with a backlog so full that a new connect() waits; accept again afterwards.

        RuntimeError if it is so already. OSError on a system whose backlog cannot be filled.
        """
        if self._accepting is None:
            raise RuntimeError("the server is closed, or not accepting already")
        self._stop_accepting()
        fillers: List[socket.socket] = []
        try:
            self.socket.listen(0)
            while _is_taken(self.address, fillers):
                if len(fillers) == MOST_FILLERS:
                    raise OSError("the backlog of this system has no end: it took {} connections".format(MOST_FILLERS))
            yield
        finally:
            for filler in fillers:
                filler.close()
            if not self.closing.is_set():
                self.socket.listen(BACKLOG)
                self._accept()

    def get_request(self) -> Tuple[socket.socket, Any]:
        """The next connection; its TLS handshake is for its own thread."""
        connection, address = super().get_request()
        if self._tls is None:
            return connection, address
        try:
            return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address
        except BaseException:
            connection.close()
            raise

    # Connections

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        thread = threading.Thread(target=self._serve, args=(request, client_address), name="asimov-served", daemon=True)
        with self._lock:
            self._open[thread] = request
        try:
            thread.start()
        except BaseException:
            self._forget(thread)
            raise

    def _serve(self, connection: socket.socket, address: Any) -> None:
        end = self.shutdown_request
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            _Handler(connection, address, self)
            _say_goodbye(connection)
        except Cut as cut:
            end = self.close_request if cut.reset else end
        except OSError:
            pass  # a client that goes away, or speaks no TLS, is no news
        finally:
            end(connection)
            self._forget(threading.current_thread())

    def _forget(self, thread: threading.Thread) -> None:
        with self._lock:
            self._open.pop(thread, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that could not be served is closed."""

    def close(self) -> None:
        """Stop, break the connections that are open, and wait for their threads; for `LEAVE_SECONDS` at most."""
        self.closing.set()
        self._stop_accepting()
        self.server_close()
        with self._lock:
            threads = dict(self._open)
        for connection in threads.values():
            with contextlib.suppress(OSError):
                # A TLS socket's own shutdown() would take its state from the thread that uses it.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        end = time.monotonic() + LEAVE_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))


def _is_taken(address: Tuple[str, int], fillers: List[socket.socket]) -> bool:
    """Whether one more connection is taken into the backlog, and so fills it."""
    try:
        fillers.append(socket.create_connection(address, timeout=FILL_SECONDS))
    except socket.timeout:
        return False
    return True


def _say_goodbye(connection: socket.socket) -> None:
    """Tell a TLS client that nothing was cut off, without waiting for its answer."""
    if isinstance(connection, ssl.SSLSocket):
        connection.setblocking(False)
        with contextlib.suppress(OSError, ValueError):
            connection.unwrap()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        """Have a request answered."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if not length.isdigit() or "transfer-encoding" in headers:
            return self.send_error(411)
        data = self.rfile.read(int(length))
        if not self.server.respond(self.connection, self.client_address[1], self.path, headers, data):
            self.close_connection = True
