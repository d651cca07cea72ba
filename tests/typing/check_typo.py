"""Run by `tox -e types`: mypy finds each mistake of typo.py, and accepts right.py."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def check(name):
    """Check one file strictly, and return the exit status and the output.

    The check runs outside the checkout, so that mypy uses the installed package, as for a user.
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
found = {int(line) for line in re.findall(r"^typo\.py:(\d+): error", output, re.MULTILINE)}
lines = (HERE / "typo.py").read_text(encoding="utf-8").splitlines()
mistakes = {number for number, line in enumerate(lines, 1) if "  # " in line}
missed = [lines[number - 1] for number in sorted(mistakes - found)]
assert status == 1 and not missed, f"mistakes pass the type check: {missed}"
assert found == mistakes, f"other errors, in lines {sorted(found - mistakes)}"
print("passed: mypy finds each mistake and accepts the correct code")
