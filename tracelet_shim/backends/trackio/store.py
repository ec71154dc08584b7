"""Where rows, media files and artifacts go: what ``local.py`` and ``server.py`` have in common, the only code that calls the SDK
to write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tracelet_shim import events as ev

__all__ = ["Store", "manifest_of", "manifest_of_files", "media_value"]


class Store(Protocol):
    """What holds the runs of one project. `files` returns the version that it has made, or found; `link`, which links one into a
    registry, why it could not; `version` what there is of one, or of an alias of one, and None the latest; `use` notes that a
    run has used it; `source` tells where files are that are not on this machine.

    Attributes:
        keeps_time: False if it stamps the time of arrival.
        shares_rows: True if it can be asked what it has, so that scalars may share a row.
        has_run_ids: False if a run is known by its name.
        has_system, has_alerts: False if it has no place for system metrics, for alerts.
    """

    keeps_time: bool
    shares_rows: bool
    has_run_ids: bool
    has_system: bool
    has_alerts: bool

    def runs(self) -> list[dict[str, Any]]: ...
    def config(self, run_id: str) -> dict[str, Any] | None: ...
    def log(self, rows: list[dict[str, Any]]) -> None: ...
    def log_system(self, rows: list[dict[str, Any]]) -> None: ...
    def media(self, run: str, step: int, name: str, data: bytes, kind: str, caption: str | None) -> Any: ...
    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None: ...
    def files(self, files: Sequence[tuple[str, ev.ArtifactFile]], **about: Any) -> int: ...
    def version(self, name: str, version: str | None) -> dict[str, Any] | None: ...
    def use(self, version_id: int, run: str, run_id: str) -> None: ...
    def source(self) -> dict[str, Any] | None: ...
    def link(self, **link: Any) -> str | None: ...
    def alert(self, alert: dict[str, Any]) -> None: ...
    def url(self) -> str: ...
    def handle(self) -> dict[str, Any]: ...


def manifest_of(contents: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    return [{"path": path, "digest": hashlib.sha256(data).hexdigest(), "size": len(data)} for path, data in contents]


def manifest_of_files(files: Iterable[tuple[str, ev.ArtifactFile]]) -> list[dict[str, Any]]:
    """As `manifest_of`, of files that are not read for it: (path, file)."""
    return [{"path": path, "digest": file.sha256, "size": file.size} for path, file in files]


def media_value(kind: str, path: Path, stored: Path, caption: str | None) -> Any:
    """Return what a row holds for a media file that is at `path` now and at `stored` in the media directory."""
    import trackio

    media = getattr(trackio, kind)(path, caption=caption)
    media._file_path = stored
    return media._to_dict()
