"""Every command that the library sends is lost once: without a reply, or before its execution."""

import ast
import hashlib
import inspect
import logging
import uuid

import pytest
import redis

import asimov_sync.cache.redis_connection
import asimov_sync.cache.redis_store
from asimov_sync import MISSING, CacheUnavailable, OutcomeUnknown, RedisCache
from asimov_sync.cache import lua

from ..tiers import current, suite
from ..waiting import Background, wait_for
from .resp_proxy import RespProxy

pytestmark = suite

UNKNOWN = (OutcomeUnknown, CacheUnavailable)
ABSENT = object()


class Scenario:
    """Calls every public method, and checks what must hold whichever command is lost.

    cache: connected through the proxy.
    direct: the same keys, connected directly.
    unknown: how many calls ended with an unknown outcome.
    """

    def __init__(self, proxy, cache, direct):
        self.proxy = proxy
        self.cache = cache
        self.direct = direct
        self.unknown = 0

    def attempt(self, call):
        """Return the result of a call; ABSENT if its outcome is unknown."""
        try:
            return call()
        except UNKNOWN:
            self.unknown += 1
            assert self.proxy.faulted, "an unknown outcome, and no fault was injected"
            return ABSENT

    def run(self):
        self.write_and_read()
        self.one_step()
        self.mailbox_at_least_once()
        self.mailbox_blocked()
        self.dead_letters()
        self.mailbox_at_most_once()
        self.clear()

    def write_and_read(self):
        cache = self.cache
        cache.set("a", 1)
        cache.set("b", [2], ttl=100)
        cache.set("raw", b"raw", raw=True)
        cache.set_many({"c": 3, "d": 4})
        for turn in range(2):  # twice, to send the script as text and by its digest
            cache.set_many({"e": turn, "f": turn}, ttl=100)
        assert self.direct.get_all() == {"a": 1, "b": [2], "c": 3, "d": 4, "e": 1, "f": 1}
        assert cache.get("a") == 1
        assert cache.get("nothing", default=None) is None
        assert cache.get("raw", raw=True) == b"raw"
        assert cache.get_many(["a", "b", "nothing"]) == {"a": 1, "b": [2]}
        assert cache.keys() == {"a", "b", "c", "d", "e", "f"}
        assert cache.get_all() == self.direct.get_all()
        deleted = self.attempt(lambda: cache.delete("a"))
        assert deleted in (True, ABSENT)
        if deleted is True:
            assert "a" not in self.direct.keys()

    def one_step(self):
        cache, direct = self.cache, self.direct
        for before, after in ((MISSING, 1), (1, 2)):
            assert self.attempt(lambda: cache.compare_and_set("cas", before, after)) in (
                True,
                ABSENT,
            )
            assert direct.get_many(["cas"]).get("cas", MISSING) in (before, after)
            direct.set("cas", after)
        assert self.attempt(lambda: cache.compare_and_set("cas", "other", 3)) in (False, ABSENT)
        assert direct.get("cas") == 2
        for number in (1, 2):
            wrote = self.attempt(
                lambda: cache.set_many({"g": number, "h": number}, guard=("cas", 2))
            )
            assert wrote in (True, ABSENT)
            found = direct.get_many(["g", "h"])
            assert len(set(found.values())) <= 1 and len(found) in (0, 2)
            if wrote is True:
                assert found == {"g": number, "h": number}
        assert self.attempt(lambda: cache.set_many({"g": 3, "h": 3}, guard=("cas", 1), ttl=9)) in (
            False,
            ABSENT,
        )
        assert 3 not in direct.get_many(["g", "h"]).values()
        before = 0
        for _ in range(2):
            total = self.attempt(lambda: cache.increment("n", 5))
            now = direct.get("n", default=0)
            assert now in ((before, before + 5) if total is ABSENT else (total,))
            assert total in (ABSENT, before + 5)
            before = now

    def mailbox_at_least_once(self):
        cache, direct = self.cache, self.direct
        for number in range(3):
            cache.publish_to_mailbox("box", number)
        cache.publish_to_mailbox("box", 3, message_id="three")
        assert direct.peek("box", 99) == [0, 1, 2, 3]
        assert cache.peek("box", 2) == [0, 1]
        assert cache.peek("box", 3) == [0, 1, 2]
        assert cache.mailbox_length("box") == 4
        assert cache.mailbox_length("box") == 4
        first = cache.receive("box", timeout=0, lease=100)
        assert (first.message, first.deliveries) == (0, 1)
        assert first.extend() is True
        assert first.extend(200) is True
        first.release()
        again = cache.receive("box", timeout=0, lease=100)
        assert (again.message, again.deliveries) == (0, 2)
        again.release()
        assert direct.peek("box", 99) == [0, 1, 2, 3]
        for number in range(4):
            delivery = cache.receive("box", timeout=5, lease=100)
            assert (delivery.message, delivery.deliveries) == (number, 3 if number == 0 else 1)
            assert delivery.ack() is True
            assert direct.mailbox_length("box") == 3 - number
        cache.publish_to_mailbox("box", 3, message_id="three")
        assert cache.receive("box", timeout=0) is None

    def read_blocked(self, read):
        """Return the result of a read that waits before its message is published."""

        def waits():
            return sum(words[0] == b"BLPOP" for words in self.proxy.commands)

        before = waits()
        reading = Background(read)
        wait_for(lambda: waits() > before or not reading.thread.is_alive(), "the reader's wait")
        self.direct.publish_to_mailbox("box", "late")
        return reading.result()

    def mailbox_blocked(self):
        delivery = self.read_blocked(lambda: self.cache.receive("box", lease=100))
        assert (delivery.message, delivery.deliveries) == ("late", 1)
        assert delivery.ack() is True
        assert self.direct.mailbox_length("box") == 0
        assert self.attempt(lambda: self.read_blocked(lambda: self.cache.get_message("box"))) in (
            "late",
            ABSENT,
        )
        assert self.direct.receive("box", timeout=0) is None or self.proxy.faulted
        self.direct.clear()

    def dead_letters(self):
        cache = self.cache
        for name in ("x", "y"):
            cache.publish_to_mailbox("box", name, message_id=name)
            for _ in range(3):
                cache.receive("box", timeout=0, lease=100).release()
            assert cache.receive("box", timeout=0) is None
        for _ in range(2):
            assert [message.id for message in cache.dead_letters("box")] == ["x", "y"]
        assert self.attempt(lambda: cache.put_back("box", "x")) in (1, ABSENT)
        assert self.attempt(lambda: cache.put_back("box")) in (1, 2, ABSENT)
        self.direct.put_back("box")
        assert sorted(self.direct.peek("box", 99)) == ["x", "y"]
        self.direct.clear()

    def mailbox_at_most_once(self):
        for number in range(3):
            self.cache.publish_to_mailbox("box", number)
        got = [self.attempt(lambda: self.cache.get_message("box", timeout=0)) for _ in range(3)]
        left = self.direct.peek("box", 99)
        found = [number for number in got if number is not ABSENT] + left
        assert found == sorted(set(found)) and set(found) <= {0, 1, 2}  # in order, no duplicates
        assert len(found) >= 3 - self.unknown

    def clear(self):
        self.cache.set("last", 1)
        if self.attempt(self.cache.clear) is ABSENT:
            self.cache.clear()
        assert self.direct.keys() == set()
        assert self.direct.mailbox_length("box") == 0


