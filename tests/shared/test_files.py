from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.sample_events import run_info
from tracelet_shim.backends.shared.files import RUN_FILE, about_run, copy, give_back, load, replace
from tracelet_shim.backends.shared.names import file_names


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is stopped between writing and replacing has changed nothing that a reader sees."""
    path = tmp_path / "new" / "file"
    replace(path, b"first")
    assert path.read_bytes() == b"first"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace(str(path), b"second")
    assert path.read_bytes() == b"first"


def test_a_file_is_copied_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is in its place when it is whole; a reader sees the former content until then."""
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"first")
    copy(str(source), str(target))
    assert target.read_bytes() == b"first"
    source.write_bytes(b"second")

    def killed(*_: str) -> None:
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        copy(str(source), str(target))
    assert target.read_bytes() == b"first"


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"[1]", b"\xff"])
def test_what_is_no_file_of_ours_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / RUN_FILE).write_bytes(content)
    assert load(str(tmp_path)) == {}


def test_a_run_that_goes_on_keeps_what_is_not_given_anew(tmp_path: Path) -> None:
    first = about_run(run_info(session="a" * 16, notes="n", tags={"k": "v"}, started=5.0), {}, extra=1)
    assert (first["notes"], first["extra"], first["status"], first["sessions"]) == ("n", 1, "running", ["a" * 16])
    replace(tmp_path / RUN_FILE, json.dumps({**first, "status": "killed"}).encode())
    second = about_run(run_info(session="b" * 16, notes=None, tags={"k": "w"}, started=9.0), load(str(tmp_path)), extra=None)
    assert (second["notes"], second["extra"], second["tags"]) == ("n", 1, {"k": "w"})
    assert (second["started"], second["status"], second["sessions"]) == (5.0, "running", ["a" * 16, "b" * 16])


def test_an_artifact_is_given_back(tmp_path: Path) -> None:
    """By its name out of the run's own directory, or with the directory of another run; names lead nowhere else."""
    for run in ("own", "other"):
        (tmp_path / run / "files" / "data" / "deep").mkdir(parents=True)
        (tmp_path / run / RUN_FILE).write_text("{}")
        (tmp_path / run / "files" / "data" / "deep" / "x").write_text(run)
        (tmp_path / run / "files" / "one.pt").write_text(run)
    (tmp_path / "secret").write_text("s")
    own = str(tmp_path / "own")

    def given(name: str, where: str | None = own) -> tuple[str, str] | None:
        target = tmp_path / f"to{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        return give_back(name, where, "files", file_names(), str(target))

    one = given("one.pt")
    assert one is not None
    assert (Path(one[0]).read_text(), one[1]) == ("own", f"{own}/one.pt")
    folder = given(f"{tmp_path}/other/data", None)
    assert folder is not None
    assert (Path(folder[0], "deep", "x").read_text(), folder[1]) == ("other", f"{tmp_path}/other/data")
    for name in ("nothing", "../../secret", f"{tmp_path}/secret", f"{tmp_path}/other/../../secret", "", "/", "."):
        assert given(name) is None, name
