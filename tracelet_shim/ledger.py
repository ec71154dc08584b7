"""The ledger under the name that it had in 0.1, for programs that look into it; it lives in `tracelet_shim.state`."""

from __future__ import annotations

from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import RunRow

__all__ = ["Ledger", "RunRow"]
