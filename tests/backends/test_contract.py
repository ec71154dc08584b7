"""What a backend of a third party may leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from tests.sample_events import Maker
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend, Capability, Level, OpenedRun, RunInfo
from tracelet_shim.backends.render import files


class Small(Backend):
    """A backend that was written when there were scalars only."""

    name = module = distribution = "small"
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {ev.Scalar: Capability(Level.NATIVE, "a number")}

    def __init__(self) -> None:
        super().__init__()
        self.attached: dict[str, bytes] = {}

    def open(self, run: RunInfo) -> OpenedRun:
        return OpenedRun("1")

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        pass

    def log_hparams(self, event: ev.HParams) -> None:
        pass

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self.attached[path] = data

    def close(self, status: str) -> None:
        pass


def test_types_that_are_not_named_are_files() -> None:
    assert registry.validate(Small) is Small
    assert list(Small.capabilities) == list(ev.EVENT_TYPES)
    assert Small.capabilities[ev.Scalar].level is Level.NATIVE
    assert {Small.capabilities[kind].level for kind in ev.EVENT_TYPES if kind is not ev.Scalar} == {Level.FILE}


def test_a_type_that_is_younger_than_the_backend_becomes_files(monkeypatch: pytest.MonkeyPatch) -> None:
    class Younger(ev.Blob, frozen=True):
        kind: ClassVar[str] = "younger"

    monkeypatch.setitem(files.FOLDERS, "younger", "younger")
    monkeypatch.setitem(files._RENDER, "younger", lambda event: iter([(".bin", event.data)]))
    blob = Maker().blob()
    event = Younger(**{name: getattr(blob, name) for name in blob.__struct_fields__})
    backend = Small()
    backend.write([event, Maker().scalar("x", 1.0)])
    assert backend.written == 2
    ((path, data),) = backend.attached.items()
    assert path.startswith("younger/")
    assert data == blob.data
