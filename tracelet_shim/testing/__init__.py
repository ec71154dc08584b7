"""For tests: a backend that records what it gets, and the readers' side of the conformance suite
(`tracelet_shim.testing.conformance`).

A `Reader` looks into a tracker's own storage with code that shares nothing with the backend that wrote it: the
tracker's files, database or query API. The conformance suite writes through `SummaryWriter` and compares what a reader
finds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy.typing as npt

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level, OpenedRun, RunInfo, Status

__all__ = ["Point", "Reader", "RecordingBackend", "Trial"]

NDArray = npt.NDArray[Any]


class Point(NamedTuple):
    """A scalar as a tracker has it. `wall_time` is None where the tracker keeps none."""

    step: int
    value: float
    wall_time: float | None = None


class Trial(NamedTuple):
    """A child run of a sweep. Parameters are compared as text, since several trackers store nothing else."""

    params: dict[str, Any]
    metrics: dict[str, float]


class Reader(ABC):
    """Reads one finished run back.

    Every method that takes `writer`, `tag` finds what `SummaryWriter` stored under this tag (the user's, unmapped) by
    the writer of this name (``""`` for the writer on the root), and returns a list in the tracker's own order, repeated
    steps included.

    Args:
        directory: the directory that `environment` pointed the tracker to.
        run_id: what the session's `run_ids` has for the tracker; None finds the only run there is.
    """

    backend: ClassVar[str]

    def __init__(self, directory: Path, run_id: str | None = None) -> None:
        self.directory = directory
        self.run_id = run_id

    @classmethod
    @abstractmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        """Return the environment variables that keep all of the tracker's files in `directory` and it off the network."""

    @abstractmethod
    def run_ids(self) -> list[str]:
        """Ids of all runs in the store, child runs of a sweep not included."""

    @abstractmethod
    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]: ...

    @abstractmethod
    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        """Return (step, edges, counts), ``len(edges) == len(counts) + 1``."""

    @abstractmethod
    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        """Return (step, uint8 array H x W or H x W x C)."""

    @abstractmethod
    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        """Return (step, uint8 array T x H x W x 3)."""

    @abstractmethod
    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        """Return (step, sample rate in Hz, int16 samples)."""

    @abstractmethod
    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]: ...

    @abstractmethod
    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        """Return (step, precision, recall)."""

    @abstractmethod
    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        """Return (step, vertices N x 3, faces or None, colours or None)."""

    @abstractmethod
    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        """Return (step, matrix, rows of metadata or None)."""

    @abstractmethod
    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]: ...

    @abstractmethod
    def graphs(self, writer: str = "") -> list[set[str]]:
        """Return the node names of each graph."""

    @abstractmethod
    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        """Return each layout: category -> title -> [kind, tags]."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Return the run's own parameters (``config=`` and the first `add_hparams`)."""

    @abstractmethod
    def summary_metrics(self) -> dict[str, float]:
        """Return the metrics of the first `add_hparams`, wherever the tracker keeps a run's final metrics."""

    @abstractmethod
    def trials(self) -> list[Trial]:
        """Return the child runs of a sweep."""

    @abstractmethod
    def status(self) -> str:
        """Return ``"finished"``, ``"failed"``, ``"killed"`` or ``"running"``."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return what is kept of ``project``, ``exp_name``, ``tags``, ``notes``, ``run_id``, under these keys."""

    # -- what is logged through the session itself ----------------------------------------------------------------------
    #
    # Which of these is asked follows from what the backend's `capabilities` say of the event type: ``file`` means `as_files`, any
    # other level the method of the type.

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]] | None:
        """Return (step, suffix, content) of the files that events of a type became: ``(3, ".csv", b"...")``. `kind` is
        `Event.kind`. None, which is what this returns: the reader knows nothing of the session's methods, and is not asked."""
        return None

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        """Return (step, columns, rows). A cell may be the tracker's text of it."""
        raise NotImplementedError(f"{self.backend}: tables")

    def artifact(self, name: str) -> dict[str, bytes]:
        """Return path -> content of the files of an artifact, as its latest version has them. Paths begin with its name. By
        default those that `as_files` finds."""
        return {f"{name}{suffix}": data for _, suffix, data in self.as_files("artifact", "", name) or []}

    def model(self, name: str) -> dict[str, bytes]:
        """Return the same of a model."""
        return self.artifact(name)

    def tags(self) -> dict[str, str]:
        """Return the run's tags, ``""`` for labels; there may be others with them. By default those of `about`."""
        return dict(self.about()["tags"])

    def alerts(self) -> list[tuple[str, str, str]]:
        """Return (title, text, level) in our words: ``"info"``, ``"warning"``, ``"error"``."""
        raise NotImplementedError(f"{self.backend}: alerts")


class RecordingBackend(Backend):
    """Keeps every event in memory: for tests of code that logs, and of everything left of the trackers.

    Attributes:
        events: what was written, in order.
        run: the RunInfo that it was opened with, None before.
        status: what it was closed with, None before.
        attached: path -> content of the files that belong to no event.
    """

    name = "recording"
    module = "tracelet_shim"
    distribution = "tracelet-shim"
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        kind: Capability(Level.NATIVE, "kept in memory") for kind in ev.EVENT_TYPES
    }
    batch_seconds = 0.02

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.events: list[ev.Event] = []
        self.run: RunInfo | None = None
        self.status: Status | None = None
        self.attached: dict[str, bytes] = {}
        self.flushes = 0

    def open(self, run: RunInfo) -> OpenedRun:
        self.run = run
        return OpenedRun(run.session)

    def write(self, events: Sequence[ev.Event]) -> None:
        self.events.extend(events)
        self.written = len(events)

    def flush(self) -> None:
        self.flushes += 1

    def close(self, status: Status) -> None:
        self.status = status

    @property
    def handle(self) -> list[ev.Event]:
        return self.events

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        raise NotImplementedError("write() keeps everything")

    def log_hparams(self, event: ev.HParams) -> None:
        raise NotImplementedError("write() keeps everything")

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self.attached[path] = data
