"""Usage: counters, prices and budgets, in threads, tools, streams and generators."""

import contextvars
import queue
import sys
import threading
import types

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    Budget,
    BudgetExceeded,
    Cancellation,
    Cancelled,
    ChatMessage,
    InferenceError,
    OverloadedError,
    Price,
    RateLimit,
    Reply,
    StreamInterrupted,
    Usage,
    tool,
)
from asimov_sync.concurrency import scope
from asimov_sync.testing import Clock, Failure, ModelServer, ScriptedInferenceClient, calls
from asimov_sync.usage import GENAI_PRICES_PROVIDERS, UsageCounter, cost_usd

from .optional_packages import import_or_skip
from .waiting import Background, wait_for

# Counters


def counters():
    return scope.current().usage_counters


def test_counters_nest():
    """A request inside nested counters is added to both, and afterwards only to the outer one."""
    with UsageCounter() as outer:
        with UsageCounter() as inner:
            assert counters() == (outer, inner)
        assert counters() == (outer,)
    assert counters() == ()


def test_a_copied_context_has_its_counters():
    """A copy of the context has the counters of the original."""
    with UsageCounter() as counter:
        context = contextvars.copy_context()
    assert context.run(counters) == (counter,)


def test_usage_or_none():
    """A counter without any request is distinguished from one with empty usage."""
    counter = UsageCounter()
    assert (counter.usage, counter.usage_or_none) == (Usage(), None)
    counter.add(Usage())
    assert (counter.usage, counter.usage_or_none) == (Usage(), Usage())


