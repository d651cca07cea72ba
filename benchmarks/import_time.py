"""How long the import takes, against the import of pydantic alone.

    python benchmarks/import_time.py [RUNS]

Each figure is measured inside a fresh interpreter, around the import statement alone, the three statements in turn, RUNS
times (21 by default); the ratios are of neighbours. The goal is 1.25 × `from pydantic import BaseModel`. The middle row is
the floor of every program that has a pydantic model: declaring the first one, empty and with its schema left for later, makes
pydantic import the rest of itself. The benchmark also fails if the import loads what it promises not to.
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
        "from pydantic import BaseModel\nclass Empty(BaseModel):\n    model_config = {'defer_build': True}"
    ),
    "from asimov_sync import Task, TaskGraph, …": "from asimov_sync import Task, TaskGraph, TaskScheduler, MemoryCache",
}
UNWANTED = ("requests", "urllib3", "boto3", "botocore", "redis", "opentelemetry", "tenacity", "asyncio", "ssl")

PROGRAM = """
import json, sys, time
start = time.perf_counter()
{}
seconds = time.perf_counter() - start
loaded = set(sys.modules)
print(json.dumps({{"seconds": seconds, "loaded": sorted(loaded & set({!r}))}}))
"""


def measured(statement: str) -> Dict[str, object]:
    """The seconds that a statement takes in a fresh interpreter, and what it loads of what it should not."""
    program = PROGRAM.format(statement, UNWANTED)
    return json.loads(subprocess.check_output([sys.executable, "-c", program]))  # type: ignore[no-any-return]


def main(runs: int) -> int:
    """Measure, print, and say (with the exit status) whether the import stays light."""
    figures: Dict[str, List[float]] = {name: [] for name in STATEMENTS}
    loaded: Dict[str, Set[str]] = {}
    for run in range(runs + 1):
        for name, statement in STATEMENTS.items():
            told = measured(statement)
            if run:  # the first round fills the file cache and writes the .pyc files
                figures[name].append(float(str(told["seconds"])))
            loaded[name] = set(told["loaded"])  # type: ignore[call-overload]
    base = figures["from pydantic import BaseModel"]
    print("Python {}, {} runs; milliseconds, and the ratio to the first row".format(platform.python_version(), runs))
    print("{:44} {:>7} {:>7} {:>7}   {:>6} {:>6} {:>6}".format("", "min", "median", "max", "min", "median", "max"))
    for name, seconds in figures.items():
        ratios = sorted(one / other for one, other in zip(seconds, base))
        print(
            "{:44} {:7.1f} {:7.1f} {:7.1f}   {:6.2f} {:6.2f} {:6.2f}".format(
                name,
                1e3 * min(seconds),
                1e3 * statistics.median(seconds),
                1e3 * max(seconds),
                ratios[0],
                statistics.median(ratios),
                ratios[-1],
            )
        )
    # On some Pythons pydantic itself loads asyncio; what counts is what is loaded beyond that.
    first, _, ours = loaded.values()
    print("loaded, and should not be: {}".format(", ".join(sorted(ours - first)) or "nothing"))
    return 1 if ours - first else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 21))
