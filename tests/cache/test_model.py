"""The backends compared: random operations give the same replies and state on each of them."""

import os
import tempfile
import uuid

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asimov_sync import MISSING, Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.memory import MemoryStore
from asimov_sync.cache.redis_connection import RedisConnection, client_from_url
from asimov_sync.cache.redis_store import RedisStore
from asimov_sync.cache.sqlite_connection import SQLiteConnection
from asimov_sync.cache.sqlite_store import SQLiteStore
from asimov_sync.cache.store import ACKNOWLEDGED_SECONDS, ACKNOWLEDGED_SECONDS_GENERATED

from ..tiers import by_tier, suite
from .conftest import Clock

pytestmark = suite

SETTINGS = settings(
    max_examples=by_tier(25, soak=60),
    stateful_step_count=40,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)

KEYS = st.sampled_from(["k", "a:k", "b:k", "k:s", ""])
BOXES = st.sampled_from(["box", "a:box"])
IDS = st.sampled_from(["one", "two", "three"])
INTEGERS = st.sampled_from([0, 1, -7, 2**63 - 1, -(2**63), 2**70])
VALUES = st.one_of(
    INTEGERS,
    st.sampled_from(
        [None, True, 1.5, "1", "", "é", [], {"a": [1]}, MISSING, object(), float("nan")]
    ),
)
VIEWS = st.sampled_from([("", ""), ("a", ""), ("b", ""), ("", "s"), ("a", "s"), ("*", "")])
LEASES = st.sampled_from([0.0001, 1.0, 10.0, 4000.0])
MOMENTS = st.sampled_from(
    [0.001, 0.999, 1.0, 10.0, ACKNOWLEDGED_SECONDS_GENERATED, ACKNOWLEDGED_SECONDS]
)


def outcome(call):
    """Return the result of a call, or the type of its exception."""
    try:
        return "returned", call()
    except Exception as error:
        return "raised", type(error)


def view(cache, affixes):
    return cache.with_prefix(affixes[0]).with_suffix(affixes[1])


