"""ClearML's stand-in server, as tests use it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers.harness import Point, Server


class ClearMLServer(Server):
    name = "clearml"
    data = r"/events\.add_batch$"
    users_run = """
from clearml import Task
Task.force_store_standalone_script()
run = Task.init("p", "t", auto_connect_frameworks=False, auto_resource_monitoring=False, auto_connect_streams=False)
"""
    _runs_key = "tasks"

    @property
    def env(self) -> Mapping[str, str | None]:
        hosts = dict.fromkeys(("CLEARML_API_HOST", "CLEARML_WEB_HOST", "CLEARML_FILES_HOST"), self.base)
        return {"CLEARML_OFFLINE_MODE": None, **hosts, "CLEARML_API_ACCESS_KEY": "access", "CLEARML_API_SECRET_KEY": "secret"}

    @property
    def wrong_env(self) -> Mapping[str, str | None]:
        return {"CLEARML_API_SECRET_KEY": "bad"}

    def points(self) -> list[Point]:
        events = self.state["events"].get(self.run()["id"], {}).values()
        scalars = [event for event in events if event["type"] == "training_stats_scalar"]
        names = [e["metric"] if e["metric"] == e["variant"] else f"{e['metric']}/{e['variant']}" for e in scalars]
        return sorted((name, event["iter"], event["value"]) for name, event in zip(names, scalars, strict=True))

    def things(self) -> list[str]:
        state, run = self.state, self.run()
        found = []
        for event in state["events"].get(run["id"], {}).values():
            if event["type"] == "training_debug_image" and event["url"].removeprefix(f"{self.base}/") in state["files"]:
                kind = {"note": "text", "picture": "image"}[event["metric"].partition(" · ")[0]]
                found.append(f"{kind} {event['iter']}")
            if (event.get("metric"), event.get("variant"), event.get("value")) == ("Summary", "hparam/acc", 1.5):
                found += ["hparams"] if run["hyperparams"].get("hparams", {}).get("lr", {}).get("value") == "0.5" else []
        return sorted(found)

    def trials(self) -> list[float]:
        state, found = self.state, list[float]()
        for task in self._runs():
            lr = float(task["hyperparams"].get("hparams", {}).get("lr", {}).get("value", "nan"))
            events = state["events"].get(task["id"], {}).values()
            found += [lr for e in events if (e.get("metric"), e.get("variant"), e.get("value")) == ("Summary", "acc", lr)]
        return sorted(found)


SERVER = ClearMLServer
