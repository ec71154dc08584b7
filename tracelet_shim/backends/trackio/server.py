"""The store behind HTTP: the server of a Hugging Face Space, or a self-hosted one.

Its yes to rows is not enough: where its database cannot be written to, it says yes, puts them into a queue in its memory, and
drops most of them (``server.bulk_log``, ``_flush_loop``). So it is asked whether they are in the database. The rows of a run
that come in one request are stored in one transaction: the last one speaks for all.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tracelet_shim import events as ev
from tracelet_shim.backends.trackio.answers import no_answer, understood
from tracelet_shim.backends.trackio.process import on_stderr
from tracelet_shim.backends.trackio.store import manifest_of, manifest_of_files, media_value

__all__ = ["Server", "make_space"]

_TIMEOUT = 15.0  # seconds without an answer; Trackio's own is 60


class Server:
    """A server's HTTP API; the server of a Space or a self-hosted one."""

    keeps_time = shares_rows = False
    has_run_ids = has_system = has_alerts = True

    def __init__(self, project: str, space: str | None, server: str | None, token: str | None) -> None:
        import huggingface_hub
        from trackio.remote_client import RemoteClient

        self._project, self._space, self._server, self._write_token = project, space, server, token
        self._hf_token = huggingface_hub.get_token() if space else None
        self._configs: dict[str, str] = {}  # of runs: when the server got the latest that we know of
        try:
            self._client = RemoteClient(
                space or server, hf_token=self._hf_token, write_token=token, httpx_kwargs={"timeout": _TIMEOUT}
            )
        except ValueError as error:  # of Gradio's client, which is tried where ``/version`` does not answer as Trackio does
            raise ConnectionError(f"no Trackio server answers at {space or server}: {error}") from error

    def _call(self, api: str, *, write: bool = True, **arguments: Any) -> Any:
        try:
            return self._client.predict(api_name=api, **arguments, **({"hf_token": self._hf_token} if write else {}))
        except Exception as error:
            told = understood(error)
            if told is error:
                raise
            raise told from error

    def _ask(self, api: str, form: type[Any], **arguments: Any) -> Any:
        """Ask what has an answer of this type."""
        found = self._call(api, write=False, project=self._project, **arguments)
        if not isinstance(found, form):
            raise no_answer()
        return found

    def runs(self) -> list[dict[str, Any]]:
        return list(self._ask("/get_runs_for_project", list))

    def config(self, run_id: str) -> dict[str, Any] | None:
        self._configs |= self._found([], [run_id])
        found: dict[str, Any] | None = self._ask("/get_run_summary", dict, run_id=run_id).get("config")
        return found

    def log(self, rows: list[dict[str, Any]]) -> None:
        self._call("/bulk_log", logs=rows)
        last = {row["run_id"]: row["log_id"] for row in rows}
        changed = [row["run_id"] for row in rows if row["config"]]
        found = self._found(list(last.values()), changed)
        if not set(last.values()) <= found.keys() or any(found.get(run) in (None, self._configs.get(run)) for run in changed):
            raise ConnectionError("the Trackio server has said yes and stored nothing; is its disk full, or its database locked?")
        self._configs |= {run: found[run] for run in changed}

    def log_system(self, rows: list[dict[str, Any]]) -> None:
        entries = [{name: row[name] for name in ("project", "run", "run_id", "metrics", "timestamp", "log_id")} for row in rows]
        self._call("/bulk_log_system", logs=entries)
        texts, found = [row["log_id"] for row in rows], set[str]()
        for some in _parts(texts):
            listed = ",".join(f"'{text}'" for text in some)  # of our own making: digits and dashes
            query = f"SELECT log_id FROM system_metrics WHERE log_id IN ({listed})"  # noqa: S608
            found |= {str(row["log_id"]) for row in self._ask("/query_project", dict, query=query).get("rows") or ()}
        if not found.issuperset(texts):
            raise ConnectionError("the Trackio server has said yes and stored nothing; is its disk full, or its database locked?")

    def _found(self, log_ids: Sequence[str], run_ids: Sequence[str]) -> dict[str, str]:
        """Return those of these rows that are in the database, and when it got the configs of these runs."""
        questions = [("log_id, 1 AS found", "metrics WHERE log_id", some) for some in _parts(log_ids)]
        questions += [("run_id, created_at", "configs WHERE run_id", some) for some in _parts(run_ids)]
        found: dict[str, str] = {}
        for columns, where, some in questions:
            texts = ",".join("'" + text.replace("'", "''") + "'" for text in some)
            query = f"SELECT {columns} FROM {where} IN ({texts})"  # noqa: S608 - of our own database, and read only
            rows = self._ask("/query_project", dict, query=query).get("rows")
            if not isinstance(rows, list):
                raise no_answer()
            found |= {str(key): str(value) for key, value in (row.values() for row in rows)}
        return found

    def media(self, run: str, step: int, name: str, data: bytes, kind: str, caption: str | None) -> Any:
        from trackio.utils import canonical_project_name

        with _file(name, data) as path:
            value = media_value(kind, path, Path(canonical_project_name(self._project), run, str(step), name), caption)
            place = {"project": self._project, "run": run, "run_id": None, "step": step, "relative_path": None}
            self._call("/bulk_upload_media", uploads=[{**place, "uploaded_file": _upload(path)}])
        return value

    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None:
        manifest = manifest_of(contents)
        for entry, (_, data) in zip(manifest, contents, strict=True):
            with _file(entry["digest"], data) as path:
                upload = {"project": self._project, "digest": entry["digest"], "uploaded_file": _upload(path)}
                self._call("/bulk_upload_artifact_blob", project=self._project, uploads=[upload])
        if not isinstance(self._call("/artifact_log", project=self._project, manifest=manifest, **about), dict):
            raise no_answer()

    def files(self, files: Sequence[tuple[str, ev.ArtifactFile]], **about: Any) -> int:
        for _, file in files:
            upload = {"project": self._project, "digest": file.sha256, "uploaded_file": _upload(Path(file.at))}
            self._call("/bulk_upload_artifact_blob", project=self._project, uploads=[upload])
        made = self._call("/artifact_log", project=self._project, manifest=manifest_of_files(files), **about)
        if not isinstance(made, dict):
            raise no_answer()
        return int(made["version"])

    def version(self, name: str, version: str | None) -> dict[str, Any] | None:
        found = self._call("/get_artifact_manifest", write=False, project=self._project, name=name, spec=version)
        if found is not None and not isinstance(found, dict):
            raise no_answer()
        return found

    def use(self, version_id: int, run: str, run_id: str) -> None:
        self._call("/log_artifact_use", project=self._project, version_id=version_id, run_name=run, run_id=run_id)

    def source(self) -> dict[str, Any]:
        return {"space_id": self._space, "server_base_url": self._server, "write_token": self._write_token}

    def link(self, **_: Any) -> str | None:
        return "beside a server or a Space, Trackio has registries in a bucket of Hugging Face only; it is linked into none"

    def alert(self, alert: dict[str, Any]) -> None:
        self._call("/bulk_alert", alerts=[{"project": self._project, **alert}])
        query = f"SELECT alert_id FROM alerts WHERE alert_id = '{alert['alert_id']}'"  # noqa: S608 - a digest
        if not self._ask("/query_project", dict, query=query).get("rows"):
            raise ConnectionError("the Trackio server has said yes and stored nothing")

    def url(self) -> str:
        base = self._server or f"https://huggingface.co/spaces/{self._space}"
        return f"{base.rstrip('/')}/?{urlencode({'project': self._project})}"

    def handle(self) -> dict[str, Any]:
        where = {"space_id": self._space, "server_base_url": self._server, "write_token": self._write_token}
        return {"url": self._space or self._server, "client": self._client, **where}


def make_space(space: str, options: Mapping[str, Any]) -> str:
    """Make the Space if there is none, as `trackio.init` does; return its full name."""
    from trackio import deploy, utils

    with on_stderr(deploy), on_stderr(utils):
        space, _, bucket = utils.preprocess_space_and_dataset_ids(space, None, options.get("bucket_id"))
        if not options.get("bucket_id"):
            bucket = deploy.resolve_auto_bucket_id(space, bucket)
        deploy.raise_if_space_is_frozen_for_logging(space)
        deploy.create_space_if_not_exists(space, None, bucket, options.get("private"))
    return str(space)


def _parts(texts: Sequence[str], most: int = 500) -> Iterator[Sequence[str]]:
    return (texts[start : start + most] for start in range(0, len(texts), most))


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def _upload(path: Path) -> Any:
    from trackio.run import handle_file

    return handle_file(str(path))
