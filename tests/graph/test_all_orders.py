"""RunState in every order: small graphs, exhaustively, in all orders of starts and ends."""

import itertools
import random

import hypothesis
from hypothesis import strategies

from ..tiers import by_tier, suite
from .by_hand import ByHand, in_every_order
from .reference import Do, Spec, interpret
from .scenarios import Relations, determined, scenarios

pytestmark = suite

NAMES = "abcde"

COUNT_OF_FOUR, COUNT_OF_FIVE, COUNT_OF_LOOPS = 3736, 11533, 6408
"""The numbers of scenarios, so that none is lost unnoticed."""

EVERY = by_tier(20, soak=1)
"""All orders are tried for every scenario in the soak tier, for every tenth one in the suite."""


def graphs(size):
    """Return the dependencies of every acyclic graph of a size, up to renaming of its tasks."""
    edges = [(before, after) for after in range(size) for before in range(after)]
    seen = set()
    for chosen in itertools.product([False, True], repeat=len(edges)):
        graph = [edge for edge, there in zip(edges, chosen) if there]
        if frozenset(graph) not in seen:
            for order in itertools.permutations(range(size)):
                seen.add(frozenset((order[before], order[after]) for before, after in graph))
            yield [
                tuple(NAMES[before] for before, after in graph if after == index)
                for index in range(size)
            ]


def subsets(values):
    return [
        chosen for size in range(len(values) + 1) for chosen in itertools.combinations(values, size)
    ]


def ways(name, dependencies):
    """Return how a task can end as far as others are concerned: complete, partial, fail, routes."""
    behind = [NAMES[index] for index, before in enumerate(dependencies) if name in before]
    return [Do(), Do("partial"), Do("fail")] + [
        Do("route", names) for names in subsets(behind)[:-1]
    ]


def specs_of(dependencies, dos, allowing=()):
    return [
        Spec(NAMES[index], before, NAMES[index] in allowing, script=((do,),))
        for index, (before, do) in enumerate(zip(dependencies, dos))
    ]


def explore(specs, number):
    """Try all orders of the scenario of this number.

    Returns False for a duplicate: a scenario in which a task that never starts differs.
    """
    expected = interpret(specs)
    if any(spec.script != ((Do(),),) and spec.name not in expected.order for spec in specs):
        return False
    if number % EVERY == 0:
        in_every_order(specs, expected)
    return True


def test_every_graph_of_up_to_four_tasks():
    """Tasks complete, fail or route forwards, one is partial; none, all or one allow failure."""
    count = 0
    for size in range(1, 5):
        for dependencies in graphs(size):
            for dos in itertools.product(*[ways(name, dependencies) for name in NAMES[:size]]):
                if [do.end for do in dos].count("partial") > 1:
                    continue
                fails = any(do.end == "fail" for do in dos)
                behind = [name for name, before in zip(NAMES, dependencies) if before]
                some = [[name] for name in behind] if len(behind) > 1 and size < 4 else []
                for allowing in [[], behind] + some if fails else [[]]:
                    count += explore(specs_of(dependencies, dos, allowing), count)
    assert count == COUNT_OF_FOUR


def test_every_graph_of_five_tasks():
    """All tasks complete, except for one or two.

    Either one task fails, is partial or routes to at most one dependent; or one task fails, and
    another is partial or routes to no dependent.
    """
    count = 0
    for dependencies in graphs(5):
        others = {name: ways(name, dependencies)[1:] for name in NAMES}
        for odd in subsets(NAMES)[1:16]:
            for chosen in itertools.product(*[others[name] for name in odd]):
                if any(len(do.names) > 2 - len(odd) for do in chosen) or len(set(chosen)) < len(
                    odd
                ):
                    continue
                if len(odd) == 2 and Do("partial") in chosen and Do("fail") not in chosen:
                    continue
                dos = [dict(zip(odd, chosen)).get(name, Do()) for name in NAMES]
                for allowing in ["", NAMES] if len(odd) == 1 and Do("fail") in dos else [""]:
                    count += explore(specs_of(dependencies, dos, allowing), count)
    assert count == COUNT_OF_FIVE


def loops_of(dependencies):
    """Return every loop that a task can make: to itself, or to one or two tasks upstream."""
    bare = Relations([Spec(name, before) for name, before in zip(NAMES, dependencies)])
    for name in NAMES[: len(dependencies)]:
        for targets in subsets(bare.before(name)):
            if 0 < len(targets) < 3:
                yield name, targets


def test_every_loop_in_graphs_of_up_to_four_tasks():
    """One task loops once, twice or until refused; another fails, routes or lacks a visit."""
    count = 0
    for size in range(1, 5):
        for dependencies in graphs(size):
            names = NAMES[:size]
            for looper, targets in loops_of(dependencies):
                for back, most in ((1, 5), (2, 2), (1, 1)):
                    loop = ((Do("route", targets),),) * back + (((Do(),),) if most > 1 else ())
                    odd = [("", Do(), most)]
                    if most > 1:  # otherwise the loop is refused, which another test covers
                        others = [name for name in names if name != looper]
                        odd += [
                            (name, do, most)
                            for name in others
                            for do in ways(name, dependencies)[2 : 3 if back > 1 else None]
                        ]
                        odd += [(name, Do(), 1) for name in others if name not in targets]
                    for other, do, visits in odd:
                        specs = [
                            Spec(
                                name,
                                before,
                                allow_failure=most == 2,
                                max_visits=visits if name == other else most,
                                script=loop
                                if name == looper
                                else ((do if name == other else Do(),),),
                            )
                            for name, before in zip(names, dependencies)
                        ]
                        count += explore(determined(specs), count)
    assert count == COUNT_OF_LOOPS


@hypothesis.settings(max_examples=by_tier(150, soak=300))
@hypothesis.given(scenarios(), strategies.integers(0, 2**32))
def test_any_scenario_in_any_order(specs, seed):
    """With conditions, retries, loops and spawns, too, each order ends like the reference."""
    chance, run = random.Random(seed), ByHand(specs)
    moves = run.moves()
    while moves:
        run.make(chance.choice(moves))
        moves = run.moves()
    run.compare(interpret(specs))


@hypothesis.settings(max_examples=by_tier(100, soak=200))
@hypothesis.given(scenarios(), strategies.integers(0, 2**32))
def test_reference_does_not_depend_on_order(specs, seed):
    """For scenarios that the strategy calls determined, the reference's order is irrelevant."""
    expected, other = interpret(specs), interpret(specs, choose=random.Random(seed).choice)
    assert other[:5] == expected[:5]
    calm = {spec.name for spec in specs if not spec.loose}
    assert {name: expected.visits[name] for name in calm & set(expected.visits)} == {
        name: other.visits[name] for name in calm & set(other.visits)
    }
