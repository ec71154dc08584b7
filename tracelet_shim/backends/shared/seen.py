"""What a killed process had written and nobody knows of: the last events come again, and must not be there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

__all__ = ["Seen"]


class Seen:
    """The points at the end of a store, each told off when it comes again: two that are alike may come on purpose.

    Args:
        points: what tells each point in the store from others.
        in_order: what comes again comes first, so the first one that is new ends the search.
    """

    def __init__(self, points: Iterable[Hashable] = (), *, in_order: bool = False) -> None:
        self._left = Counter(points)
        self._in_order = in_order

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, point: Hashable) -> None:
        """The store has this point too: it is read bit by bit."""
        self._left[point] += 1

    def take(self, point: Hashable) -> bool:
        """Return whether the store has this point; it is told off then."""
        if not self._left:
            return False
        if self._left[point] > 0:
            self._left[point] -= 1
            return True
        if self._in_order:
            self._left.clear()
        return False

    def copy(self) -> Seen:
        """Return another one, for a batch of which nobody knows yet whether it will be written."""
        return Seen(self._left.elements(), in_order=self._in_order)

    def clear(self) -> None:
        """Nothing comes again any more."""
        self._left.clear()
