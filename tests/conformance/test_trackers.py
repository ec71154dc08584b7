"""Every tracker x every event type x both hostings: written through SummaryWriter, read back from the tracker's store."""

from __future__ import annotations

import importlib

import pytest

from tracelet_shim.testing import Reader

pytest.register_assert_rewrite("tracelet_shim.testing.conformance")  # a failed check then shows the values

from tracelet_shim.testing.conformance import CHECKS, Conformance, run_program  # noqa: E402

READERS = {
    "tensorboard": "TensorBoardReader",
    "mlflow": "MLflowReader",
    "wandb": "WandbReader",
    "aim": "AimReader",
    "clearml": "ClearMLReader",
    "comet": "CometReader",
    "dvclive": "DVCLiveReader",
    "swanlab": "SwanLabReader",
    "trackio": "TrackioReader",
}
HOSTINGS = ("process", "thread")


def reader_class(tracker: str) -> type[Reader]:
    return getattr(importlib.import_module(f"tests.readers.{tracker}"), READERS[tracker])


@pytest.fixture(scope="module", params=[(t, h) for t in READERS for h in HOSTINGS], ids="-".join)
def conformance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Conformance:
    tracker, hosting = request.param
    directory = tmp_path_factory.mktemp(f"{tracker}-{hosting}")
    (place,) = run_program(directory, [reader_class(tracker)], delivery=hosting)
    return Conformance(reader_class(tracker)(place), float32=tracker == "tensorboard")


@pytest.mark.parametrize("check", CHECKS)
def test_tracker_has(conformance: Conformance, check: str) -> None:
    """The tracker's own store has what the check's docstring says."""
    getattr(conformance, check)()


@pytest.fixture(scope="module", params=HOSTINGS)
def all_at_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Conformance]:
    """One program that all trackers are served from at once."""
    directory = tmp_path_factory.mktemp(f"all-{request.param}")
    readers = [reader_class(tracker) for tracker in READERS]
    places = run_program(directory, readers, delivery=request.param)
    return {
        reader.backend: Conformance(reader(place), float32=reader.backend == "tensorboard")
        for reader, place in zip(readers, places, strict=True)
    }


@pytest.mark.parametrize("tracker", READERS)
def test_all_trackers_at_once(all_at_once: dict[str, Conformance], tracker: str) -> None:
    """With all trackers in one process, each has everything that it has alone."""
    for check in CHECKS:
        getattr(all_at_once[tracker], check)()
