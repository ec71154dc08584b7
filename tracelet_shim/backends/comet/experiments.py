"""Which experiment a run is: its key, and how it is made or continued, at the server or as an archive."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.comet.archive import Journal, offline_class, remove_begun
from tracelet_shim.backends.comet.compat import named_project, offline_directory
from tracelet_shim.backends.comet.names import digest
from tracelet_shim.backends.comet.process import OFF, discreet, sdk_alone
from tracelet_shim.backends.comet.run import RunExperiment
from tracelet_shim.backends.comet.settings import setting
from tracelet_shim.backends.run_info import RunInfo

__all__ = ["Experiments", "archive_directory", "key_of"]

_KEY = re.compile(r"[A-Za-z0-9]{32,50}")  # comet_ml.utils.is_valid_experiment_key


def archive_directory(given: Mapping[str, Any]) -> str:
    """Return where archives are written; it is made if need be.

    Args:
        given: the user's options.
    """
    chosen = given.get("offline_directory") or offline_directory()
    directory = os.path.abspath(os.path.expanduser(str(chosen)))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory


def key_of(run: RunInfo, given: Mapping[str, Any]) -> str:
    """Return the experiment's key: the given one where it is legal, else the same one each time it is asked for."""
    if run.resume:
        return run.resume
    if run.run_id is None:
        return setting("experiment_key") or digest("session", run.session, str(run.started))
    if _KEY.fullmatch(run.run_id):
        return run.run_id
    # Keys are unique among all users of a server: what tells users apart goes in too.
    workspace = workspace_of(given) or str(given.get("api_key") or setting("api_key") or "")
    return digest("run", workspace, run.project or setting("project_name") or "", run.run_id)


def workspace_of(given: Mapping[str, Any]) -> str | None:
    value = given.get("workspace") or setting("workspace")
    return str(value) if value else None


class Experiments:
    """Makes the experiments of a session: the run's, and one for each trial.

    Args:
        given: the user's options.
        project: the project's name; None: the SDK's default.
        directory: where archives are written; None: there is a server.
    """

    def __init__(self, given: Mapping[str, Any], project: str | None, directory: str | None) -> None:
        self._given = given
        self._project = project
        self._directory = directory

    def make(self, key: str) -> RunExperiment:
        """Return the experiment of this key, which may exist already."""
        if not _KEY.fullmatch(key):
            problem = f"{key!r} is no experiment key (32 to 50 letters and digits)"
            raise errors.ConfigurationError(f"backend 'comet': {problem}")
        common = {"project_name": self._project, "workspace": workspace_of(self._given), "experiment_key": key}
        with sdk_alone():
            if self._directory is None or offline_class() is None:
                return RunExperiment(self._start(common))
            return self._begin(self._directory, common)

    def _begin(self, archives: str, common: Mapping[str, Any]) -> RunExperiment:
        """Return an experiment that becomes an archive."""
        key = common["experiment_key"]
        remove_begun(archives, key)
        directory = tempfile.mkdtemp(".part", f"{key}-", archives)
        try:
            journal = Journal(directory)  # here, for the SDK would only log that it failed
            experiment = offline_class()(journal, offline_directory=archives, **common, **OFF)
            if not experiment.alive:
                raise errors.BackendError("Comet: no offline experiment can be made; see the SDK's log")
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return RunExperiment(experiment, directory=directory)

    def _start(self, common: Mapping[str, Any]) -> Any:
        """Return an experiment at the server, or one of the SDK's own archives."""
        import comet_ml

        secret = self._given.get("api_key")
        config = comet_ml.ExperimentConfig(**OFF, offline_directory=self._directory or self._given.get("offline_directory"))
        refused = comet_ml.exceptions.InvalidAPIKey
        with discreet(str(secret or setting("api_key") or "")) as logged:
            try:
                experiment = comet_ml.start(
                    api_key=str(secret) if secret else None,
                    mode="get_or_create",
                    online=self._directory is None,
                    experiment_config=config,
                    workspace=common["workspace"],
                    experiment_key=common["experiment_key"],
                    **named_project(comet_ml.start, common["project_name"]),
                )
            except refused:  # its message has the key
                raise errors.BackendError("Comet: the server does not know this API key") from None
        if not experiment.alive:  # the SDK has logged why; most often, there was no answer
            if any(isinstance(error, refused) for error in logged):
                raise errors.BackendError("Comet: the server does not know this API key")
            raise ConnectionError("Comet: the server did not open an experiment")
        return experiment
