"""What the installed SDK is taken by, and the road for one whose core is not the one that we know."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.backends.swanlab import old
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.swanlab import road
from tracelet_shim.backends.swanlab.backend import SwanLabBackend
from tracelet_shim.backends.swanlab.limits import base_key
from tracelet_shim.backends.swanlab.public import sdk
from tracelet_shim.backends.swanlab.public.link import Process
from tracelet_shim.backends.swanlab.settings import without_long

pytest.importorskip("swanlab")

OLD = not sdk.has_core()
only_old = pytest.mark.skipif(not OLD, reason="of 0.6 and 0.7")
only_new = pytest.mark.skipif(OLD, reason="from 0.8 on")


@only_new
def test_the_core_is_the_one_that_we_know() -> None:
    assert road.core_lacks() is None


@only_new
def test_a_core_that_is_another_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A version to come is taken through its public API, with a notice: nothing fails, and the values are in its log."""
    monkeypatch.setattr(road, "_CORE", ("internal.run:of_a_version_to_come",))
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    backend = SwanLabBackend({"log_dir": str(tmp_path)})
    opened = backend.open(run_info(project="p"))
    backend.write(Maker().one_of_each())
    backend.write([Maker().scalar("s", 2.0, step=3), Maker().scalar("s", 3.0, step=4)])
    backend.close("finished")
    assert opened.run_id == run_info().session
    assert "of_a_version_to_come" in backend.take_notices()["core"]
    (log,) = tmp_path.glob("run-*/run-*.swanlab")
    assert b"s (repeat 1)" in log.read_bytes()
    assert backend.unsettled() == 0


@only_new
def test_a_core_that_breaks_when_a_run_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tracelet_shim.backends.swanlab.opening import Opener

    def session(*_: object) -> None:
        raise AttributeError("no such thing any more")

    monkeypatch.setattr(Opener, "session", session)
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    backend = SwanLabBackend({"log_dir": str(tmp_path)})
    backend.open(run_info(project="p"))
    backend.write([Maker().scalar("s", 2.0)])
    backend.close("finished")
    assert "no such thing any more" in backend.take_notices()["core"]
    assert len(list(tmp_path.glob("run-*"))) == 1


@only_old
def test_several_clouds_are_one_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The SDK takes a list only of values of one class, and loses the whole key with another one."""
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    backend = SwanLabBackend({"log_dir": str(tmp_path)})
    backend.open(run_info(project="p"))
    mesh = Maker().mesh("two", 1, faces=False)
    two = type(mesh.vertices).of(np.tile(mesh.vertices.numpy(), (2, 1, 1)))
    fields = {field: getattr(mesh, field) for field in mesh.__struct_fields__}
    backend.write([type(mesh)(**{**fields, "vertices": two, "colors": None})])
    backend.close("finished")
    (log,) = tmp_path.glob(f"run-*/{old.NAME}")
    (point,) = [record for what, record in old.records(log) if what == "point"]
    assert len(point.value.items) == 2


def test_a_process_ends_with_who_asks(tmp_path: Path) -> None:
    """A backend that is given up without an end leaves no process behind."""
    link = Process(str(tmp_path))
    process = link._process
    del link
    assert process.wait(30) != 0


def test_an_answer_from_a_process_that_is_gone(tmp_path: Path) -> None:
    link = Process(str(tmp_path))
    link._process.kill()
    with pytest.raises(ConnectionError, match="has ended"):
        link.call("count")
    link.end()


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("a", "a"), ("a (repeat 1)", "a"), ("a (more)", "a"), ("a (text) (repeat 2)", "a (text)"), ("a (more: step)", None),
        ("a (more: rest)", None), ("a (infinity)", None),
    ],
)  # fmt: skip
def test_base_key(key: str, base: str | None) -> None:
    assert base_key(key) == base


def test_tags_that_are_too_long_are_counted() -> None:
    assert without_long(["short", "x" * 21], 20) == (["short"], 1)
    assert without_long(None, 20) == (None, 0)


@pytest.mark.parametrize(("when", "text"), [(1.5, "1970-01-01T00:00:01.500000+00:00"), (math.inf, "1970-01-01T00:00:00+00:00")])
def test_times(when: float, text: str) -> None:
    assert sdk.iso(when) == text


def test_addresses_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.6 and 0.7 want ``/api`` at the end, later ones do not; both forms are taken."""
    for given in ("http://here", "http://here/api", "http://here/api/"):
        monkeypatch.setenv("SWANLAB_API_HOST", "other")
        monkeypatch.setattr(sdk, "has_core", lambda: False)
        sdk.set_hosts({"api_host": given})
        assert sdk.os.environ["SWANLAB_API_HOST"] == "http://here/api"
        monkeypatch.setattr(sdk, "has_core", lambda: True)
        sdk.set_hosts({"api_host": given})
        assert sdk.os.environ["SWANLAB_API_HOST"] == "http://here"
