"""Budgets: exact under threads, wherever they hold; nothing is sent beyond them."""

import queue
import threading

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    Budget,
    BudgetExceeded,
    Cancellation,
    Cancelled,
    OverloadedError,
    Price,
    StreamInterrupted,
    Usage,
    tool,
)
from asimov_sync.budget import BUDGETS
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient, calls

from .waiting import Background, wait_for

AT_ONCE = {"retry-after-ms": "1"}


def asking(server, **options):
    return AnthropicInferenceClient(model="claude-test", api_key="k", api_url=server.url, **options)


def outcomes(function, number):
    """What `function()` returned or raised, on so many threads that start together."""
    start, told = threading.Barrier(number), queue.SimpleQueue()

    def work():
        start.wait(20)
        try:
            told.put(function())
        except BaseException as error:
            told.put(error)

    for _ in range(number):
        threading.Thread(target=work, daemon=True).start()
    return [told.get(timeout=30) for _ in range(number)]


def test_requests_are_exact_under_threads():
    """Of a hundred threads that ask at once, exactly as many get an answer as the budget has requests."""
    budget = Budget(requests=30)
    with ModelServer(lambda body: "hello") as server, asking(server, budget=budget) as client:
        told = outcomes(lambda: client.generate("x"), 100)
        refused = [one for one in told if isinstance(one, BudgetExceeded)]
        assert (len(refused), len(server.requests)) == (70, 30)
        assert budget.spent.requests == 30
        replies = [one for one in told if one not in refused]
        assert client.usage == sum((reply.usage for reply in replies), Usage())
        assert budget.spent.tokens == client.usage.total_tokens


def test_tokens():
    """The request after the one that used the budget up is not sent; the error says how much was spent of what."""
    budget = Budget(tokens=1)
    client = ScriptedInferenceClient(["one", "never"], budget=budget, max_retries=5)
    reply = client.generate("x")
    assert budget.spent == (reply.usage.total_tokens, 1, 0.0)
    for ask in (client.generate, client.stream, lambda text: client.run_tools(text, [])):
        with pytest.raises(BudgetExceeded, match=r"the budget of 1 tokens is used up \(\d+ spent\): the request was not sent"):
            ask("x")
    assert (len(client.requests), budget.spent.requests) == (1, 1)


def test_dollars():
    """Dollars are charged by the table; a model that nobody knows the price of is not asked at all."""
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


def test_a_block_and_its_threads():
    """A `with` block holds for all that is asked in it, by tools on their threads and agents in them too; blocks nest."""
    client = ScriptedInferenceClient(lambda body: "leaf" if body["messages"][0]["content"] == "leaf" else wanted(body))

    def wanted(body):
        return "done" if len(body["messages"]) > 1 else calls(("deeper", {}), ("deeper", {}))

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
    assert outer.spent.tokens == middle.spent.tokens == client.usage.total_tokens - client.generate("leaf").usage.total_tokens


def test_a_budget_holds_once():
    """A budget that a client has and a block too, or two blocks, is charged once for each request."""
    budget = Budget()
    client = ScriptedInferenceClient(["one"], budget=budget)
    with budget, budget:
        usage = client.generate("x").usage
    assert budget.spent == (usage.total_tokens, 1, 0.0)


def test_all_or_none():
    """A request that one budget does not allow is counted in no other."""
    wide, narrow = Budget(requests=5), Budget(requests=0)
    client = ScriptedInferenceClient([], budget=narrow)
    with wide, pytest.raises(BudgetExceeded):
        client.generate("x")
    assert wide.spent.requests == narrow.spent.requests == 0


def test_retries_are_one_request():
    """A request that is sent again counts once: a budget of one request does not stand in the way of its retries."""
    budget = Budget(requests=1)
    answers = [Failure(529, "overloaded_error", headers=AT_ONCE), Failure(500, headers=AT_ONCE), "at last"]
    with ModelServer(answers) as server, asking(server, budget=budget) as client:
        assert client.generate("x").text == "at last"
        assert (budget.spent.requests, len(server.requests)) == (1, 3)


def test_an_attempt_that_comes_too_late():
    """Where others have used the budget up in the meantime, a failed request is not sent again."""
    budget = Budget(tokens=100)

    def model(body):
        budget.add(Usage(input_tokens=100), "claude-test", "anthropic")
        return Failure(529, "overloaded_error", headers=AT_ONCE)

    with ModelServer(model) as server, asking(server, budget=budget, max_retries=5) as client:
        with pytest.raises(BudgetExceeded):
            client.generate("x")
        assert len(server.requests) == 1


