from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet_shim.backends.shared.trials import Trials


class Run:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_open = True


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(1, 4))
def test_a_few_are_open_and_all_are_ended(order: list[str], most: int) -> None:
    ended: list[str] = []

    def end(run: Run) -> None:
        assert run.is_open
        run.is_open = False
        ended.append(run.name)

    trials = Trials[Run](most, end)
    opened: list[str] = []
    for name in order:
        run = trials.get(name, lambda name=name: opened.append(name) or Run(name))
        assert (run.name, run.is_open) == (name, True)
        assert len(list(trials)) <= most
    trials.end_all()
    assert sorted(ended) == sorted(opened)
    assert not list(trials)
    if len(set(order)) <= most:
        assert len(opened) == len(set(order))


def test_the_one_that_was_used_longest_ago_is_ended() -> None:
    ended: list[str] = []
    trials = Trials[str](2, ended.append)
    for name in ("a", "b", "a", "c"):
        trials.get(name, lambda name=name: name)
    assert ended == ["b"]


def test_what_cannot_be_ended_is_kept_to_be_ended_later() -> None:
    problem = [True]

    def end(_: str) -> None:
        if problem:
            raise OSError

    trials = Trials[str](1, end)
    trials.get("a", lambda: "a")
    with pytest.raises(OSError):
        trials.get("b", lambda: "b")
    with pytest.raises(OSError):
        trials.end_all()
    assert list(trials) == ["a"]
    problem.clear()
    trials.end_all()
    assert not list(trials)


def test_what_cannot_be_opened_is_no_trial() -> None:
    trials = Trials[str](1, lambda _: None)
    with pytest.raises(KeyError):
        trials.get("a", lambda: {}["x"])
    assert trials.get("a", lambda: "again") == "again"
    trials.forget()
    assert not list(trials)
