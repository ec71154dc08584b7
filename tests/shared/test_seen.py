from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracelet_shim.backends.shared.seen import Seen

POINTS = st.lists(st.integers(0, 5), max_size=30)


@given(POINTS, POINTS, st.booleans())
def test_what_comes_again_is_there_once(stored: list[int], new: list[int], in_order: bool) -> None:
    """A killed process stored the first points of what comes; it comes again, whole. (Two that are alike are two.)"""
    seen = Seen(stored, in_order=in_order)
    kept = stored + [point for point in stored + new if not seen.take(point)]
    assert sorted(kept) == sorted(stored + new)


def test_in_order_the_first_new_one_ends_the_search() -> None:
    assert [Seen([1, 2]).take(point) for point in (3, 1)] == [False, True]
    seen = Seen([1, 2], in_order=True)
    assert [seen.take(point) for point in (1, 3, 2)] == [True, False, False]
    assert not seen


def test_a_copy_is_told_off_alone() -> None:
    seen = Seen([1])
    assert seen.copy().take(1)
    assert seen.take(1)
    assert not seen.take(1)
    again = Seen([1])
    again.clear()
    assert not again
    assert not again.take(1)


def test_a_row_has_one_time_for_all_its_points() -> None:
    seen = Seen([("a", 1.0), ("a", 5.0), ("b", float("nan"))], within=0.01)
    assert [seen.take("a", when) for when in (3.0, 5.005, 5.005, 1.0)] == [False, True, False, True]
    assert not seen.take("b", 1.0)
    assert seen.take("b", float("inf"))
    assert not seen


@given(POINTS)
def test_a_store_may_be_read_bit_by_bit(stored: list[int]) -> None:
    """What is added is as what was there from the beginning."""
    seen = Seen()
    for point in stored:
        seen.add(point)
    assert [seen.take(point) for point in stored + stored] == [True] * len(stored) + [False] * len(stored)
