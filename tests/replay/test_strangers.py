"""Log directories that somebody else has made: nothing outside of them is read, and what is bad in them holds nothing up."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter

from tests.delivery.programs import tensorboard_steps
from tests.environment import warnings
from tests.replay.commands import COMMAND, environment, tracelet_shim
from tests.replay.test_replay import write
from tracelet_shim.eventfiles.logdir import Projector, walk

SECRET = "SECRET\n"
CONFIG = "got/run/projector_config.pbtxt"


def embedding(name: str, tensor: str, *, labels: str = "", sprite: str = "", dims: str = "1 1", shape: str = "") -> str:
    """Return an embedding as it stands in the projector's config."""
    lines = [f'tensor_name: "{name}"', f'tensor_path: "{tensor}"', *(f"tensor_shape: {n}" for n in shape.split())]
    lines += [f'metadata_path: "{labels}"'] if labels else []
    if sprite:
        sizes = " ".join(f"single_image_dim: {n}" for n in dims.split())
        lines.append(f'sprite {{ image_path: "{sprite}" {sizes} }}')
    return f"embeddings {{ {' '.join(lines)} }}\n"


def delivered(directory: Path) -> dict[str, tuple[bool, bool]]:
    """Return, by name, whether an embedding in the copy has labels and pictures."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    (path,) = directory.glob("tracelet-runs/**/projector_config.pbtxt")
    infos = text_format.Parse(path.read_text(), projector_config_pb2.ProjectorConfig()).embeddings
    return {info.tensor_name.rpartition(":")[0]: (bool(info.metadata_path), bool(info.sprite.image_path)) for info in infos}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A log directory with three points in ``t.tsv``, and a secret beside it."""
    directory = tmp_path / "got/run"
    directory.mkdir(parents=True)
    (directory / "t.tsv").write_text("0.1\t0.2\n" * 3)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text(SECRET * 3)
    (tmp_path / "secret/numbers.tsv").write_text("31337\n" * 3)
    Image.new("RGB", (3, 1), (31, 33, 7)).save(tmp_path / "secret/picture.png")
    return directory


def test_a_projectors_config_reads_nothing_outside_of_the_log_directory(run: Path, tmp_path: Path) -> None:
    """Absolute paths, ``..`` and links are not followed out of it, for points, labels and pictures; the lines name them. What is
    inside is read, through links as well."""
    (run / "link").symlink_to(tmp_path / "secret/key")
    (run / "folder").symlink_to(tmp_path / "secret")
    (run / "inside.tsv").symlink_to(run / "t.tsv")
    outside = [str(tmp_path / "secret/key"), "../../secret/key", "link", "folder/key", "../run/../../secret/key"]
    config = "".join(embedding(f"label{i}", "t.tsv", labels=path) for i, path in enumerate(outside))
    points = ["/dev/zero", "../../secret/numbers.tsv", "folder/numbers.tsv", f"{tmp_path}/secret/numbers.tsv"]
    config += "".join(embedding(f"points{i}", path) for i, path in enumerate(points))
    config += embedding("picture", "t.tsv", sprite="folder/picture.png")
    config += embedding("good", "inside.tsv", labels="./t.tsv") + embedding("up", "../run/t.tsv")
    (tmp_path / CONFIG).write_text(config)
    said = tracelet_shim("replay", "got/run", "-b", "tensorboard,dvclive", code=1)
    names = [*(f"label{i}" for i in range(5)), *(f"points{i}" for i in range(4)), "picture", "folder"]
    assert [name for name in names if f"{name}'): " not in said and f"{run}/{name}: " not in said] == []
    found = delivered(tmp_path)
    assert {name for name in found if not name.startswith("label")} == {"picture", "good", "up"}
    assert found["label0"] == found["picture"] == (False, False)
    assert found["good"] == (True, False)
    copies = [path for top in ("tracelet-runs", "dvclive") for path in (tmp_path / top).rglob("*") if path.is_file()]
    assert [path for path in copies if SECRET.encode() in path.read_bytes() or b"31337" in path.read_bytes()] == []


