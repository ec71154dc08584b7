"""TensorBoard without us, for the benchmarks: its SDK's best bulk call."""

from __future__ import annotations

from benchmarks.sdk import Opened


def direct() -> Opened:
    """One record with ten values, a queue that does not block."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard.writer import FileWriter

    writer = FileWriter("direct", max_queue=1_000_000)

    def log(step: int, values: dict[str, float]) -> None:
        parts = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        writer.add_summary(Summary(value=parts), step)

    return log, writer.close
