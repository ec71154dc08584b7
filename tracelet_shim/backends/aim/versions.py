"""What differs between the versions of Aim (3.19 to 3.29), found by what is there.

- Up to 3.21, Aim knows no directory as a place for artifacts (its registry of places has ``s3`` only): it is given one. The page
  of a run lists the files; it offers none of them for download there.
- Up to 3.28, a run that goes on is listed from its own store, and what `RepoIndexManager.index` is for is a run whose program was
  killed: it writes into the index that it has ended now. From 3.29 on, what is not in the index is not listed.
- `Run.artifacts_uri` of 3.19 fails where there is none.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from typing import Any
from urllib.parse import urlparse

__all__ = ["artifacts_uri", "is_in_index", "know_directories", "lists_without_index"]


def know_directories() -> None:
    """Let Aim's artifacts go into directories, as from 3.22 on."""
    from aim.storage.artifacts import artifact_storage, registry

    if "file" in registry.registry:
        return

    class Directory(artifact_storage.AbstractArtifactStorage):  # type: ignore[misc]
        def _at(self, artifact_path: str) -> str:
            return os.path.join(urlparse(self.url).path, artifact_path)

        def upload_artifact(self, file_path: str, artifact_path: str, block: bool = False) -> None:
            place = self._at(artifact_path)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy(file_path, place)

        def download_artifact(self, artifact_path: str, dest_dir: str | None = None) -> str:
            into = dest_dir or tempfile.mkdtemp()
            os.makedirs(into, exist_ok=True)
            return str(shutil.copy(self._at(artifact_path), into))

        def delete_artifact(self, artifact_path: str) -> None:
            os.remove(self._at(artifact_path))

    registry.registry["file"] = Directory


def lists_without_index(repo: Any) -> bool:
    """Tell whether a run that goes on is listed though it is not in the index of an `aim.Repo`."""
    return "from_union" in inspect.signature(repo.request_tree).parameters


def is_in_index(manager: Any, run_hash: str) -> bool:
    """Tell whether a run has been put into the index already, by its end, so that a `RepoIndexManager` would fail to. From 3.29
    on, that may be done again."""
    return hasattr(manager, "run_needs_indexing") and not manager.run_needs_indexing(run_hash)


def artifacts_uri(run: Any) -> str | None:
    """Return where the files of an `aim.Run` go; None if there is no place for them."""
    place: str | None = run.meta_run_tree.get("artifacts_uri", None)
    return place and os.path.join(place, run.hash)