def test_a_bad_embedding_holds_no_other_one_up(run: Path, tmp_path: Path) -> None:
    """FIFOs, files with endless holes, sizes that lie and broken pictures cost the embedding that has them, or its labels or
    pictures, and one line each; event files and the other embeddings arrive."""
    os.mkfifo(run / "fifo.tsv")
    (run / "t.bin").write_bytes(np.ones((3, 2), np.float32).tobytes())
    (run / "empty.tsv").write_text("")
    (run / "ragged.tsv").write_text("1\t2\n3\n")
    for name in ("huge.tsv", "huge.bin", "huge.txt"):
        with open(run / name, "wb") as file:
            file.truncate(1 << 40)
    Image.new("RGB", (8, 8)).save(run / "s.png")
    (run / "cut.png").write_bytes((run / "s.png").read_bytes()[:45])
    Image.new("1", (14_000, 14_000)).save(run / "bomb.png")
    (run / "s.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    lost = [
        embedding("n0", "gone.tsv"), embedding("n1", "fifo.tsv"), embedding("n2", "/dev/zero"), embedding("n3", "huge.tsv"),
        embedding("n4", "huge.bin", shape="524288 524288"), embedding("n5", "t.bin", shape="999999999 999999999"),
        embedding("n6", "t.bin", shape="0 0"), embedding("n7", "t.bin"), embedding("n8", "empty.tsv"),
        embedding("n9", "ragged.tsv"), embedding("n10", ""), embedding("n11", "."), embedding("n12", "x" * 5000),
    ]  # fmt: skip
    bare = [
        embedding("p0", "t.tsv", labels="fifo.tsv"), embedding("p1", "t.tsv", labels="huge.txt"),
        embedding("p2", "t.tsv", labels="ragged.tsv"), embedding("p3", "t.tsv", sprite="s.png", dims="0 0"),
        embedding("p4", "t.tsv", sprite="s.png", dims="64 64"), embedding("p5", "t.tsv", sprite="cut.png"),
        embedding("p6", "t.tsv", sprite="bomb.png", dims="8 8"), embedding("p7", "t.tsv", sprite="s.eps"),
        embedding("p8", "t.tsv", sprite="t.tsv"), embedding("p9", "t.tsv", sprite="fifo.tsv"),
    ]  # fmt: skip
    good = [embedding("a", "t.tsv", labels="t.tsv", sprite="s.png", dims="4 4"), embedding("b", "t.bin", shape="3 2")]
    (run / ("9" * 200)).mkdir()
    (run / ("9" * 200) / "t.tsv").write_text("1\n2\n")
    good.append(embedding("c:" + "9" * 200, "9" * 200 + "/t.tsv"))
    (tmp_path / CONFIG).write_text("".join([*lost, *bare, *good]))
    write("got/run", 5)
    said = tracelet_shim("replay", "got/run", "-b", "tensorboard", code=1)
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if CONFIG in line]
    expected = [f"n{i}" for i in range(len(lost))] + [f"p{i}" for i in range(len(bare))]
    assert [line.split("('")[1].split("')")[0] for line in lines] == expected
    assert sorted(tensorboard_steps(tmp_path)) == list(range(5))
    found = delivered(tmp_path)
    assert [name for name in found if name.startswith("n")] == []
    assert {f"p{i}": (False, False) for i in range(len(bare))}.items() <= found.items()
    assert found["a"] == (True, True)
    assert {"b", f"c:{'9' * 200}"} <= found.keys()


@pytest.mark.parametrize("text", [b"\xff", b"embeddings {", b"x" * (1 << 25)])
def test_a_config_that_is_none(run: Path, tmp_path: Path, text: bytes) -> None:
    """The projector's config itself may be anything: one line, and the event files arrive."""
    (tmp_path / CONFIG).write_bytes(text)
    write("got/run", 5)
    said = tracelet_shim("replay", "got/run", "-b", "tensorboard", code=1)
    assert len([line for line in said.splitlines() if CONFIG in line]) == 1
    assert sorted(tensorboard_steps(tmp_path)) == list(range(5))


def test_what_add_embedding_writes_is_read_whole(tmp_path: Path) -> None:
    """Labels with a header and pictures of torch's are found again, and each embedding has its place among the others."""
    import torch

    with SummaryWriter("runs/x") as writer:
        labels, pictures = [["a", "1"], ["b", "2"], ["c", "3"]], torch.rand(3, 3, 5, 5)
        writer.add_embedding(torch.eye(3), labels, pictures, 7, "t/x", ["name", "number"])
    path = tmp_path / "runs/x/projector_config.pbtxt"
    projector = Projector(str(path), str(path.parent), inside=str(tmp_path / "runs"))
    (record,) = projector.records(lambda *_: None)
    hint = record.hint
    assert (record.position, hint.tag, hint.step, hint.header, hint.metadata) == (0, "t/x", 7, ["name", "number"], labels)
    assert np.array_equal(hint.matrix.numpy(), np.eye(3))
    assert np.abs(hint.images.numpy() - pictures.permute(0, 2, 3, 1).numpy() * 255).max() <= 1
    assert projector.damages == []
    assert list(projector.records(lambda *_: None)) == []


