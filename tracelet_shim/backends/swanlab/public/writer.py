"""The only code that logs into a run through the public API; it lives where the SDK does.

SwanLab keeps one value a key and step, and drops or overwrites others without a word: 0.6 and most of 0.7 drop the later one,
0.7.14 the earlier. So it is never given two: what is taken is remembered here, as the SDK does, and where a repeated or an odd
step goes is the same as in `tracelet_shim.backends.swanlab.run`. What a resumed run has on the server only is not known here;
there the SDK's answer says so, and the next place is tried.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracelet_shim import errors
from tracelet_shim.backends.shared.files import copy
from tracelet_shim.backends.shared.places import Places
from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.swanlab.limits import MAX_STEP, REPEATS, base_key
from tracelet_shim.backends.swanlab.public.sdk import Sdk, active_id, iso, set_hosts
from tracelet_shim.backends.swanlab.public.stored import ABOUT, LOG, Store, earlier, media, records
from tracelet_shim.backends.swanlab.public.watch import Refused, Watch

__all__ = ["Begun", "Point", "State", "Writer"]

RECENT = 100_000
"""Points of an earlier session that are recognised when they are delivered again."""
_NOT_FINITE = {"nan": "NaN", "inf": "INF", "-inf": "INF"}  # what the SDK writes for them


class Point(NamedTuple):
    """A scalar: `number` is its place in the batch."""

    number: int
    key: str
    step: int
    value: float
    wall_time: float


class Begun(NamedTuple):
    """What a run is once it has begun."""

    id: str
    mode: str
    url: str | None
    folder: str
    continues: bool
    config: dict[str, Any]
    keeps_times: bool
    keeps_log: bool
    has_files: bool
    has_ids: bool


class State(NamedTuple):
    """What the service has got of what was `handed` over: `first` is the number of the first value that it may not have."""

    handed: int
    first: int
    refused: list[Refused]
    behind: str | None


class Writer:
    """One run.

    Args:
        sdk: the SDK.
        run: its run.
        own: False for a run of the user's.
        run_id: the id that later sessions find it by.
        about: what else its directory says of it.
    """

    def __init__(self, sdk: Sdk, run: Any, *, own: bool, run_id: str, about: Mapping[str, Any]) -> None:
        self._sdk, self._run = sdk, run
        self._folder = sdk.directory(run)
        self._taken: dict[str, tuple[str, set[int]]] = {}  # key -> its type, its steps
        self._more: dict[str, int] = {}
        self._places = Places(REPEATS)
        self._seen = Seen()
        self._count = 0  # values that were handed over
        self._mode = {"cloud": "online"}.get(str(run.mode), str(run.mode))
        self._store = Store.of(run, own=own)
        self._watch = Watch.of(run) if self._mode == "online" else None
        config: dict[str, Any] = {}
        continues = False
        if own and self._mode != "disabled":
            told = {"id": run_id, "opened": time.time(), **about}
            (self._folder / ABOUT).write_text(json.dumps(told), encoding="utf-8")
            found = [each for each in earlier(self._folder.parent, run_id) if each.folder != self._folder]
            self._take_up([each.folder for each in found])
            continues = bool(found)
            for each in found:
                config |= each.config
            if config:  # a directory has the config of its own session alone
                self.set_config(config)
        self.begun = Begun(
            run_id, self._mode, sdk.url(run), str(self._folder), continues, config, sdk.keeps_times, self._store is not None,
            sdk.has_files, "id" in sdk.takes,
        )  # fmt: skip

    @classmethod
    def begin(cls, fields: Mapping[str, Any], run_id: str, about: Mapping[str, Any], host: Mapping[str, str | None]) -> Writer:
        """Begin a run, in a process that has none; see `Sdk.begin`. `host` has ``api_host`` and ``web_host``, if given."""
        set_hosts(host)
        sdk = Sdk()
        run = sdk.begin({**fields, "id": sdk.own_id(run_id)})
        return cls(sdk, run, own=True, run_id=run_id, about=about)

    @classmethod
    def join(cls, run: Any) -> Writer:
        """Write into a run of the user's."""
        return cls(Sdk(), run, own=False, run_id=active_id(run), about={})

    def project(self) -> str | None:
        """Return the name of the run's project."""
        name = getattr(getattr(self._run, "public", None), "project_name", None)
        return None if name is None else str(name)

    # -- what earlier sessions have stored --------------------------------------------------------------------------

    def _take_up(self, folders: Sequence[Path]) -> None:
        """Know the points of these directories again. Offline, each of them is an experiment of its own when it is uploaded, so
        their steps are free."""
        recent = deque[tuple[Any, ...]](maxlen=RECENT)
        for folder in folders:
            for model, fields in records(folder / LOG):
                key = base_key(str(fields.get("key", "")))
                if key is None or model not in ("Scalar", "Media"):
                    continue
                when = fields["metric"]["create_time"] if self._sdk.keeps_times else ""
                if model == "Scalar":
                    value = fields["metric"]["data"]
                    recent.append((key, when, str(value) if isinstance(value, str) else float(value)))
                else:
                    recent.append((key, when, *(hashlib.sha256(data).hexdigest() for data in media(folder, fields))))
        self._seen = Seen(recent, in_order=True)

    def _knows(self, key: str, wall_time: float, *values: Any) -> bool:
        return self._seen.take((key, iso(wall_time) if self._sdk.keeps_times else "", *values))

    # -- values -----------------------------------------------------------------------------------------------------

    def scalars(self, points: Sequence[Point]) -> tuple[list[int], Exception | None]:
        """Log points in order; return which of them are stored, and what was wrong with the next one."""
        taken: list[int] = []
        for point in points:
            try:
                self.scalar(*point[1:])
            except Exception as error:
                return taken, error
            taken.append(point.number)
        return taken, None

    def scalar(self, key: str, step: int, value: float, wall_time: float) -> None:
        """Log a point where SwanLab takes it."""
        if self._seen and self._knows(key, wall_time, _NOT_FINITE.get(repr(value), value)):
            return
        place, at = self._put(key, "line", step, value, wall_time)
        if place.endswith(" (more)"):
            near = float(step)
            self._put(f"{place[:-1]}: step)", "line", at, near, wall_time)
            if rest := step - int(near):
                self._put(f"{place[:-1]}: rest)", "line", at, float(rest), wall_time)
        if math.isinf(value):
            self._put(f"{place} (infinity)", "line", at, math.copysign(1.0, value), wall_time)

    def media(self, key: str, kind: str, step: int, items: Sequence[tuple[str, bytes]], wall_time: float) -> bool:
        """Log items as media of SwanLab's type `kind`, each (suffix, content); return False if this version has no such type."""
        digests = [hashlib.sha256(data).hexdigest() for _, data in items]
        if self._seen and self._knows(key, wall_time, *digests):
            return True
        for place, at in self._free(key, kind, step):
            caption = f"step {step}" if place.endswith(" (more)") else None
            values = []
            for (suffix, data), digest in zip(items, digests, strict=True):
                value = self._sdk.media(kind, f"{kind}-step{at}-{digest[:16]}.{suffix}", data, caption)
                if value is None:
                    return False
                values.append(value)
            if self._log(place, kind, at, values if len(values) > 1 else values[0], wall_time):
                return True
        raise AssertionError("there is always a place for what is more")

    def _put(self, key: str, kind: str, step: int, value: Any, wall_time: float) -> tuple[str, int]:
        for place, at in self._free(key, kind, step):
            if self._log(place, kind, at, value, wall_time):
                return place, at
        raise AssertionError("there is always a place for what is more")

    def _free(self, key: str, kind: str, step: int) -> Iterator[tuple[str, int]]:
        """Yield the keys and steps where SwanLab may take a value, until one is taken."""
        if 0 <= step <= MAX_STEP:
            for n in self._places.candidates(key, step):
                place = f"{key} (repeat {n})" if n else key
                known = self._taken.get(place)
                if known is None or (known[0] == kind and step not in known[1]):
                    yield place, step
                self._places.took(key, step, n)
        place = f"{key} (more)"
        while True:
            at = self._more.get(place, 0)
            self._more[place] = at + 1
            yield place, at
            self._more[place] = 2 * at + 1  # a resumed run has more than we know

    def _log(self, key: str, kind: str, step: int, value: Any, wall_time: float) -> bool:
        """Log a value; return False if there is one already."""
        self._hand_over((key, step))
        try:
            with self._sdk.at(wall_time):
                answer = self._run.log({key: value}, step=step)
            said = answer.get(key) if isinstance(answer, dict) else None
            duplicated = getattr(getattr(said, "error", None), "duplicated", False)
            if getattr(said, "is_error", False) and not duplicated:
                raise errors.EventRejectedError(f"SwanLab did not take {key[:80]!r} at step {step}")
        except BaseException as error:
            self._take_back((key, step))
            if isinstance(error, (ValueError, TypeError, AssertionError)):
                raise errors.EventRejectedError(f"SwanLab did not take {key[:80]!r}: {error}") from error
            raise
        self._taken.setdefault(key, (kind, set()))[1].add(step)
        if duplicated:
            self._take_back((key, step))
        return not duplicated

    def _hand_over(self, what: tuple[str, int]) -> None:
        self._count += 1
        if self._watch is not None:
            self._watch.handed(what, self._count)

    def _take_back(self, what: tuple[str, int]) -> None:
        if self._watch is not None:
            self._watch.taken_back(what)

    # -- config and files -------------------------------------------------------------------------------------------

    def set_config(self, values: Mapping[str, Any]) -> None:
        """Set entries of the config."""
        self._hand_over(Watch.CONFIG)
        self._run.config.update(dict(values))

    def save(self, path: str, data: bytes) -> None:
        """Save a file with the run."""
        target = self._file(path)
        target.write_bytes(data)
        self._saved(target)

    def save_copy(self, path: str, file: str) -> None:
        """As `save`, of a file that is not read into memory."""
        target = self._file(path)
        copy(file, str(target))
        self._saved(target)

    def append(self, path: str, data: bytes) -> None:
        """Save a file that grows."""
        target = self._file(path)
        with target.open("ab") as file:
            file.write(data)
        self._saved(target)

    def _file(self, path: str) -> Path:
        target = self._folder / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _saved(self, target: Path) -> None:
        if self._mode == "online" and self._sdk.has_files:
            self._sdk.save(target, self._folder / "files")

    # -- the end ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        if self._store is not None:
            self._store.flush()

    def alive(self) -> bool:
        return self._sdk.alive(self._run)

    def count(self) -> int:
        """Return how many values were handed over."""
        return self._count

    def state(self) -> State:
        """Return what the service has got."""
        if self._watch is None:
            return State(self._count, self._count + 1, [], None)
        return State(self._count, self._watch.first(self._count), self._watch.take_refused(), self._watch.behind())

    def finish(self, failed: str | None, patience: float) -> str | None:
        """End the run, waiting so long for the service; return what it has not got."""
        if self._watch is not None:
            self._watch.wait(patience)
        self._sdk.finish(self._run, failed=failed)
        missing = self._count + 1 - self._watch.first(self._count) if self._watch is not None else 0
        return f"the service has not taken {missing} values" if missing else None
