"""Artifacts with versions, and registered models: what Comet has on its server alone.

The SDK makes a version, uploads its files in the background, and closes it when the last one is there (`artifact_logger.py`).
Here the same requests are made one after the other, so that what the server does not take is known. A version and a registered
model say which event they are of; where nobody knows whether the server has made one, it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.comet.line import Line, RefusedError
from tracelet_shim.backends.comet.names import aliases_of, artifact_name, digest, model_version, registry_name
from tracelet_shim.backends.shared.transient import Verdict, judge
from tracelet_shim.backends.shared.values import utf8

__all__ = ["OnServer"]

_RECORD = "tracelet.record"


def _identity(event: ev.Event) -> str:
    return digest("event", *map(str, event.record))


class OnServer:
    """The artifacts and registered models of one online experiment.

    Args:
        key: the experiment's.
        line: the way to the server.

    Attributes:
        doubtful: the server may have the artifacts that come first.
    """

    def __init__(self, key: str, line: Line) -> None:
        self._key = key
        self._line = line
        self._workspace: str | None = None
        self._begun: dict[ev.RecordId, str | None] = {}  # version that an earlier try has made; None: nobody knows
        self.doubtful = False

    def begins(self, event: ev.Event) -> bool:
        """Note that this event is being logged; return whether it was tried before, in this process."""
        tried = event.record in self._begun
        self._begun.setdefault(event.record, None)
        return tried

    def done(self) -> None:
        """What was logged so far does not come again."""
        self._begun.clear()

    def log_artifact(self, event: ev.Artifact, files: Callable[[str], Sequence[Any]]) -> str | None:
        """Make a version of an artifact.

        Args:
            event: the artifact.
            files: (id of the version) -> the messages of its files.

        Returns:
            Why the server makes none; None if there is one.
        """
        api, name, there = self._line.api, artifact_name(event.tag), set[str]()
        version, again = self._begun.get(event.record), event.record in self._begun
        if version is None and (again or self.doubtful):
            version = self._version_of(name, event)
            again, self.doubtful = version is not None, self.doubtful and version is not None
        if version is None:
            self._begun[event.record] = None
            try:
                answer = self._line.call(
                    api.upsert_artifact, artifact_name=name, artifact_type=utf8(event.category) or "artifact",
                    experiment_key=self._key, metadata={_RECORD: _identity(event), "name": utf8(event.tag)},
                    aliases=aliases_of(event), version_tags=[],
                )  # fmt: skip
            except RefusedError as error:
                if error.is_no:
                    return str(error)
                raise
            version = str(answer.json()["artifactVersionId"])
        self._begun[event.record] = version
        if again:
            there = self._files_of(name, version)
        messages = [message for message in files(version) if message.additional_params["assetId"] not in there]
        self._line.send(messages, events=False)
        closing = {"artifactVersionId": version, "experimentKey": self._key, "state": "CLOSED"}
        try:
            self._line.call(api.post_from_endpoint, "write/artifacts/state", closing)
        except RefusedError as error:
            if not (again and error.is_no):  # else an earlier try has closed it
                raise
        return None

    def _version_of(self, name: str, event: ev.Artifact) -> str | None:
        """Return the id of the version that was made of this event."""
        for version in reversed(self._versions(name)):
            about = version.get("metadata")
            about = json.loads(about) if isinstance(about, str) else about
            if isinstance(about, dict) and about.get(_RECORD) == _identity(event):
                return str(version["artifactVersionId"])
        return None

    def _versions(self, name: str) -> list[Any]:
        try:
            found = self._line.call(self._line.api.get_artifact_details, workspace=self._where(), name=name)
        except RefusedError as error:
            _doubt(error)
            return []  # there is no artifact of this name
        return list((found or {}).get("versions") or ())

    def _files_of(self, name: str, version: str) -> set[str]:
        """Return the ids of the files that a version has."""
        number = [str(each["version"]) for each in self._versions(name) if each.get("artifactVersionId") == version]
        if not number:
            return set()
        request = self._line.api.get_artifact_files
        found = self._line.call(request, workspace=self._where(), name=name, version=number[0])
        return {str(file["assetId"]) for file in (found or {}).get("files") or ()}

    def _where(self) -> str:
        """Return the workspace of the experiment."""
        if self._workspace is None:
            about = self._line.call(self._line.api.get_experiment_metadata, self._key)
            self._workspace = str(about["workspaceName"])
        return self._workspace

    def say_used(self, identity: str) -> str | None:
        """Say that the experiment has used a version, ``WORKSPACE/NAME:VERSION``: as the SDK does it, by asking for that as its
        consumer. Said twice, it is there once. Return why the server does not note it; None if it has."""
        workspace, _, rest = identity.partition("/")
        name, _, version = rest.rpartition(":")
        try:
            self._line.call(
                self._line.api.get_artifact_version_details, workspace=workspace, name=name, version_or_alias=version,
                experiment_key=self._key, consumer_experiment_key=self._key,
            )  # fmt: skip
        except RefusedError as error:
            if error.is_no:
                return str(error)
            raise
        return None

    # -- models -----------------------------------------------------------------------------------------------------

    def register(self, event: ev.Model, model: str) -> str | None:
        """Make a model of the experiment the next version of a registered one; its aliases become the tags of that version.

        Args:
            event: says under which name.
            model: the name under which the experiment has its files.

        Returns:
            Why the server does not; None if it has.
        """
        try:
            self._register(event, model)
        except RefusedError as error:
            if error.is_no:
                return str(error)
            raise
        return None

    def _register(self, event: ev.Model, model: str) -> None:
        name, mark, before = registry_name(event), f"tracelet {_identity(event)}", -1
        while True:
            versions = self._registered(name)
            if any(mark in (version.get("comment") or "") for version in versions):
                return
            latest = max((int(str(version["version"]).partition(".")[0]) for version in versions), default=0)
            try:
                self._line.call(
                    self._line.api.register_model_v2, experiment_id=self._key, model_name=model, workspace=self._where(),
                    version=model_version(latest + 1), registry_name=name, public=False, description=None, comment=mark,
                    tags=aliases_of(event), status=None, stages=None,
                )  # fmt: skip
                return
            except RefusedError as error:  # the SDK itself has asked twice, or somebody else has made this version meanwhile
                _doubt(error)
                if latest == before:
                    raise
                before = latest

    def _registered(self, name: str) -> list[Any]:
        """Return what the registry has under a name."""
        names = [model.get("modelName") for model in self._line.call(self._line.api.get_registry_models, self._where())]
        if name not in names:
            return []
        found = self._line.call(self._line.api.get_registry_model_details, self._where(), name)
        return list((found or {}).get("versions") or ())

    # -- alerts -----------------------------------------------------------------------------------------------------

    def notify(self, title: str, level: str, text: str, experiment: Any) -> None:
        """Have Comet send its notification, an e-mail that depends on the user's own settings.

        Raises:
            RefusedError: not now; it may be taken later.
        """
        from comet_ml.json_encoder import NestedEncoder

        url = str(experiment.url or "")
        self._line.call(
            self._line.connection.send_notification, title, level, str(experiment.name or ""), url, {"text": text}, NestedEncoder
        )


def _doubt(error: RefusedError) -> None:
    """Raise again what says nothing about what there is."""
    if judge(error.status, own=error.own) is Verdict.PASSES:
        raise error
