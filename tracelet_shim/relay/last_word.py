"""What becomes known of a run whose session has no ledger."""

from __future__ import annotations

from tracelet_shim.relay.worker import Worker

__all__ = ["last_word"]


def last_word(worker: Worker) -> dict[str, object]:
    """Return where a tracker stands, for `tracelet-shim run`."""
    s, opened = worker.report(), worker.opened
    return {
        "backend": worker.name, "run_id": opened and opened.run_id, "url": opened and opened.url, "state": s.state,
        "delivered": s.delivered, "pending": s.pending, "set_aside": s.failed - s.lost, "lost": s.lost,
        "error": s.error and s.error[:500],
    }  # fmt: skip
