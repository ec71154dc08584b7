"""What is logged through a session itself: artifacts, models, tables, tags, alerts.

`Live.log_artifact` wants a DVC repository, and runs ``dvc add`` in it, which stages files. Its entry in dvc.yaml is all that DVC
itself reads of an artifact, so that is written here, and nothing of a repository is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level
from tracelet_shim.backends.dvclive.limits import artifact_name
from tracelet_shim.backends.dvclive.plots import table_rows
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.values import utf8

if TYPE_CHECKING:
    from tracelet_shim.backends.dvclive.run import Run

__all__ = ["CAPABILITIES", "OwnForms"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(
        Level.CONVERTED,
        "plot of its columns of numbers, the latest of each name in dvc.yaml; whole as CSV and JSON under media/. One without "
        "numbers is a file",
    ),
    ev.Artifact: Capability(
        Level.NATIVE,
        "artifact of dvc.yaml with its type, and its aliases as labels, copied to artifacts/; not added to DVC's cache, which "
        "stages files in your repository",
    ),
    ev.Model: Capability(
        Level.NATIVE,
        "artifact of type model, under the name that it is registered as, for DVC's model registry; its versions and stages "
        "are tags of your Git repository, which `gto` makes, not we",
    ),
    ev.Tags: Capability(Level.CONVERTED, "parameters `tracelet.tags` of params.yaml, and run.json"),
    ev.Alert: Capability(Level.FILE, "Markdown file under media/, and run.json; DVC tells nobody"),
}


class OwnForms(Backend):
    """The part of the backend that shows them."""

    _run: Run

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        self._run.copy_artifact(path, file)

    def log_artifact(self, event: ev.Artifact) -> None:
        super().log_artifact(event)
        self._list(event, event.tag, event.category)

    def log_model(self, event: ev.Model) -> None:
        super().log_artifact(event)
        self._list(event, event.register_as or event.tag, "model")

    def _list(self, event: ev.Artifact, name: str, category: str) -> None:
        key = artifact_name(name)
        first = event.files[0].path
        below = 0 if first == event.tag else len(first.removeprefix(f"{event.tag}/").split("/"))
        parts = self._artifact_paths(first).split("/")
        place = "/".join(parts[: max(1, len(parts) - below)])  # the file, or the folder that all of them are in
        about = {"path": f"{files.FOLDERS[ev.Artifact.kind]}/{place}"}
        if category:
            about["type"] = utf8(category)
        if key != event.tag:
            about["desc"] = utf8(event.tag)
        self._run.add_artifact(key, **about, **({"labels": list(map(utf8, event.aliases))} if event.aliases else {}))

    def log_table(self, event: ev.Table) -> None:
        self.attach_files(event)
        rows = table_rows(event)
        if rows:
            self._run.write_table(self._paths(event.path), self.artifact_stem(event), rows)

    def log_tags(self, event: ev.Tags) -> None:
        self._run.set_tags(event.tags)

    def log_alert(self, event: ev.Alert) -> None:
        self.attach_files(event)
        about = {"title": event.tag, "level": event.level, "text": event.text, "step": event.step, "wall_time": event.wall_time}
        self._run.add_alert(self.artifact_stem(event).rpartition("_")[2], **about)
