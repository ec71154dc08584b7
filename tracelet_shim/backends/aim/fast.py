"""Many points in one write to the store, beside Aim's own way, for scalars of a local repository.

Aim writes a point as eight small transactions of RocksDB, each of which deletes a range first. Scalars that go to the end of
their sequences are put there by the batch instead. `Ends.of` first checks that the installed Aim stores points in the known
way; if not, `Points` is the only way.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import defaultdict
from typing import Any

from tracelet_shim.backends.aim.points import EXACT

__all__ = ["Ends"]

_log = logging.getLogger(__name__)


class Ends:
    """Appends numbers to sequences of one run in a local repository, many in one write to each of the run's two stores.

    What is put there is what `RunTracker._track` puts there (`_update_sequence_info`, `_add_value`), save that what it
    writes for the latest point only (the last value and step, the extremes) is written once. Aim deletes what is below a
    key before it puts a value there; behind the last step of a sequence of numbers there is nothing to delete.

    Args:
        tracker: the run's `RunTracker`.
        about, series: its stores (`aim.storage.rockscontainer.RocksContainer`).
        about_prefix: where the run begins in `about`.
    """

    def __init__(self, tracker: Any, about: Any, about_prefix: bytes, series: Any) -> None:
        from aim.storage.encoding import encode, encode_path

        self._encode, self._path = encode, encode_path
        self._none = encode(None)
        self._infos = tracker.sequence_infos
        self._about, self._about_prefix, self._series = about, about_prefix, series
        self._batch = series.batch()
        self._ends: dict[tuple[int, str], _End] = {}

    @classmethod
    def of(cls, run: Any) -> Ends | None:
        """Return the object for `run`; None if the installed Aim does not store a point as the known versions do."""
        try:
            _check_storage(run._tracker)
            about, series = run.meta_run_tree.container, run.series_run_trees[2].container
            return cls(run._tracker, about.parent, about.prefix, series.parent)
        except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
            _log.info("points are stored one by one, since Aim (known: 3.29) has another way: %r", error)
            return None

    def append(self, sequence: tuple[int, str], value: float, step: int, wall_time: float) -> bool:
        """Take a point for `commit`. False if it is none that goes behind the last one of a sequence of floats."""
        end = self._ends.get(sequence)
        if end is None:
            info = self._infos.get(sequence)
            # at 0 there may be points below zero only, and Aim writes of the first point again
            if info is None or not info.initialized or info.version != 2 or info.dtype != "float" or info.count <= 0:
                return False
            end = self._ends[sequence] = _End(info)
        if step < max(end.count, end.info.count) or step >= EXACT:  # the user may track in the same run
            return False
        key = self._path((end.hash(step),))
        put = self._batch.put
        put(end.value_prefix + key, self._encode(value))
        put(end.epoch_prefix + key, self._none)
        put(end.time_prefix + key, self._encode(wall_time))
        put(end.step_prefix + key, self._encode(step))
        end.last, end.count = value, step + 1
        end.max = max(end.max, value)
        end.min = min(end.min, value)
        return True

    def discard(self) -> None:
        """Forget points that were taken and not stored, because of an error between: they come again."""
        if self._ends:
            self._ends, self._batch = {}, self._series.batch()

    def commit(self) -> None:
        """Store the points taken. After an error none of them counts as stored."""
        ends, batch = self._ends, self._batch
        if not ends:
            return
        self._ends, self._batch = {}, self._series.batch()
        about = self._about.batch()
        for (index, name), end in ends.items():
            info = end.info
            what: dict[str, Any] = {"last": end.last, "last_step": end.count - 1} if end.count > info.count else {}
            what |= {"max": end.max} if end.max > info.max else {}
            what |= {"min": end.min} if end.min < info.min else {}
            for field, value in what.items():
                about.put(self._about_prefix + self._path(("traces", index, name, field)), self._encode(value))
        self._about.commit(about)  # first, as Aim does it: a step that it names is looked up, one beyond is taken for free
        self._series.commit(batch)
        for end in ends.values():
            info = end.info
            info.count, info.max, info.min = max(info.count, end.count), max(info.max, end.max), min(info.min, end.min)


class _End:
    """The end of a sequence, as it will be after the next `Ends.commit`."""

    __slots__ = (
        "count", "epoch_prefix", "hash", "info", "last", "max", "min", "step_prefix", "time_prefix", "value_prefix",
    )  # fmt: skip

    def __init__(self, info: Any) -> None:
        self.info = info
        self.hash = info.step_hash_fn
        self.count, self.max, self.min = info.count, info.max, info.min
        self.last = math.nan
        self.value_prefix = info.val_view.tree.container.prefix
        self.epoch_prefix = info.epoch_view.tree.container.prefix
        self.time_prefix = info.time_view.tree.container.prefix
        self.step_prefix = info.step_view.tree.container.prefix


def _check_storage(tracker: Any) -> None:
    """Raise a ValueError or the like if the installed Aim's own tracker stores points in another way than `Ends`."""
    from aim.sdk.tracker import SequenceInfo
    from aim.storage.container import Container
    from aim.storage.context import Context
    from aim.storage.prefixview import PrefixView

    class Store(Container):  # type: ignore[misc]
        """Keeps what is put into it, as a container and as a batch of one."""

        def __init__(self) -> None:
            self.found: dict[bytes, bytes] = {}

        def put(self, key: bytes, value: bytes) -> None:
            self.found[key] = value

        def set(self, key: bytes, value: bytes, store_batch: Any = None) -> None:
            self.found[key] = value

        def delete_range(self, begin: bytes, end: bytes, store_batch: Any = None) -> None:
            pass  # nothing is there

        def batch(self) -> Store:
            return self

        def commit(self, batch: Store) -> None:
            pass  # it is in place already

        def view(self, prefix: bytes = b"") -> Any:
            return PrefixView(prefix=prefix, container=self)

    index, found = int(Context({}).idx), []
    for own in (True, False):
        about, series = Store(), Store()
        probe = copy.copy(tracker)
        probe.meta_tree, probe.meta_run_tree = about.view().tree(), about.view(b"run").tree()
        probe.series_run_trees = dict.fromkeys((1, 2), series.view().tree())
        probe.sequence_infos, probe.contexts = defaultdict(SequenceInfo), {}
        ends, appended = Ends(probe, about, b"run", series), 0
        for value, step in ((0.25, 2), (1.0, 3), (-1.5, 7), (math.nan, 9)):
            if own and ends.append((index, "name"), value, step, 0.5 + step):
                appended += 1
            else:
                probe._track(value, 0.5 + step, "name", step, None, context={})
        ends.commit()
        state = {k: v for k, v in vars(probe.sequence_infos[index, "name"]).items() if not k.endswith("_view")}
        found.append((about.found, series.found, state, appended))
    if found[0] != (*found[1][:3], 3):
        raise ValueError("points are stored in another way")
