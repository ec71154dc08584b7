"""What came out of the cells, one file a tracker in results/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from matrix.cells import HERE, Cell, cells

__all__ = ["Result", "holds", "keep", "result_of", "results"]

PLACE = HERE / "results"

Result = Mapping[str, Any]
"""Of one cell: ``ran``, the day; ``installed``, the versions of what decides; and one of

    hostings   "process" and "thread" -> ``passed``, the number of checks, and ``failed``: what was said -> which checks
               and, for "core", ``own``: the same of tests of our own
    wheel      "ok"
    problem    why nothing could be run, or what the wheel's check said
"""


def holds(result: Result) -> bool:
    """True if everything that was run has passed, in both hostings."""
    hostings = result.get("hostings", {})
    rows = [hostings.get(name, {}) for name in ("process", "thread")] + ([result["own"]] if "own" in result else [])
    whole = all(row.get("passed") and not row["failed"] for row in rows)
    return bool(result) and "problem" not in result and (result.get("wheel") == "ok" or whole)


def result_of(cell: Cell) -> Result:
    """Return what came out of a cell; empty if it has not been run."""
    found: Result = _read(cell.tracker).get(cell.name, {})
    return found


def results() -> Iterator[tuple[Cell, Result]]:
    """Yield all cells, in their order, each with what came out."""
    for cell in cells():
        yield cell, result_of(cell)


def keep(cell: Cell, result: Result) -> None:
    """Write a result beside those of the tracker's other cells; what is no cell any more goes."""
    names = [one.name for one in cells() if one.tracker == cell.tracker]
    kept = {**_read(cell.tracker), cell.name: result}
    PLACE.mkdir(exist_ok=True)
    text = json.dumps({name: kept[name] for name in names if name in kept}, indent=1, ensure_ascii=False)
    (PLACE / f"{cell.tracker}.json").write_text(text + "\n", encoding="utf-8")


def _read(tracker: str) -> dict[str, Any]:
    path = PLACE / f"{tracker}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
