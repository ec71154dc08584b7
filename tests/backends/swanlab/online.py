"""SwanLab's stand-in server, as tests use it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.servers.harness import Point, Server

KEY = "key" * 7
"""0.6 and 0.7 take a key of 21 characters."""


class SwanLabServer(Server):
    name = "swanlab"
    data = "/house/metrics$"
    users_run = """
os.environ["SWANLAB_TERMINAL_PROXY_TYPE"] = "none"  # SDKs that take over standard error stumble over each other
import swanlab
run = swanlab.init(project="p")
"""
    _runs_key = "experiments"

    @property
    def env(self) -> Mapping[str, str | None]:
        return {
            "SWANLAB_MODE": "online", "SWANLAB_API_HOST": self.base, "SWANLAB_WEB_HOST": self.base, "SWANLAB_API_KEY": KEY,
        }  # fmt: skip

    @property
    def wrong_env(self) -> Mapping[str, str | None]:
        return {"SWANLAB_API_KEY": "bad" + KEY[3:]}

    def points(self) -> list[Point]:
        scalars = self.run()["scalars"]
        return sorted((key, int(step), value) for key, steps in scalars.items() for step, value in steps.items())

    def things(self) -> list[str]:
        run, files = self.run(), self.state["files"]
        found = []
        for key, steps in run["media"].items():
            kind = {"note (text)": "text", "picture (image)": "image"}[key]
            plain = kind == "text"  # 0.6 and 0.7 send the text itself
            found += [f"{kind} {step}" for step, names in steps.items() if plain or f"{run['cuid']}/{names[0]}" in files]
        found += ["hparams"] * ("lr" in json.dumps(run["profile"]) and "hparam/acc" in run["scalars"])
        return sorted(found)

    def trials(self) -> list[float]:
        found = []
        for run in self._runs():
            lr = run["profile"].get("config", {}).get("lr", {}).get("value")
            found += [value for value in run["scalars"].get("acc", {}).values() if value == lr]
        return sorted(found)


SERVER = SwanLabServer
