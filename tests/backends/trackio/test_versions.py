"""What any version of Trackio keeps and gives back, the installed one included; ``make matrix`` runs old ones."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.trackio.reader import TrackioReader
from tests.sample_events import Maker, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Capability, Level, NoSuchArtifactError
from tracelet_shim.backends.trackio import versions
from tracelet_shim.backends.trackio.backend import TrackioBackend
from tracelet_shim.backends.trackio.fetching import fetch
from tracelet_shim.backends.trackio.names import unused
from tracelet_shim.backends.trackio.older import Older


@pytest.fixture
def home() -> Path:
    """What holds the directory of the SDK of this process, as the reader knows it."""
    from trackio.utils import TRACKIO_DIR

    return TRACKIO_DIR.parent.parent if TRACKIO_DIR.parent.name == "huggingface" else TRACKIO_DIR.parent


def opened(project: str, session: str, **run: Any) -> TrackioBackend:
    backend = TrackioBackend()
    backend.open(run_info(project=project, session=session, **run))
    return backend


def test_what_comes_again_is_there_once(home: Path) -> None:
    """After a kill, however the batches are cut: rows, files, tables and configs."""
    make = Maker()
    points = [make.scalar("x", n / 8, n) for n in range(30)]
    data = make.artifact("data", folder=True)
    other = [make.text("note", "é"), make.image("i", 2), make.tensor("t"), make.table("tab", 3), data]
    first = opened("again", "00000000000000ba")
    first.write([*points[:20], *other[:3]])
    again = opened("again", "00000000000000ba")  # the first one's process was killed
    again.write([*points[5:25], *other])
    again.write([*other, *points[10:], make.hparams({"lr": 0.5}, {"acc": 1.0})])
    again.close("finished")
    reader = TrackioReader(home, "00000000000000ba")
    assert [(p.step, p.value) for p in reader.scalars("", "x")] == [(n, n / 8) for n in range(30)]
    assert reader.texts("", "note") == [(0, "é")]
    assert [step for step, _ in reader.images("", "i")] == [2]
    assert (len(reader.tensors("", "t")), len(reader.tables("", "tab"))) == (1, 1)
    assert len(reader.artifacts("dataset")) == 1
    assert (reader.params(), reader.summary_metrics(), reader.status()) == ({"lr": 0.5}, {"acc": 1.0}, "finished")


def test_runs_of_one_name_stay_apart(home: Path) -> None:
    """Where a run is known by its name, the second of one gets another."""
    for number in (1, 2):
        backend = opened("named", f"00000000000000c{number}", exp_name="same")
        backend.write([Maker(file=f"/{number}").scalar("x", float(number), number)])
        backend.close("finished")
    for number in (1, 2):
        reader = TrackioReader(home, f"00000000000000c{number}")
        assert [(p.step, p.value) for p in reader.scalars("", "x")] == [(number, float(number))]
        assert reader.about()["exp_name"] == "same"
    assert unused("same", {"same", "same (2)"}) == "same (3)"


def test_the_sdk_reads_what_is_there(home: Path) -> None:
    """What the dashboard reads of a run has all of it, with no value that it would stumble over."""
    from trackio.sqlite_storage import SQLiteStorage

    backend = opened("seen", "00000000000000ca", exp_name="seen")
    backend.write(Maker().one_of_each())
    backend.close("finished")
    logs = SQLiteStorage.get_logs("seen", "seen")
    assert [log["s"] for log in logs if "s" in log] == [0.1]
    assert {name for log in logs for name in log} >= {"s", "h", "t", "p", "acc"}


# -- what a store before artifacts has instead, with the installed one ---------------------------------------------------------


@pytest.fixture
def old_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Older]:
    """Let sessions have the store of old versions: what it lacks is lacking, whatever is installed."""
    monkeypatch.setattr("tracelet_shim.backends.trackio.backend.local_store", Older)
    return Older


@pytest.mark.usefixtures("old_store")
def test_artifacts_are_files_in_the_media_directory(home: Path) -> None:
    """Each content of a name beside the other, and a row that lists the files; no registry, which is said once."""
    make = Maker()
    data = make.artifact("my data", folder=True)
    model = make.model("net", register_as="nets")
    backend = opened("filed", "00000000000000cb")
    backend.write([data, model])
    backend.write([model])
    assert list(backend.take_notices()) == ["registry"]
    backend.close("finished")
    reader = TrackioReader(home, "00000000000000cb")
    listed = reader.listed()
    assert [value["name"] for value in listed] == ["my_x20_data", "net"]
    for value, event in zip(listed, (data, model), strict=True):
        held = {(reader.at(value["directory"]) / path).read_bytes() for path in value["files"]}
        assert held == {Path(file.at).read_bytes() for file in event.files}


def test_rows_without_ids_are_known_by_their_values(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before 0.17: the ids that a run has had are found, in one event file and in order; those of another run are not."""
    store = Older("idless")
    store._has_row_ids = False
    backend = opened("idless", "00000000000000cc", exp_name="one")
    monkeypatch.setattr(backend, "_store", store)
    backend.write([Maker().scalar("x", 1.0, 1), Maker(file="/b").scalar("y", 2.0, 2)])
    path = store._sdk.get_project_db_path("idless")
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT COUNT(*) FROM metrics WHERE CAST(metrics AS TEXT) LIKE '%tracelet/row%'").fetchone()
    assert rows == (2,)
    found = Older("idless")
    found._has_row_ids = False
    assert len(found._ids_of("one")) == 2
    assert found._ids_of("two") == []
    assert sorted(found.known([*found._ids_of("one"), "nothing"])) == found._ids_of("one")


