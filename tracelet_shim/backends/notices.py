"""What a tracker has not done of what was asked, and the user hears of: part of the contract in `tracelet_shim.backends.base`."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Notices"]


class Notices:
    """The part of `tracelet_shim.backends.base.Backend` that tells the user something.

    No event is refused or late because of it: the files of a model are there, and only its registry was not to be reached.
    """

    _told: frozenset[str] = frozenset()
    _untold: Mapping[str, str] = {}

    def notice(self, kind: str, text: str) -> None:
        """Have the user told, once a `kind`.

        Args:
            kind: what it is about.
            text: one line, without secrets.
        """
        if kind not in self._told:
            self._told |= {kind}
            self._untold = {**self._untold, kind: text}

    def take_notices(self) -> Mapping[str, str]:
        """Return what is to be told since the last time, by kind."""
        taken, self._untold = self._untold, {}
        return taken
