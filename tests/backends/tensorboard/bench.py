"""TensorBoard without us, for the benchmarks: its SDK's best bulk call, and what arrived."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sdk import Counts, Opened, counts

KINDS = {"simple_value": "scalars", "image": "images", "histo": "histograms", "audio": "audio"}


def direct() -> Opened:
    """One record with ten values, a queue that does not block."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard.writer import FileWriter

    writer = FileWriter("direct", max_queue=1_000_000)

    def log(step: int, values: dict[str, float]) -> None:
        parts = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        writer.add_summary(Summary(value=parts), step)

    return log, writer.close


def count(directory: Path) -> Counts:
    """Count what is in the copy; texts are tensors of their plugin's."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    files = (directory / "tracelet-runs").rglob("*tfevents*")
    events = [Event.FromString(raw) for path in files for raw in RawEventFileLoader(str(path)).Load()]
    values = [value for event in events for value in event.summary.value]
    texts = sum(value.metadata.plugin_data.plugin_name == "text" for value in values)
    found = (KINDS.get(value.WhichOneof("value") or "") for value in values)
    return counts(kind for kind in found if kind is not None) | {"texts": texts}
