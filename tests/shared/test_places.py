from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tracelet_shim.backends.shared.places import Places


class Store:
    """A tracker that keeps one value a key and step, and the way of points into it."""

    def __init__(self, repeats: int) -> None:
        self.places = Places(repeats)
        self.points: dict[tuple[str, int, int], int] = {}
        self.more: list[tuple[str, int, int]] = []
        self.asked = 0

    def put(self, key: str, step: int, value: int) -> None:
        for place in self.places.candidates(key, step):
            self.asked += 1
            if (key, place, step) not in self.points:
                self.points[key, place, step] = value
                self.places.took(key, step, place)
                return
        self.places.took(key, step, self.places.repeats)
        self.more.append((key, step, value))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=60), st.integers(0, 3))
def test_no_point_takes_anothers_place(points: list[tuple[str, int]], repeats: int) -> None:
    store = Store(repeats)
    for value, (key, step) in enumerate(points):
        store.put(key, step, value)
    kept = [(key, step, value) for (key, _, step), value in store.points.items()] + store.more
    assert sorted(kept, key=lambda point: point[2]) == [(key, step, value) for value, (key, step) in enumerate(points)]
    for key in "ab":
        for step in range(4):
            own = [value for value, point in enumerate(points) if point == (key, step)]
            in_places = [store.points[key, place, step] for place in range(repeats + 1) if (key, place, step) in store.points]
            assert in_places == own[: repeats + 1]  # in order: the first one has the key's own place


def test_a_program_that_knows_one_step_does_not_try_all_places_each_time() -> None:
    store = Store(8)
    for value in range(1000):
        store.put("a", 0, value)
    assert store.asked < 30


def test_what_may_be_the_point_itself_is_tried_too() -> None:
    places = Places(2)
    places.took("a", 5, 2)
    assert list(places.candidates("a", 5)) == []
    assert list(places.candidates("a", 5, known_too=True)) == [0, 1, 2]
    assert list(places.candidates("a", 6)) == [0, 1, 2]


def _fill(took: Callable[[int], None]) -> None:
    for key in range(25_000):
        took(key)


def test_memory_is_bounded() -> None:
    places = Places(1)
    _fill(lambda key: places.took(key, 0, 1))
    assert len(places._next) <= 10_000
