from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet_shim.backends.shared.values import cut, finite, flat, plain, utf8

TEXTS = st.text(st.characters(exclude_categories=()))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


@given(TEXTS)
def test_any_text_becomes_utf8_and_good_ones_stay(text: str) -> None:
    utf8(text).encode()
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert utf8(text) == text


@given(VALUES)
def test_any_value_becomes_json_that_a_database_takes(value: Any) -> None:
    """No NaN, nothing but UTF-8, no integer beyond 64 bits; and it is not changed a second time."""
    found = plain(value)
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    assert plain(found) == found


def test_what_is_plain_stays() -> None:
    value = {"a": [1, 2.5, True, None, "é"], "b": {"c": -(2**63)}}
    assert plain(value) == value
    assert plain({1: (math.inf, 2**63, object)}) == {"1": ["inf", str(2**63), str(object)]}
    assert plain({"a": 1.5}, number=lambda _: "n", key=str.upper, text=str) == {"A": "n"}
    assert plain([2**63, {"a": 7}], integer=float) == [float(2**63), {"a": 7.0}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_texts(value: float) -> None:
    assert finite(value) == str(value)
    assert repr(float(finite(value))) == repr(value)


def test_nested_parameters_get_one_name_each() -> None:
    config = {"optimizer": {"lr": 0.1, "betas": (0.9, 0.99), "more": {}}, "seed": 1}
    assert flat(config, "/") == {"optimizer/lr": 0.1, "optimizer/betas": "[0.9, 0.99]", "optimizer/more": "{}", "seed": 1}
    assert flat({"a": {"b": 1}, "a/b": 2}, "/") == {"a": '{"b": 1}', "a/b": 2}


CONFIGS = st.dictionaries(TEXTS, st.recursive(LEAVES, lambda inner: st.dictionaries(TEXTS, inner), max_leaves=10))


@given(CONFIGS, st.sampled_from("/|."))
def test_no_parameter_is_lost_by_its_name(config: dict[str, Any], separator: str) -> None:
    def count(value: Any) -> int:
        return sum(map(count, value.values())) if isinstance(value, dict) and value else 1

    found = flat(config, separator)
    assert len(found) in {sum(map(count, config.values())), len(config)}
    assert not any(isinstance(value, (dict, list)) for value in found.values())


@given(st.text(), st.integers(3, 50))
def test_a_cut_text_fits_and_says_so(text: str, limit: int) -> None:
    found = cut(text, limit)
    assert len(found) <= limit
    assert found == text if len(text) <= limit else found.endswith("...") and text.startswith(found[:-3])
