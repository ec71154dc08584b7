"""The methods of a session beside SummaryWriter's."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from tracelet_shim.handle.recorder import Made, Recorder, Runs

    Make = Callable[[Recorder, Runs], Iterable[Made]]

__all__ = ["Handle"]

_LEVELS = ("info", "warning", "error")
_OTHER_LEVELS = {
    "debug": "info", "notice": "info", "warn": "warning", "err": "error", "critical": "error", "fatal": "error",
    "exception": "error",
}  # fmt: skip
_SHOWN = 50
"""Characters of a value that a warning has."""


class Handle:
    """What a run is told by itself. What these methods are given arrives in every tracker, in the form that this has for it.

    No method raises, or waits for a tracker, but `use_artifact`, which has to answer. What cannot be taken (a file that is not
    there, a value that is none) is a warning, once a kind, and under ``strict`` an error at the end. Where there is no session,
    nothing happens.
    """

    def _take(self, what: str, make: Make, *, steps: bool = False) -> None:
        """Take records; `steps` if they are a part of training, and not what describes a run."""

    def log_params(self, params: Any) -> None:
        """Log parameters of the run.

        Args:
            params: a mapping, or any object that holds values by name: a dataclass, an `argparse.Namespace`, a DictConfig, a
                pydantic model. Tables within it become names with dots, lists become text.
        """

        def make(_: Recorder, __: Runs) -> Iterable[Made]:
            from tracelet_shim.eventfiles.own_records import ParamsContent

            yield _own("log_params", ParamsContent(_params(params)))

        self._take("log_params", make)

    def watch_params(self, arguments: Any) -> None:
        """Log the arguments of a program, or its configuration, as `log_params` does; what is called like a secret, or
        looks like one, is masked."""

        def make(_: Recorder, __: Runs) -> Iterable[Made]:
            from tracelet_shim.eventfiles.own_records import ParamsContent
            from tracelet_shim.provenance.secrets import MASK, is_secret, mask_text

            def shown(name: str, value: Any) -> Any:
                if is_secret(name.rpartition(".")[2]):
                    return MASK
                return mask_text(value) if isinstance(value, str) else value

            found = _params(arguments)
            yield _own("watch_params", ParamsContent({name: shown(name, value) for name, value in found.items()}))

        self._take("watch_params", make)

    def set_summary(self, values: Mapping[str, float]) -> None:
        """Set final metrics of the run, as of `log_metrics`; a name that it has gets the new value. A text is none: it is a tag
        (`set_tags`)."""

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.eventfiles.own_records import SummaryContent

            found = _numbers("set_summary", values, recorder)
            if found:
                yield _own("set_summary", SummaryContent(found))

        self._take("set_summary", make)

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str]) -> None:
        """Set tags of the run: ``{"name": "value"}``, or labels. A name that it has gets the new value."""

        def make(_: Recorder, __: Runs) -> Iterable[Made]:
            from tracelet_shim.eventfiles.own_records import TagsContent

            if isinstance(tags, str):
                raise TypeError("a text is no list of labels")
            given = tags.items() if isinstance(tags, Mapping) else ((label, "") for label in tags)
            yield _own("", TagsContent({_name(name): _name(value) for name, value in given}))

        self._take("set_tags", make)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, as float64. What is none is named in a warning, and the others are logged.

        Args:
            metrics: tag -> number, or anything that `float` takes. Tables within it become tags with dots.
            step: default: one more than the latest one of this method; at first 0.
        """

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.handle import records
            from tracelet_shim.handle.recorder import Made

            values = _numbers("log_metrics", metrics, recorder)
            if values:
                yield Made(records.numbers(values, recorder.next_step("log_metrics", step), time.time()))

        self._take("log_metrics", make, steps=True)

    def log_text(self, name: str, text: str, step: int | None = None) -> None:
        """Log a text, in Markdown. `step` is 0 by default."""

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.handle import records
            from tracelet_shim.handle.recorder import Made

            yield Made(records.text(_name(name), str(text), recorder.step("log_text", step), time.time()))

        self._take("log_text", make, steps=step is not None)

    def log_image(self, name: str, image: Any, step: int | None = None) -> None:
        """Log a picture.

        Args:
            name: its tag.
            image: a file, an image of Pillow's, or an array or tensor of shape H x W, H x W x C or C x H x W, with C of 1, 3 or
                4; uint8 from 0 to 255, or float from 0 to 1.
            step: default: 0.
        """

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.handle import pictures, records
            from tracelet_shim.handle.recorder import Made

            yield Made(records.picture(_name(name), *pictures.picture(image), recorder.step("log_image", step), time.time()))

        self._take("log_image", make, steps=step is not None)

    def log_figure(self, name: str, figure: Any, step: int | None = None) -> None:
        """Log a figure of Matplotlib's as a picture; it stays open. `step` is 0 by default."""

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.bus.messages import Figure
            from tracelet_shim.handle import pictures, records
            from tracelet_shim.handle.recorder import Made

            at = recorder.step("log_figure", step)
            yield Made(records.picture(_name(name), *pictures.figure(figure), at, time.time()), Figure())

        self._take("log_figure", make, steps=step is not None)

    def log_table(self, name: str, data: Any, step: int | None = None, *, columns: Sequence[str] | None = None) -> None:
        """Log a table.

        Args:
            name: its tag.
            data: a data frame (pandas, Polars), a mapping of column to values, or rows: mappings, or sequences.
            step: default: 0.
            columns: the names of the columns, for rows that are sequences; or which of the others' are wanted.
        """

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.handle.tables import table

            yield _own(_name(name), table(data, columns), recorder.step("log_table", step))

        self._take("log_table", make, steps=step is not None)

    def log_artifact(
        self, path: str | os.PathLike[str], name: str | None = None, type: str | None = None, *, aliases: Sequence[str] = ()  # noqa: A002
    ) -> None:
        """Log a file, or the files of a directory, as they are now.

        They are copied into the state directory, where they stay until every tracker has them. This takes as long as a copy does;
        on file systems that can clone files, less. At most half of what is free there is taken.

        Args:
            path: the file or directory; of a directory its regular files, and links to such.
            name: default: its own. A name that ends as the file does (``.json``) is the file's; any other one is that of a
                directory with the file in it.
            type: what it is: ``"dataset"``, ``"config"``, ...
            aliases: names for this version, in trackers that keep versions. In others, a later artifact replaces one of its name.
        """
        self._artifact("log_artifact", path, name, {"category": type or "", "aliases": tuple(aliases)})

    def log_model(
        self,
        model: str | os.PathLike[str] | Any,
        name: str | None = None,
        *,
        register_as: str | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        """Log a model, as `log_artifact` does.

        Args:
            model: its file or directory; or a module of torch, which is pickled now, as a whole, as MLflow does it, or the
                `state_dict` of one.
            name: default: its own, or that of the module's class.
            register_as: the model of the tracker's registry whose next version this is.
            aliases: names for that version.
        """
        about = {"category": "model", "aliases": tuple(aliases), "model": True, "register_as": register_as}
        self._artifact("log_model", model, name, about)

    def _artifact(self, what: str, path: Any, name: str | None, about: dict[str, Any]) -> None:
        def make(recorder: Recorder, runs: Runs) -> Iterable[Made]:
            from tracelet_shim.eventfiles.own_records import ArtifactContent
            from tracelet_shim.handle import models

            with contextlib.ExitStack() as stack:
                if about.get("model") and models.is_model(path):
                    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="tracelet-"))
                    if doubt := models.write(path, place):
                        recorder.tell(what, doubt)
                    default = models.default_name(path)
                else:
                    place = os.path.abspath(os.fsdecode(path))
                    default = os.path.basename(place)
                given = _name(default if name is None else name).strip("/") or "artifact"
                yield _own(given, ArtifactContent(recorder.keep(runs, place, given), **about))

        self._take(what, make)

    def use_artifact(self, name: str, *, from_: str | None = None, timeout: float = 600.0) -> Path:
        """Return the place of an artifact on this machine, and log that the run has used it.

        What this session has logged by that name is there at once. Else the trackers are asked, in the order of ``backend=``,
        until one has it, each in a process of its own: this takes as long as its SDK needs to start, and the download.

        Args:
            name: the name that it was logged by, or what the tracker calls one: ``"models:/net@prod"`` or ``"runs:/ID/path"`` of
                MLflow, ``"entity/project/data:v3"`` of W&B, ...
            from_: the tracker to ask, and none but this; it need not be one of the session's.
            timeout: seconds that this may take.

        Returns:
            A file, or a directory: what was logged. It is in the state directory, in `downloads`, where it stays.

        Raises:
            ArtifactError: nobody has it, or it cannot be had; says why, tracker by tracker.
            UnknownBackendError: there is no tracker `from_`.
        """
        from tracelet_shim.errors import ArtifactError

        remedy = "tracelet_shim.start_logging(...) before it, or TRACELET_BACKEND"
        raise ArtifactError(name, {"tracelet-shim": "no session is active in this process that could ask a tracker"}, remedy)

    def alert(self, title: str, text: str = "", level: Literal["info", "warning", "error"] = "info") -> None:
        """Tell whoever follows the run of something, in the way that the tracker has for it. What is no level is taken for the
        nearest one, which is said."""

        def make(recorder: Recorder, _: Runs) -> Iterable[Made]:
            from tracelet_shim.eventfiles.own_records import AlertContent

            given = str(level).strip().lower()
            taken = given if given in _LEVELS else _OTHER_LEVELS.get(given, "warning")
            if given != taken:
                names = ", ".join(map(repr, _LEVELS))
                recorder.tell("alert", f"level {level!r} is none of {names}; it counts as {taken!r}")
            yield _own(_name(title), AlertContent(_name(text), taken))

        self._take("alert", make, steps=True)