class Caches(RuleBasedStateMachine):
    """Runs every operation on all backends, and compares."""

    url = None

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        connection = RedisConnection(client_from_url(self.url), owned=True)
        self.folder = tempfile.TemporaryDirectory()
        file = SQLiteConnection(os.path.join(self.folder.name, "cache.db"), "normal")
        self.stores = [
            MemoryStore(2, self.clock),
            RedisStore(connection, 2, self.clock),
            SQLiteStore(file, 2, self.clock),
        ]
        namespace = Namespace().with_prefix("model-" + uuid.uuid4().hex)
        self.caches = [Cache(store, namespace) for store in self.stores]
        self.deliveries = []  # for each message, its delivery by each cache
        self.number = 0

    def teardown(self):
        for cache in self.caches:
            cache.clear()
            cache.close()
        self.folder.cleanup()

    def all(self, call, affixes=("", "")):
        """Run a call on all backends, and return their equal outcome."""
        outcomes = [
            outcome(lambda cache=cache: call(view(cache, affixes))) for cache in self.caches
        ]
        assert outcomes[1:] == outcomes[:-1]
        return outcomes[0]

    # Values

    @rule(key=KEYS, value=VALUES, affixes=VIEWS)
    def set(self, key, value, affixes):
        self.all(lambda cache: cache.set(key, value), affixes)

    @rule(key=KEYS, affixes=VIEWS)
    def raw(self, key, affixes):
        self.all(lambda cache: cache.set(key, b"\x00raw", raw=True), affixes)
        self.all(lambda cache: cache.get(key, raw=True), affixes)

    @rule(key=KEYS, affixes=VIEWS)
    def get(self, key, affixes):
        self.all(lambda cache: cache.get(key), affixes)
        self.all(lambda cache: cache.get(key, type=int), affixes)
        self.all(lambda cache: cache.get(key, raw=True), affixes)

    @rule(key=KEYS, affixes=VIEWS)
    def delete(self, key, affixes):
        self.all(lambda cache: cache.delete(key), affixes)

    @rule(key=KEYS, expected=VALUES, value=VALUES, affixes=VIEWS)
    def compare_and_set(self, key, expected, value, affixes):
        self.all(lambda cache: cache.compare_and_set(key, expected, value), affixes)

    @rule(key=KEYS, value=VALUES, affixes=VIEWS)
    def compare_with_what_is_there(self, key, value, affixes):
        self.all(
            lambda cache: cache.compare_and_set(key, cache.get(key, default=MISSING), value),
            affixes,
        )

    @rule(key=KEYS, by=INTEGERS, affixes=VIEWS)
    def increment(self, key, by, affixes):
        self.all(lambda cache: cache.increment(key, by), affixes)

    @rule(
        items=st.dictionaries(KEYS, VALUES, max_size=3),
        ttl=st.sampled_from([None, 1000]),
        affixes=VIEWS,
    )
    def set_many(self, items, ttl, affixes):
        self.all(lambda cache: cache.set_many(items, ttl=ttl), affixes)
        self.all(lambda cache: cache.get_many(items), affixes)

    @rule(
        items=st.dictionaries(KEYS, VALUES, max_size=3),
        guard=KEYS,
        held=VALUES,
        right=st.booleans(),
        affixes=VIEWS,
    )
    def guarded(self, items, guard, held, right, affixes):
        def write(cache):
            return cache.set_many(
                items, guard=(guard, cache.get(guard, default=MISSING) if right else held)
            )

        self.all(write, affixes)

    @rule(affixes=VIEWS)
    def listing(self, affixes):
        self.all(lambda cache: cache.get_all(), affixes)

    @precondition(lambda self: self.number > 3)
    @rule(affixes=VIEWS)
    def clear(self, affixes):
        self.all(lambda cache: cache.clear(), affixes)
        self.clock.pass_by(0.001)  # Redis takes its fences from the clock

    # Mailboxes

    @initialize(box=BOXES)
    def begin(self, box):
        for _ in range(3):
            self.publish(box)

    @rule(box=BOXES)
    def publish(self, box):
        self.number += 1
        self.all(lambda cache: cache.publish_to_mailbox(box, self.number))

    @rule(box=BOXES, id=IDS)
    def publish_with_an_id(self, box, id):
        self.number += 1
        self.all(lambda cache: cache.publish_to_mailbox(box, self.number, message_id=id))

    @rule(box=BOXES, lease=LEASES)
    def receive(self, box, lease):
        deliveries = [cache.receive(box, timeout=0, lease=lease) for cache in self.caches]
        seen = [delivery and (delivery.message, delivery.deliveries) for delivery in deliveries]
        assert seen[1:] == seen[:-1]
        if seen[0] is not None:
            self.deliveries.append(deliveries)

    @rule(box=BOXES)
    def get_message(self, box):
        self.all(lambda cache: cache.get_message(box, timeout=0))

    def with_delivery(self, data, call):
        deliveries = data.draw(st.sampled_from(self.deliveries))
        outcomes = [outcome(lambda delivery=delivery: call(delivery)) for delivery in deliveries]
        assert outcomes[1:] == outcomes[:-1]

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def ack(self, data):
        self.with_delivery(data, lambda delivery: delivery.ack())

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def release(self, data):
        self.with_delivery(data, lambda delivery: delivery.release())

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), lease=LEASES)
    def extend(self, data, lease):
        self.with_delivery(data, lambda delivery: delivery.extend(lease))

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds):
        self.clock.pass_by(seconds)

    @rule(box=BOXES, id=st.one_of(st.none(), IDS))
    def put_back(self, box, id):
        self.all(lambda cache: cache.put_back(box, id))

    @rule(count=st.integers(1, 3))
    def max_deliveries(self, count):
        for store in self.stores:
            store.max_deliveries = count

    # State

    @invariant()
    def one_state(self):
        self.all(lambda cache: cache.keys())
        self.all(lambda cache: cache.get_all())
        for box in ("box", "a:box"):
            self.all(lambda cache: cache.mailbox_length(box))
            self.all(lambda cache: cache.peek(box, 99))
            self.all(lambda cache: [message[1:] for message in cache.dead_letters(box)])


def test_backends_are_equivalent(redis_url):
    """All backends return the same and hold the same after each step."""

    class Here(Caches):
        url = redis_url

    run_state_machine_as_test(Here, settings=SETTINGS)
