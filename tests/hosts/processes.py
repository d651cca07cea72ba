"""Programs of this folder in processes of their own, so that their warnings, threads and signals stay theirs."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def finished(module, *arguments, **options):
    """The process of `python -m module`, which has to end well, and within a minute."""
    command = [sys.executable, "-m", module] + list(arguments)
    done = subprocess.run(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", timeout=60, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def going_on(log, module, *arguments, **options):
    """The process of `python -m module` writing to the file `log`; the end of the block kills it, and all that it forked."""
    command = [sys.executable, "-m", module] + list(arguments)
    with open(str(log), "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=str(ROOT), stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of them are gone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
