"""The table of HTTP answers that pass, and the doubt about those that may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet_shim.backends.shared.transient import Patience, Verdict, judge


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 520, 599])
def test_what_passes(status: int, own: bool) -> None:
    """A busy or broken server passes, whoever says so."""
    assert judge(status, own=own) is Verdict.PASSES


@pytest.mark.parametrize(("status", "own", "verdict"), [
    (200, True, Verdict.DONE), (200, False, Verdict.PASSES), (302, False, Verdict.PASSES),
    (400, True, Verdict.LASTS), (400, False, Verdict.MAY_PASS), (404, True, Verdict.LASTS), (404, False, Verdict.MAY_PASS),
    (401, True, Verdict.MAY_PASS), (403, True, Verdict.MAY_PASS), (403, False, Verdict.MAY_PASS), (407, False, Verdict.MAY_PASS),
    (413, True, Verdict.LASTS), (413, False, Verdict.LASTS),
])  # fmt: skip
def test_who_has_answered(status: int, own: bool, verdict: Verdict) -> None:
    """What a service says of the data lasts; what it says of who asks, and what anybody else says, may pass; a page where an
    answer was expected is no success."""
    assert judge(status, own=own) is verdict


@given(st.integers(100, 599), st.booleans())
def test_only_an_own_success_is_done(status: int, own: bool) -> None:
    """Nothing counts as stored but a service's own 2xx."""
    assert (judge(status, own=own) is Verdict.DONE) == (own and 200 <= status < 300)


@given(st.lists(st.tuples(st.sampled_from([403, 401, 500, 400, 429]), st.floats(0, 30)), max_size=60))
def test_a_refusal_is_doubted_for_a_while(answers: list[tuple[int, float]]) -> None:
    """A refusal that may pass is believed after its time and not before; others are not touched by that."""
    clock = Clock()
    patience, since = Patience(60, clock), None
    for status, later in answers:
        clock.now += later
        passes = patience.passes(status)
        if status in (401, 403):
            since = clock.now if since is None else since
            assert passes == (clock.now - since < 60)
            if not passes:  # asked again, for the one event that is to blame
                assert not patience.passes(status)
                since = None
        else:
            assert passes == (status != 400)


def test_doubt_begins_anew() -> None:
    """After a good answer, and after one event was given up, the next refusal is doubted as the first one was."""
    clock = Clock()
    patience = Patience(60, clock)
    assert patience.passes(403)
    clock.now = 59
    patience.reset()
    assert patience.passes(403)
    clock.now = 100
    assert patience.passes(403)
    clock.now = 120
    assert [patience.passes(403), patience.passes(403)] == [False, False]
    assert patience.passes(403)
