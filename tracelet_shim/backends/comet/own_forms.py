"""What is logged through a session itself: artifacts, models, tables, tags, alerts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level
from tracelet_shim.backends.comet.compat import uploads_registrations
from tracelet_shim.backends.comet.line import RefusedError
from tracelet_shim.backends.comet.names import aliases_of, registry_name
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.values import utf8

if TYPE_CHECKING:
    from tracelet_shim.backends.comet.messages import Messages
    from tracelet_shim.backends.comet.run import RunExperiment

__all__ = ["CAPABILITIES", "OwnForms"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.NATIVE, "CSV asset, as `log_table` makes it; cells with their types as JSON asset"),
    ev.Artifact: Capability(
        Level.NATIVE,
        "Artifact with its type and aliases, each call a version; an archive cannot hold one: there its files are assets, "
        "with name, type and aliases in their metadata",
    ),
    ev.Model: Capability(
        Level.NATIVE,
        "model of the experiment, as of `log_model`; with a name, the next version of that registered model, the aliases "
        "its tags (from an archive when it is uploaded)",
    ),
    ev.Tags: Capability(Level.CONVERTED, "names and values among the experiment's others; labels as its tags"),
    ev.Alert: Capability(
        Level.NATIVE, "notification (`send_notification`), and a text; from an archive, which cannot notify, the text alone"
    ),
    ev.Used: Capability(
        Level.NATIVE, "input artifact of the experiment, where Comet's server gave it; what it was, of any tracker, as JSON asset"
    ),
}
_ALERTS = "tracelet/alerts"
_NOT_REGISTERED = "this comet_ml leaves a model in the experiment, in no registry; remedy: pip install 'comet_ml>=3.46'"


class OwnForms(Backend):
    """The part of the backend that shows them."""

    _run: RunExperiment
    _messages: Messages
    _names: Names
    _labels: Names

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        self._run.send([self._messages.file(event, path, file)])

    def log_artifact(self, event: ev.Artifact) -> None:
        for file in event.files:
            self.check_kept(file)
        if self._run.on_server is not None:
            problem = self._run.on_server.log_artifact(event, lambda version: list(self._in_version(event, version)))
            if problem is None:
                return
            self.notice("artifacts", f"the files of an artifact are assets of the experiment, without versions: {problem}")
        said = {"artifact": utf8(event.tag), "type": utf8(event.category), "aliases": list(map(utf8, event.aliases))}
        folder = files.FOLDERS[ev.Artifact.kind]
        self._run.send([
            self._messages.file(event, f"{folder}/{self._artifact_paths(file.path)}", file.at, metadata=said)
            for file in event.files
        ])  # fmt: skip

    def _in_version(self, event: ev.Artifact, version: str) -> Iterator[Any]:
        """Yield the messages of the files of a version, as `Artifact.add` names them."""
        for file in event.files:
            name = self._artifact_paths(file.path.removeprefix(f"{event.tag}/"))
            yield self._messages.file(event, name, file.at, artifactVersionId=version)

    def log_model(self, event: ev.Model) -> None:
        name = self._names(event.tag)
        said = {"type": utf8(event.category), "aliases": list(map(utf8, event.aliases))}
        messages = []
        for file in event.files:
            self.check_kept(file)
            path = self._artifact_paths(file.path)
            messages.append(self._messages.file(event, path, file.at, "model-element", said, groupingName=name))
        if event.register_as is not None and self._run.on_server is None:
            if self._run.archived and uploads_registrations():
                messages.append(self._messages.registered(event, name, registry_name(event), aliases_of(event)))
            else:
                self.notice("registry", _NOT_REGISTERED)
        self._run.send(messages)
        if event.register_as is not None and self._run.on_server is not None:
            problem = self._run.on_server.register(event, name)
            if problem is not None:
                self.notice("registry", f"a model of the experiment is in no registry: {problem}")

    def log_table(self, event: ev.Table) -> None:
        self.attach_files(event)

    def log_tags(self, event: ev.Tags) -> None:
        messages = []
        for name, value in event.tags.items():
            if value:
                messages += self._messages.other(self._labels(name), value)
        self._run.send(messages)
        self._run.add_tags([self._names(name) for name, value in event.tags.items() if not value])

    def log_used(self, event: ev.Used) -> None:
        self.attach_files(event)
        if event.tracker == "comet" and self._run.on_server is not None:
            problem = self._run.on_server.say_used(event.identity)
            if problem is not None:
                self.notice("lineage", f"an artifact that was used is not among the experiment's inputs: {problem}")

    def log_alert(self, event: ev.Alert) -> None:
        said = {"tag": f"{_ALERTS}/{event.path}"[:500], "level": event.level}
        text = f"**{event.level}: {event.tag}**\n\n{event.text}".encode("utf-8", "surrogatepass")
        message = self._messages.asset(event, "auto-generated-in-the-backend", text, "text-sample", said)
        on_server, line = self._run.on_server, self._run.line
        if on_server is None or line is None:
            self._run.send([message])
            return
        again = on_server.begins(event)
        self._run.send([message])
        if not again and message.additional_params["assetId"] in line.found:
            return  # an earlier relay has stored the text, and has notified, too
        try:
            on_server.notify(utf8(event.tag), event.level, utf8(event.text), self._run.experiment)
        except (RefusedError, OSError) as error:
            if isinstance(error, RefusedError) and not (error.may_be_done or error.is_no):
                raise
            self.notice("notification", f"the text of an alert is there, but it is not known whether you were notified: {error}")
