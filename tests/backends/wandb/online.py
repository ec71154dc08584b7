"""W&B's stand-in server, as tests use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.servers.harness import Point, Server


class WandbServer(Server):
    name = "wandb"
    data = "/file_stream$"
    users_run = 'import wandb\nrun = wandb.init(project="p", settings=wandb.Settings(console="off", silent=True))'
    _runs_key = "runs"

    @property
    def env(self) -> Mapping[str, str | None]:
        return {"WANDB_MODE": None, "WANDB_BASE_URL": self.base, "WANDB_API_KEY": "k" * 40}

    @property
    def wrong_env(self) -> Mapping[str, str | None]:
        return {"WANDB_API_KEY": "bad" + "k" * 37}

    def points(self) -> list[Point]:
        return sorted((key, step, value) for key, step, value in self._values() if not isinstance(value, dict))

    def things(self) -> list[str]:
        run = self.run()
        kinds = {"html-file": "text", "image-file": "image"}
        values = list(self._values())
        files = [(step, value) for _, step, value in values if isinstance(value, dict) and value["path"] in run["files"]]
        hparams = values.count(("hparam/acc", 0, 1.5)) if _lr(run) == 0.5 else 0
        return sorted([*(f"{kinds[value['_type']]} {step}" for step, value in files), *["hparams"] * hparams])

    def _values(self) -> Iterator[tuple[str, int, Any]]:
        for row in map(json.loads, self.run()["history"].values()):
            yield from ((key, row["global_step"], row[key]) for key in row if not key.startswith("_") and key != "global_step")

    def trials(self) -> list[float]:
        found = []
        for run in self._runs():
            rows = [json.loads(row) for row in run["history"].values()]
            found += [row["acc"] for row in rows if "acc" in row and _lr(run) == row["acc"]]
        return sorted(found)


def _lr(run: Mapping[str, Any]) -> Any:
    return run["config"].get("lr", {}).get("value")  # 0.17 has a description beside it


SERVER = WandbServer
