"""The tables of docs/which-tracker.md: of packaging/trackers, the backends' capabilities, and what was measured."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tracelet_shim.backends.base import Backend
from tracelet_shim.cli.backends import Row, markdown_table

FACTS = Path(__file__).resolve().parent / "trackers"
RESULTS = FACTS.parents[1] / "benchmarks" / "results-relays.json"

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

    facts = {name: tomllib.loads((FACTS / f"{name}.toml").read_text(encoding="utf-8")) for name in heads}
    places = [[heads[name], *(facts[name][key] for key in ("here", "server", "hosted", "account", "offline"))] for name in heads]
    shows = [[heads[name], *(of_level(name, level) for level in ("native", "converted", "file"))] for name in heads]
    keeps = [
        [
            heads[name], own(name, "table"), own(name, "artifact"), "yes" if own(name, "model") == "yes" else "no",
            own(name, "alert"), facts[name]["trial"],
        ]
        for name in heads
    ]  # fmt: skip
    limits = [[heads[name], facts[name]["limits"].format_map(_Modules(name))] for name in heads]
    where = ["on this machine", "a server of your own", "hosted", "account", "offline, and then"]
    return [
        markdown_table(["tracker", *where], places),
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
