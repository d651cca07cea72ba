"""Order reports from the workers, and permit their publication. `reports.py` says how to start.

    python order.py [--yes] TOPIC...

--yes permits everything; otherwise each question is asked.
"""

import argparse
import sys
import time
import uuid
from typing import Dict, List, Optional

from reports import scheduler, store, tasks

from asimov_sync import RunStatus


def order(topics: List[str]) -> Dict[str, str]:
    """Order a report about each topic. Return the topics by run id."""
    ordered = {f"report-{uuid.uuid4().hex[:8]}": topic for topic in topics}
    for run_id, topic in ordered.items():
        # The run is stored first, so that it is not lost if its message is.
        scheduler.enqueue("report", args={"topic": topic}, run_id=run_id)
        tasks.run.delay(run_id)
        print(f"{run_id}: ordered a report about {topic}")
    return ordered


def permit(run_id: str, yes: bool) -> None:
    """Answer what a run waits for, when it does, and have a worker continue it."""
    while store.get(run_id).status is not RunStatus.PARKED:
        time.sleep(0.1)
    (wait,) = store.waits(run_id)
    agreed = yes or input(f"{run_id}: {wait.prompt} [y/n] ").startswith("y")
    store.answer(run_id, wait.name, agreed, by="order.py")
    tasks.run.delay(run_id)


def show(run_id: str) -> None:
    """Print a report when it is complete."""
    while store.get(run_id).status is not RunStatus.COMPLETE:
        time.sleep(0.1)
    print(f"{run_id}: complete\n{store.result(run_id)['publish']}")


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="order.py", description="Order reports.")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--yes", action="store_true", help="permit everything")
    options = parser.parse_args(arguments)
    ordered = order(options.topics)
    for run_id in ordered:
        permit(run_id, options.yes)
    for run_id in ordered:
        show(run_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
