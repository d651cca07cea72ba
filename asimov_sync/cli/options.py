"""Options that several commands have, and the types of their values."""

import argparse
import datetime
import re
from typing import Tuple

__all__ = [
    "add_by_option",
    "add_json_option",
    "add_run_id",
    "add_run_ids",
    "add_utc_option",
    "read_moment",
    "read_tag",
]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_run_id(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN_ID."""
    parser.add_argument("run_id", metavar="RUN_ID", help="the id of the run")


def add_run_ids(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN_ID, of which there may be several."""
    parser.add_argument("run_ids", metavar="RUN_ID", nargs="+", help="the ids of the runs")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_utc_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --utc."""
    parser.add_argument("--utc", action="store_true", help="show times in UTC, not in local time")


def add_by_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --by."""
    parser.add_argument(
        "--by", metavar="NAME", help="who decides, to be stored; by default your login name"
    )


def read_moment(text: str) -> datetime.datetime:
    """Return a date, a date with a time, or a duration before now, as an aware datetime.

    Raises ArgumentTypeError for another text.
    """
    duration = re.match(r"(\d+(?:\.\d+)?)([smhd])\Z", text)
    if duration:
        seconds = float(duration.group(1)) * UNITS[duration.group(2)]
        try:
            now = datetime.datetime.now(datetime.timezone.utc)
            return now - datetime.timedelta(seconds=seconds)
        except OverflowError:
            raise argparse.ArgumentTypeError(f"{text} is too long ago") from None
    try:
        return datetime.datetime.fromisoformat(re.sub(r"Z\Z", "+00:00", text)).astimezone()
    except (OverflowError, ValueError):
        raise argparse.ArgumentTypeError(
            f"a time such as 2030-12-31, 2030-12-31T18:30 or 2h (two hours ago), not {text!r}"
        ) from None


def read_tag(text: str) -> Tuple[str, str]:
    """Return the name and the value of a tag. Raises ArgumentTypeError without a "="."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"a tag is written name=value, not {text!r}")
    return name, value
