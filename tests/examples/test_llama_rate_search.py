"""The search for peak rates, on losses that are known."""

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.llama.study.search import Rates, best, edges, propose

Loss = Callable[[Rates], float]

ONE, TWO = Rates(3e-3), Rates(3e-3, 2e-2)

_octaves = st.floats(-3, 3)
_bends = st.floats(0.2, 1.2) | st.floats(-1.2, -0.2)


def _valley(bend: float, bottom: float) -> Callable[[float], float]:
    """A smooth convex function with its minimum at `bottom`, steeper on one side than the other."""
    return lambda x: math.exp(bend * (x - bottom)) - bend * (x - bottom)


def _search(start: Rates, loss: Loss, tries: int) -> list[tuple[Rates, float]]:
    tried: list[tuple[Rates, float]] = []
    for _ in range(tries):
        rates = propose(start, tried)
        tried.append((rates, loss(rates)))
    return tried


def _octaves_between(a: float, b: float) -> float:
    return abs(math.log2(a / b))


@pytest.mark.parametrize("start", [ONE, TWO])
def test_first_proposal_is_the_start(start: Rates) -> None:
    assert propose(start, []) == start


@given(bend=_bends, bottom=_octaves)
def test_one_rate_comes_near_the_best_that_is_within_a_factor_of_8(
    bend: float, bottom: float
) -> None:
    optimum, valley = ONE.matrices * 2**bottom, _valley(bend, bottom)
    tried = _search(ONE, lambda r: valley(math.log2(r.matrices / ONE.matrices)), 7)
    assert _octaves_between(best(tried[:4]).matrices, optimum) <= 1
    assert _octaves_between(best(tried).matrices, optimum) <= 0.5


@given(bends=st.tuples(_bends, _bends), bottoms=st.tuples(_octaves, _octaves), weight=_octaves)
def test_two_rates_come_near_the_best_that_are_within_a_factor_of_8(
    bends: tuple[float, float], bottoms: tuple[float, float], weight: float
) -> None:
    matrices, rest = map(_valley, bends, bottoms)

    def loss(rates: Rates) -> float:
        assert rates.rest is not None
        assert TWO.rest is not None
        return matrices(math.log2(rates.matrices / TWO.matrices)) + 2**weight * rest(
            math.log2(rates.rest / TWO.rest)
        )

    tried = _search(TWO, loss, 21)
    for tries, octaves in ((10, 1.0), (21, 0.5)):
        found = best(tried[:tries])
        for rate, start, bottom in zip(found, TWO, bottoms, strict=True):
            assert rate is not None
            assert start is not None
            assert _octaves_between(rate, start * 2**bottom) <= octaves


@given(
    start=st.sampled_from([ONE, TWO]),
    losses=st.lists(st.floats(0, 10) | st.just(math.inf), min_size=14, max_size=14),
)
def test_whatever_the_losses_no_rates_are_tried_twice(start: Rates, losses: list[float]) -> None:
    unused = iter(losses)
    tried = _search(start, lambda _: next(unused), len(losses))
    for (first, _), (second, _) in itertools.combinations(tried, 2):
        apart = [a and b and _octaves_between(a, b) for a, b in zip(first, second, strict=True)]
        assert any(octaves and octaves > 1e-3 for octaves in apart)


@given(losses=st.lists(st.floats(0, 10) | st.just(math.inf), max_size=12))
def test_search_that_goes_on_from_its_tries_is_the_same_search(losses: list[float]) -> None:
    unused = iter(losses)
    tried = _search(TWO, lambda _: next(unused), len(losses))
    assert [propose(TWO, tried[:count]) for count in range(len(tried))] == [r for r, _ in tried]


def test_search_does_not_end_where_the_start_is_best() -> None:
    tried = _search(ONE, lambda r: _octaves_between(r.matrices, ONE.matrices), 9)
    assert best(tried) == ONE
    distances = [_octaves_between(rates.matrices, ONE.matrices) for rates, _ in tried[1:]]
    assert distances == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125])


@given(option=st.sampled_from(["matrices", "rest"]), factor=st.sampled_from([2.0, 0.5]))
def test_improvement_is_followed_as_long_as_it_lasts(option: str, factor: float) -> None:
    other = "rest" if option == "matrices" else "matrices"

    def loss(rates: Rates) -> float:
        # falls in one direction without end, and rises with any move of the other rate
        gain = math.log(getattr(rates, option) / getattr(TWO, option), factor)
        return 10 * _octaves_between(getattr(rates, other), getattr(TWO, other)) - gain

    tried = [rates for rates, _ in _search(TWO, loss, 9)]
    first = tried.index(TWO.scaled(option, factor))
    for count, rates in enumerate(tried[first:], start=1):
        assert getattr(rates, option) == pytest.approx(getattr(TWO, option) * factor**count)


def test_tries_that_diverged_are_left_behind() -> None:
    def loss(rates: Rates) -> float:
        too_large = rates.matrices > 1.5 * ONE.matrices
        return math.inf if too_large else _octaves_between(rates.matrices, ONE.matrices / 4)

    tried = _search(ONE, loss, 6)
    assert [math.isinf(loss) for _, loss in tried] == [False, True, False, False, False, False]
    assert best(tried).matrices == pytest.approx(ONE.matrices / 4)


def test_best_of_equals_is_the_earlier() -> None:
    assert best([(Rates(1.0), 2.0), (Rates(3.0), 1.0), (Rates(2.0), 1.0)]) == Rates(3.0)


_powers = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])


@given(
    tried=st.dictionaries(st.builds(Rates, _powers, _powers), st.floats(0, 10), min_size=1),
)
def test_ends_are_open_exactly_where_nothing_was_tried_beyond(tried: dict[Rates, float]) -> None:
    found = best(list(tried.items()))
    expected = []
    for value, tries, name in (
        (found.matrices, [r.matrices for r in tried], "rate"),
        (found.rest, [r.rest for r in tried], "rate of the rest"),
    ):
        if value == max(tries):
            expected.append(f"no larger {name} was tried")
        if value == min(tries):
            expected.append(f"no smaller {name} was tried")
    assert edges(tried) == expected


def test_one_rate_has_no_ends_of_the_other() -> None:
    assert edges({Rates(1.0): 2.0, Rates(2.0): 1.0, Rates(4.0): math.inf}) == []
    assert edges({Rates(1.0): 2.0, Rates(2.0): 1.0}) == ["no larger rate was tried"]


def test_rates_are_shown_as_matrices_and_rest() -> None:
    assert str(Rates(2**-9.5, 0.04)) == "0.00138 / 0.04"
    assert str(Rates(1e-3)) == "0.001"
