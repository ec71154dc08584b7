"""The conformance suite: what every tracker must have after the training program of `tracelet_shim.testing.program`.

The program uses every method of `SummaryWriter`, and then every one of the session's own. It runs untouched, in a process of
its own, under the environment of a CI job; a `Reader` then looks into the tracker's own store. A package with a backend of its
own runs the suite so:

    import pytest

    pytest.register_assert_rewrite("tracelet_shim.testing.conformance")  # a failed check then shows the values
    from tracelet_shim.testing.conformance import CHECKS, Conformance, run_program

    @pytest.fixture(scope="module", params=["process", "thread"])
    def conformance(request, tmp_path_factory):
        directory = tmp_path_factory.mktemp("conformance")
        (place,) = run_program(directory, [MyReader], delivery=request.param)
        return Conformance(MyReader(place))

    @pytest.mark.parametrize("check", CHECKS)
    def test_tracker_has(conformance, check):
        getattr(conformance, check)()

It takes the extra ``torch``, matplotlib, and the tracker. Each check says in its docstring what must be true for the
user, and raises AssertionError where it is not.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Level
from tracelet_shim.testing import Point, Reader, program

__all__ = ["CHECKS", "Conformance", "run_program"]

D = program.data()


def run_program(
    directory: Path,
    readers: Sequence[type[Reader]],
    *,
    delivery: Literal["process", "thread"] = "process",
    environment: Mapping[str, str] | None = None,
    timeout: float = 240.0,
) -> list[Path]:
    """Run the training program with the backends that `readers` can read back, all of them at once.

    Args:
        directory: an empty directory; the program's working directory. Its event files go to ``runs/x`` in it.
        readers: the readers' classes; each one's `Reader.environment` is asked for a directory ``<backend>`` of its own.
        delivery: where the trackers' SDKs run.
        environment: further variables; the rest is this process's, without what pytest sets.
        timeout: seconds that the program may take.

    Returns:
        The directories to give to the readers, in their order.

    Raises:
        AssertionError: the program failed, or (it runs under `strict`) something was not delivered.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    places = [directory / reader.backend for reader in readers]
    for reader, place in zip(readers, places, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        variables.update(reader.environment(place))
    variables.update(
        TRACELET_BACKEND=",".join(reader.backend for reader in readers), TRACELET_PROJECT="conf",
        TRACELET_EXP_NAME="everything", TRACELET_DELIVERY=delivery, TRACELET_OFFLINE="1", TRACELET_STRICT="1",
        TRACELET_EXIT_TIMEOUT="120",
    )  # fmt: skip
    variables.update(environment or {})
    done = subprocess.run(  # noqa: S603 - this interpreter and a file of ours
        [sys.executable, str(program.__file__), str(directory / "runs" / "x")],
        cwd=directory, env=variables, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return places


def _points(points: list[Point]) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in points)


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


class Conformance:
    """The checks, one method each; `CHECKS` has their names.

    Args:
        reader: of the run.
        float32: the tracker keeps scalars as TensorBoard does, in float32.
    """

    def __init__(self, reader: Reader, *, float32: bool = False) -> None:
        self.reader = reader
        self.number: Callable[[float], float] = _float32 if float32 else float

    def check_scalars_are_exact(self) -> None:
        """Every scalar arrives with its float64 value, its step, and its wall time where the tracker keeps them."""
        points = self.reader.scalars("train", "loss")
        assert _points(points) == [(s, self.number(0.1 * s)) for s in range(20)]
        for point in points:
            if point.wall_time is not None:
                assert abs(point.wall_time - (program.WALL + point.step)) < 0.0015
        for tag, value in (("large", 1e300), ("integer", 3.0)):
            assert _points(self.reader.scalars("train", tag)) == [(1, self.number(value))]

    def check_writers_stay_apart(self) -> None:
        """Two writers with the same tag and different step axes arrive complete and apart."""
        assert _points(self.reader.scalars("val", "loss")) == [(s, self.number(1 / 3 + 5 * s)) for s in range(4)]

    def check_steps(self) -> None:
        """Out-of-order, repeated, zero, large and negative steps arrive; ``global_step=None`` is step 0."""
        expected = sorted((step, self.number(i + 0.1)) for i, step in enumerate(program.STEPS))
        assert _points(self.reader.scalars("train", "odd/steps")) == expected
        assert _points(self.reader.scalars("train", "no step")) == [(0, 1.5)]

    def check_special_values(self) -> None:
        """NaN and infinities arrive as what they are."""
        values = {p.step: p.value for p in self.reader.scalars("train", "special")}
        assert math.isnan(values[0])
        assert (values[1], values[2], values[3]) == (math.inf, -math.inf, 0.5)

    def check_hostile_tags(self) -> None:
        """Tags of any characters and length arrive, none in the place of another."""
        for i, tag in enumerate(program.HOSTILE):
            assert _points(self.reader.scalars("train", tag)) == [(7, i + 0.25)], repr(tag[:50])

    def check_add_scalars(self) -> None:
        """Each key of `add_scalars` is a series of its own under the main tag."""
        assert _points(self.reader.scalars("train", "group/acc", "a")) == [(3, self.number(0.1))]
        assert _points(self.reader.scalars("train", "group/acc", "b")) == [(3, self.number(0.2))]

    def check_one_tag_for_all_kinds(self) -> None:
        """One tag used for a scalar, a text, an image and a histogram has all four."""
        assert _points(self.reader.scalars("train", "same")) == [(1, self.number(0.1))]
        assert [text for _, text in self.reader.texts("train", "same")] == ["text"]
        assert len(self.reader.images("train", "same")) == 1
        assert len(self.reader.histograms("train", "same")) == 1

    def check_images(self) -> None:
        """Images arrive pixel for pixel at their steps, repeated steps included."""
        images = self.reader.images("train", "image")
        assert sorted(step for step, _ in images) == [3, 3, 4]
        for step, pixels in images:
            assert np.array_equal(pixels[..., :3], (D["image"] + step).transpose(1, 2, 0))
        ((_, grey),) = self.reader.images("train", "grey")
        assert np.array_equal(grey if grey.ndim == 2 else grey[..., 0], D["grey"])
        ((_, sheet),) = self.reader.images("train", "images")
        assert sheet.shape[:2] == (12, 32)
        assert len(self.reader.images("train", "boxes")) == 1
        ((_, figure),) = self.reader.images("train", "figure")
        assert figure.shape[:2] == (50, 50)

    def check_histograms(self) -> None:
        """A histogram keeps its samples' number, range and distribution."""
        ((step, edges, counts),) = self.reader.histograms("train", "histogram")
        assert step == 2
        assert len(edges) == len(counts) + 1
        assert abs(counts.sum() - 2000) < 1e-6
        cumulated = np.concatenate([[0], np.cumsum(counts)])
        for quantile in (-1.0, 0.0, 1.0):
            true = (D["samples"] <= quantile).sum()
            assert abs(np.interp(quantile, edges, cumulated) - true) < 60
        ((_, edges, counts),) = self.reader.histograms("train", "raw")
        assert abs(counts.sum() - 6) < 1e-6

    def check_video(self) -> None:
        """A video arrives with all its frames."""
        ((step, frames),) = self.reader.videos("train", "video")
        assert step == 2
        assert frames.shape[:3] == (4, 8, 10)
        assert [int(f.mean().round()) for f in frames] == [0, 60, 120, 180]

    def check_audio(self) -> None:
        """Audio arrives sample for sample."""
        ((step, rate, samples),) = self.reader.audio("train", "audio")
        assert (step, rate) == (2, 8000)
        assert np.array_equal(np.asarray(samples).reshape(-1), (D["audio"] * 32767).astype(np.int16))

    def check_text(self) -> None:
        """Text arrives character for character."""
        assert self.reader.texts("train", "text") == [(2, "**bold** é\n<script>")]

    def check_pr_curve(self) -> None:
        """A precision-recall curve has all its thresholds."""
        ((step, precision, recall),) = self.reader.pr_curves("train", "pr")
        assert step == 2
        assert len(precision) == len(recall) == 127
        assert abs(max(recall) - 1) < 1e-6
        assert abs(precision[np.argmax(recall)] - D["labels"].mean()) < 1e-6

    def check_meshes(self) -> None:
        """A mesh arrives with faces and colours, a point cloud without."""
        ((step, vertices, faces, colors),) = self.reader.meshes("train", "mesh")
        assert step == 2
        assert np.allclose(vertices, D["vertices"][0])
        assert faces is not None
        assert np.array_equal(np.asarray(faces, int), D["faces"][0])
        assert colors is not None
        assert np.array_equal(np.asarray(colors, int)[:, :3], D["colors"][0])
        ((_, vertices, _, _),) = self.reader.meshes("train", "cloud")
        assert np.allclose(vertices, D["vertices"][0])

    def check_embedding(self) -> None:
        """An embedding arrives with its vectors and labels."""
        ((step, matrix, rows),) = self.reader.embeddings("train", "emb")
        assert step == 2
        assert np.allclose(matrix, D["matrix"], atol=1e-6)
        assert rows is not None
        assert [row[0] for row in rows] == [f"p{i}" for i in range(9)]

    def check_tensor(self) -> None:
        """A tensor arrives element for element."""
        ((step, tensor),) = self.reader.tensors("train", "tensor")
        assert step == 2
        assert np.array_equal(tensor, D["tensor"])

    def check_graph(self) -> None:
        """A model graph arrives with its nodes."""
        (nodes,) = self.reader.graphs("train")
        assert any("Linear" in node for node in nodes)

    def check_layouts(self) -> None:
        """Custom-scalar layouts arrive."""
        layouts = [_listed(layout) for layout in self.reader.custom_scalars("train")]
        assert program.LAYOUT in layouts
        assert {"cat": {"lines": ["Multiline", ["a", "b"]]}} in layouts
        assert {"cat": {"margin": ["Margin", ["a", "b", "c"]]}} in layouts

    def check_hparams(self) -> None:
        """The first `add_hparams` gives the run its parameters and its summary metrics."""
        params = self.reader.params()
        for name, value in {"lr": 0.1, "bs": 32, "opt": "adam", "amp": True}.items():
            assert _same(params[name], value), (name, params[name])
        assert self.number(self.reader.summary_metrics()["hp/acc"]) == 0.75

    def check_sweep(self) -> None:
        """Every further `add_hparams` with other values is a child run with its own parameters and metrics."""
        trials = sorted(self.reader.trials(), key=lambda t: float(t.params["lr"]))
        assert [float(t.params["lr"]) for t in trials] == [1.1, 2.1]
        assert [t.metrics["hp/acc"] for t in trials] == [0.875, 1.0]
        assert all(t.params["opt"] == "sgd" for t in trials)

    def check_status(self) -> None:
        """A program that ends normally leaves a finished run."""
        assert self.reader.status() == "finished"

    def check_about(self) -> None:
        """Project and name are the user's."""
        about = self.reader.about()
        assert about["project"] == "conf"
        assert about["exp_name"] == "everything"

    # -- what is logged through the session itself ----------------------------------------------------------------------

    def check_session_params(self) -> None:
        """`log_params` gives the run its parameters, those in tables under names with dots."""
        if self._knows_session():
            params = self.reader.params()
            expected = {"optimizer.name": "adamw", "optimizer.betas": "[0.9, 0.999]", "depth": 3, "dropout": 0.25}
            for name, value in {**expected, "pretrained": True}.items():
                assert _same(params[name], value), (name, params[name])

    def check_session_metrics(self) -> None:
        """`log_metrics` counts its steps itself, unless one is given; `set_summary` sets final metrics of the run."""
        if self._knows_session():
            acc = [(step, self.number(step / 7)) for step in range(3)]
            assert _points(self.reader.scalars("", "run/acc")) == [*acc, (10, self.number(1e300))]
            assert _points(self.reader.scalars("", "run/f1")) == [(step, -float(step)) for step in range(3)]
            assert self.reader.summary_metrics()["run/best"] == 0.875

    def check_session_text_and_pictures(self) -> None:
        """`log_text`, `log_image` and `log_figure` give what SummaryWriter's methods do."""
        if self._knows_session():
            assert self.reader.texts("", "run/note") == [(2, program.TEXT)]
            ((step, image),) = self.reader.images("", "run/image")
            assert step == 3
            assert np.array_equal(image[..., :3], D["image"].transpose(1, 2, 0))
            ((step, figure),) = self.reader.images("", "run/figure")
            assert (step, figure.shape[:2]) == (2, (50, 50))

    def check_session_table(self) -> None:
        """`log_table` gives a table with its columns and each cell; as a file, exactly."""
        if not self._knows_session():
            return
        if self._is_file(ev.Table):
            files = self._files(ev.Table, "run/table")
            assert {step for step, _ in files.values()} == {3}
            found = json.loads(files[".json"][1])
            assert found == {"columns": program.COLUMNS, "data": [[_listed_cell(cell) for cell in row] for row in program.ROWS]}
            head, *rows = csv.reader(io.StringIO(files[".csv"][1].decode(), newline=""))
        else:
            ((step, head, rows),) = self.reader.tables("", "run/table")
            assert step == 3
        assert list(head) == program.COLUMNS
        assert len(rows) == len(program.ROWS)
        for row, expected in zip(rows, program.ROWS, strict=True):
            for cell, value in zip(row, expected, strict=True):
                assert _same_cell(cell, value), (row, expected)

    def check_session_artifacts(self) -> None:
        """`log_artifact` gives a file, or those of a directory, as they were at the call; of two of a name the later is found."""
        if self._knows_session():
            for name in ("notes.txt", "data"):
                assert self._artifact(ev.Artifact, name) == _files_of(name)

    def check_session_model(self) -> None:
        """`log_model` gives the files of a model."""
        if self._knows_session():
            assert self._artifact(ev.Model, "net") == _files_of("net")

    def check_session_tags(self) -> None:
        """`set_tags` gives the run tags, of which the latest value of each name counts."""
        if not self._knows_session():
            return
        if self._is_file(ev.Tags):
            files = self.reader.as_files(ev.Tags.kind, "", "") or []
            told = [json.loads(data) for _, suffix, data in files if suffix == ".json"]
            assert sorted(told, key=len) == [{"stage": "done"}, {"stage": "try", "née": "é"}]
        else:
            tags = self.reader.tags()
            assert {name: tags.get(name) for name in ("stage", "née")} == {"stage": "done", "née": "é"}

    def check_session_alert(self) -> None:
        """`alert` gives title, text and level."""
        if not self._knows_session():
            return
        title, text, level = program.ALERT
        if self._is_file(ev.Alert):
            assert self._files(ev.Alert, title) == {".md": (0, f"**{level}: {title}**\n\n{text}\n".encode())}
        else:
            assert self.reader.alerts() == [(title, text, level)]

    def _knows_session(self) -> bool:
        return self.reader.as_files(ev.Artifact.kind, "", "notes.txt") is not None

    def _is_file(self, kind: type[ev.Event]) -> bool:
        return registry.find(self.reader.backend).capabilities[kind].level is Level.FILE

    def _files(self, kind: type[ev.Event], tag: str) -> dict[str, tuple[int, bytes]]:
        """Return suffix -> (step, content) of the files of one event."""
        found = self.reader.as_files(kind.kind, "", tag) or []
        by_suffix = {suffix: (step, data) for step, suffix, data in found}
        assert len(by_suffix) == len(found), "one event"
        return by_suffix

    def _artifact(self, kind: type[ev.Event], name: str) -> dict[str, bytes]:
        if not self._is_file(kind):
            return self.reader.model(name) if kind is ev.Model else self.reader.artifact(name)
        found = self.reader.as_files(kind.kind, "", name) or []
        return {f"{name}{suffix}": data for _, suffix, data in found}


CHECKS: list[str] = [name for name in vars(Conformance) if name.startswith("check_")]
"""The names of all checks, to parametrise a test over."""


def _listed(layout: dict[str, Any]) -> dict[str, Any]:
    return {c: {t: [kind, list(tags)] for t, (kind, tags) in charts.items()} for c, charts in layout.items()}


def _files_of(name: str) -> dict[str, bytes]:
    return {path: data for path, data in program.FILES.items() if path == name or path.startswith(f"{name}/")}


def _listed_cell(value: Any) -> Any:
    """JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _same_cell(found: Any, value: Any) -> bool:
    """Tell whether a cell is a value, or a text of it. Some trackers have nothing for NaN, or an empty text for nothing."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return found is None or found != found or str(found) in (("", "None") if value is None else ("nan", "NaN"))  # noqa: PLR0124
    if isinstance(value, (bool, str)):
        return str(found).lower() == str(value).lower()
    return bool(float(found) == value)


def _same(found: Any, value: Any) -> bool:
    """Several trackers keep parameters as text."""
    return found == value or str(found).lower() == str(value).lower()
