"""W&B's stand-in server, as tests use it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.servers.harness import Point, Server


class WandbServer(Server):
    name = "wandb"
    data = "/file_stream$"
    _runs_key = "runs"

    @property
    def env(self) -> Mapping[str, str | None]:
        return {"WANDB_MODE": None, "WANDB_BASE_URL": self.base, "WANDB_API_KEY": "k" * 40}

    def points(self) -> list[Point]:
        history = self.run()["history"]
        rows = [json.loads(history[at]) for at in history]
        return sorted(
            (key, row["global_step"], value)
            for row in rows for key, value in row.items() if not key.startswith("_") and key != "global_step"
        )  # fmt: skip


SERVER = WandbServer