@pytest.fixture
def proxy(redis_url):
    """A proxy in front of the server."""
    settings = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs
    proxy = RespProxy(settings["host"], settings["port"])
    yield proxy
    proxy.close()


def run(proxy, redis_url, number, mode):
    """Run the scenario with fresh keys and one fault. Return its number of unknown outcomes."""
    prefix = "lost-" + uuid.uuid4().hex
    with RedisCache(url=redis_url, default_prefix=prefix) as direct:
        with RedisCache(
            host="127.0.0.1", port=proxy.port, default_prefix=prefix, max_deliveries=3
        ) as cache:
            proxy.arm(number, mode)
            scenario = Scenario(proxy, cache, direct)
            scenario.run()
            return scenario.unknown


def name_of(words):
    """Return a command and the script it runs, found by the script's text or digest."""
    command = words[0].decode()
    if command == "EVAL":
        return command, TEXTS[words[1]]
    if command == "EVALSHA":
        return command, TEXTS[words[1].decode()]
    return command, None


TEXTS = {}
for _name, _text in vars(lua).items():
    if _name.isupper() and not _name.startswith("_") and isinstance(_text, str):
        TEXTS[_text.encode()] = TEXTS[hashlib.sha1(_text.encode()).hexdigest()] = _name


def commands_in_the_source(redis_url):
    """Return the Redis commands that calls in the library's source name."""
    with redis.Redis.from_url(redis_url) as plain:
        known = {name.upper() for name in plain.command()}
    found = set()
    for module in (asimov_sync.cache.redis_connection, asimov_sync.cache.redis_store):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call):
                # A Str before Python 3.8, a Constant since.
                words = [one for one in node.args if type(one).__name__ in ("Str", "Constant")]
                found |= {word for word in map(ast.literal_eval, words) if word in known}
    return found


