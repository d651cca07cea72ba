"""A stand-in for a language model that picks sentences instead of inventing them.

It replies over the real API, as a function of the request, for users without a key. It first calls
the tool that it is offered. Then it chooses the sentences with most of the words that the tool
returned or, without a tool, with most of the frequent words of the text.
"""

import collections
import json
import re
from typing import Any, Dict, List, Mapping

from asimov_sync.testing import calls, last_text, tool_results

SENTENCES = 2
WORD = re.compile(r"[^\W\d_]{4,}")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\s])")
PARAMS = re.compile(r"<params>\n(.*?)\n</params>", re.DOTALL)
RESULT = re.compile(r"<result of=.*?>\n(.*?)\n</result>", re.DOTALL)


def answer(body: Dict[str, Any]) -> Any:
    """Return the model's reply to the body of a request."""
    offered = [tool["name"] for tool in body.get("tools", [])]
    results = tool_results(body)
    if offered and not results:
        params = json.loads(_first(PARAMS, last_text(body)))
        return calls((offered[0], {"source": params["source"]}))
    if results:
        params = json.loads(_first(PARAMS, body["messages"][0]["content"]))
        return _choose(params["text"], json.loads(next(iter(results.values()))))
    digests = " ".join(RESULT.findall(last_text(body)))
    return _choose(digests, collections.Counter(WORD.findall(digests.lower())))


def _first(pattern: "re.Pattern[str]", text: str) -> str:
    found = pattern.search(text)
    if found is None:
        raise ValueError("this stand-in only understands the prompts of brief.py")
    return found.group(1)


def _choose(text: str, weights: Mapping[str, int]) -> str:
    """Return the sentences with the highest weight for their length, in the order of the text."""
    sentences = [
        " ".join(sentence.split()) for block in _prose(text) for sentence in SENTENCE.split(block)
    ]
    sentences = [sentence for sentence in sentences if WORD.search(sentence)] or [
        " ".join(text.split())
    ]

    def weight(sentence: str) -> float:
        words: List[str] = WORD.findall(sentence.lower())
        return sum(weights.get(word, 0) for word in set(words)) / (5 + len(words))

    best = sorted(sentences, key=weight, reverse=True)[:SENTENCES]
    return " ".join(sentence for sentence in sentences if sentence in best)


def _prose(text: str) -> List[str]:
    """Return the paragraphs and list items, without code blocks and directives."""
    text = re.sub(r"^```.*?^```$", "", text.strip("\n"), flags=re.DOTALL | re.MULTILINE)
    blocks = re.split(r"\n\s*\n|\n(?=[-*] )", text)
    return [block.strip("-* \n") for block in blocks if not re.match(r"\s|\.\. ", block)]
