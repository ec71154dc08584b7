"""Where points go, so that none takes another's place.

Aim keeps the last value only of two at one step of one sequence (`RunTracker._add_value` stores by step). So the n-th repeat
of a step goes to the same sequence with ``{"repeat": n}`` in its context. After `_REPEATS` of them come all further ones, of any
step, in one sequence ``{"repeat": "more"}``: a program that never passes a step must not make a context for each point. There
Aim's epoch is TensorBoard's step. For numbers its step is it, too: Aim stores them by a hash of the step, and the step beside
them (`SequenceV2Data`), see `_Late`. Other types are stored by the step itself, and it counts them there. What is there already
is asked of the store itself, so this costs no memory and a resumed run is continued rightly.

`Run.track` takes no time; `RunTracker._track`, which it calls, does. Hence the private call.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.shared.places import Places

__all__ = ["EXACT", "Points"]

_REPEATS = 8
EXACT = 1 << 53
"""From here on Aim stores points of neighbouring steps in one place: it makes the key from the step as a float
(`aim.storage.hashing`)."""


class Points:
    """Writes the points of one Aim run so that none takes another's place.

    Args:
        run: the `aim.Run`.
        resumed: True if the run was there before. A point that is there with the same value and time is then taken as
            delivered: after a crash the last ones may come twice.
    """

    def __init__(self, run: Any, *, resumed: bool) -> None:
        self._tracker = run._tracker
        self._tree = run.meta_run_tree
        self.resumed = resumed
        self._places = Places(_REPEATS)
        self._late: dict[tuple[int, str], _Late] = {}
        self._indexes: dict[tuple[tuple[str, Any], ...], int] = {}  # of contexts: Aim copies and hashes one each time

    def put(
        self,
        value: Any,
        name: str,
        step: int,
        wall_time: float,
        context: dict[str, Any],
        *,
        same_is_known: bool = False,
    ) -> None:
        """Store a point; with `same_is_known`, or in a resumed run, not again if it is there."""
        known = same_is_known or self.resumed
        sequence = self.index(context), name
        for repeat in self._places.candidates(sequence, step, known_too=same_is_known):
            where = {**context, "repeat": repeat} if repeat else context
            info = self._tracker.sequence_infos[self.index(where) if repeat else sequence[0], name]
            key = self._find(info, step)
            if key is None:
                self._store(info, value, name, step, wall_time, where)
                break
            if known and self._is(info, key, value, wall_time):
                return
        else:
            repeat = _REPEATS
            if self._put_late(value, name, step, wall_time, {**context, "repeat": "more"}, known=known):
                return
        self._places.took(sequence, step, repeat)

    def _put_late(
        self, value: Any, name: str, step: int, wall_time: float, where: dict[str, Any], *, known: bool
    ) -> bool:
        """Store a point that comes late among the repeats of its step; return True if it was there."""
        index = self.index(where)
        info = self._tracker.sequence_infos[index, name]
        if not isinstance(value, float):
            count = info.count if info.initialized else 0
            if known and self._is_among(info, range(max(count - 2_000, 0), count), value, wall_time, step):
                return True
            self._tracker._track(value, wall_time, name, count, step, context=where)
            return False
        late = self._late.get((index, name))
        if late is None:
            late = self._late[index, name] = _Late(info, self._tree.subtree(("traces", index, name)))
        if known and self._is_among(info, late.latest(2_000), value, wall_time, step):
            return True
        self._tracker._track(value, wall_time, name, late.next(), step, context=where)
        late.stored(value, step)
        return False

    def index(self, context: Mapping[str, Any]) -> int:
        """Return the number by which Aim stores a context."""
        key = tuple(context.items())
        index = self._indexes.get(key)
        if index is None:
            from aim.storage.context import Context

            index = int(Context(dict(context)).idx)
            if len(self._indexes) < 10_000:
                self._indexes[key] = index
        return index

    @staticmethod
    def _find(info: Any, step: int) -> int | None:
        """Return the key of the point at `step`, or of another one that Aim stores in the same place; None if there is none. Only
        a step behind the last needs a look-up."""
        if not info.initialized or (step >= info.count and abs(step) < EXACT):
            return None
        key = int(info.step_hash_fn(step))
        try:  # what RunTracker._add_value writes last, so that half a point counts as none
            (info.time_view if info.step_view is None else info.step_view)[key]
        except KeyError:
            return None
        return key

    def _store(self, info: Any, value: Any, name: str, step: int, wall_time: float, context: dict[str, Any]) -> None:
        """Store a point at a free place.

        `RunTracker` notes the last step from 0 on only; without it a resumed run does not know the sequence.
        """
        begins_below_zero = step < 0 and not info.initialized
        self._tracker._track(value, wall_time, name, step, None, context=context)
        if begins_below_zero:
            info.count = step + 1
            about = self._tree.subtree(("traces", self.index(context), name))
            about["last"], about["last_step"] = value, step

    def _is_among(self, info: Any, steps: range, value: Any, wall_time: float, epoch: int) -> bool:
        for step in reversed(steps):
            key = int(info.step_hash_fn(step))
            if info.epoch_view[key] == epoch and self._is(info, key, value, wall_time):
                return True
        return False

    @staticmethod
    def _is(info: Any, key: int, value: Any, wall_time: float) -> bool:
        """True if the point at `key` has exactly this value and time; NaN equals NaN."""
        if struct.pack("d", info.time_view[key]) != struct.pack("d", wall_time):
            return False
        stored = info.val_view[key]
        if isinstance(value, float):
            return isinstance(stored, (int, float)) and struct.pack("d", stored) == struct.pack("d", value)
        return bool(stored.storage["data"].load() == value.storage["data"].load())


class _Late:
    """A sequence of numbers in which a step may come again: each has a number of its own for Aim to store it by, far below all
    steps, and its true step in the column of steps.

    Args:
        info: Aim's, of the sequence.
        about: what Aim has to say of the sequence.
    """

    _LOWEST = -(1 << 52)

    def __init__(self, info: Any, about: Any) -> None:
        self._info, self._about = info, about
        self._count = sum(1 for _ in info.step_view.values()) if info.initialized else 0
        self._top = int(about["last_step"]) if self._count else None
        if self._count:
            last = self._LOWEST + self._count - 1
            key = int(info.step_hash_fn(last))
            if info.step_view[key] == last:  # somebody was killed before `stored`
                info.step_view[key] = int(info.epoch_view[key])

    def latest(self, count: int) -> range:
        """Return the numbers of the latest points."""
        return range(self._LOWEST + max(self._count - count, 0), self._LOWEST + self._count)

    def next(self) -> int:
        return self._LOWEST + self._count

    def stored(self, value: float, step: int) -> None:
        """Put the step of the point that `next` was for in its place. Aim takes what it is stored by for its step."""
        self._info.step_view[int(self._info.step_hash_fn(self.next()))] = step
        if self._top is None:
            self._about["first_step"] = step
        if self._top is None or step >= self._top:
            self._about["last"], self._about["last_step"] = value, step
            self._top = step
        self._info.count = max(self._info.count, 1)  # Aim would write of the first point again
        self._count += 1