def test_a_failure_costs_nothing():
    """A request that brought no reply is counted, and charged nothing."""
    budget = Budget()
    client = ScriptedInferenceClient([Failure(529, "overloaded_error")], budget=budget, max_retries=0)
    with pytest.raises(OverloadedError):
        client.generate("x")
    assert budget.spent == (0, 1, 0.0)


# Replies that were cut short


def held(request, number):
    """Holds a stream after the first piece of its text, until the client is gone."""
    return threading.Event() if number > 3 else None


def cut(request, number):
    if number > 3:
        raise OSError("the connection breaks")


def test_an_interrupted_stream_is_charged():
    """A stream that broke is billed by its provider, and charged as far as its figures were told."""
    budget = Budget()
    with ModelServer(["some words to say"], before_event=cut) as server, asking(server, budget=budget) as client:
        with pytest.raises(StreamInterrupted) as caught:
            list(client.stream("x"))
        assert caught.value.text == "some "
        assert budget.spent.tokens == caught.value.usage.total_tokens == client.usage.total_tokens > 0


def test_a_stream_that_its_reader_closes_is_charged():
    """So is one that is closed after its first words."""
    budget = Budget()
    with ModelServer(["some words to say"], before_event=held) as server, asking(server, budget=budget) as client:
        with client.stream("x") as stream:
            assert next(stream).text == "some "
        assert budget.spent.tokens == client.usage.total_tokens > 0
        assert server.requests[0].disconnected.wait(20)


def test_a_stream_that_is_cancelled_is_charged():
    """And one whose reader is freed by a cancellation while it waits for the rest."""
    budget, token = Budget(), Cancellation()
    with ModelServer(["some words to say"], before_event=held) as server, asking(server, budget=budget) as client:
        stream = client.stream("x", cancellation=token)
        assert next(stream).text == "some "
        waiting = Background(next, stream)
        wait_for(lambda: server.requests[0].sent == 4)
        token.cancel("enough")
        with pytest.raises(Cancelled, match="enough") as caught:
            waiting.result()
        assert caught.value.partial.text == "some "
        assert budget.spent.tokens == client.usage.total_tokens > 0


def test_a_whole_stream_is_charged_once():
    """Closing a stream after its end, or at its last event, adds nothing."""
    budget = Budget()
    with ModelServer(lambda body: "words") as server, asking(server, budget=budget) as client:
        with client.stream("x") as stream:
            list(stream)
        assert budget.spent == (stream.reply.usage.total_tokens, 1, 0.0)
        assert client.usage == stream.reply.usage


def test_a_stream_belongs_to_who_asked():
    """A stream is charged to the budgets that held where it was asked for, whoever reads it, and wherever."""
    client = ScriptedInferenceClient(lambda body: "words")
    with Budget() as mine:
        streams = [client.stream("x"), client.stream_tools("x", [])]
    with Budget() as other:
        for stream in streams:
            Background(list, stream).result()
    assert (mine.spent.requests, other.spent.requests) == (2, 0)
    assert mine.spent.tokens == client.usage.total_tokens


# Blocks in generators


def asked(client, budget):
    with budget:
        for _ in range(2):
            client.generate("x")
            yield


def test_blocks_of_generators():
    """Blocks of generators that take turns, and do not end in the order of their beginning, take only their own back."""
    client = ScriptedInferenceClient(lambda body: "words")
    one, two = Budget(), Budget()
    first, second = asked(client, one), asked(client, two)
    next(first), next(second)
    first.close()
    next(second)
    assert BUDGETS.get() == (two,)
    second.close()
    assert (BUDGETS.get(), two.spent.requests) == ((), 2)


def test_a_block_that_is_left_elsewhere():
    """A generator that is closed on another thread leaves that thread's own budgets alone."""
    client = ScriptedInferenceClient(lambda body: "words")
    generator = asked(client, Budget())
    own = Budget()

    def elsewhere():
        with own:
            generator.close()
            client.generate("x")

    with Budget():
        next(generator)
        Background(elsewhere).result()
    assert own.spent.requests == 1
    BUDGETS.set(())


def test_what_a_budget_shows():
    """Its limits, and what was spent."""
    assert repr(Budget(tokens=5, dollars=0.5)) == "<Budget(tokens=5, dollars=0.5): Spent(tokens=0, requests=0, dollars=0.0)>"
