"""What is logged through a session itself, in an offline session of the real SDK."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.backends.clearml.reader import ClearMLReader
from tests.backends.clearml.test_clearml import reader, write
from tests.sample_events import Maker


def test_tables_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is a plot of its kind, a very large one a file; labels are tags, and tags with values properties."""
    for name, value in ClearMLReader.environment(tmp_path / "store").items():
        monkeypatch.setenv(name, value)
    make = Maker()
    table = make.table("tab", 3)
    large = msgspec.structs.replace(make.table("large"), rows=table.rows * 100_000)
    write([table, large, make.tags(stage="try", label=""), make.tags(stage="done")], tags={"mine": "1", "bare": ""})
    found = reader(tmp_path).session()
    plots = [json.loads(event["plot_str"]) for event in found.events() if event["type"] == "plot"]
    (shown,) = [trace for plot in plots for trace in plot["data"] if trace["type"] == "table"]
    assert shown["header"]["values"] == ["n", "value", "te|xt", "ok"]
    assert shown["cells"]["values"] == [
        [1, 2**40, None], [0.1, "nan", -1e300], ["a|b", 'x,"y"\n<i>', "é"], [True, False, None],
    ]  # fmt: skip
    assert [event for event in found.events() if event["type"] == "training_debug_image" and "large" in event["metric"]]
    assert set(found.task["tags"]) >= {"label", "bare"}
    properties = found.section("properties")
    assert (properties["stage"], properties["mine"]) == ("done", "1")
