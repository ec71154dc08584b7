"""The local store of Trackio before 0.30, which lacks one thing or another (``versions.py``). What takes its place:

- Runs without ids are known by their names. Two runs of one name would be one: ours gets a name that is free. Its id is in its
  config.
- Rows without ids have them among their values, as ``tracelet/row``: a text, which no chart draws. Those that a run had before
  are known.
- A config that has no table is a row of its own, ``tracelet/config``; the latest counts.
- Artifacts are files in the media directory, under ``files``, and a row says what they are: ``tracelet/files/...``.
- System metrics without a page are metrics of the writer ``system``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.files import replace
from tracelet_shim.backends.trackio import log_ids as ids_of_rows
from tracelet_shim.backends.trackio.local import Local
from tracelet_shim.backends.trackio.log_ids import digest
from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.store import manifest_of, manifest_of_files
from tracelet_shim.backends.trackio.values import iso
from tracelet_shim.backends.trackio.versions import known_names, takes

__all__ = ["Older", "local_store"]

_ROW, _CONFIG, _ID, _FILES = (f"{OWN}{name}" for name in ("row", "config", "id", "files/"))
_RECENT = 50_000  # more than come again in one process: those of a write that failed
_NO_ARTIFACTS = "Trackio has artifacts from 0.30 and registries from 0.36 on"


def local_store(project: str) -> Local:
    """Return the store of this machine, as the installed Trackio keeps it."""
    from trackio.sqlite_storage import SQLiteStorage

    return Local(project) if hasattr(SQLiteStorage, "commit_artifact_version") else Older(project)


class Older(Local):
    """The SQLite file of one project, and the media directory beside it."""

    def __init__(self, project: str) -> None:
        from trackio import utils
        from trackio.sqlite_storage import SQLiteStorage as sdk  # noqa: N813 - a class of nothing but functions

        self._project, self._sdk, self._fragments = project, sdk, None
        self.shares_rows = True
        self.has_run_ids = takes(sdk.bulk_log, "run_id")
        self.has_system = hasattr(sdk, "bulk_log_system")
        self.has_alerts = hasattr(sdk, "bulk_alert")
        self._has_row_ids = takes(sdk.bulk_log, "log_ids")
        self._has_configs = takes(sdk.bulk_log, "config")
        self._top = Path(utils.TRACKIO_DIR)
        self._media = Path(getattr(utils, "MEDIA_DIR", self._top / "media"))
        self._names = dict[str, str]()
        self._opened = set[str]()
        self._recent = dict[str, None]()  # of rows without ids: those of the latest that this process has stored
        self._ids = dict[str, list[str]]()  # of rows without ids: run -> the ids that it had, sorted

    # -- runs ---------------------------------------------------------------------------------------------------------

    def runs(self) -> list[dict[str, Any]]:
        if self.has_run_ids:
            return super().runs()
        found = []
        for name in self._sdk.get_runs(self._project):
            run_id = str((self._config_of(name) or {}).get(_ID) or name)
            self._names[run_id] = name
            found.append({"id": run_id, "name": name})
        return found

    def config(self, run_id: str) -> dict[str, Any] | None:
        if self.has_run_ids:
            return super().config(run_id)
        if run_id not in self._names:
            self.runs()
        found = self._config_of(self._names.get(run_id, run_id))
        return None if found is None else {key: value for key, value in found.items() if key != _ID}

    def _config_of(self, name: str) -> dict[str, Any] | None:
        if self._has_configs:
            found: dict[str, Any] | None = self._sdk.get_run_config(self._project, name)
            return found
        key = f'$."{_CONFIG}"'
        stored = self._query(
            "SELECT json_extract(metrics, ?) FROM metrics WHERE run_name = ? AND json_extract(metrics, ?) IS NOT NULL"
            " ORDER BY id DESC LIMIT 1", key, name, key
        )  # fmt: skip
        return dict(json.loads(stored[0][0])) if stored else None

    # -- rows ---------------------------------------------------------------------------------------------------------

    def log(self, rows: list[dict[str, Any]]) -> None:
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            runs.setdefault(row["run_id"], []).append(row)
        for run_id, own in runs.items():
            self._log(run_id, own)

    def _log(self, run_id: str, rows: list[dict[str, Any]]) -> None:
        """Store rows of one run: of `rows`, the first may have a config."""
        name, config = rows[0]["run"], rows[0]["config"]
        self._names[run_id] = name
        config = config and {**config, **({} if self.has_run_ids else {_ID: run_id})}
        if not self._has_row_ids:
            there = {*self._ids_of(name), *self._recent}
            rows = [row for row in rows if row["log_id"] not in there]
        metrics = [row["metrics"] for row in rows]
        if not self._has_row_ids:
            metrics = [{**row["metrics"], _ROW: row["log_id"]} if row["metrics"] else {} for row in rows]
        if config and not self._has_configs:
            metrics[0] = {**metrics[0], _CONFIG: config}
        more = {"config": config, "log_ids": [row["log_id"] for row in rows], "run_id": run_id}
        if not rows:
            return
        try:
            self._sdk.bulk_log(
                self._project, name, metrics, [row["step"] for row in rows], [row["timestamp"] for row in rows],
                **known_names(self._sdk.bulk_log, more),
            )  # fmt: skip
        except BaseException:
            self._ids.clear()  # they may be there all the same
            raise
        self._remember(row["log_id"] for row in rows if row["metrics"])

    def log_system(self, rows: list[dict[str, Any]]) -> None:
        metrics, timestamps, ids = ([row[name] for row in rows] for name in ("metrics", "timestamp", "log_id"))
        if not self._has_row_ids:
            there = {*self._ids_of(rows[0]["run"]), *self._recent}
            kept = [n for n, log_id in enumerate(ids) if log_id not in there]
            metrics, timestamps = [{**metrics[n], _ROW: ids[n]} for n in kept], [timestamps[n] for n in kept]
        more = {"timestamps": timestamps, "log_ids": ids, "run_id": rows[0]["run_id"]}
        log = self._sdk.bulk_log_system
        if not metrics:
            return
        try:
            log(self._project, rows[0]["run"], metrics, **known_names(log, more))
        except BaseException:
            self._ids.clear()
            raise
        self._remember(ids)

    def _remember(self, log_ids: Iterable[str]) -> None:
        if not self._has_row_ids:
            self._recent.update(dict.fromkeys(log_ids))
            while len(self._recent) > _RECENT:
                del self._recent[next(iter(self._recent))]

    def known(self, log_ids: Sequence[str]) -> list[str]:
        if self._has_row_ids:
            return super().known(log_ids)
        there = {*self._recent, *(log_id for ids in self._ids.values() for log_id in ids)}
        return [log_id for log_id in log_ids if log_id in there]

    def spans(self, file_id: str, first: str, last: str, *, system: bool = False) -> list[tuple[str, str]]:
        if self._has_row_ids:
            return super().spans(file_id, first, last, system=system)
        found = []
        for ids in self._all_ids():
            begin, end = bisect_left(ids, f"{file_id}{first}"), bisect_right(ids, f"{file_id}{last}~")
            found += [log_id for log_id in ids[max(begin - 1, 0) : end] if log_id.startswith(file_id)]
        found = sorted({*found, *(log_id for log_id in self._recent if log_id.startswith(file_id))})
        return [span[1:] for log_id in found for span in [next(ids_of_rows.spans(log_id))]]

    def joint(self) -> list[str]:
        if self._has_row_ids:
            return super().joint()
        return [log_id for ids in (*self._all_ids(), self._recent) for log_id in ids if ids_of_rows.JOINT in log_id]

    def _all_ids(self) -> Iterator[list[str]]:
        return (self._ids_of(name) for name in list(self._names.values()) if name in self._opened)

    def _ids_of(self, name: str) -> list[str]:
        """Return the ids among the values of rows that a run has had before this process wrote any, or since one failed."""
        if name not in self._ids:
            self._opened.add(name)
            path = f'$."{_ROW}"'
            # from 0.4 on it is a blob of JSON, which SQLite would take for its own binary JSON
            select = "SELECT json_extract(CAST(metrics AS TEXT), ?) FROM {} WHERE run_name = ?"
            found = self._query(select.format("metrics"), path, name)
            found += self._query(select.format("system_metrics"), path, name) if self.has_system else []
            self._ids[name] = sorted(str(log_id) for (log_id,) in found if log_id is not None)
        return self._ids[name]

    def _query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        path = self._sdk.get_project_db_path(self._project)
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'metrics'").fetchone():
                return []  # it is being made
            return connection.execute(sql, values).fetchall()

    def alert(self, alert: dict[str, Any]) -> None:
        run = alert.pop("run")
        each = {"run_id": alert.pop("run_id"), **{f"{name}s": [value] for name, value in alert.items()}}
        self._sdk.bulk_alert(project=self._project, run=run, **known_names(self._sdk.bulk_alert, each))

    # -- files --------------------------------------------------------------------------------------------------------

    def media(self, run: str, step: int, name: str, data: bytes, kind: str, caption: str | None) -> Any:
        import trackio

        path = self._media / self._project / run / str(step) / name
        replace(path, data)
        value = {"_type": getattr(trackio, kind).TYPE, "file_path": self._relative(path), "caption": caption}
        return value if self._knows_media else {**value, "file_format": path.suffix[1:].upper()}

    @property
    def _knows_media(self) -> bool:
        from trackio import utils

        return hasattr(utils, "MEDIA_DIR")

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._media if self._knows_media else self._top))

    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None:
        place = self._place(manifest_of(contents), about)
        for path, data in contents:
            replace(place / path, data)
        self._list(place, manifest_of(contents), about)

    def files(self, files: Sequence[tuple[str, ev.ArtifactFile]], **about: Any) -> int:
        manifest = manifest_of_files(files)
        place = self._place(manifest, about)
        for path, file in files:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.at, place / path)
        self._list(place, manifest, about)
        return 0

    def _place(self, manifest: Iterable[dict[str, Any]], about: dict[str, Any]) -> Path:
        """Return the directory of this version of an artifact: another content is beside it."""
        said = digest(about["run_id"], about["name"], *(f"{entry['digest']} {entry['path']}" for entry in manifest))
        return Path(self._media, self._project, "files", about["name"], said[:12])

    def _list(self, place: Path, manifest: list[dict[str, Any]], about: dict[str, Any]) -> None:
        metadata = about["metadata"]
        value = {
            "_type": "tracelet.files", **{name: about[name] for name in ("name", "type", "metadata", "aliases")},
            "directory": self._relative(place), "files": [entry["path"] for entry in manifest],
        }  # fmt: skip
        row = {
            "run": about["run_name"], "run_id": about["run_id"], "metrics": {f"{_FILES}{about['name']}": value}, "config": None,
            "step": int(metadata.get("step") or 0), "timestamp": _when(metadata), "log_id": digest(about["run_id"], str(place)),
        }  # fmt: skip
        self.log([row])

    def version(self, name: str, version: str | None) -> dict[str, Any] | None:
        return None

    def linked(self, collection: str, version: str | None) -> tuple[str, str, str] | None:
        return None

    def link(self, **link: Any) -> str | None:
        return f"it is a file in the media directory; {_NO_ARTIFACTS}"

    def handle(self) -> dict[str, Any]:
        return {"url": None, "client": None}


def _when(metadata: dict[str, Any]) -> str:
    seconds = metadata.get("wall_time")
    return (iso(seconds) if isinstance(seconds, float) else None) or iso(0.0) or ""