def _own(tag: str, content: Any, step: int = 0) -> Made:
    from tracelet_shim.handle import records
    from tracelet_shim.handle.recorder import Made

    return Made(records.own(tag, content, step, time.time()))


def _name(value: Any) -> str:
    from tracelet_shim.common.text import as_utf8

    return as_utf8(str(value))


def _params(holder: Any) -> dict[str, Any]:
    """Return what an object holds by name, as parameters.

    Raises:
        TypeError: it holds nothing by name.
    """
    from tracelet_shim.common.values import named, plain

    try:
        found = named(holder)
    except TypeError:
        raise TypeError(f"{type(holder).__name__} {str(holder)[:_SHOWN]!r} holds no values by name") from None
    return _flat(plain(found))


def _numbers(what: str, table: Mapping[Any, Any], recorder: Recorder, prefix: str = "") -> dict[str, float]:
    """Return the numbers of a table by name, those of tables within it by names with dots; what is none is told."""
    found: dict[str, float] = {}
    for key, value in table.items():
        name = prefix + _name(key)
        if isinstance(value, Mapping):
            found |= _numbers(what, value, recorder, f"{name}.")
            continue
        try:
            found[name] = float(value)
        except Exception as error:  # whatever a tensor of several elements raises
            recorder.leave_out(what, f"{name!r}, {type(value).__name__} {str(value)[:_SHOWN]!r}, which is no number", error)
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of tables within tables by names with dots; what is neither a number nor a text becomes text."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found
