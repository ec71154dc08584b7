"""Counts what a tracker has, by kind, in whatever form: its own hook does not store things as we do."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

Counts = dict[str, int]
KINDS = ("scalars", "images", "histograms", "texts", "audio")
SUFFIXES = {
    "png": "images", "jpg": "images", "jpeg": "images", "wav": "audio", "md": "texts", "txt": "texts", "html": "texts",
}  # fmt: skip


def _all(kinds: Iterator[str]) -> Counts:
    found = Counter(kinds)
    return {kind: found[kind] for kind in KINDS}


def wandb(directory: Path) -> Counts:
    from tests.backends.wandb.reader import _log_records

    types = {
        "image-file": "images", "images/separated": "images", "histogram": "histograms", "html-file": "texts",
        "audio-file": "audio",
    }  # fmt: skip

    def kinds() -> Iterator[str]:
        for log in directory.glob("wandb/offline-run-*/run-*.wandb"):
            for record in _log_records(log):
                if record.WhichOneof("record_type") == "history":
                    for item in record.history.item:
                        path = list(item.nested_key) or [item.key]
                        if path[-1] == "_type":
                            yield types.get(json.loads(item.value_json), "other")
                        elif "loss" in path[-1]:
                            yield "scalars"

    return _all(kinds())


def mlflow(directory: Path) -> Counts:
    connection = sqlite3.connect(directory / "mlflow.db")
    try:
        ((scalars,),) = connection.execute("SELECT count(*) FROM metrics WHERE key LIKE '%loss%'")
    finally:
        connection.close()
    files = [path.as_posix() for path in directory.glob("mlruns/**/artifacts/**/*.*")]
    return {
        "scalars": scalars,
        "images": sum("/images/" in path and path.endswith(".png") for path in files),
        "histograms": sum("/histograms/" in path and path.endswith(".json") for path in files),
        "texts": sum("/text/" in path for path in files),
        "audio": sum("/audio/" in path for path in files),
    }


def clearml(_directory: Path) -> Counts:
    def kinds() -> Iterator[str]:
        for log in Path(os.environ["CLEARML_CACHE_DIR"]).glob("offline/offline-*/metrics.jsonl"):
            for line in log.read_text().splitlines():
                for event in json.loads(line):
                    if event["type"] == "training_stats_scalar" and "loss" in event["metric"]:
                        yield "scalars"
                    elif event["type"] == "plot":
                        yield "histograms"
                    elif event["type"] == "training_debug_image":
                        yield SUFFIXES.get(event["key"].rpartition(".")[2], "other")

    return _all(kinds())


def comet(directory: Path) -> Counts:
    from tests.backends.comet.reader import Archive

    types = {"visualization": "images", "histogram3d": "histograms", "audio": "audio", "text-sample": "texts"}

    def kinds() -> Iterator[str]:
        places = (directory / "comet", Path(os.environ["COMET_OFFLINE_DIRECTORY"]))
        for path in (path for place in places for path in place.glob("*.zip")):
            for what, payload in Archive(path).messages:
                if what == "metric_msg" and "loss" in payload["metric"]["metricName"]:
                    yield "scalars"
                elif what == "file_upload":
                    yield types.get(payload["upload_type"], "other")

    return _all(kinds())


def swanlab(directory: Path) -> Counts:
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

    return _all(kinds())


COUNTERS: dict[str, Callable[[Path], Counts]] = {
    "wandb": wandb, "mlflow": mlflow, "clearml": clearml, "comet": comet, "swanlab": swanlab,
}  # fmt: skip
