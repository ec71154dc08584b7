"""The store behind HTTP: the server of a Hugging Face Space, or a self-hosted one."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tracelet_shim.backends.trackio.process import on_stderr
from tracelet_shim.backends.trackio.store import manifest_of, media_value

__all__ = ["Server", "is_own", "make_space"]

_TIMEOUT = 15.0  # seconds without an answer; Trackio's own is 60


class Server:
    """A server's HTTP API; the server of a Space or a self-hosted one."""

    keeps_time = shares_rows = False

    def __init__(self, project: str, space: str | None, server: str | None, token: str | None) -> None:
        import huggingface_hub
        from trackio.remote_client import RemoteClient

        self._project, self._space, self._server, self._write_token = project, space, server, token
        self._hf_token = huggingface_hub.get_token() if space else None
        try:
            self._client = RemoteClient(
                space or server, hf_token=self._hf_token, write_token=token, httpx_kwargs={"timeout": _TIMEOUT}
            )
        except ValueError as error:  # of Gradio's client, which is tried where ``/version`` does not answer as Trackio does
            raise ConnectionError(f"no Trackio server answers at {space or server}: {error}") from error

    def _call(self, api: str, *, write: bool = True, **arguments: Any) -> Any:
        try:
            return self._client.predict(api_name=api, **arguments, **({"hf_token": self._hf_token} if write else {}))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConnectionError("the answer is none of Trackio's but a page of what is between us and its server") from error

    def runs(self) -> list[dict[str, Any]]:
        return list(self._call("/get_runs_for_project", write=False, project=self._project))

    def config(self, run_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call(
            "/get_run_summary", write=False, project=self._project, run_id=run_id
        )["config"]
        return found

    def log(self, rows: list[dict[str, Any]]) -> None:
        self._call("/bulk_log", logs=rows)

    def media(self, run: str, step: int, name: str, data: bytes, kind: type[Any], caption: str | None) -> Any:
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
        self._call("/artifact_log", project=self._project, manifest=manifest, **about)

    def url(self) -> str:
        base = self._server or f"https://huggingface.co/spaces/{self._space}"
        return f"{base.rstrip('/')}/?{urlencode({'project': self._project})}"

    def handle(self) -> dict[str, Any]:
        where = {"space_id": self._space, "server_base_url": self._server, "write_token": self._write_token}
        return {"url": self._space or self._server, "client": self._client, **where}


def is_own(response: Any) -> bool:
    """True if an error comes from a Trackio server, or the Hub: JSON that says what is wrong (``asgi_app.py``). What is between
    us and them answers with a page."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and "error" in body


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


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def _upload(path: Path) -> Any:
    from trackio.run import handle_file

    return handle_file(str(path))
