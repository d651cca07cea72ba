"""Run by `tox -e types`: a typo in an import fails the type check, and correct code passes it."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def check(name):
    """Check one file strictly, and return the exit status and the output.

    It is checked outside the checkout, so that mypy uses the installed package, as a user does.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(str(HERE / name), folder)
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", name]
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
    print(done.stdout.strip())
    return done.returncode, done.stdout


status, _ = check("right.py")
assert status == 0, "correct code does not pass"
status, output = check("typo.py")
assert status == 1 and "Tsak" in output, "a typo passes the type check"
print("passed: mypy finds the typo and accepts the correct code")
