"""The tables of docs/which-tracker.md: of the backends' capabilities and constants, and of benchmarks/results-relays.json."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import Backend
from tracelet_shim.cli.backends import Row, markdown_table

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results-relays.json"

LIMITS = {
    "aim": "one value for a metric and step, a second has a context of its own; {backend._MOST_BYTES:MiB} a file on a server",
    "clearml": "one value for a series and step; {run._TEXT_LENGTH} characters of a parameter; {backend._PLOT_BYTES:MB} a plot",
    "comet": "charts of {long_metrics._MAX_POINTS} points of a metric, a sample of more; {names._MAX_NAME} characters of a name",
    "dvclive": "a tag is the path of a file, of {limits.MAX_NAME} bytes",
    "mlflow": "a parameter cannot change; {limits.MAX_KEY} characters of a name, {limits.MAX_PARAM} of a parameter, "
    "{limits.MAX_TAG} of a tag",
    "swanlab": "one value for a key and step, the first; {limits.MAX_KEY} characters of a key, {limits.MAX_PARAM} of a "
    "parameter; {limits.MAX_BYTES:MiB} a picture or sound",
    "tensorboard": "a tag has one kind: of one that is used for several, the first is shown",
    "trackio": "charts of 3,000 rows of a run; {tables.MOST_CELLS} cells of a table; histograms of 64 bins",
    "wandb": "its own step may only grow, so the x axis is a value in the row; {media.MAX_BINS} bins of a histogram; "
    "{limits.MAX_PARAM} characters of a parameter",
}
"""What is in braces is a constant of that backend's, in the module that stands before the dot."""
TRIALS = {
    "aim": "a run", "clearml": "a child task", "comet": "an experiment", "dvclive": "a directory in `trials/`",
    "mlflow": "a nested run", "swanlab": "a run in the group", "tensorboard": "a row of its HParams page",
    "trackio": "a run in the group", "wandb": "a run in the group",
}  # fmt: skip
OWN = {"table", "artifact", "model", "tags", "alert", "used", "blob"}
"""What is no data of a SummaryWriter's."""
WORDS = {"native": "yes", "converted": "as another type", "file": "as a file", "none": "no"}


class _Module:
    """A module of a backend's for `str.format`: its constants, with a unit behind the colon."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> _Number:
        return _Number(getattr(importlib.import_module(self._name), name))


class _Number(int):
    def __format__(self, unit: str) -> str:
        size = {"MiB": 1 << 20, "MB": 1_000_000, "": 1}[unit]
        return f"{self // size:,} {unit}".strip()


class _Modules(dict[str, _Module]):
    def __init__(self, tracker: str) -> None:
        self._tracker = tracker

    def __missing__(self, name: str) -> _Module:
        return _Module(f"tracelet_shim.backends.{self._tracker}.{name}")


def tables(found: list[type[Backend]], rows: Mapping[str, Row], title: Callable[[type[Backend]], str]) -> list[list[str]]:
    """Return the lines of each generated part of the page, in their order."""
    heads = {backend.name: f"[{title(backend)}](trackers/{backend.name}.md)" for backend in found}
    cells = {name: rows[name].capabilities or {} for name in heads}

    def of_level(name: str, level: str) -> str:
        return ", ".join(kind for kind, cell in cells[name].items() if cell["level"] == level and kind not in OWN) or "none"

    def own(name: str, kind: str) -> str:
        return WORDS[cells[name][kind]["level"]]

    shows = [[heads[name], *(of_level(name, level) for level in ("native", "converted", "file"))] for name in heads]
    keeps = [
        [
            heads[name], own(name, "table"), own(name, "artifact"), "yes" if own(name, "model") == "yes" else "no",
            own(name, "alert"), TRIALS[name],
        ]
        for name in heads
    ]  # fmt: skip
    limits = [[heads[name], LIMITS[name].format_map(_Modules(name))] for name in heads]
    return [
        markdown_table(["tracker", "shown as what it is", "as another type", "as a file"], shows),
        markdown_table(["tracker", "tables", "artifacts", "registry of models", "alerts", "a further `add_hparams`"], keeps),
        markdown_table(["tracker", "limits that one may meet"], limits),
        _costs(heads),
    ]


def _costs(heads: Mapping[str, str]) -> list[str]:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    about, trackers, scalars = found["about"], found["trackers"], found["scalars"]

    def row(name: str) -> list[Any]:
        it = trackers[name]
        if "error" in it:
            return [heads[name], f"not measured: {it['error']}", *[""] * 5]
        times = [f"{it['median']:.1f}", f"{it['cpu'] / scalars * 1e6:.0f}", f"{it['memory']:.0f}"]
        return [heads[name], *times, *(f"{it[key]:.1f}" for key in ("open", "cpu_to_open", "end"))]

    columns = ["an `add_scalar`, µs", "relay's CPU a scalar, µs", "relay's memory, MB"]
    columns += ["to open the run, s", "CPU to open it, s", "to end the session, s"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [
        *markdown_table(["tracker", *columns], [row(name) for name in heads]),
        "",
        f"{scalars:,} scalars, ten each 5 ms; the median of {found['rounds']} rounds. In these an `add_scalar` of plain",
        f"TensorBoard took {trackers['plain']['median']:.1f} µs.",
        f"Measured {about['date']} by `python -m benchmarks.relays`, with Python",
        f"{about['python']} on {about['system']} {about['machine']} with {about['cpus']} CPUs.",
        f"Versions: {versions}.",
    ]
