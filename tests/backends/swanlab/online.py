"""SwanLab's stand-in server, as tests use it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers.harness import Point, Server


class SwanLabServer(Server):
    name = "swanlab"
    data = "/house/metrics$"
    _runs_key = "experiments"

    @property
    def env(self) -> Mapping[str, str | None]:
        return {
            "SWANLAB_MODE": "online", "SWANLAB_API_HOST": self.base, "SWANLAB_WEB_HOST": self.base, "SWANLAB_API_KEY": "key",
        }  # fmt: skip

    def points(self) -> list[Point]:
        scalars = self.run()["scalars"]
        return sorted((key, int(step), value) for key, steps in scalars.items() for step, value in steps.items())


SERVER = SwanLabServer
