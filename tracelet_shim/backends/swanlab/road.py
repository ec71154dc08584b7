"""The two roads into SwanLab, and which of them an installed version is taken by.

    core      `opening`, `run`, `resume`, `uploads`, `process`: records straight to the run's core, as 0.8 to 0.10 have it
    public    `public`: what the documentation has; 0.6 and 0.7, and a version to come whose core is another one

What counts is what the SDK has, never its version.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Program, Refusal, RunInfo, Status
from tracelet_shim.backends.swanlab.off import Off
from tracelet_shim.backends.swanlab.process import readable_environment
from tracelet_shim.backends.swanlab.public.sdk import has_core

__all__ = ["Road", "Run", "Uploads", "core_lacks", "find"]

_CORE = (
    "cmd.init:has_run", "internal.bus:ConfigEvent", "internal.core_python.core:CorePython.deliver_run_finish",
    "internal.core_python.core:CorePython.deliver_run_start", "internal.core_python.core:CorePython.upsert_media",
    "internal.core_python.core:CorePython.upsert_saves", "internal.core_python.core:CorePython.upsert_scalars",
    "internal.core_python.store:DataStoreReader", "internal.pkg.adapter:medium", "internal.pkg.adapter:policy",
    "internal.run:Run.finish", "internal.run:clear_run", "internal.run:set_run", "internal.run.components:create_run_config",
    "internal.run.components:deactivate_run_config", "internal.run.components.config:Config",
    "internal.run.components.config:Config._bindctx", "internal.settings:Settings.merge_settings",
)  # fmt: skip
"""What the road through the core cannot do without, below ``swanlab.sdk``."""


class Uploads(Protocol):
    """What the service has got of a run; see `tracelet_shim.backends.swanlab.uploads.Uploads`."""

    def mark(self, events: int) -> None: ...
    def unsettled(self) -> int: ...
    def behind(self) -> str | None: ...
    def take_refused(self) -> list[Refusal]: ...


class Run(Protocol):
    """A run, whichever way it is written to; see `tracelet_shim.backends.swanlab.run.Run`."""

    sdk: Any
    id: str
    mode: str
    dir: Path
    about: dict[str, Any]
    latest: float

    @property
    def uploads(self) -> Uploads: ...
    @property
    def url(self) -> str: ...
    @property
    def alive(self) -> bool: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def remedy(self) -> str: ...
    def limits(self) -> Iterable[tuple[str, str]]: ...
    def of(self, event: ev.Event) -> contextlib.AbstractContextManager[None]: ...
    def scalars(self, points: Iterable[tuple[ev.Scalar, str, int]], taken: set[tuple[Any, ...]]) -> None: ...
    def scalar(self, key: str, step: int, value: float, wall_time: float) -> None: ...
    def media(self, key: str, kind: str, step: int, items: Sequence[tuple[str, bytes]], wall_time: float) -> bool: ...
    def set_config(self, values: Mapping[str, Any]) -> None: ...
    def note_names(self, whole: Mapping[str, str]) -> None: ...
    def save(self, path: str, data: bytes) -> None: ...
    def save_copy(self, path: str, file: str) -> None: ...
    def describe(self, program: Program) -> None: ...
    def flush(self) -> None: ...
    def waiting(self) -> int: ...
    def finish(self, status: Status, ended: float) -> str | None: ...


class Road(Protocol):
    """Opens the runs of one session, and what else is done with them; see `tracelet_shim.backends.swanlab.opening.Opener`. Each
    has runs of its own kind."""

    trials_wait: bool

    def join(self) -> Run | Off: ...
    def session(self, run: RunInfo) -> Run | Off: ...
    def trial(self, run: RunInfo, parent: Any, trial: str, run_id: str, started: float) -> Run: ...
    def abandon(self) -> None: ...
    def take_up(self, run: Any, *, begun: bool) -> bool: ...
    def unsent_trials(self, run: Any) -> Iterator[tuple[str, Path]]: ...
    def upload(self, run_id: str, folder: Path) -> None: ...
    def ended(self, parent: Any, run: Any) -> None: ...
    def ending(self) -> contextlib.AbstractContextManager[None]: ...
    def end(self, *runs: Any) -> None: ...


def core_lacks() -> str | None:
    """Return what the installed SDK's core lacks of what we need; None if it has all. An SDK without core is not imported."""
    if not has_core():
        return "swanlab.sdk"
    with readable_environment():
        for place in _CORE:
            module, _, path = place.partition(":")
            try:
                found: Any = importlib.import_module(f"swanlab.sdk.{module}")
                for name in path.split("."):
                    found = getattr(found, name)
            except (ImportError, AttributeError):
                return f"swanlab.sdk.{place}"
    return None


def find(options: Mapping[str, Any], lacking: str | None) -> Road:
    """Return the road for the installed SDK, whose core lacks this."""
    if lacking is None:
        from tracelet_shim.backends.swanlab.opening import Opener

        return Opener(options)
    from tracelet_shim.backends.swanlab.public.opening import PublicOpener

    return PublicOpener(options)
