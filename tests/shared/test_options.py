from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracelet_shim import errors
from tracelet_shim._bootstrap import is_set
from tracelet_shim.backends import registry
from tracelet_shim.backends.shared.options import _OFF, _ON, choice, directory, mapping, parse, seconds, switch, switched


@pytest.mark.parametrize("value", [True, 1, "1", "true", "Yes", " on ", "y", "T"])
def test_words_for_on(value: Any) -> None:
    assert switch(value) is True
    assert switched(value) is True


@pytest.mark.parametrize("value", [False, 0, "0", "false", "No", "off", "n", "F", "none"])
def test_words_for_off(value: Any) -> None:
    assert switch(value) is False
    assert switched(value) is False


@pytest.mark.parametrize(
    ("parser", "value", "said"),
    [
        (switch, "ja", "option o='ja' is neither true nor false"),
        (choice("online", "offline"), "on", "option o='on' is none of online, offline"),
        (directory, "s3://bucket/x", "option o='s3://bucket/x' is no local path"),
        (directory, 3, "option o=3 is no local path"),
        (seconds, "soon", "option o='soon' is no number of seconds"),
        (seconds, "-1", "option o='-1' is no number of seconds"),
        (mapping, "{", "option o='{' is no JSON"),
        (mapping, "[1]", "option o='[1]' is no table"),
    ],
)
def test_bad_values_are_named_with_their_option(parser: Any, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"^option o=") as caught:
        parse({"o": value}, {"o": parser})
    assert str(caught.value).startswith(said)


def test_good_values_are_typed_and_empty_ones_were_not_given() -> None:
    parsers = {"a": switch, "b": seconds, "c": mapping, "d": directory, "e": choice("x")}
    given = {"a": "y", "b": "2.5", "c": '{"k": 1}', "d": Path("~/x"), "e": "x", "f": 7, "g": "", "h": None}
    found = parse(given, parsers)
    assert found.pop("d") == str(Path("~/x").expanduser())
    assert found == {"a": True, "b": 2.5, "c": {"k": 1}, "e": "x", "f": 7}


def test_the_words_are_the_same_before_anything_is_imported() -> None:
    """`_bootstrap` cannot ask this module: it runs at the start of every interpreter."""
    words = {**dict.fromkeys(_ON, True), **dict.fromkeys(_OFF, False)}
    assert {word: is_set("X", {"X": word}) for word in words} == words


SWITCHES = [(name, option) for name in registry.names() for option, kind in registry.find(name).parsers.items() if kind is switch]


@pytest.mark.parametrize(("name", "option"), SWITCHES)
def test_all_trackers_have_the_same_words(name: str, option: str) -> None:
    """"y" was true for three trackers, false for two and an error for one."""
    backend = registry.find(name)
    found = [backend({option: value}).given.get(option) for value in ("y", "ON", "n", "none", "")]
    assert found == [True, True, False, False, None]
    with pytest.raises(errors.ConfigurationError, match=f"backend '{name}': option {option}='ja' is neither true nor false"):
        backend({option: "ja"})


def test_there_are_switches() -> None:
    assert len({name for name, _ in SWITCHES}) >= 4
