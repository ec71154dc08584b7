"""Comet's stand-in server, as tests use it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers.harness import Point, Server


class CometServer(Server):
    name = "comet"
    data = "/batch/logger/experiment/metric$"
    users_run = """
import comet_ml
quiet = comet_ml.ExperimentConfig(auto_output_logging=False, auto_metric_logging=False, log_env_details=False)
run = comet_ml.start(project="p", experiment_config=quiet)
"""
    _runs_key = "experiments"

    @property
    def env(self) -> Mapping[str, str | None]:
        url = f"{self.base}/clientlib/"
        return {"COMET_START_ONLINE": None, "COMET_URL_OVERRIDE": url, "COMET_API_KEY": "key"}

    @property
    def wrong_env(self) -> Mapping[str, str | None]:
        return {"COMET_API_KEY": "bad"}

    def points(self) -> list[Point]:
        return sorted((name, step, value) for name, step, value, _ in self.run()["metrics"])

    def things(self) -> list[str]:
        run = self.run()
        kinds = {"text-sample": "text", "image": "image"}
        found = [f"{kinds[asset['type']]} {asset['step']}" for asset in run["assets"] if asset["type"] in kinds and asset["file"]]
        if run["params"].get("lr") == 0.5:
            found += ["hparams"] * [row[:3] for row in run["metrics"]].count(["hparam/acc", 0, 1.5])
        return sorted(found)

    def trials(self) -> list[float]:
        points = [(run["params"].get("lr"), *point) for run in self._runs() for point in run["metrics"]]
        return sorted(value for lr, name, _, value, _ in points if name == "acc" and lr == value)


SERVER = CometServer