def test_event_files_that_are_none(tmp_path: Path) -> None:
    """A FIFO, a device or a link out of the log directory is not opened, whatever its name; a line names it, and what to do.
    Links within it, links in a circle and folders with such a name are passed over or followed."""
    write("elsewhere/x", 3, 100)
    write("runs/a", 5)
    os.mkfifo("runs/a/events.out.tfevents.1.fifo")
    os.mkfifo("runs/a/run.json")
    Path("runs/a/events.out.tfevents.2.zero").symlink_to("/dev/zero")
    Path("runs/a/events.out.tfevents.3.gone").symlink_to("nothing")
    Path("runs/a/events.out.tfevents.4.folder").mkdir()
    Path("runs/a/events.out.tfevents.5.round").symlink_to("events.out.tfevents.5.round")
    (outside,) = Path("elsewhere/x").iterdir()
    Path("runs/a/events.out.tfevents.6.out").symlink_to(outside.absolute())
    Path("runs/out").symlink_to(tmp_path / "elsewhere")
    Path("runs/a/up").symlink_to(tmp_path / "runs")
    Path("runs/latest").symlink_to("a")
    said = tracelet_shim("replay", "runs", "-b", "tensorboard", code=1)
    assert sorted(tensorboard_steps(tmp_path)) == list(range(5))
    for name, problem in {
        "a/events.out.tfevents.1.fifo": "a FIFO", "a/events.out.tfevents.2.zero": "it leads to /dev/zero",
        "a/events.out.tfevents.6.out": f"it leads to {outside.absolute()}", "out": f"it leads to {tmp_path}/elsewhere",
    }.items():  # fmt: skip
        (line,) = [line for line in said.splitlines() if f"{tmp_path}/runs/{name}: " in line]
        assert problem in line
    assert said.count("put a copy in its place, or replay that by itself") == 3
    said = tracelet_shim("replay", "runs/out/x", "-b", "tensorboard")  # named by the user, it may be a link itself
    assert "3 events delivered" in said


def test_each_directory_a_run_but_what_is_elsewhere(tmp_path: Path) -> None:
    """With --runs, a link out of the log directory makes no run, and is named."""
    write("elsewhere/x", 3)
    write("runs/a", 5)
    Path("runs/b").symlink_to(tmp_path / "elsewhere/x")
    said = tracelet_shim("replay", "runs", "--runs", "-b", "tensorboard", code=1)
    assert f"{tmp_path}/runs/b: it leads to {tmp_path}/elsewhere/x" in said
    assert "-- b" not in said
    assert tensorboard_steps(tmp_path) == list(range(5))


def test_a_record_of_any_size(tmp_path: Path) -> None:
    """A record with the right checksums whose length fits into the file, which is a hole, takes no memory."""
    path = write("runs/x", 5)
    length = struct.pack("<Q", 1 << 40)
    with open(path, "ab") as file:
        file.write(length + struct.pack("<I", masked_crc32c(length)))
        file.truncate(1 << 41)
    said = tracelet_shim("replay", "runs/x", "-b", "tensorboard", code=1)
    assert "a record says that it has 1,099,511,627,776 bytes" in said
    assert tensorboard_steps(tmp_path) == list(range(5))


def test_directories_without_end(tmp_path: Path) -> None:
    """A tree of links is gone through once, and one that is deeper than a path can be long ends."""
    top = tmp_path / "top"
    for name in "ab":
        (top / name).mkdir(parents=True)
        for other in "abc":
            (top / name / other).symlink_to(top)
    assert [directory for directory, _ in walk(str(top))] == [str(top), f"{top}/a", f"{top}/b"]
    here = os.getcwd()
    os.chdir(top / "a")
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    os.chdir(here)
    refused: list[str] = []
    found = list(walk(str(top), refused=lambda path, _: refused.append(path)))
    assert len(found) + len(refused) > 20
    assert len(refused) == 1


def test_a_log_directory_whose_name_is_no_utf8(tmp_path: Path) -> None:
    """It is replayed, alone or each of its directories as a run; writers and runs have a name that can be read."""
    write("runs/a", 5)
    write("runs/b", 5, 100)
    for old, new in ((b"runs/b", b"runs/b\xe9"), (b"runs", b"runs\xe9")):
        os.rename(old, new)
    command = [COMMAND, "replay", b"runs\xe9", "-b", "dvclive"]
    for more in ([], ["--runs"]):
        done = subprocess.run([*command, *more], env=environment(), capture_output=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert warnings(done.stderr.decode(errors="replace")) == []
    found = {}
    for path in sorted(tmp_path.glob("dvclive/default/**/plots/metrics/**/*.tsv")):
        run = path.relative_to(tmp_path / "dvclive/default").parts[0]
        found[run, path.stem, path.parent.name] = [int(line.split()[1]) for line in path.read_text().splitlines()[1:]]
    assert sorted(steps[0] for steps in found.values()) == [0, 0, 100, 100]
    assert all(name.isascii() for names in found for name in names)


@pytest.mark.parametrize("change", ["id = '../../thesis'", "cwd = 'fifo'"])
def test_a_strangers_ledger(tmp_path: Path, change: str) -> None:
    """The id of a session is no way to files of the user's, and an event file in the ledger that is a FIFO holds nothing up."""
    path = write("got/x", 5)
    tracelet_shim("replay", "got/x", "-b", "tensorboard")
    with sqlite3.connect("got/x/.tracelet/ledger.db") as db:
        db.execute(f"UPDATE sessions SET cut_off = 1, ended = NULL, {change}")
        if "fifo" in change:
            path.unlink()
            os.mkfifo(path)
    Path("thesis.log").write_text("mine")
    is_id = change.startswith("id")
    said = tracelet_shim("status", "got", code=1 if is_id else 0)
    assert ("'../../thesis' is no id" in said) == is_id
    tracelet_shim("replay", "got/x", "--resume", "-b", "tensorboard", code=2 if is_id else 0)
    assert Path("thesis.log").read_text() == "mine"
    assert [path.name for path in tmp_path.glob("thesis*")] == ["thesis.log"]
