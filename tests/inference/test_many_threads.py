"""One client in a hundred threads, with a server that fails a third of its requests."""

import collections
import itertools
import threading

from asimov_sync import ChatMessage, InferenceError, Reply, Usage
from asimov_sync.testing import Failure, last_text

from ..tiers import suite
from ..waiting import Background

pytestmark = suite

THREADS, CALLS = 100, 5
FAILURES = itertools.cycle(
    [
        Failure(429, "rate_limit_error", "slowly", {"retry-after-ms": "1"}),
        Failure(529, "overloaded_error", "busy", {"retry-after-ms": "1"}),
        Failure(500, "api_error", "broken", {"retry-after-ms": "1"}),
    ]
)


def test_usage_is_exact(serve):
    """Every call returns its own reply or raises a typed error. Usage equals the server's count."""
    numbers, lock = itertools.count(1), threading.Lock()
    usages, attempts, failed_questions = [], collections.Counter(), []

    def script(body):
        with lock:
            number = next(numbers)
            prompt = last_text(body)
            attempts[prompt] += 1
            if number % 3 == 0:
                failed_questions.append(prompt)
                return next(FAILURES)
            usage = Usage(
                input_tokens=number,
                output_tokens=2 * number,
                cache_read_input_tokens=number % 7,
                cache_write_input_tokens=3,
                cache_write_5m_input_tokens=1,
                cache_write_1h_input_tokens=2,
                requests=1,
            )
            usages.append(usage)
        message = ChatMessage(
            role="assistant", content=[{"type": "text", "text": "answer to " + prompt}]
        )
        return Reply(message=message, stop_reason="end_turn", usage=usage, model="m", id="r")

    client, server = serve(script, {"max_retries": 2})
    barrier = threading.Barrier(THREADS)

    def send(thread):
        outcomes = []
        barrier.wait(20)
        for call in range(CALLS):
            question = f"question {thread}-{call}"
            try:
                if call % 2:
                    reply = client.generate(question)
                else:
                    with client.stream(question) as stream:
                        assert "".join(stream.text_stream) == "answer to " + question
                    reply = stream.reply
                assert reply.text == "answer to " + question
                outcomes.append(None)
            except InferenceError as error:
                assert error.attempts == 3
                outcomes.append(error)
        return outcomes

    outcomes = [
        outcome
        for call in [Background(send, n) for n in range(THREADS)]
        for outcome in call.result(60)
    ]
    assert len(outcomes) == THREADS * CALLS
    assert len(failed_questions) == len(server.requests) // 3 > 100
    assert max(attempts.values()) <= 3
    assert sum(attempts.values()) == len(server.requests)
    total = Usage()
    for usage in usages:
        total = total + usage
    assert client.usage == total
    assert client.usage.requests == len([outcome for outcome in outcomes if outcome is None])
