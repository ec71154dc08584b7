"""The names of a task: tags, writers, parameters, and what the task itself is called.

How a tag becomes title and series: as in ClearML's own TensorBoard bridge
(`clearml/binding/frameworks/tensorflow_bind.py`), but one to one. ``a/b/c`` -> title ``a/b``, series ``c``; ``a`` ->
title and series ``a``; `add_scalars` -> title ``<main tag>/``, series = its key. A writer follows the series: ``loss ·
train``. A plot or a file has its kind behind the title: ``weights · histogram``. The middle dot is escaped within
names, so nothing else can look like this.

The system metrics have the titles of ClearML's own, ``:monitor:machine`` and ``:monitor:gpu``: the server does not take their
steps for the task's, and the scalars' page has them by themselves.
"""

from __future__ import annotations

import re

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.names import Names, Shortened
from tracelet_shim.eventfiles.own_files import is_sample

__all__ = ["TaskNames", "file_name"]


class TaskNames:
    """The rules of one task.

    Attributes:
        series: for series, writers and trials.
        param: for parameters and properties.
        shortened: the whole names that the task is still to be told.
    """

    def __init__(self) -> None:
        illegal = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff·]|^\s|\s$"
        self._title = Names(illegal + "|/$|^:(?=monitor:(?:machine|gpu)$)", 150, in_bytes=True)
        self.series = Names(illegal, 110, in_bytes=True)
        self.param = Names(illegal + "|^/|/$", 200, in_bytes=True)
        self._task = Names(r"[\x00-\x1f\x7f\ud800-\udfff]|^\s|\s$|^/|/(?=/)|/$", 200)
        self.shortened = Shortened(self._title, self.series, self.param)

    def of(self, event: ev.Event) -> tuple[str, str]:
        """Return title and series: one pair for each (writer, tag, series)."""
        if is_sample(event.record.file, event.writer):
            return f":monitor:{'gpu' if event.tag.startswith('gpu.') else 'machine'}", self.series(event.tag)
        head, slash, leaf = event.tag.rpartition("/")
        if isinstance(event, ev.Scalar) and event.series is not None:
            title, series = f"{self._title(event.tag)}/", self.series(event.series)
        elif not slash:
            title, series = self._title(event.tag), self.series(event.tag)
        else:  # "x/x" has its whole tag as series, for title and series "x" are those of "x"
            title, series = self._title(head), self.series(event.tag if head == leaf else leaf)
        return title, f"{series} · {self.series(event.writer)}" if event.writer else series

    def task(self, name: str) -> str:
        """Return the name of a task or project as the server takes it: at least three characters, no empty folder."""
        name = self._task(name)
        return name if len(name) >= 3 else f"{name}_x_"


def file_name(text: str) -> str:
    """Return `text` as the name of a folder or file that stands beside a unique one, so it need not be unique itself.

    The SDK's own (`UploadEvent._replace_slash`) may be too long for a file system, or be another name once in a URL.
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"
    return text if len(text) <= 100 else f"{text[:59]}_{text[-40:]}"