def test_the_sum_is_exact_under_threads():
    """The sum of eight threads that add at the same time is exact."""
    counter = UsageCounter()
    start = threading.Barrier(8)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def add():
        start.wait()
        for _ in range(300):
            counter.add(Usage(input_tokens=1, requests=1))

    try:
        threads = [threading.Thread(target=add) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter.usage == Usage(input_tokens=2400, requests=2400)


# Prices

MILLION = 1_000_000

CACHED = Usage(
    input_tokens=MILLION,
    output_tokens=MILLION,
    cache_read_input_tokens=MILLION,
    cache_write_input_tokens=3 * MILLION,
    cache_write_1h_input_tokens=MILLION,
)


@pytest.mark.parametrize(
    "price, cost",
    [
        (Price(3.0, 15.0, 0.3, 3.75, 6.0), 3.0 + 15.0 + 0.3 + 2 * 3.75 + 6.0),
        (Price(3.0, 15.0, 0.3, 3.75), 3.0 + 15.0 + 0.3 + 3 * 3.75),
        (Price(3.0, 15.0, 0.3), 3.0 + 15.0 + 0.3 + 3 * 3.0),
        (Price(3.0, 15.0), 3.0 + 15.0 + 3.0 + 3 * 3.0),
    ],
)
def test_a_price_table(price, cost):
    """Each kind of token has its price; a missing price falls back to the nearest one."""
    assert cost_usd(CACHED, "m", "anthropic", {"m": price}) == pytest.approx(cost)


def test_a_part_that_exceeds_the_whole():
    """If a provider reports more one-hour writes than writes, the cost does not become negative."""
    invalid_usage = Usage(
        cache_write_input_tokens=MILLION, cache_write_1h_input_tokens=50 * MILLION
    )
    assert Price(1.0, 1.0, 1.0, 2.0, 4.0).cost(invalid_usage) == pytest.approx(4.0)


def test_an_absurd_figure():
    """A figure with hundreds of digits counts as 0. The largest accepted figure has a price."""
    usage = Usage(input_tokens=10**400, output_tokens=10**15)
    message = ChatMessage(role="assistant", content="hi")
    reply = Reply(message=message, stop_reason="end_turn", usage=usage)
    budget = Budget(dollars=1e12, prices={"claude-test": Price(1.0, 1.0)})
    with ModelServer([reply]) as server, make_client(server, budget=budget) as client:
        received = client.generate("x").usage
    assert (received.input_tokens, received.output_tokens) == (0, 10**15)
    assert budget.spent.dollars == 10**9


def test_an_unknown_price(monkeypatch):
    """Without genai-prices, a model that the table does not contain has no price."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert cost_usd(CACHED, "m", "anthropic") is None
    assert cost_usd(CACHED, "m", "anthropic", {"other": Price(1.0, 1.0)}) is None


class OldUsage:
    """Usage of the releases of genai-prices without one-hour writes."""

    known = ("input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens")

    def __init__(self, **figures):
        assert set(figures) <= set(self.known), figures
        self.figures = figures


class NewUsage(OldUsage):
    known = OldUsage.known + ("cache_write_1h_tokens",)
    cache_write_1h_tokens = None


@pytest.fixture
def package(monkeypatch):
    """Replace genai-prices by a stand-in.

    `.requests` records its calls. The model "m" costs half a dollar.
    """

    def calc_price(usage, model_ref, *, provider_id=None):
        module.requests.append((usage.figures, model_ref, provider_id))
        if model_ref != "m":
            raise LookupError(f"Unable to find model with model_ref={model_ref!r}")
        return types.SimpleNamespace(total_price="0.5")

    module = types.SimpleNamespace(Usage=NewUsage, calc_price=calc_price, requests=[])
    monkeypatch.setitem(sys.modules, "genai_prices", module)
    return module


def test_genai_prices_is_used(package):
    """genai-prices receives its own provider name, and the input including its cached part.

    It receives the one-hour writes only in releases that support them.
    """
    assert cost_usd(CACHED, "m", "bedrock") == 0.5
    figures = {
        "input_tokens": 5 * MILLION,
        "cache_read_tokens": MILLION,
        "cache_write_tokens": 3 * MILLION,
        "cache_write_1h_tokens": MILLION,
        "output_tokens": MILLION,
    }
    assert package.requests == [(figures, "m", "aws")]
    package.Usage = OldUsage
    assert cost_usd(CACHED, "m", "somebody else") == 0.5
    del figures["cache_write_1h_tokens"]
    assert package.requests[1] == (figures, "m", None)


def test_the_table_takes_precedence(package):
    """A model in the table is not looked up. A model that nothing knows has no price."""
    prices = {"m": Price(2.0, 1.0)}
    assert cost_usd(Usage(input_tokens=MILLION), "m", "anthropic", prices) == 2.0
    assert package.requests == []
    assert cost_usd(CACHED, "unheard-of", "anthropic") is None


# genai-prices itself, which needs Python 3.9; the extra `test` installs it

if sys.version_info >= (3, 9):
    KNOWN = [
        ("anthropic", "claude-sonnet-4-5"),
        ("bedrock", "anthropic.claude-3-haiku-20240307-v1:0"),
        ("openai", "gpt-4o"),
    ]

    def test_every_provider_has_a_known_model():
        """KNOWN has a model for each provider that is translated."""
        assert {provider for provider, _ in KNOWN} == set(GENAI_PRICES_PROVIDERS)

    @pytest.mark.parametrize("provider, model", KNOWN)
    def test_the_real_package(provider, model):
        """genai-prices knows our providers and models, and prices cached input separately."""
        package = import_or_skip("genai_prices")
        alone = package.calc_price(
            package.Usage(input_tokens=1000),
            model_ref=model,
            provider_id=GENAI_PRICES_PROVIDERS[provider],
        )
        cost = cost_usd(Usage(input_tokens=1000), model, provider)
        assert cost == pytest.approx(float(alone.total_price))
        parts = [
            Usage(input_tokens=1000),
            Usage(output_tokens=1000),
            Usage(cache_read_input_tokens=1000),
            Usage(cache_write_input_tokens=1000),
        ]
        costs = [cost_usd(part, model, provider) for part in parts]
        assert all(cost > 0 for cost in costs[:2]) and costs[1] > costs[0]
        assert cost_usd(sum(parts, Usage()), model, provider) == pytest.approx(sum(costs))

    def test_the_real_package_and_the_prompt_cache():
        """Anthropic's cache reads cost 0.1 times the input price, and cache writes 1.25 times."""
        import_or_skip("genai_prices")
        model = ("claude-sonnet-4-5", "anthropic")
        fresh = cost_usd(Usage(input_tokens=1000), *model)
        read = cost_usd(Usage(cache_read_input_tokens=1000), *model)
        written = cost_usd(Usage(cache_write_input_tokens=1000), *model)
        assert read == pytest.approx(0.1 * fresh)
        assert written == pytest.approx(1.25 * fresh)

    def test_the_real_package_and_unknown_models():
        """An unknown model has no price, and an inconsistent usage costs nothing."""
        import_or_skip("genai_prices")
        assert cost_usd(CACHED, "unheard-of", "anthropic") is None
        invalid_usage = Usage(cache_write_1h_input_tokens=5)
        assert cost_usd(invalid_usage, "claude-sonnet-4-5", "anthropic") == 0


# Budgets

RETRY_NOW = {"retry-after-ms": "1"}


def make_client(server, **options):
    return AnthropicInferenceClient(model="claude-test", api_key="k", api_url=server.url, **options)


def outcomes(function, number):
    """Call a function on several threads that start together. Return the results and errors."""
    start, results = threading.Barrier(number), queue.SimpleQueue()

    def work():
        start.wait(20)
        try:
            results.put(function())
        except BaseException as error:
            results.put(error)

    for _ in range(number):
        threading.Thread(target=work, daemon=True).start()
    return [results.get(timeout=30) for _ in range(number)]


def test_requests_are_exact_under_threads():
    """Of a hundred simultaneous requests, exactly the number in the budget succeeds."""
    budget = Budget(requests=30)
    with ModelServer(lambda body: "hello") as server, make_client(server, budget=budget) as client:
        results = outcomes(lambda: client.generate("x"), 100)
        refused = [outcome for outcome in results if isinstance(outcome, BudgetExceeded)]
        assert (len(refused), len(server.requests)) == (70, 30)
        assert budget.spent.requests == 30
        replies = [outcome for outcome in results if outcome not in refused]
        assert client.usage == sum((reply.usage for reply in replies), Usage())
        assert budget.spent.tokens == client.usage.total_tokens


def test_tokens():
    """When the budget is used up, no request is sent. The error names the limit and the usage."""
    budget = Budget(tokens=1)
    client = ScriptedInferenceClient(["one", "never"], budget=budget, max_retries=5)
    reply = client.generate("x")
    assert budget.spent == (reply.usage.total_tokens, 1, 0.0)
    message = r"the budget of 1 tokens is used up \(\d+ spent\): the request was not sent"
    for send in (client.generate, client.stream, lambda text: client.run_tools(text, [])):
        with pytest.raises(BudgetExceeded, match=message):
            send("x")
    assert (len(client.requests), budget.spent.requests) == (1, 1)


def test_dollars():
    """Costs are computed from the table. A request to a model without a price is not sent."""
    budget = Budget(dollars=0.001, prices={"scripted": Price(100.0, 0.0)})
    client = ScriptedInferenceClient(["one", "two", "three"], budget=budget)
    usage = client.generate("x" * 400).usage
    assert budget.spent.dollars == pytest.approx(usage.input_tokens * 100 / 1e6)
    with pytest.raises(BudgetExceeded, match="0.001 dollars"):
        client.generate("x")
    unknown = client.with_options(model="unheard-of", budget=Budget(dollars=1.0, requests=1))
    with pytest.raises(ValueError, match="what unheard-of costs"):
        unknown.generate("x")
    assert (unknown.budget.spent.requests, len(client.requests)) == (0, 1)


def test_a_block_applies_to_its_threads():
    """A `with` block applies to all its requests, also in tools on threads and nested agents."""

    def model(body):
        if body["messages"][0]["content"] == "leaf":
            return "leaf"
        return "done" if len(body["messages"]) > 1 else calls(("deeper", {}), ("deeper", {}))

    client = ScriptedInferenceClient(model)

    @tool
    def deeper() -> str:
        with Budget() as inner:
            text = client.run_tools("leaf", [deeper]).text
        spent.append(inner.spent.requests)
        return text

    spent, outer = [], Budget(requests=5)
    with outer, Budget(tokens=10**9) as middle:
        client.run_tools("root", [deeper])
        assert (outer.spent.requests, middle.spent.requests, spent) == (4, 4, [1, 1])
        client.generate("leaf")
        with pytest.raises(BudgetExceeded, match="5 requests"):
            client.generate("leaf")
    assert client.generate("leaf").text == "leaf"
    last_two = client.generate("leaf").usage.total_tokens
    assert outer.spent.tokens == middle.spent.tokens == client.usage.total_tokens - 2 * last_two


def test_a_budget_is_charged_once():
    """A budget that applies several times to a request is charged once."""
    budget = Budget()
    client = ScriptedInferenceClient(["one"], budget=budget)
    with budget, budget:
        usage = client.generate("x").usage
    assert budget.spent == (usage.total_tokens, 1, 0.0)


def test_all_budgets_or_none():
    """A request that one budget refuses is not counted in another."""
    wide, narrow = Budget(requests=5), Budget(requests=0)
    client = ScriptedInferenceClient([], budget=narrow)
    with wide, pytest.raises(BudgetExceeded):
        client.generate("x")
    assert wide.spent.requests == narrow.spent.requests == 0


def test_retries_count():
    """Every retry counts as a request."""
    budget = Budget(requests=3)
    answers = [
        Failure(529, "overloaded_error", headers=RETRY_NOW),
        Failure(500, headers=RETRY_NOW),
        "at last",
    ]
    with ModelServer(answers) as server, make_client(server, budget=budget) as client:
        assert client.generate("x").text == "at last"
        assert (budget.spent.requests, len(server.requests)) == (3, 3)


def test_retries_never_exceed_a_budget_of_requests():
    """However many requests fail, the server receives no more than the budget allows."""
    overloaded = Failure(529, "overloaded_error", headers=RETRY_NOW)
    budget = Budget(requests=4)
    failures = []

    with ModelServer(lambda body: overloaded) as server:
        with make_client(server, budget=budget, max_retries=2) as client:
            for _ in range(3):
                with pytest.raises(InferenceError) as caught:
                    client.generate("x")
                failures.append(type(caught.value))
            assert (budget.spent.requests, len(server.requests)) == (4, 4)
    assert failures == [OverloadedError, BudgetExceeded, BudgetExceeded]


def test_a_refused_retry_names_the_failure():
    """The cause of a retry's BudgetExceeded is the error of the previous attempt."""
    answers = [Failure(529, "overloaded_error", headers=RETRY_NOW)]
    with ModelServer(answers) as server:
        with make_client(server, budget=Budget(requests=1)) as client:
            with pytest.raises(BudgetExceeded) as caught:
                client.generate("x")
            assert isinstance(caught.value.__cause__, OverloadedError)


def test_a_refused_request_gives_its_slot_back():
    """A request whose budget is used up while it waits for the rate limit frees its slot."""
    limit = RateLimit(requests_per_minute=1)
    budget = Budget(requests=2)
    client = ScriptedInferenceClient(lambda body: "fine", budget=budget)
    limited = client.with_options(rate_limit=limit)
    with Clock() as clock:
        limited.generate("first")
        waiting = Background(limited.generate, "second")
        clock.block_until(waiting=1)
        client.generate("third")
        clock.advance(60)
        with pytest.raises(BudgetExceeded):
            waiting.result()
        limited.with_options(budget=None).generate("fourth", timeout=30)
    assert len(client.requests) == 3


def test_threads_never_exceed_a_budget_of_requests():
    """Threads that retry at the same time share the budget exactly."""
    overloaded = Failure(529, "overloaded_error", headers=RETRY_NOW)
    budget = Budget(requests=10)
    barrier = threading.Barrier(8)

    def ask(client):
        barrier.wait(20)
        for _ in range(3):
            with pytest.raises((BudgetExceeded, OverloadedError)):
                client.generate("x")

    with ModelServer(lambda body: overloaded) as server:
        with make_client(server, budget=budget, max_retries=1) as client:
            for call in [Background(ask, client) for _ in range(8)]:
                call.result()
            assert (budget.spent.requests, len(server.requests)) == (10, 10)


def test_a_retry_is_refused_when_the_budget_is_used_up():
    """If other requests use up the budget meanwhile, a failed request is not retried."""
    budget = Budget(tokens=100)

    def model(body):
        budget.add(Usage(input_tokens=100), "claude-test", "anthropic")
        return Failure(529, "overloaded_error", headers=RETRY_NOW)

    with ModelServer(model) as server, make_client(server, budget=budget, max_retries=5) as client:
        with pytest.raises(BudgetExceeded):
            client.generate("x")
        assert len(server.requests) == 1


def test_a_failure_costs_nothing():
    """A request without a reply is counted, without tokens and cost."""
    budget = Budget()
    client = ScriptedInferenceClient(
        [Failure(529, "overloaded_error")], budget=budget, max_retries=0
    )
    with pytest.raises(OverloadedError):
        client.generate("x")
    assert budget.spent == (0, 1, 0.0)


# Budgets and incomplete replies


def hold(request, number):
    """Stop a stream after its first text, until the client disconnects."""
    return threading.Event() if number > 3 else None


def cut(request, number):
    """Break the connection after the first text."""
    if number > 3:
        raise OSError("the connection breaks")


def test_an_interrupted_stream_is_charged():
    """A broken stream is charged with the usage received so far, because the provider bills it."""
    budget = Budget()
    with ModelServer(["some words to say"], before_event=cut) as server:
        with make_client(server, budget=budget) as client:
            with pytest.raises(StreamInterrupted) as caught:
                list(client.stream("x"))
            assert caught.value.text == "some "
            spent = budget.spent.tokens
            assert spent == caught.value.usage.total_tokens == client.usage.total_tokens > 0


def test_a_closed_stream_is_charged():
    """A stream that its reader closes early is charged."""
    budget = Budget()
    with ModelServer(["some words to say"], before_event=hold) as server:
        with make_client(server, budget=budget) as client:
            with client.stream("x") as stream:
                assert next(stream).text == "some "
            assert budget.spent.tokens == client.usage.total_tokens > 0
            assert server.requests[0].disconnected.wait(20)


def test_a_cancelled_stream_is_charged():
    """A stream that is cancelled while its reader waits is charged."""
    budget, token = Budget(), Cancellation()
    with ModelServer(["some words to say"], before_event=hold) as server:
        with make_client(server, budget=budget) as client:
            stream = client.stream("x", cancellation=token)
            assert next(stream).text == "some "
            waiting = Background(next, stream)
            wait_for(lambda: server.requests[0].sent == 4)
            token.cancel("enough")
            with pytest.raises(Cancelled, match="enough") as caught:
                waiting.result()
            assert caught.value.partial.text == "some "
            assert budget.spent.tokens == client.usage.total_tokens > 0


def test_a_complete_stream_is_charged_once():
    """Closing a stream after its end charges nothing more."""
    budget = Budget()
    with ModelServer(lambda body: "words") as server, make_client(server, budget=budget) as client:
        with client.stream("x") as stream:
            list(stream)
        assert budget.spent == (stream.reply.usage.total_tokens, 1, 0.0)
        assert client.usage == stream.reply.usage


def test_a_stream_is_charged_where_it_was_requested():
    """A stream is charged to the budgets of its request's context, on any reader's thread."""
    client = ScriptedInferenceClient(lambda body: "words")
    with Budget() as mine:
        streams = [client.stream("x"), client.stream_tools("x", [])]
    with Budget() as other:
        for stream in streams:
            Background(list, stream).result()
    assert (mine.spent.requests, other.spent.requests) == (2, 0)
    assert mine.spent.tokens == client.usage.total_tokens


# Budgets and generators


def budgets():
    return scope.current().budgets


def generate_in_block(client, budget):
    with budget:
        for _ in range(2):
            client.generate("x")
            yield


def test_blocks_of_generators_end_in_any_order():
    """Blocks of generators that alternate and end out of order remove only their own budgets."""
    client = ScriptedInferenceClient(lambda body: "words")
    outcome, two = Budget(), Budget()
    first, second = generate_in_block(client, outcome), generate_in_block(client, two)
    next(first), next(second)
    first.close()
    next(second)
    assert budgets() == (two,)
    second.close()
    assert (budgets(), two.spent.requests) == ((), 2)


def test_a_block_that_ends_on_another_thread():
    """A generator that is closed on another thread does not change that thread's own budgets."""
    client = ScriptedInferenceClient(lambda body: "words")
    generator = generate_in_block(client, Budget())
    own = Budget()

    def elsewhere():
        with own:
            generator.close()
            client.generate("x")

    with Budget():
        next(generator)
        Background(elsewhere).result()
    assert own.spent.requests == 1
    scope.replace(budgets=())


def test_the_repr_of_a_budget():
    """The repr shows the limits and the usage."""
    spent = "BudgetUsage(tokens=0, requests=0, dollars=0.0)"
    assert repr(Budget(tokens=5, dollars=0.5)) == f"<Budget(tokens=5, dollars=0.5): {spent}>"
