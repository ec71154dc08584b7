"""Where a point goes on a tracker that keeps one value a key and step.

The first one at a step has the key's own place. The next ones go to places beside it, numbered from 1, each in the form that the
tracker has for that (a context, a key with a suffix). All further ones go to one place for what is more, so that a program
that never passes a step does not make a place for each point. What is taken is asked of the tracker's store, by the caller:
so this costs no memory, and a run that is continued is continued rightly.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Places"]

_REMEMBERED = 10_000


class Places:
    """The places of one run.

    Args:
        repeats: the number of places beside a key's own.
    """

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self._next: dict[Hashable, tuple[int, int]] = {}  # key -> a step, and the first of its places that is not known as taken

    def candidates(self, key: Hashable, step: int, *, known_too: bool = False) -> range:
        """Return the places to try, in order; behind the last one comes the place for what is more.

        Args:
            key: what the tracker keeps one value a step of.
            step: the point's.
            known_too: try those as well of which `took` was told, since the point itself may be there.
        """
        latest = self._next.get(key)
        first = latest[1] if latest is not None and latest[0] == step and not known_too else 0
        return range(first, self.repeats + 1)

    def took(self, key: Hashable, step: int, place: int) -> None:
        """Note that all places up to this one are taken at `step`. (A key's own needs no note: it is the first to be tried.)"""
        if place:
            if len(self._next) >= _REMEMBERED:
                self._next.clear()
            self._next[key] = step, place + 1
