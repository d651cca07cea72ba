"""The options `--cache` and `--scheduler`, which name the store of runs, and runs in the store."""

import argparse
import os
import shlex
from typing import Optional

from asimov_sync.cache.base import Cache
from asimov_sync.cache.redis import RedisCache
from asimov_sync.cache.sqlite import SQLiteCache
from asimov_sync.cli.command import NotFound, UsageError
from asimov_sync.cli.loading import load_store
from asimov_sync.cli.text import escape_line
from asimov_sync.runs.store import RunRecord, RunStore

__all__ = [
    "CACHE_VARIABLE",
    "add_store_options",
    "find_run",
    "format_command",
    "hide_password",
    "open_cache",
    "open_store",
]

CACHE_VARIABLE = "ASIMOV_CACHE"
"""The environment variable that replaces --cache."""

URL_SCHEMES = ("redis", "rediss", "unix")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the store."""
    group = parser.add_argument_group("the store").add_mutually_exclusive_group()
    group.add_argument(
        "--cache",
        metavar="PATH|URL",
        help="a SQLite file, or the address of a Redis server, such as redis://localhost:6379/0; "
        f"by default ${CACHE_VARIABLE}",
    )
    group.add_argument(
        "--scheduler",
        metavar="MODULE:NAME",
        help="a scheduler or a RunStore of your program, whose store is used: for a store with a "
        "serializer, with redact= or with a prefix",
    )


def open_store(options: argparse.Namespace) -> RunStore:
    """Return the store that the options name. Creates no file.

    Raises UsageError if they name none, and NotFound for a file that does not exist.
    """
    if options.scheduler is not None:
        return load_store(options.scheduler)
    return RunStore(open_cache(_address(options)))


def _address(options: argparse.Namespace) -> str:
    address: Optional[str] = options.cache or os.environ.get(CACHE_VARIABLE)
    if not address:
        raise UsageError(
            "where are the runs? Give --cache PATH or URL, or --scheduler module:name, or set "
            f"${CACHE_VARIABLE}"
        )
    return address


def open_cache(address: str, must_exist: bool = True) -> Cache:
    """Return the cache at a path or a URL.

    must_exist: whether a missing file is an error; default True.

    Raises UsageError for an address that cannot be one, and NotFound for a file that does not
    exist.
    """
    scheme, separator, _ = address.partition("://")
    if separator:
        if scheme not in URL_SCHEMES:
            raise UsageError(
                f"{scheme}:// is not the address of a cache: give the path of a SQLite file, or "
                "redis://host:port/db"
            )
        try:
            return RedisCache(url=address)
        except ValueError:  # its message may contain the password
            raise UsageError(
                f"{hide_password(address)} is not an address: redis://user:password@host:port/db"
            ) from None
    path = os.path.abspath(os.path.expanduser(address))
    if os.path.isdir(path):
        raise UsageError(f"{address} is a folder: name the SQLite file in it")
    if must_exist and not os.path.exists(path):
        raise NotFound(f"there is no file {address}: a scheduler with a durable run creates it")
    try:
        return SQLiteCache(path)
    except ValueError as error:
        raise UsageError(str(error)) from None


def hide_password(url: str) -> str:
    """Return an address without the password in it; a path as it is."""
    scheme, _, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}:…@{host}" if at else url


def find_run(store: RunStore, run_id: str, options: argparse.Namespace) -> RunRecord:
    """Return the record of a run. Raises NotFound if there is none.

    options: those of the command, for the command line in the message.
    """
    try:
        return store.get(run_id)
    except KeyError:
        raise NotFound(
            f"there is no stored run {run_id!r}; `{format_command(options, 'runs')}` lists the runs"
        ) from None


def format_command(options: argparse.Namespace, *arguments: str) -> str:
    """Return a command line to type, for the store of this command, quoted for a shell."""
    words = ["asimov-sync", *arguments]
    if options.scheduler is not None:
        words += ["--scheduler", options.scheduler]
    elif options.cache is not None:
        words += ["--cache", hide_password(options.cache)]
    return " ".join(shlex.quote(escape_line(word)) for word in words)
