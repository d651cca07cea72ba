"""`asimov-sync serve`: shows the runs of a store in the browser of this machine."""

import argparse
import logging
import threading

from asimov_sync.cli.command import Command, CommandError, UsageError
from asimov_sync.cli.exit_status import FAILED, INTERRUPTED, NOT_FOUND, TERMINATED
from asimov_sync.cli.loading import load_scheduler
from asimov_sync.cli.logs import show_log
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, open_store
from asimov_sync.cli.waits import login_name
from asimov_sync.cli.worker import Worker
from asimov_sync.scheduler import TaskScheduler
from asimov_sync.web.local_server import LocalServer

__all__ = ["COMMAND"]

DEFAULT_PORT = 8765

DESCRIPTION = """\
Show the runs of a store in a browser, live. The server listens on 127.0.0.1, for you alone: the
address that it prints has a secret token. Other users of the machine cannot see the runs.

With --write, the page answers, approves, cancels and retries, under your login name. With --work,
this process also continues the runs that are ready, as `asimov-sync work` does.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--port",
        type=_read_port,
        default=None,
        help=f"default {DEFAULT_PORT}, or a free one if that is in use; 0 takes a free one",
    )
    parser.add_argument("--write", action="store_true", help="let the page change runs")
    parser.add_argument("--work", action="store_true", help="also continue runs; needs --scheduler")
    add_store_options(parser)


def _read_port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port from 0 to 65535, not {text}")
    return port


_read_port.__name__ = "port"  # for the messages of argparse


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. It ends by Ctrl-C or SIGTERM."""
    if options.work and options.scheduler is None:
        raise UsageError("--work continues runs by the flows of a scheduler: give --scheduler")
    store = open_store(options)
    scheduler = load_scheduler(options.scheduler) if options.work else None
    resume = None if scheduler is None else _leave

    def start(port: int) -> LocalServer:
        user = login_name() or "local user"
        return LocalServer(store, port=port, read_only=not options.write, resume=resume, user=user)

    try:
        server = start(DEFAULT_PORT if options.port is None else options.port)
    except OSError as error:
        if options.port is not None:
            raise CommandError(f"port {options.port} cannot be used: {error.strerror}") from None
        server = start(0)
    with server:
        output.line(f"The runs are at {server.address}")
        output.line("Ctrl-C stops." if options.write else "Ctrl-C stops. --write adds forms.")
        output.flush()
        if scheduler is not None:
            _start_worker(scheduler)
        try:
            server.serve()
        finally:
            if scheduler is not None:
                scheduler.close()  # interrupts its runs: another process can continue them
    raise AssertionError("the server ended without an exception")


def _leave(run_id: str) -> None:
    """Do nothing for a run that is ready: the worker finds it."""


def _start_worker(scheduler: TaskScheduler) -> None:
    """Continue ready runs on a thread of their own."""
    show_log(logging.INFO)
    assert scheduler.runs is not None
    worker = Worker(scheduler, scheduler.runs)
    threading.Thread(
        target=worker.work_forever, args=(1.0,), name="asimov-work", daemon=True
    ).start()


COMMAND = Command(
    DESCRIPTION,
    [
        "serve --cache runs.db                            # read-only",
        "serve --cache runs.db --write                    # with forms",
        "serve --scheduler myapp.tasks:scheduler --write --work",
    ],
    {
        FAILED: "the port is in use, or the store cannot be read",
        NOT_FOUND: "there is no such file",
        INTERRUPTED: "Ctrl-C",
        TERMINATED: "SIGTERM",
    },
    add_arguments,
    execute,
)
