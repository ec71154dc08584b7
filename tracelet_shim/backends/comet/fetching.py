"""Artifacts that Comet's server gives back: ``WORKSPACE/NAME:VERSION_OR_ALIAS``, or the name that one was logged by, in the
workspace of the session's run; the latest version, where none is named. An archive gives nothing back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.comet.compat import get_artifact
from tracelet_shim.backends.comet.experiments import workspace_of
from tracelet_shim.backends.comet.names import artifact_name
from tracelet_shim.backends.comet.process import import_sdk, sdk_settings
from tracelet_shim.backends.comet.settings import is_offline
from tracelet_shim.backends.shared.names import file_names

__all__ = ["Wanted", "cannot_fetch", "fetch", "wanted"]

_FORM = "one is found as NAME, NAME:VERSION_OR_ALIAS or WORKSPACE/NAME:VERSION_OR_ALIAS"


class Wanted(NamedTuple):
    """What is asked for; None: not said."""

    workspace: str | None
    name: str
    version: str | None


def wanted(name: str) -> Iterator[Wanted]:
    """Yield what a name may mean: one that was logged so, whatever characters it has; what Comet itself would read it as."""
    yield Wanted(None, artifact_name(name), None)
    workspace, slash, rest = name.rpartition("/")
    key, colon, version = rest.partition(":")
    if slash or colon:
        yield Wanted(workspace or None, artifact_name(key), version or None)


def cannot_fetch(options: Mapping[str, Any], run: RunInfo) -> str | None:
    """As `Backend.cannot_fetch`."""
    if is_offline(options, default=run.offline):
        return "it is offline, and an archive gives nothing back; Comet's server has the artifacts (COMET_START_ONLINE=true)"
    return None


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
    """As `Backend.fetch`."""
    import_sdk(of_training=run.program.pid == os.getpid())
    with sdk_settings():
        import comet_ml

        client = comet_ml.API(api_key=str(options["api_key"]) if options.get("api_key") else None, cache=False)._client
        for one in wanted(name):
            found = _details(client, one, options, run)
            if found is not None:
                return _download(found, directory)
    raise NoSuchArtifactError(f"Comet has no artifact {name!r} in this workspace; {_FORM}")


def _details(client: Any, asked: Wanted, options: Mapping[str, Any], run: RunInfo) -> Any:
    """Return the SDK's object of a version; None if there is none."""
    from comet_ml.config import get_config
    from comet_ml.exceptions import ArtifactNotFound, CometRestApiException
    from comet_ml.summary import Summary

    workspace = asked.workspace
    if workspace is None and run.resume is None:  # else the server has it of the run
        workspace = workspace_of(options) or client.get_account_details()["defaultWorkspaceName"]
    params = {"name": asked.name, "workspace": workspace, "version_or_alias": asked.version, "experiment_key": run.resume}
    try:
        return get_artifact()(client, params, run.resume or "", Summary("tracelet"), get_config())
    except ArtifactNotFound:
        return None
    except CometRestApiException as error:
        if getattr(error.response, "status_code", 0) in (400, 404):
            return None
        raise


def _download(found: Any, directory: str) -> Fetched:
    """Get the files of a version; one that was logged as a single file is that file."""
    place = os.path.join(directory, file_names()(found.name))
    for asset in found.assets:
        if not os.path.abspath(os.path.join(place, asset.logical_path)).startswith(f"{place}/"):  # a stranger's name of a file
            raise ValueError(f"its file {asset.logical_path[:80]!r} is outside of it")
    found.download(place)
    files = os.listdir(place) if os.path.isdir(place) else []
    single = len(files) == 1 and found.metadata.get("name") == files[0]
    identity = f"{found.workspace}/{found.name}:{found.version}"
    return Fetched(os.path.join(place, files[0]) if single else place, identity)
