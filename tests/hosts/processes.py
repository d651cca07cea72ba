"""Runs programs in processes of their own, which isolates their warnings, threads and signals."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def run_module(module, *arguments, **options):
    """Run `python -m module` to its end, at most a minute. Fails if its exit status is not 0."""
    command = [sys.executable, "-m", module] + list(arguments)
    done = subprocess.run(
        command,
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def start_module(log, module, *arguments, **options):
    """Run `python -m module` in the background, with its output in the file `log`.

    The end of the block kills the process and its children.
    """
    command = [sys.executable, "-m", module] + list(arguments)
    with open(str(log), "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=str(ROOT),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of them are gone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