@pytest.mark.parametrize("mode", ["reply", "command"])
def test_each_command_lost_once(proxy, redis_url, mode):
    """Losing any one command loses and doubles no message.

    Reads and leases continue. A write that must not be repeated returns its true result, or raises
    OutcomeUnknown.
    """
    assert run(proxy, redis_url, None, mode) == 0
    clean = [name_of(words) for words in proxy.commands]
    assert not proxy.faulted
    names = {command for command, _ in clean}
    assert names == commands_in_the_source(redis_url)
    ran = {(command, script) for command, script in clean if script is not None}
    assert ran == {
        (command, script) for command in ("EVAL", "EVALSHA") for script in TEXTS.values()
    }
    # The soak tier loses each command, the suite one of each kind (command and script).
    lost = (
        range(len(clean))
        if current() == "soak"
        else sorted({name: at for at, name in enumerate(clean)}.values())
    )
    faulted, unknown = [], 0
    for number in lost:
        try:
            unknown += run(proxy, redis_url, number, mode)
        except BaseException:
            print(f"the command that was lost: {number}, {clean[number]}")
            raise
        assert len(proxy.faulted) == 1
        faulted += [name_of(words) for words in proxy.faulted]
    assert faulted == [clean[number] for number in lost]
    # Commands that are sent once have an unknown outcome. All others are retried.
    asked_once = {"INCRBY", "UNLINK"}, {"COMPARE_AND_SET", "SET_GUARDED", "REDRIVE"}
    expected = sum(
        command in asked_once[0] or script in asked_once[1] for command, script in faulted
    )
    at_most_once = 5  # get_message: three find a message, one finds none and then waits
    if current() == "soak":
        assert unknown == expected + at_most_once
    else:  # the last TAKE of a clean run belongs to get_message
        assert unknown == expected + 1


def test_lost_take_does_not_scan_leases(proxy, redis_url, unique):
    """A reader whose first reply was lost retries without scanning the leases.

    The server removes the request's token when the lease ends.
    """
    with RedisCache(url=redis_url, default_prefix=unique) as direct, redis.Redis.from_url(
        redis_url
    ) as plain:
        for number in range(5):
            direct.publish_to_mailbox("box", number)
            direct.receive("box", lease=1000)
        with RedisCache(host="127.0.0.1", port=proxy.port, default_prefix=unique) as cache:
            before = plain.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]
            proxy.arm(0, "reply")
            reading = Background(cache.receive, "box")

            def again():
                return [
                    words
                    for words in proxy.commands
                    if words[0] in (b"EVAL", b"EVALSHA") and words[-1] == b"retry"
                ]

            wait_for(lambda: len(again()) > 2, "three looks after the lost one")
            assert [name_of(words)[1] for words in proxy.faulted] == ["TAKE"]
            direct.publish_to_mailbox("box", "late")
            delivery = reading.result()
            assert delivery.message == "late"
            assert (
                plain.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"] == before
            )
            holders = f"{unique}:box\0mailbox{{{unique}:box}}holders"
            assert plain.hlen(holders) == 2 * 6  # for each lease, an entry by id and one by token
            assert delivery.ack() is True
            assert plain.hlen(holders) == 2 * 5
        direct.clear()


def test_repeated_command_is_logged(proxy, redis_url, unique, caplog):
    """INFO has each idempotent command that is sent again, without its key and value."""
    caplog.set_level(logging.INFO, "asimov_sync.cache")
    with RedisCache(host="127.0.0.1", port=proxy.port, default_prefix=unique) as cache:
        cache.set("swordfish", 1)
        proxy.arm(0, "reply")
        assert cache.get("swordfish") == 1
        assert len(proxy.faulted) == 1
    records = [record for record in caplog.records if record.name == "asimov_sync.cache"]
    assert [record.getMessage() for record in records] == [
        "a Redis command failed: CacheUnavailable; it is sent again"
    ]
