"""What is logged through a session itself: artifacts, tables, tags, alerts.

An artifact is copied by the SDK when a file is added to it. One that is handed over again after a kill has the content of the
version that is there, and W&B makes no other one of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level, RunInfo
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.values import plain, utf8
from tracelet_shim.backends.wandb import limits
from tracelet_shim.backends.wandb.fetching import cannot_fetch, fetch
from tracelet_shim.backends.wandb.limits import labels
from tracelet_shim.backends.wandb.links import Link, OwnInput, StoredInput, Target
from tracelet_shim.backends.wandb.needs import Artifact

if TYPE_CHECKING:
    from tracelet_shim.backends.wandb.run import Run
    from tracelet_shim.backends.wandb.settling import Settling

__all__ = ["CAPABILITIES", "OwnForms"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.NATIVE, "wandb.Table; its first 10,000 rows, and all of a longer one as CSV and JSON"),
    ev.Artifact: Capability(
        Level.NATIVE,
        "Artifact with its type and aliases; each call is a version; names that W&B does not take are escaped, and whole in the "
        "metadata",
    ),
    ev.Model: Capability(
        Level.NATIVE,
        "Artifact of the type model; register_as links it, with its aliases, into W&B's registry (option registry, or "
        "`wandb-registry-<name>/<collection>`) or a portfolio (`<project>/<name>`), as soon as it is there; offline: aliases "
        "only, which is said once",
    ),
    ev.Tags: Capability(Level.CONVERTED, "labels `name=value`, and the config"),
    ev.Alert: Capability(
        Level.NATIVE, "alert, its title cut at 64 characters; and a file, since W&B does not say whether it has sent one"
    ),
    ev.Used: Capability(Level.NATIVE, "input of the run, and its config; offline, or of another tracker, the config alone"),
    ev.Blob: Capability(Level.FILE, "saved with the run"),
}
_ALIAS = r"[/:\x00-\x1f\x7f\ud800-\udfff]|^v(?=\d+\Z)|^l(?=atest\Z)"
_MOST_TITLE = 64
_LEVELS = {"info": "INFO", "warning": "WARN", "error": "ERROR"}


class OwnForms(Backend):
    """The part of the backend that shows them."""

    fetch, cannot_fetch = staticmethod(fetch), staticmethod(cannot_fetch)
    _info: RunInfo | None
    _logged: Mapping[str, Artifact] = {}
    """The latest artifact of each name."""

    def _opened(self) -> tuple[Run, Settling]:
        raise NotImplementedError

    def _row(self, event: ev.Event, value: Any, *, table: bool = False) -> None:
        raise NotImplementedError

    def log_table(self, event: ev.Table) -> None:
        import wandb

        most = wandb.Table.MAX_ROWS
        data = [list(row) for row in event.rows[:most]]
        self._row(event, wandb.Table(columns=list(event.columns), data=data, allow_mixed_types=True), table=True)
        if len(event.rows) > most:
            self.attach_files(event)

    def log_artifact(self, event: ev.Artifact) -> None:
        self._log_version(event)

    def log_model(self, event: ev.Model) -> None:
        artifact, aliases = self._log_version(event)
        if event.register_as is None:
            return
        run, _ = self._opened()
        target = Target.of(event.register_as, self.given.get("registry"))

        def tell(why: str) -> None:
            self.notice("registry", f"a model is an artifact with its aliases, but not linked to {target}: {why}")

        if run.offline:
            tell("W&B links nothing offline; after `wandb sync`, `Artifact.link` does it")
        else:
            run.want(event, Link(artifact, target, aliases, tell))

    def _log_version(self, event: ev.Artifact) -> tuple[Artifact, list[str]]:
        """Log an artifact; return what is needed then, and its aliases."""
        import wandb

        run, _ = self._opened()
        paths = {file: file.path.removeprefix(f"{event.tag}/") for file in event.files}
        changed = {name: path for path in paths.values() if (name := limits.artifact_file(path)) != path}
        about = {"tracelet": plain({"name": event.tag, **({"files": changed} if changed else {})})}
        artifact = wandb.Artifact(limits.artifact(event.tag), type=limits.artifact_type(event.category), metadata=about)
        for file, path in paths.items():
            self.check_kept(file)
            artifact.add_file(file.at, name=limits.artifact_file(path))
        if run.server is not None:
            run.sdk._public_api()  # as for a table
        aliases = [Names(_ALIAS, 128)(alias) for alias in event.aliases]
        run.log_artifact(artifact, aliases)
        need = Artifact(run, event.tag, artifact._client_id, lambda: (artifact, aliases), known=True)
        run.want(event, need)
        self._logged = {**self._logged, event.tag: need}
        return need, aliases

    def log_used(self, event: ev.Used) -> None:
        run, _ = self._opened()
        about = {"from": event.tracker, "identity": event.identity, "sha256": event.digest}
        run.tell({f"tracelet/used/{utf8(event.tag)}": plain(about)}, event)  # which is acknowledged

        def tell(why: str) -> None:
            self.notice("used", f"an artifact that was used is in the config, but no input of the run: {why}")

        if run.offline:
            return
        if event.tracker == self.name:
            run.want(event, StoredInput(run, event.identity, tell))
        elif not event.tracker and event.tag in self._logged:
            run.want(event, OwnInput(self._logged[event.tag], tell))

    def log_tags(self, event: ev.Tags) -> None:
        run, _ = self._opened()
        given = self._info.tags if self._info is not None else {}
        tags = {**given, **run.about.get("tags", {}), **event.tags}
        before, new = set(labels({**given, **run.about.get("tags", {})})), labels(tags)
        run.sdk.tags = (*(tag for tag in run.sdk.tags or () if tag not in before), *new)
        run.about["tags"] = tags
        run.tell({"tracelet/tags": tags}, event)  # which is acknowledged

    def log_alert(self, event: ev.Alert) -> None:
        run, _ = self._opened()
        title, whole = event.tag[:_MOST_TITLE], len(event.tag) <= _MOST_TITLE
        run.sdk.alert(title or "alert", event.text if whole else f"{event.tag}\n\n{event.text}", _LEVELS[event.level])
        self.attach_files(event)  # which is acknowledged
