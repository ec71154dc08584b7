from __future__ import annotations

import os

import pytest

from tracelet_shim.backends.shared.environment import variables


def test_variables_are_set_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_SET", "before")
    monkeypatch.setenv("X_TAKEN", "before")
    monkeypatch.delenv("X_NEW", raising=False)
    names = ("X_SET", "X_TAKEN", "X_NEW")
    with pytest.raises(ZeroDivisionError), variables({"X_SET": "now", "X_TAKEN": None, "X_NEW": "now"}):
        assert 1 / [os.environ.get(name) for name in names].index("now")
    with variables({"X_SET": "now", "X_TAKEN": None, "X_NEW": "now"}):
        assert [os.environ.get(name) for name in names] == ["now", None, "now"]
    assert [os.environ.get(name) for name in ("X_SET", "X_TAKEN", "X_NEW")] == ["before", "before", None]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_SET", "his")
    monkeypatch.delenv("X_NEW", raising=False)
    with variables({"X_SET": "ours", "X_NEW": "ours"}, unless_set=True):
        assert (os.environ["X_SET"], os.environ["X_NEW"]) == ("his", "ours")
    assert os.environ["X_SET"] == "his"
    assert "X_NEW" not in os.environ


def test_what_two_want_at_once_stays_until_the_last_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of several sessions come and go in any order."""
    monkeypatch.setenv("X_SET", "before")
    first, second = variables({"X_SET": "now"}), variables({"X_SET": "now"})
    third = variables({"X_SET": "later"}, unless_set=True)
    first.__enter__()
    second.__enter__()
    third.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["X_SET"] == "now"
    second.__exit__(None, None, None)
    third.__exit__(None, None, None)
    assert os.environ["X_SET"] == "before"
