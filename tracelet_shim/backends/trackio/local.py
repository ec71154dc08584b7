"""The local store of Trackio 0.30 and later: its SQLite file, or its JSONL fragments, and the folders beside it.

Rows go straight to `SQLiteStorage.bulk_log` (``sqlite_storage.py``). `Run.log` would queue them: it stamps the time of its own
flush, and turns every failure into a warning (``run.py``), so nobody would know what to send again. Media files are written where
`TrackioMedia` writes them (``media/<project>/<run>/<step>/``), unchanged.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.files import replace
from tracelet_shim.backends.trackio import log_ids
from tracelet_shim.backends.trackio.process import on_stderr
from tracelet_shim.backends.trackio.store import manifest_of, manifest_of_files, media_value
from tracelet_shim.backends.trackio.versions import known_names

__all__ = ["Local"]


class Local:
    """The SQLite file, or JSONL fragments on a network file system; media and artifacts in folders beside them."""

    keeps_time = has_run_ids = has_system = has_alerts = True

    def __init__(self, project: str) -> None:
        from trackio import utils
        from trackio.fragments import FragmentWriter

        self._project = project
        with on_stderr(utils):  # it may say that the directory is on a network file system
            self._fragments = FragmentWriter() if utils.get_storage_mode() == "jsonl" else None
        self.shares_rows = self._fragments is None
        self._opening = dict[str, str]()  # run -> the log_id of its opening row, as long as that is there

    def runs(self) -> list[dict[str, Any]]:
        from trackio.sqlite_storage import SQLiteStorage

        return list(SQLiteStorage.get_run_records(self._project))

    def config(self, run_id: str) -> dict[str, Any] | None:
        from trackio.sqlite_storage import SQLiteStorage

        found: dict[str, Any] | None = SQLiteStorage.get_run_config(self._project, run_id=run_id)
        return found

    def log(self, rows: list[dict[str, Any]]) -> None:
        from trackio.fragments import metric_record
        from trackio.sqlite_storage import SQLiteStorage

        if self._fragments is not None:
            self._fragments.write_local([metric_record(row) for row in rows])
            return
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            runs.setdefault(row["run_id"], []).append(row)
        for run_id, own in runs.items():
            columns = {name: [row[name] for row in own] for name in ("metrics", "step", "timestamp", "log_id")}
            SQLiteStorage.bulk_log(
                self._project, own[0]["run"], columns["metrics"], columns["step"], columns["timestamp"],
                config=own[0]["config"], log_ids=columns["log_id"], run_id=run_id,
            )  # fmt: skip
            self._opening.update((run_id, row["log_id"]) for row in own if not row["metrics"])
            if run_id in self._opening:
                self._drop_opening_row(run_id)

    def _drop_opening_row(self, run_id: str) -> None:
        """Take the row without values away that opens a run, once it has another: the dashboard would count it as a step."""
        from trackio.sqlite_storage import SQLiteStorage

        log_id = self._opening[run_id]
        others = "SELECT 1 FROM metrics WHERE run_id = ? AND log_id IS NOT ?"
        try:
            with contextlib.closing(sqlite3.connect(SQLiteStorage.get_project_db_path(self._project), timeout=5)) as connection:
                dropped = connection.execute(
                    f"DELETE FROM metrics WHERE log_id = ? AND EXISTS ({others})",  # noqa: S608 - a text of ours
                    (log_id, run_id, log_id),
                )
                connection.commit()
        except sqlite3.OperationalError:  # busy: after the next rows, then
            return
        if dropped.rowcount:
            del self._opening[run_id]

    def log_system(self, rows: list[dict[str, Any]]) -> None:
        """Store rows of the system's page: as of `log`, all of one run, and without a step."""
        from trackio.fragments import system_metric_record
        from trackio.sqlite_storage import SQLiteStorage

        if self._fragments is not None:
            self._fragments.write_local([system_metric_record(row) for row in rows])
            return
        metrics, timestamps, log_ids = ([row[name] for row in rows] for name in ("metrics", "timestamp", "log_id"))
        SQLiteStorage.bulk_log_system(
            self._project, rows[0]["run"], metrics, timestamps=timestamps, log_ids=log_ids, run_id=rows[0]["run_id"]
        )

    def known(self, log_ids: Sequence[str]) -> list[str]:
        """Return those of `log_ids` that are in the database."""
        found: list[str] = []
        for start in range(0, len(log_ids), 500):
            some = log_ids[start : start + 500]
            found += self._select(f"log_id IN ({','.join('?' * len(some))})", *some)
        return found

    def spans(self, file_id: str, first: str, last: str, *, system: bool = False) -> list[tuple[str, str]]:
        """Return the (first, last) places of the shared rows of one event file that have one of `first` to `last`."""
        before, table = f"{file_id}{first}", "system_metrics" if system else "metrics"
        found = self._select("log_id >= ? AND log_id < ? ORDER BY log_id DESC LIMIT 1", file_id, before, table=table)
        found += self._select("log_id >= ? AND log_id <= ? ORDER BY log_id", before, f"{file_id}{last}~", table=table)
        return [span[1:] for text in found for span in [next(log_ids.spans(text))]]

    def joint(self) -> list[str]:
        """Return the log_ids of the rows that have values of several event files. `spans` knows them by the first file only."""
        return self._select("log_id LIKE ?", f"%{log_ids.JOINT}%")

    def _select(self, where: str, *values: str, table: str = "metrics") -> list[str]:
        """Return log_ids; not by `SQLiteStorage.query_project`, which makes a busy database a ValueError."""
        from trackio.sqlite_storage import SQLiteStorage

        path = SQLiteStorage.get_project_db_path(self._project)
        if not path.exists():  # the user has deleted the project; the next write makes it again
            return []
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            return [str(row[0]) for row in connection.execute(f"SELECT log_id FROM {table} WHERE {where}", values)]  # noqa: S608

    def media(self, run: str, step: int, name: str, data: bytes, kind: str, caption: str | None) -> Any:
        from trackio.media import get_project_media_path
        from trackio.utils import MEDIA_DIR

        path = Path(get_project_media_path(project=self._project, run=run, step=step)) / name
        replace(path, data)
        return media_value(kind, path, path.relative_to(MEDIA_DIR), caption)

    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None:
        from trackio import cas
        from trackio.sqlite_storage import SQLiteStorage

        manifest = manifest_of(contents)
        for entry, (_, data) in zip(manifest, contents, strict=True):
            cas.stage_blob_from_chunks([data], entry["digest"], cas.blob_path(self._project, entry["digest"]))
        SQLiteStorage.commit_artifact_version(project=self._project, manifest=manifest, **about)

    def files(self, files: Sequence[tuple[str, ev.ArtifactFile]], **about: Any) -> int:
        from trackio import cas
        from trackio.sqlite_storage import SQLiteStorage

        for _, file in files:
            cas.stage_blob_from_file(Path(file.at), cas.validate_digest(file.sha256), cas.blob_path(self._project, file.sha256))
        made = SQLiteStorage.commit_artifact_version(project=self._project, manifest=manifest_of_files(files), **about)
        return int(made["version"])

    def version(self, name: str, version: str | None) -> dict[str, Any] | None:
        from trackio.sqlite_storage import SQLiteStorage

        found: dict[str, Any] | None = SQLiteStorage.get_artifact_manifest(self._project, name, version)
        return found

    def use(self, version_id: int, run: str, run_id: str) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        about = {"version_id": version_id, "direction": "input", "run_project": self._project}
        insert = SQLiteStorage.insert_run_artifact_link
        insert(project=self._project, run_name=run, run_id=run_id, **known_names(insert, about))

    def source(self) -> None:
        return None

    def linked(self, collection: str, version: str | None) -> tuple[str, str, str] | None:
        """Return project, name and version of what a collection of this registry, if it is one, leads to."""
        try:
            from trackio import registry_storage as registries
        except ImportError:  # before 0.36
            return None
        registry = self._project.removeprefix("registry-")
        found = registries.RegistryStorage.get_collection(registry, collection)
        try:
            link = registries.resolve_collection_link(found["links"], version) if found is not None else None
        except ValueError:  # no such version, or none at all
            return None
        return link and (link["source_project"], link["source_artifact"], f"v{link['source_version']}")

    def link(self, **link: Any) -> str | None:
        """Link a version of an artifact into a registry; return why that could not be done, if so."""
        try:
            from trackio.registry_storage import RegistryStorage
        except ImportError:
            return "Trackio has registries from 0.36 on"
        try:
            RegistryStorage.link_artifact_version(source_project=self._project, **link)
        except ValueError as error:  # no such registry, or the collection is of another type
            return str(error)
        return None

    def alert(self, alert: dict[str, Any]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        run, run_id = alert.pop("run"), alert.pop("run_id")
        each = {f"{name}s": [value] for name, value in alert.items()}
        SQLiteStorage.bulk_alert(project=self._project, run=run, run_id=run_id, **each)

    def url(self) -> str:
        place = os.environ.get("TRACKIO_DIR")
        command = f"trackio show --project {shlex.quote(self._project)}"
        return f"TRACKIO_DIR={shlex.quote(os.path.abspath(place))} {command}" if place else command

    def handle(self) -> dict[str, Any]:
        return {"url": None, "client": None}
