"""Tables as MLflow keeps them."""

from __future__ import annotations

import json
import math

from tracelet_shim import events as ev

__all__ = ["table_file"]


def table_file(event: ev.Table) -> bytes:
    """Return the file that `MlflowClient.load_table` reads. As in MLflow's own, NaN and infinities are missing in it."""
    rows = [[None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row] for row in event.rows]
    return json.dumps({"columns": event.columns, "data": rows}, ensure_ascii=True).encode()
