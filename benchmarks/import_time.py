"""Measures the import of the library against the import of pydantic alone.

    python benchmarks/import_time.py [RUNS]

RUNS: runs to measure (21 by default). Each run executes the three statements one after the other,
    each in a fresh interpreter, and measures the statement without the start of the interpreter.
    A ratio compares two times of the same run.

The goal is 1.25 × `from pydantic import BaseModel`. The middle row is the minimum for any program
with a pydantic model: the first model, even empty and with its schema deferred, makes pydantic
import the rest of itself. Fails if the import loads a library that it must not.

Prints the minimum, median and maximum of the milliseconds and of the ratio to the first row.
"""

import json
import platform
import statistics
import subprocess
import sys
from typing import Dict, List, Set

STATEMENTS = {
    "from pydantic import BaseModel": "from pydantic import BaseModel",
    "… and one empty model": (
        "from pydantic import BaseModel\n"
        "class Empty(BaseModel):\n"
        "    model_config = {'defer_build': True}"
    ),
    "from asimov_sync import Task, TaskGraph, …": (
        "from asimov_sync import Task, TaskGraph, TaskScheduler, MemoryCache"
    ),
}
UNWANTED = (
    "requests",
    "urllib3",
    "boto3",
    "botocore",
    "redis",
    "opentelemetry",
    "tenacity",
    "asyncio",
    "ssl",
)

PROGRAM = """
import json, sys, time
start = time.perf_counter()
{}
seconds = time.perf_counter() - start
loaded = set(sys.modules)
print(json.dumps({{"seconds": seconds, "loaded": sorted(loaded & set({!r}))}}))
"""


def measure(statement: str) -> Dict[str, object]:
    """Time a statement in a fresh interpreter. Returns seconds and the UNWANTED modules loaded."""
    program = PROGRAM.format(statement, UNWANTED)
    output = subprocess.check_output([sys.executable, "-c", program])
    return json.loads(output)  # type: ignore[no-any-return]


def main(runs: int) -> int:
    """Measure and print. Returns the exit status: 1 if an UNWANTED module is loaded, else 0."""
    figures: Dict[str, List[float]] = {name: [] for name in STATEMENTS}
    loaded: Dict[str, Set[str]] = {}
    for run in range(runs + 1):
        for name, statement in STATEMENTS.items():
            result = measure(statement)
            if run:  # the first round fills the file cache and writes the .pyc files
                figures[name].append(float(str(result["seconds"])))
            loaded[name] = set(result["loaded"])  # type: ignore[call-overload]
    base = figures["from pydantic import BaseModel"]
    print(
        f"Python {platform.python_version()}, {runs} runs; milliseconds, "
        "and the ratio to the first row"
    )
    print(f"{'':44} {'min':>7} {'median':>7} {'max':>7}   {'min':>6} {'median':>6} {'max':>6}")
    for name, seconds in figures.items():
        ratios = sorted(one / other for one, other in zip(seconds, base))
        times = [1e3 * value for value in seconds]
        print(
            f"{name:44} {min(times):7.1f} {statistics.median(times):7.1f} {max(times):7.1f}   "
            f"{ratios[0]:6.2f} {statistics.median(ratios):6.2f} {ratios[-1]:6.2f}"
        )
    # On some Pythons pydantic itself loads asyncio. Only modules beyond that count.
    first, _, ours = loaded.values()
    print(f"unwanted modules loaded: {', '.join(sorted(ours - first)) or 'none'}")
    return 1 if ours - first else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 21))