# -- what the class says --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "text", "mesh", "artifact"), [
    ("0.2.8", "converted", "file", "converted"), ("0.20.2", "native", "file", "converted"),
    ("0.30.4", "native", "file", "native"), ("0.43.0", "native", "native", "native"),
])  # fmt: skip
def test_capabilities_are_those_of_the_version(
    monkeypatch: pytest.MonkeyPatch, version: str, text: str, mesh: str, artifact: str
) -> None:
    """What a version lacks is said to be converted, or a file; the newest's stay as they are."""
    monkeypatch.setattr(versions.metadata, "version", lambda name: version)
    newest = dict.fromkeys(ev.EVENT_TYPES, Capability(Level.NATIVE, "of the newest"))
    found = versions.refined(newest)
    assert [found[kind].level.value for kind in (ev.Text, ev.Mesh, ev.Artifact)] == [text, mesh, artifact]
    assert found[ev.Scalar] == newest[ev.Scalar]


def test_a_server_needs_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said at the start; the local file needs nothing."""
    monkeypatch.setattr(versions.metadata, "version", lambda name: "0.29.0")
    monkeypatch.setattr(TrackioBackend, "versions", TrackioBackend.versions._replace(needs=()))
    TrackioBackend.check(offline=True, options={})
    with pytest.raises(errors.BackendUnavailableError, match=r"0\.30"):
        TrackioBackend.check(offline=False, options={"server_url": "http://127.0.0.1:1", "write_token": "t"})


def test_artifacts_need_a_newer_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked for one, the line says that, and not what is missing in the SDK."""
    monkeypatch.setattr(versions.metadata, "version", lambda name: "0.20.2")
    with pytest.raises(NoSuchArtifactError, match=r"from 0\.30 on"):
        fetch({}, run_info(project="p"), "data", str(tmp_path))


def test_the_sdks_own_run_in_any_version(home: Path) -> None:
    """`session.native` is it: also before 0.24, where a run has a name and no id."""
    backend = opened("handles", "00000000000000ce", exp_name="mine")
    assert backend.handle.name == "mine"
    backend.close("finished")
