"""Where each tracker stands, with what its relay has not taken yet."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping

import msgspec

from tracelet_shim.bus import messages as msg

__all__ = ["Accounts"]


class Accounts:
    """What the relay has said, set against what was published.

    Attributes:
        nested: of the records that were handed over, the numbers of those that are but parts of an `add_hparams`.
        unsendable: how many events fit into no message.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[msg.BackendState, int]] = {}  # and how many records that is about
        self.nested: array[int] = array("Q")
        self.unsendable = 0

    def learn(self, states: Mapping[str, msg.BackendState], taken: int) -> None:
        """Take what the relay has said of so many records. Older news than what is known changes nothing."""
        new = {name: (state, taken) for name, state in states.items() if self._taken(name) <= taken}
        self._known = {**self._known, **new}

    def _taken(self, name: str) -> int:
        return self._known[name][1] if name in self._known else 0

    def states(self, names: Iterable[str], published: int) -> dict[str, msg.BackendState]:
        """Return where each tracker stands, if so many events have been published: pending is all that it has not taken."""
        known = self._known
        found = {}
        for name in names:
            state, taken = known.get(name, (msg.BackendState(), 0))
            pending, failed = state.pending + self._beyond(published, taken), state.failed + self.unsendable
            found[name] = msgspec.structs.replace(state, pending=pending, failed=failed)
        return found

    def unsent(self, published: int) -> int:
        """Return how many of so many events the relay has not taken, as far as it has said."""
        return self._beyond(published, max((taken for _, taken in self._known.values()), default=0))

    def _beyond(self, published: int, taken: int) -> int:
        """Return how many of so many events come after the first `taken` records that were handed over."""
        return max(0, published - (taken - bisect_left(self.nested, taken)))
