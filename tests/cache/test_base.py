"""The behaviour that all caches share, on every backend."""

import datetime
import enum
import subprocess
import sys
import threading
import time
import uuid

import pydantic
import pytest

from asimov_sync import (
    MISSING,
    CacheKeyError,
    CacheValueError,
    Cancellation,
    Cancelled,
    MemoryCache,
    Task,
    TaskStatus,
    UnboundedClear,
)
from asimov_sync.testing import count_callbacks

from ..tiers import suite, within
from ..waiting import Background, in_child, wait_for
from .conftest import FEW_BACKENDS


class Colour(enum.Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    x: int
    when: datetime.datetime


VALUES = [
    None,
    True,
    0,
    -1.5,
    "",
    "é\u2028\U0001f600",
    [],
    [1, [None]],
    {},
    {"a": {"b": ["c"]}},
    "x" * 100000,
]


@suite
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_json_values_round_trip(cache, value):
    """Every JSON value is returned as it was stored; None is a value."""
    cache.set("key", value)
    assert cache.get("key") == value
    assert cache.get("key", default="other") == value
    assert cache.get_many(["key"]) == {"key": value}


def test_absent_keys(cache):
    """get() of an absent key raises a KeyError that names it, or returns the default, even None."""
    with pytest.raises(KeyError, match="nothing"):
        cache.get("nothing")
    assert cache.get("nothing", default=None) is None
    assert cache.delete("nothing") is False
    assert cache.get_many(["nothing"]) == {}
    assert cache.keys() == set()
    assert cache.get_all() == {}


def test_models_are_stored_as_json(cache):
    """Models, UUIDs, dates and enums are stored as JSON, and validated again with type=."""
    point = Point(x=1, when=datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.timezone.utc))
    identity = uuid.uuid4()
    cache.set("point", point)
    cache.set(
        "mixed",
        {
            "id": identity,
            "day": datetime.date(2026, 11, 22),
            "colour": Colour.RED,
            "points": [point],
        },
    )
    assert cache.get("point", type=Point) == point
    mixed = cache.get("mixed")
    assert (mixed["id"], mixed["day"], mixed["colour"]) == (str(identity), "2026-11-22", "red")
    assert cache.get("mixed", type=dict)["points"][0]["x"] == 1


def test_task_round_trip(cache):
    """type=Task restores a stored Task with its outcome."""
    task = Task(type="t", objective="o", params={"a": [1]})
    task.move(TaskStatus.EXECUTING)
    task.move(TaskStatus.PARTIAL, result=[1], error="half")
    cache.set("task", task)
    assert cache.get("task", type=Task) == task


def test_wrong_type(cache):
    """get(type=…) of a value that does not fit is a CacheValueError that names the key."""
    cache.set("point", {"x": "no number"})
    with pytest.raises(CacheValueError, match="point"):
        cache.get("point", type=Point)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", float("nan"), {"deep": [object()]}, {(1, 2): 3}], ids=repr
)
def test_unstorable_values(cache, value):
    """A value that JSON cannot hold is a CacheValueError, and no call writes anything."""
    cache.set("key", "before")
    with pytest.raises(CacheValueError, match="cannot be stored"):
        cache.set("key", value)
    with pytest.raises(CacheValueError):
        cache.set_many({"other": 1, "key": value})
    with pytest.raises(CacheValueError):
        cache.publish_to_mailbox("box", value)
    assert cache.get_all() == {"key": "before"}


def test_cyclic_value(cache):
    """A value that contains itself is a CacheValueError."""
    cycle = []
    cycle.append(cycle)
    with pytest.raises(CacheValueError):
        cache.set("key", cycle)


def test_deepest_value(cache):
    """A value of 200 levels is stored and read; one of 201 levels is a CacheValueError."""
    deepest = []
    for _ in range(199):
        deepest = [deepest]
    cache.set("key", deepest)
    assert cache.get("key") == deepest
    with pytest.raises(CacheValueError, match="200 levels"):
        cache.set("key", [deepest])
    assert cache.get("key") == deepest


