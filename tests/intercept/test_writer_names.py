"""Writers are named by their directory relative to the session's root; the same order gives the same names."""

from __future__ import annotations

import posixpath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim
from tracelet_shim.eventfiles.writer_names import SPLITS, WriterNames
from tracelet_shim.testing import RecordingBackend

parts = st.sampled_from(["runs", "x", "y", "train", "val", "Val", "x-2", "2", " ", "é", "a b", "..."])
directories = st.lists(parts, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


def named(*directories: str, root: str | None = None) -> list[str]:
    names = WriterNames(root)
    return [names(directory) for directory in directories]


@pytest.mark.parametrize(("directories", "names"), [
    (["/runs/x"], [""]),
    (["/runs/x", "/runs/x/train", "/runs/x/a/b"], ["", "train", "a/b"]),
    (["/runs/x/train", "/runs/x/val", "/runs/x"], ["train", "val", ""]),
    (["/runs/x/Validation", "/runs/x/train"], ["Validation", "train"]),
    (["/runs/x", "/runs/y"], ["", "y"]),
    (["/runs/x", "/runs/xy"], ["", "xy"]),
    (["/runs/x", "/other/x", "/third/x", "/runs"], ["", "x", "x-2", "runs"]),
    (["/runs/x", "/runs/x/y", "/runs/y"], ["", "y", "y-2"]),
    (["/runs/x", "/runs/x/y-2", "/a/y", "/b/y"], ["", "y-2", "y", "y-3"]),
    (["/runs/training_1", "/runs/train"], ["", "train"]),
    (["/train", "/val"], ["train", "val"]),
    (["/", "/x"], ["", "x"]),
    (["/x", "/"], ["", "root"]),
    (["s3://bucket/runs/x", "s3://bucket/runs/x/val", "gs://b/x"], ["", "val", "x"]),
    (["s3://bucket/runs/train", "s3://bucket/runs/val"], ["train", "val"]),
])  # fmt: skip
def test_the_rule(directories: list[str], names: list[str]) -> None:
    """The first writer's directory is the root, or its parent if it is named like a split; who is beside it has a name."""
    assert named(*directories) == names


@pytest.mark.parametrize(("root", "directory", "name"), [
    ("/logs", "/logs", ""), ("/logs", "/logs/train", "train"), ("/logs", "/logs/a/train", "a/train"), ("/logs", "/logs2/a", "a"),
    ("/", "/a/b", "a/b"), ("/logs/train", "/logs/train", ""), ("/logs/x", "/logs", "logs"),
])  # fmt: skip
def test_a_root_that_was_given_stays(root: str, directory: str, name: str) -> None:
    """Nothing is guessed then, splits included."""
    assert named(directory, root=root) == [name]


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_splits_have_a_parent(split: str) -> None:
    """Whatever their case."""
    assert named(f"/runs/x/{split}", f"/runs/x/{split.upper()}", "/runs/x") == [split, split.upper(), ""]


@given(st.lists(directories, max_size=12))
def test_names_are_stable_and_apart(made: list[str]) -> None:
    """Each directory has one name, no two have the same, and a rerun of the program gives the same ones."""
    names = WriterNames()
    first = {directory: names(directory) for directory in made}
    assert {directory: names(directory) for directory in reversed(made)} == first
    assert len(set(first.values())) == len(first)
    assert dict(zip(made, named(*made), strict=True)) == first
    for directory, name in first.items():
        assert names.root is not None
        if directory.startswith(names.root.rstrip("/") + "/"):
            inside = posixpath.relpath(directory, names.root)
            assert name == inside or name.startswith(f"{inside}-")


def test_names_of_a_session() -> None:
    """In a program: two splits, one beside the root; the writers inside `add_hparams` and `add_scalars` take no name."""
    backend = RecordingBackend()
    session = tracelet_shim.start_logging(backend, delivery="thread", strict=True, quiet=True)
    train, val = SummaryWriter("runs/x/train"), SummaryWriter("runs/x/val")
    train.add_scalar("loss", 1)
    val.add_scalar("loss", 2)
    val.add_hparams({"lr": 0.1}, {"m": 1}, run_name="../beside")
    train.add_scalars("s", {"k": 3})
    other = SummaryWriter("runs/beside")
    other.add_scalar("loss", 4)
    other.add_embedding(np.ones((2, 2)))
    for writer in (train, val, other):
        writer.close()
    assert session.flush(60)
    tracelet_shim.stop_logging()
    assert [(event.kind, event.writer) for event in backend.events] == [
        ("scalar", "train"), ("scalar", "val"), ("hparams", "val"), ("scalar", "train"), ("scalar", "beside"),
        ("embedding", "beside"),
    ]  # fmt: skip
