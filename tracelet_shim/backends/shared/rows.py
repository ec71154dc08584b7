"""The keys of a batch of scalars, and which of them share a row on trackers that keep rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tracelet_shim import events as ev

__all__ = ["WALL_TOLERANCE", "Keys", "rows"]

WALL_TOLERANCE = 0.002
"""Seconds by which the wall times of scalars may differ that share a row: a row has one time."""


class Keys(dict[tuple[str, str, "str | None", str], str]):
    """The keys of a batch by (writer, tag, series, suffix), what makes up a scalar's path: each is asked for once.

    Args:
        key_of: gives the key of a scalar.
    """

    def __init__(self, key_of: Callable[[ev.Scalar], str]) -> None:
        super().__init__()
        self.key_of = key_of

    def of(self, event: ev.Scalar) -> str:
        """Return the key of a scalar."""
        name = event.writer, event.tag, event.series, event.suffix
        key = self.get(name)
        if key is None:
            key = self[name] = self.key_of(event)
        return key


def rows(events: Iterable[ev.Scalar], keys: Keys) -> Iterator[tuple[ev.Scalar, dict[str, float]]]:
    """Yield (its first event, its values by key) of each row: of scalars that follow each other with one step and (to
    `WALL_TOLERANCE`) one wall time, none with a key of another."""
    row: dict[str, float] = {}
    first: ev.Scalar | None = None
    step, wall_time = 0, 0.0
    for event in events:
        key = keys.of(event)
        apart = not abs(event.wall_time - wall_time) <= WALL_TOLERANCE  # as NaN is from any other
        if first is None or event.step != step or apart or key in row:
            if first is not None:
                yield first, row
            first, row, step, wall_time = event, {}, event.step, event.wall_time
        row[key] = float(event.value)
    if first is not None:
        yield first, row
