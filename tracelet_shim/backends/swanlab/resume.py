"""What earlier sessions of a run have stored.

Offline, SwanLab cannot append to a run: a resumed one continues in a further directory with the same id, whose
``swanlab sync --id`` adds to the first.
"""

from __future__ import annotations

import glob
import logging
import re
import shutil
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.swanlab.run import NAMES, Run

__all__ = ["remove_begun", "take_up", "unsent_trials", "uploaded"]

_UPLOADED = "tracelet-uploaded"  # an empty file in the directory of a trial
RECENT = 100_000
"""Points of an earlier session that are recognised when they are delivered again."""

_log = logging.getLogger(__name__)


def take_up(run: Run) -> list[Path]:
    """Take up what earlier sessions of this run's id have stored in its log directory; return their logs.

    Their steps are taken, their points recognised when they are delivered again, and their config is kept, since
    SwanLab replaces a run's config as a whole. Online, what the service has not got of them is sent now.
    """
    import yaml  # type: ignore[import-untyped]

    logs = _earlier(run)
    _remember(run, logs)
    for log in logs:
        path = log.parent / "files" / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        values = {key: entry["value"] for key, entry in (config or {}).items()}
        run.about |= values.get("tracelet") or {}
        run.sdk.config.update(values)
        if (names := log.parent / "files" / NAMES).is_file():
            run.append(NAMES, names.read_bytes())
    return logs


def _earlier(run: Run) -> list[Path]:
    """Return the logs of this run's id, oldest first, this session's own excluded."""
    from swanlab.sdk.internal.pkg import fs

    run_id = str(run.sdk.id)
    name = fs.safe_fmt(run_id, fallback="unknown_run")
    pattern = "run-*" if len(name) > 150 else f"run-*-{glob.escape(name)}*"  # a long one is cut in a way of its own
    found = []
    for path in sorted(run.dir.parent.glob(f"{pattern}/run-*.swanlab")):
        if path.parent != run.dir:
            first = next(_records(path), None)
            if first is not None and first.HasField("start") and first.start.id == run_id:
                found.append(path)
    return found


def _remember(run: Run, logs: Sequence[Path]) -> None:
    """Take the steps of what these logs have, and know its last points again."""
    from swanlab.sdk.internal.core_python.pkg import builder
    from swanlab.sdk.internal.pkg import adapter

    online, metrics, recent = run.sdk.mode == "online", run.core._metrics, deque[tuple[Any, ...]](maxlen=RECENT)
    for folder, record in ((log.parent, record) for log in logs for record in _records(log)):
        if online and record.HasField("save") and record.save.type == 0:  # SAVE_TYPE_CUSTOM: a file of ours
            run.save_again(record.save)
        scalar = record.HasField("scalar")
        if not scalar and not record.HasField("media"):
            continue
        point = record.scalar if scalar else record.media
        metric = metrics.get(point.key)
        if online and (metric is None or (point.step > metric.min_step and point.step not in metric.steps)):
            run.put_again(folder, point)
            metric = metrics.get(point.key)
        if metric is None:
            column = builder.build_auto_column(run.core._ctx, point)
            define, place = metrics.define_scalar, {}
            if not scalar:
                define, place = metrics.define_media, {"path": run.dir / "media" / adapter.medium[point.type]}
            metric = define(key=point.key, column=column, **place)
        metric.steps.add(point.step)
        if not point.key.endswith((" (more: step)", " (more: rest)", " (infinity)")):
            base = re.sub(r" \((?:repeat \d|more)\)\Z", "", point.key)
            content = [struct.pack("<d", point.value.number)] if scalar else [i.sha256 for i in point.value.items]
            recent.append((base, point.timestamp.seconds, point.timestamp.nanos, *content))
    run.seen = Seen(recent, in_order=True)


def remove_begun(run: Run) -> None:
    """Remove what a process has left that was killed while it opened this run: directories without a record."""
    for other in run.dir.parent.glob(f"run-*-{glob.escape(str(run.sdk.id))}"):
        if other != run.dir and all(next(_records(log), None) is None for log in other.glob("run-*.swanlab")):
            shutil.rmtree(other, ignore_errors=True)


def unsent_trials(run: Run) -> Iterator[tuple[str, Path]]:
    """Yield id and directory of the trials of an online run that earlier sessions have written and not uploaded."""
    for path in sorted(run.dir.parent.glob("run-*/run-*.swanlab")):
        first = None if (path.parent / _UPLOADED).exists() else next(_records(path), None)
        start = first.start if first is not None and first.HasField("start") else None
        if start is not None and (start.job_type, start.group) == ("trial", str(run.sdk.id)):
            yield start.id, path.parent


def uploaded(folder: Path) -> None:
    """The trial in this directory has been uploaded."""
    (folder / _UPLOADED).touch()


def _records(path: Path) -> Iterator[Any]:
    """Yield the records of a log up to its end, or to where a killed process left off."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreError, DataStoreReader

    reader = DataStoreReader()
    try:
        reader.open(path)
        for data in reader:
            yield Record.FromString(data)
    except (AssertionError, DataStoreError) as error:  # the SDK's for a file that was not even begun
        _log.warning("%s cannot be read: %s", path, error)
    finally:
        reader.close()