def test_raw_bytes(cache):
    """raw=True stores bytes unchanged beside a JSON value of the same key; delete removes both."""
    data = bytes(range(256))
    cache.set("key", data, raw=True)
    assert cache.get("key", raw=True) == data
    with pytest.raises(KeyError):
        cache.get("key")
    assert cache.keys() == set()
    cache.set("key", 1)
    assert (cache.get("key"), cache.get("key", raw=True)) == (1, data)
    assert cache.delete("key") is True
    assert cache.get("key", default=None, raw=True) is None
    with pytest.raises(CacheValueError, match="bytes"):
        cache.set("key", "text", raw=True)


def test_ttl_expires(cache):
    """A value with a ttl expires, unless a later set() without a ttl replaces it."""
    cache.set("short", 1, ttl=0.05)
    cache.set("long", 1, ttl=60)
    cache.set_many({"a": 1, "b": 2}, ttl=0.05)
    cache.set("kept", 1, ttl=0.05)
    cache.set("kept", 2)
    wait_for(lambda: cache.keys() == {"long", "kept"}, "the expiry of the values")
    assert cache.get("short", default=None) is None
    assert cache.get("kept") == 2


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_invalid_ttl(cache, ttl):
    """A ttl that is not above zero is a ValueError."""
    with pytest.raises(ValueError, match="ttl"):
        cache.set("key", 1, ttl=ttl)
    assert cache.keys() == set()


def test_bulk_calls(cache):
    """Bulk calls write, read, list and clear thousands of values completely."""
    values = {f"key-{number}": number for number in range(2500)}
    assert cache.set_many(values) is True
    assert cache.get_all() == values
    assert cache.keys() == set(values)
    assert cache.get_many(list(values) + ["absent"]) == values
    assert cache.clear() == 2500
    assert cache.keys() == set()
    assert cache.set_many({}) is True
    assert cache.get_many([]) == {}


def test_views_nest(make_cache):
    """Prefixes and suffixes nest, and a parent lists its children's keys under longer names."""
    app = make_cache(prefix="app")
    user = app.with_prefix("user-7")
    draft = user.with_suffix("draft")
    second = draft.with_suffix("2")
    second.set("letter", "dear")
    assert second.keys() == {"letter"}
    assert draft.keys() == {"letter:2"}
    assert user.keys() == {"letter:2:draft"}
    assert app.keys() == {"user-7:letter:2:draft"}
    assert app.get("user-7:letter:2:draft") == "dear"
    assert app.with_prefix("user-8").keys() == set()
    assert isinstance(second, type(app))


def test_view_is_independent(cache):
    """Creating or leaving a view neither changes nor closes the cache it was created from."""
    with cache.with_prefix("a") as view:
        view.set("k", 1)
        cache.set("k", 2)
    assert view.get("k") == 1
    assert cache.get_all() == {"k": 2, "a:k": 1}
    assert cache.with_prefix("").keys() == cache.keys()


@suite
@pytest.mark.parametrize(
    "prefix",
    [
        "a*[b]:",
        "[a",
        "a?",
        "\\",
        "a:b",
        "%",
        "^",
        "é",
        " ",
        "{tag}",
        "a\n",
        "\ud7ff",
        "a\U0010ffff",
    ],
)
def test_prefixes_are_isolated(make_cache, prefix):
    """With any characters in its prefix, a view lists and clears its own keys only."""
    own = make_cache(prefix=prefix)
    neighbours = [
        make_cache(prefix=other)
        for other in ("a", "ab", "a*", "axb", "aa[b]", "a*b:", "\\\\", "")
        if other != prefix
    ]
    for number, neighbour in enumerate(neighbours[:-1]):
        neighbour.set("key", number)
    own.set("key", "mine")
    own.set("raw", b"mine", raw=True)
    own.publish_to_mailbox("box", "mine")
    assert own.keys() == {"key"}
    assert own.get_all() == {"key": "mine"}
    assert own.clear() == 2
    assert own.keys() == set()
    assert [neighbour.get("key") for neighbour in neighbours[:-1]] == list(
        range(len(neighbours) - 1)
    )


