"""What is logged through a session itself, in a local repository and on a real Aim server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.sample_events import Maker, run_info
from tracelet_shim import events as ev
from tracelet_shim.errors import EventRejectedError

pytest.importorskip("aim")
import aim_ui

from tests.backends.aim.live import AimServer
from tests.backends.aim.reader import AimReader
from tracelet_shim.backends.aim.backend import AimBackend

pytestmark = pytest.mark.slow

SAMPLES = "/logs/.tracelet/system/1.host.2.x.0.tracelet-records"
SYSTEM = {
    "cpu.percent": ("__system__cpu", {}), "process.cpu.percent": ("__system__cpu", {"of": "process"}),
    "memory.percent": ("__system__memory_percent", {}), "gpu.1.celsius": ("__system__gpu_temp", {"gpu": 1}),
    "gpu.0.percent": ("__system__gpu", {"gpu": 0}), "gpu.0.watts": ("__system__gpu_power_watts", {"gpu": 0}),
    "gpu.0.memory.percent": ("__system__gpu_memory_percent", {"gpu": 0}),
    "gpu.0.memory.mb": ("gpu.0.memory.mb", {"writer": "system"}), "disk.free.gb": ("disk.free.gb", {"writer": "system"}),
}  # fmt: skip
"""What the UI's tab System knows, in ``aim_ui/build/static/js/main.js``; and what it does not."""
SESSION = "00000000000000aa"


@pytest.fixture(params=["here", "server", "server-and-place"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return the directory of the repository, and the options for it."""
    if request.param == "here":
        yield tmp_path, {"repo": str(tmp_path)}
        return
    server = AimServer(tmp_path / "server")
    server.start()
    options = {"repo": f"aim://127.0.0.1:{server.gate.port}"}
    yield server.directory, options | ({"artifacts_uri": f"file://{tmp_path}/files"} if "place" in request.param else {})
    server.close()


def program(options: dict[str, Any]) -> None:
    """Write everything, some of it twice, in a process of its own, as a relay is one: Aim keeps what it has opened."""
    code = f"from tests.backends.aim.test_own_forms import write\nwrite({options!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def events() -> tuple[list[ev.Event], ev.Artifact, ev.Model]:
    make = Maker(file="/logs/.tracelet/handle/1.tracelet-records")
    data, model = make.artifact("my data", folder=True, aliases=("best",)), make.model("net", register_as="nets")
    samples, users = Maker("system", SAMPLES), Maker("system")
    return [
        make.table("tab", 3), data, model, make.artifact("one.py"), make.tags(stage="try", label=""), make.tags(stage="done"),
        make.alert("odd"), *(samples.scalar(tag, step / 3, step) for tag in SYSTEM for step in range(3)),
        users.scalar("gpu.0.percent", 9.0, 1),
    ], data, model  # fmt: skip


def write(options: dict[str, Any]) -> None:
    logged, data, _ = events()
    resume = None
    for _ in range(2):
        backend = AimBackend(options)
        resume = backend.open(run_info(session=SESSION, project="own forms", resume=resume)).run_id
        backend.write(logged)
        backend.close("finished")
    if options["repo"].startswith("aim://") and "artifacts_uri" not in options:
        check_large(AimBackend(options), data)


def check_large(backend: AimBackend, data: ev.Artifact) -> None:
    """A file that cannot be sent as a text is refused before it is read: it may be larger than memory."""
    backend.open(run_info(session="00000000000000ab", project="large"))
    with tempfile.NamedTemporaryFile() as large:
        large.truncate(1 << 40)  # a sparse one
        file = ev.ArtifactFile("large", 1 << 40, "0" * 64, large.name)
        with pytest.raises(EventRejectedError, match="large is more than Aim's server takes"):
            backend.write([msgspec.structs.replace(data, files=(file,))])
    backend.close("finished")


def read(directory: Path, copy: Path) -> AimReader:
    """Return a reader of a copy, which has no index: a server makes that by and by."""
    from aim import Repo, Run

    shutil.copytree(directory / ".aim", copy / ".aim", ignore=shutil.ignore_patterns("index"))
    reader, repo = AimReader(copy), Repo(str(copy))
    runs = [Run(path.name, repo=repo, read_only=True) for path in (copy / ".aim" / "meta" / "chunks").iterdir()]
    reader.runs = [run for run in runs if run["tracelet"]["session"] == SESSION]
    return reader


def test_each_is_there_once(place: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A table, artifacts, a model, tags and an alert are there, once, though they came again to who continued the run; files as
    artifacts, or as texts on a server where no place has been named. System metrics have the names
    by which Aim's page has a tab for them, where it knows them, and what a writer of the same name has logged has not."""
    directory, options = place
    program(options)
    reader = read(directory, tmp_path / "copy")
    ((step, columns, rows),) = reader.tables("", "tab")
    assert (step, columns, len(rows)) == (3, ["n", "value", "te|xt", "ok"], 3)
    assert reader.alerts() == [("odd", "loss is **NaN**", "warning")]
    assert reader.props["tags"] == {"stage=done", "label"}
    assert reader.run["tracelet"]["tags"] == {"stage": "done", "label": ""}
    _, data, model = events()
    for event in (data, model):
        for file in event.files:
            content = Path(file.at).read_bytes()
            if options["repo"].startswith("aim://") and "artifacts_uri" not in options:
                (record,) = reader.records("texts", "", f"artifacts/{file.path}", type="file")
                assert record.value.data == content.decode()
            else:
                assert reader.artifact(event.tag)[file.path] == content
    stored = {(info["name"], json.dumps(info["context"])) for info in reader.run.collect_sequence_info(("metric",))["metric"]}
    users = ("gpu.0.percent", json.dumps({"writer": "system"}))
    assert stored == {(name, json.dumps(context)) for name, context in SYSTEM.values()} | {users}
    for name, context in SYSTEM.values():
        points = sorted((record.step, record.value) for _, _, record in reader.points(reader.run, name, context))
        assert points == [(step, step / 3) for step in range(3)], name
    assert [record.value for record in reader.records("metric", "system", "gpu.0.percent")] == [9.0]
    shown = (Path(aim_ui.__file__).parent / "build" / "static" / "js" / "main.js").read_text()
    assert all(f"{name}:" in shown for name, _ in SYSTEM.values() if name.startswith("__system__"))
