"""Run by `tox -e types`: a typo in an import fails the type check, and right code passes it."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def check(name):
    """The exit status of a strict check of one file, and what it says; with the installed package, as a user has it."""
    with tempfile.TemporaryDirectory() as elsewhere:
        shutil.copy(str(HERE / name), elsewhere)  # beside the checkout's package, that one would be checked, too
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", name]
        done = subprocess.run(
            command, cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
        )
    print(done.stdout.strip())
    return done.returncode, done.stdout


status, _ = check("right.py")
assert status == 0, "right code does not pass"
status, said = check("typo.py")
assert status == 1 and "Tsak" in said, "a typo passes the type check"
print("as it should be: the typo is found, the right code passes")