def test_namespaces_are_distinct(make_cache):
    """Prefix "a" with key "b:c" differs from prefix "a:b" with key "c"; suffixes likewise."""
    make_cache(prefix="a").set("b:c", 1)
    make_cache(prefix="a:b").set("c", 2)
    make_cache(suffix="a").set("c:b", 3)
    make_cache(suffix="b:a").set("c", 4)
    assert (make_cache(prefix="a").get("b:c"), make_cache(prefix="a:b").get("c")) == (1, 2)
    assert (make_cache(suffix="a").get("c:b"), make_cache(suffix="b:a").get("c")) == (3, 4)
    assert make_cache(prefix="a:b").keys() == {"c"}


def test_prefix_and_suffix_do_not_overlap(make_cache):
    """A cache with prefix "a" and suffix "a" lists neither the key "a" nor the key "a:a"."""
    make_cache().set("a:a", 1)
    make_cache().set("a", 1)
    inside = make_cache(prefix="a", suffix="a")
    assert inside.keys() == set()
    inside.set("", 2)
    assert inside.get_all() == {"": 2}


@pytest.mark.parametrize("key", ["a\0b", "\ud800", 7, None, b"a"], ids=repr)
def test_invalid_keys(cache, key):
    """Keys, prefixes and mailboxes are text without NUL."""
    for use in (cache.get, cache.delete, cache.get_message, lambda key: cache.set(key, 1)):
        with pytest.raises(CacheKeyError):
            use(key)
    if key is not None:
        with pytest.raises(CacheKeyError):
            cache.with_prefix(key).set("k", 1)


def test_unbounded_clear():
    """clear() without a namespace raises and names the way out; everything=True clears."""
    cache = MemoryCache()
    cache.set("key", 1)
    with pytest.raises(UnboundedClear, match="everything=True"):
        cache.clear()
    assert cache.keys() == {"key"}
    assert cache.clear(everything=True) == 1
    assert cache.keys() == set()


def test_unbounded_clear_on_every_backend(make_cache):
    """clear() without a namespace raises on every backend, before it reads a key."""
    with pytest.raises(UnboundedClear):
        make_cache(bounded=False).clear()


def test_mailbox_is_first_in_first_out(cache):
    """Messages are read in the order of publication, each once; then None."""
    for number in range(3):
        cache.publish_to_mailbox("box", {"number": number})
    assert [cache.get_message("box", timeout=0)["number"] for _ in range(3)] == [0, 1, 2]
    assert cache.get_message("box", timeout=0) is None


def test_mailboxes_and_values_are_separate(cache):
    """A mailbox and a value may share a name; listings leave mailboxes out."""
    cache.set("name", "value")
    cache.publish_to_mailbox("name", "message")
    assert cache.keys() == {"name"}
    assert cache.get_all() == {"name": "value"}
    assert cache.with_prefix("other").get_message("name", timeout=0) is None
    assert cache.delete("name") is True
    assert cache.get_message("name", timeout=0) == "message"


@suite
def test_read_times_out(cache):
    """A reader with a time-out gets None when it has passed, and not before."""
    start = time.monotonic()
    assert cache.get_message("box", timeout=0.2) is None
    assert 0.15 < time.monotonic() - start < 5
    with pytest.raises(ValueError, match="timeout"):
        cache.get_message("box", timeout=-1)


@suite
def test_publishing_wakes_a_reader(cache):
    """A message that is published while a reader waits reaches it at once."""
    reading = Background(cache.get_message, "box", timeout=15)
    writing = Background(
        lambda: (threading.Event().wait(0.1), cache.publish_to_mailbox("box", "late"))
    )
    start = time.monotonic()
    assert reading.result() == "late"
    assert time.monotonic() - start < 5
    writing.result()


