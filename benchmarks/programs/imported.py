"""Import tracelet_shim in a fresh interpreter, with what its first use loads."""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.programs.common import main

HEAVY = (
    "torch", "numpy", "tensorboard", "google.protobuf", "PIL", "pydantic", "typer", "rich", "sqlite3", "mlflow", "wandb", "aim",
    "clearml", "comet_ml", "dvclive", "swanlab", "trackio",
)  # fmt: skip


def measure(_config: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    from tracelet_shim import start_logging  # noqa: F401 - `import tracelet_shim` alone loads next to nothing

    taken = time.perf_counter() - began
    return {"milliseconds": taken * 1e3, "heavy": [name for name in HEAVY if name in sys.modules]}


if __name__ == "__main__":
    main(measure)
