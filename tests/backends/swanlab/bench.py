"""SwanLab without us, for the benchmarks: its SDK's best bulk call, its own TensorBoard hook, and what arrived."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.sdk import Counts, Opened, counts


def direct() -> Opened:
    """`log` of a dict."""
    import swanlab

    off = {"hardware": False, "runtime": False, "requirements": False, "git": False, "swanlab": False, "monitor": False}
    settings = swanlab.Settings(probe=off, terminal={"proxy_type": "none"})
    run = swanlab.init(project="bench", mode="offline", log_dir="swanlog", settings=settings)

    def log(step: int, values: dict[str, float]) -> None:
        run.log(values, step=step)

    return log, run.finish


def count(directory: Path) -> Counts:
    from swanlab.proto.swanlab.metric.column.v1.column_pb2 import ColumnType

    from tests.backends.swanlab.reader import _log_records

    types = {"image": "images", "audio": "audio", "text": "texts", "echarts": "histograms"}

    def kinds() -> Iterator[str]:
        for log in directory.glob("swanlog/run-*/run-*.swanlab"):
            for record in _log_records(log):
                what = record.WhichOneof("record_type")
                if what == "scalar" and "loss" in record.scalar.key:
                    yield "scalars"
                elif what == "media":
                    yield types.get(ColumnType.Name(record.media.type).removeprefix("COLUMN_TYPE_").lower(), "other")

    return counts(kinds())


def hook() -> None:
    """As its documentation says, offline."""
    import swanlab

    swanlab.sync_tensorboard_torch()
    swanlab.init(project="bench", mode="offline", log_dir="swanlog")