@suite
def test_blocked_reader_can_be_cancelled(cache, backend):
    """A cancellation ends a blocked read at once; a later message is not lost."""
    token = Cancellation()
    reading = Background(cache.get_message, "box", cancellation=token)
    wait_for(lambda: count_callbacks(token), "the reader's wait")
    start = time.monotonic()
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        reading.result()
    # fakeredis has no connection to break, so a wait ends after SIGNAL_WAIT_SECONDS.
    assert time.monotonic() - start < within(2 if backend == "fakeredis" else 0.5)
    cache.publish_to_mailbox("box", "later")
    assert cache.get_message("box", timeout=5) == "later"
    with pytest.raises(Cancelled):
        cache.get_message("box", cancellation=token)


@suite
def test_deadline_ends_a_read(cache):
    """The current token's deadline ends a wait without a time-out."""
    with Cancellation(timeout=0.1), pytest.raises(Cancelled, match="deadline"):
        cache.get_message("box")


@suite
def test_many_readers_get_each_message_once(cache):
    """Eight readers and four writers: every message is read once."""
    got, lock = [], threading.Lock()

    def read():
        while True:
            message = cache.get_message("box", timeout=15)
            if message == "end":
                return
            with lock:
                got.append(message)

    readers = [Background(read) for _ in range(8)]
    writers = [
        Background(
            lambda part=part: [
                cache.publish_to_mailbox("box", part * 100 + number) for number in range(100)
            ]
        )
        for part in range(4)
    ]
    for writer in writers:
        writer.result()
    for _ in readers:
        cache.publish_to_mailbox("box", "end")
    for reader in readers:
        reader.result()
    assert sorted(got) == list(range(400))


@suite
def test_sixteen_threads_on_one_cache(cache):
    """Sixteen threads write, read and list at once without errors or foreign values."""

    def use(number):
        view = cache.with_prefix(f"thread-{number}")
        for turn in range(15):
            view.set("key", [number, turn])
            assert view.get("key") == [number, turn]
            assert view.get_all() == {"key": [number, turn]}
            assert cache.get(f"thread-{number}:key") == [number, turn]

    for call in [Background(use, number) for number in range(16)]:
        call.result()
    assert len(cache.keys()) == 16


@pytest.mark.parametrize(
    "backend", ["memory", "redis", "sqlite"], indirect=True
)  # fakeredis exists in one process only
def test_cache_works_in_a_forked_child(cache, backend):
    """A cache used before a fork works in the child while a reader waits in the parent."""
    cache.set("key", "value")
    token = Cancellation()
    reading = Background(cache.get_message, "box", cancellation=token)
    wait_for(lambda: count_callbacks(token))

    def use():
        assert cache.get("key") == "value"
        cache.set("child", 1)
        cache.publish_to_mailbox("other", "to myself")
        assert cache.get_message("other", timeout=5) == "to myself"

    in_child(use)
    token.cancel()
    with pytest.raises(Cancelled):
        reading.result()
    assert cache.get("key") == "value"
    if backend != "memory":
        assert cache.get("child") == 1


def test_missing_is_a_singleton():
    """MISSING is false, has a readable repr, and survives copy and pickle as itself."""
    import copy
    import pickle

    assert not MISSING
    assert repr(MISSING) == "MISSING"
    assert copy.deepcopy(MISSING) is MISSING
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


def test_package_exports_its_nouns_lazily():
    """asimov_sync.cache exports the public names of the cache; MemoryCache loads neither redis
    nor sqlite3."""
    program = (
        "import sys, asimov_sync\n"
        "from asimov_sync.cache import MISSING, Cache, Delivery, Letter, MemoryCache\n"
        "assert issubclass(MemoryCache, Cache) and MISSING is asimov_sync.MISSING\n"
        "assert 'redis' not in sys.modules and 'asimov_sync.cache.redis' not in sys.modules\n"
        "from asimov_sync.cache import RedisCache\n"
        "assert RedisCache is asimov_sync.RedisCache and 'redis' in sys.modules\n"
        "assert 'sqlite3' not in sys.modules\n"
        "from asimov_sync.cache import SQLiteCache\n"
        "assert SQLiteCache is asimov_sync.SQLiteCache and 'sqlite3' in sys.modules\n"
        "names = ['Cache', 'Delivery', 'Letter', 'MISSING', 'MemoryCache', 'RedisCache',\n"
        "    'SQLiteCache']\n"
        "assert sorted(asimov_sync.cache.__all__) == names\n"
        "assert set(names) <= set(dir(asimov_sync.cache))\n"
    )
    subprocess.check_call([sys.executable, "-c", program])
    with pytest.raises(ImportError):
        from asimov_sync.cache import NoSuchCache  # noqa: F401


