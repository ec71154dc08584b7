from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.sample_events import Maker
from tracelet_shim import events as ev
from tracelet_shim.backends.shared.rows import WALL_TOLERANCE, Keys, rows

SCALARS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([1.0, 1.001, 2.0, float("nan")])), max_size=30
)


def made(given_: list[tuple[str, int, float]]) -> list[ev.Scalar]:
    make = Maker()
    return [make.scalar(tag, float(i), step, wall) for i, (tag, step, wall) in enumerate(given_)]


@given(SCALARS)
def test_rows_have_all_scalars_in_order(given_: list[tuple[str, int, float]]) -> None:
    events = made(given_)
    found = list(rows(events, Keys(lambda event: event.path)))
    assert [item for _, row in found for item in row.items()] == [(event.path, event.value) for event in events]


@given(SCALARS)
def test_a_row_has_one_step_and_about_one_time(given_: list[tuple[str, int, float]]) -> None:
    events = {event.value: event for event in made(given_)}
    for first, row in rows(events.values(), Keys(lambda event: event.path)):
        for value in row.values():
            event = events[value]
            assert event.step == first.step
            assert event is first or abs(event.wall_time - first.wall_time) <= WALL_TOLERANCE


def test_each_key_of_a_batch_is_asked_for_once() -> None:
    make, asked = Maker(), []

    def key_of(event: ev.Scalar) -> str:
        asked.append(event.path)
        return event.path.upper()

    keys = Keys(key_of)
    events = [make.scalar("a", 1.0), make.scalar("a", 2.0), make.scalar("a", 3.0, series="b"), make.scalar("a/b", 4.0)]
    assert [keys.of(event) for event in events] == ["A", "A", "A/B", "A/B"]
    assert asked == ["a", "a/b", "a/b"]
