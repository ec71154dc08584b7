"""Property tests of the naming rules: injective, legal, reversible, within the tracker's directory."""

from __future__ import annotations

import os.path
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracelet_shim.backends.shared.names import FILE_NAME, Names, escape, file_names, unescape

KEY = re.compile(r"[^\w.\- ]")
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|^\s|\s\Z")
RULES = [FILE_NAME, KEY, CONTROL]

HOSTILE = [
    "", ".", "..", "../../x", "/abs", "a//b", "a/./b", "a/", "/", "//", " ", " a", "a ", "a/ /b", "nul\0", "a\n", "\\",
    "Case", "case", "é", "日本", "\ud800", "acc@1", "acc_x40_1", "acc_x5f_x40_1", "_x_", "_x5f_", "_xa@", "_x40@",
    "@x41_", "_x@", "_@x40_", "@h0123456789abcdef", "a_h0123456789abcdef", "a_x68_0123456789abcdef",
]  # fmt: skip

# Texts made of the pieces that escapes are made of: what a random text hardly ever hits.
PIECES = ["_", "x", "_x", "_h", "0", "a", "5f", "40", "68", "@", "/", ".", " ", "\n", "\0", "é", "0123456789abcdef"]
made = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
names = st.one_of(st.sampled_from(HOSTILE), made, st.text(max_size=60))


@pytest.mark.parametrize("illegal", RULES, ids=["file", "key", "control"])
class TestEscape:
    @given(name=names)
    @example("_xa@")
    @example("_x4_h0123456789abcdef")
    def test_is_undone(self, illegal: re.Pattern[str], name: str) -> None:
        """unescape gives the name back, whatever it is; so no two names have one key."""
        assert unescape(escape(name, illegal)) == name

    @given(name=names)
    def test_is_legal(self, illegal: re.Pattern[str], name: str) -> None:
        """A key has nothing in it that the tracker does not accept."""
        assert not illegal.search(escape(name, illegal))

    @given(name=names)
    def test_leaves_legal_names_alone(self, illegal: re.Pattern[str], name: str) -> None:
        """A legal name is its own key, unless it would read as an escape or as a cut key."""
        if not illegal.search(name) and not re.search(r"_x[0-9a-f]*_|_h[0-9a-f]{16}\Z", name):
            assert escape(name, illegal) == name

    @given(name=names)
    def test_never_looks_cut(self, illegal: re.Pattern[str], name: str) -> None:
        """Only a key that was cut ends in a hash."""
        assert not re.search(r"_h[0-9a-f]{16}\Z", escape(name, illegal))


@given(names)
@example("0_x1000000000000000000000_")
def test_unescape_takes_any_text(key: str) -> None:
    """unescape never raises, whatever it is given: a cut key can end in half an escape."""
    unescape(key)


@given(st.lists(names, min_size=2, max_size=6, unique=True))
@example(["_x40" + "." * 40, "@"])
def test_keys_are_different_and_short(several: list[str]) -> None:
    """Different names have different keys, none longer than the limit, whatever had to be cut."""
    for in_bytes in (False, True):
        rule = Names(KEY, 30, in_bytes=in_bytes)
        keys = [rule(name) for name in several]
        assert len(set(keys)) == len(several)
        assert all(0 < len(key.encode("utf-8", "surrogatepass") if in_bytes else key) <= 30 for key in keys)
        for name, key in zip(several, keys, strict=True):
            assert rule.shortened.get(key, unescape(key)) == name
            assert Names(KEY, 30, in_bytes=in_bytes)(name) == key


@given(names)
def test_no_name_has_the_key_of_a_cut_one(name: str) -> None:
    """A name that equals the key of a long one gets another key."""
    rule = Names(FILE_NAME, 40)
    cut = rule(name + "long" * 11)
    assert cut in rule.shortened
    assert rule(cut) != cut


def test_no_name_has_the_key_of_a_cut_one_through_an_escape() -> None:
    """The end of an escape and a hash behind it do not make the key of a long name."""
    rule = Names(FILE_NAME, 40)
    long = rule("_x40" + "." * 100)
    assert long.startswith("_x40_h")
    assert rule("@" + long.removeprefix("_x40_")) != long


def test_the_empty_name() -> None:
    """The empty name has a key of its own, that no other name has."""
    rule = file_names()
    assert rule("") == "_x_"
    assert rule("_x_") != "_x_"
    assert (unescape(rule("")), unescape(rule("_x_"))) == ("", "_x_")


@given(names)
def test_artifact_paths_stay_inside(name: str) -> None:
    """An artifact path is relative, plain ASCII, and no component of it is empty, a dot or two."""
    path = file_names()(name)
    assert path.isascii()
    assert not os.path.isabs(path)
    assert not {"", ".", ".."} & set(path.split("/"))
    assert os.path.normpath(os.path.join("/run", path)).startswith("/run/")
    assert not re.search(r"[^A-Za-z0-9._\-/ ]", path)
    assert len(path) <= 180


def test_long_names() -> None:
    """Two tags of 5000 characters that differ in the last one are told apart, and their full names are kept."""
    rule = file_names()
    a, b = rule("x" * 5000), rule("x" * 4999 + "y")
    assert a != b
    assert rule.shortened == {a: "x" * 5000, b: "x" * 4999 + "y"}


def test_what_keys_look_like() -> None:
    """Keys stay readable, and do not change from release to release: dashboards are built on them."""
    rule = file_names()
    assert rule("train/loss") == "train/loss"
    assert rule("acc@1") == "acc_x40_1"
    assert rule("../../x") == "_x2e__x2e_/_x2e__x2e_/x"
    assert rule("/abs") == "_x2f_abs"
    assert rule("max_x/pos_x_y") == "max_x/pos_x5f_x_y"
    assert rule("acc_x40_1") == "acc_x5f_x40_1"