# Atomic operations


def test_compare_and_set(cache):
    """A value is stored only if the key holds the expected one; MISSING expects no value."""
    assert cache.compare_and_set("key", MISSING, {"a": 1}) is True
    assert cache.compare_and_set("key", MISSING, 2) is False
    assert cache.compare_and_set("key", {"a": 2}, 2) is False
    assert cache.compare_and_set("key", cache.get("key"), None) is True
    assert cache.compare_and_set("key", None, [2]) is True
    assert cache.compare_and_set("other", None, 1) is False
    assert cache.get_all() == {"key": [2]}
    with pytest.raises(CacheValueError):
        cache.compare_and_set("key", [2], object())


@suite
@pytest.mark.parametrize("backend", FEW_BACKENDS, indirect=True)
def test_compare_and_set_keeps_the_ttl(cache):
    """compare_and_set keeps the expiry of a key."""
    cache.set("key", 1, ttl=0.5)
    assert cache.compare_and_set("key", 1, 2) is True
    wait_for(lambda: cache.keys() == set(), "the expiry of the key")


@suite
def test_compare_and_set_is_atomic(cache):
    """Of eight concurrent compare_and_set calls one succeeds; all increments are counted."""
    start = threading.Barrier(8)

    def race(number):
        won = 0
        for turn in range(50):
            start.wait(20)
            won += cache.compare_and_set("key", turn - 1 if turn else MISSING, turn)
            cache.increment("sum")
        return won

    racers = [Background(race, number) for number in range(8)]
    assert sum(racer.result() for racer in racers) == 50
    assert cache.get_all() == {"key": 49, "sum": 400}


def test_increment(cache):
    """The sum is returned and stored; an absent key counts as 0; a non-integer stays as it is."""
    assert [cache.increment("n"), cache.increment("n", 5), cache.increment("n", -10)] == [1, 6, -4]
    assert cache.get("n") == -4
    for value in ("text", 1.5, [1], None, True):
        cache.set("other", value)
        with pytest.raises(CacheValueError):
            cache.increment("other")
        assert cache.get("other") == value
    cache.set("n", 2**63 - 1)
    with pytest.raises(CacheValueError):
        cache.increment("n")
    assert cache.increment("n", -1) == 2**63 - 2
    with pytest.raises(ValueError, match="64 bits"):
        cache.increment("n", 2**63)


@suite
@pytest.mark.parametrize("backend", FEW_BACKENDS, indirect=True)
def test_increment_keeps_the_ttl(cache):
    """increment keeps the expiry of a counter."""
    cache.set("n", 1, ttl=0.5)
    assert cache.increment("n") == 2
    wait_for(lambda: cache.keys() == set(), "the expiry of the counter")


@suite
def test_guarded_writes(cache):
    """Either all values are written or, if the guard does not hold, none."""
    assert cache.set_many({"a": 1, "lock": "mine"}, guard=("lock", MISSING)) is True
    assert cache.set_many({"a": 2, "b": 2}, guard=("lock", MISSING)) is False
    assert cache.set_many({"a": 2, "b": 2}, guard=("lock", "yours")) is False
    assert cache.get_all() == {"a": 1, "lock": "mine"}
    assert cache.set_many({"a": 3, "b": 3}, guard=("lock", "mine"), ttl=0.5) is True
    assert cache.get_many(["a", "b"]) == {"a": 3, "b": 3}
    assert cache.set_many({}, guard=("lock", "mine")) is True
    assert cache.set_many({}, guard=("lock", "yours")) is False
    with pytest.raises(CacheValueError):
        cache.set_many({"c": object()}, guard=("lock", "mine"))
    wait_for(lambda: cache.keys() == {"lock"}, "the expiry of the values")
