"""Aim's remote tracking server, for tests of faults; as a program, what reads its repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.harness import environment
from tests.servers.harness import Point
from tests.servers.live import Live

__all__ = ["SERVER", "AimServer"]


_SERVE = """
import os, sys
from aim import Repo

repo = os.environ["__AIM_SERVER_MOUNT_REPO_PATH__"]
if not Repo.exists(repo):
    Repo(repo, init=True)
import uvicorn
uvicorn.run("aim.ext.transport.run:app", host="127.0.0.1", port=int(sys.argv[1]))  # as `aim server` does
"""


class AimServer(Live):
    """``aim server`` on a repository of its own."""

    name = "aim"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._reader: subprocess.Popen[str] | None = None

    @property
    def env(self) -> Mapping[str, str | None]:
        return {"TRACELET_AIM_REPO": f"aim://127.0.0.1:{self.gate.port}"}

    def command(self, port: int) -> Sequence[str]:
        return [sys.executable, "-c", _SERVE, str(port)]

    @property
    def own_env(self) -> Mapping[str, str | None]:
        return {"__AIM_SERVER_MOUNT_REPO_PATH__": str(self.directory)}

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.communicate()

    # -- what it holds -----------------------------------------------------------------------------------------------

    def points(self) -> list[Point]:
        return [(key, step, value) for key, step, value in self._held()["points"]]

    def things(self) -> list[str]:
        found: list[str] = self._held()["things"]
        return found

    def _held(self) -> dict[str, Any]:
        """Ask the process that reads: Aim keeps what it has opened for as long as its process lives."""
        if self._reader is None:
            self._reader = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self.directory)], cwd=Path(__file__).parents[3], env=environment({}),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        print(file=self._reader.stdin, flush=True)
        held: dict[str, Any] = json.loads(self._reader.stdout.readline())
        return held


SERVER = AimServer


def held(directory: Path) -> dict[str, list[Any]]:
    """Return the points and the other things of the one run of a repository that nobody writes to."""
    from aim import Repo, Run

    points: list[Point] = []
    things: list[str] = []
    repo, runs = Repo(str(directory)), list((directory / ".aim" / "meta" / "chunks").glob("*"))
    assert len(runs) <= 1, runs
    for run in (Run(path.name, repo=repo, read_only=True) for path in runs):
        if run.get("hparams") and run.get("summary"):
            assert (run["hparams"], run["summary"]) == ({"lr": 0.5}, {"hparam/acc": 1.5})
            things.append("hparams")
        for form, infos in run.collect_sequence_info(("metric", "images", "texts", "audios"), skip_last_value=True).items():
            for info in infos:
                for step, value in _whole_points(run, info["name"], info["context"]):
                    if form == "metric":
                        points.append((info["name"], step, value))
                        continue
                    if info["context"].get("type") == "file":  # what ran, which is no event
                        continue
                    if form == "texts":
                        assert value.data == f"round {step}", value
                    else:
                        assert len(value.storage["data"].load()) > 40
                    things.append(f"{form.removesuffix('s')} {step}")
    return {"points": sorted(points), "things": sorted(things)}


def _whole_points(run: Any, name: str, context: dict[str, Any]) -> list[tuple[int, Any]]:
    """Return (step, value) of the points of which nothing is missing: the server may be writing one."""
    from aim.storage.context import Context

    idx = Context(context).idx
    version = run.meta_run_tree["traces", idx, name, "version"]
    columns = run.series_run_trees[version].subtree((idx, name))
    values, epochs, times = (dict(columns.array(column).items()) for column in ("val", "epoch", "time"))
    steps = dict(columns.array("step").items()) if version == 2 else {key: key for key in values}
    return [(steps[key], values[key]) for key in values.keys() & epochs.keys() & times.keys() & steps.keys()]


def _read(directory: Path) -> dict[str, list[Any]]:
    """Read a copy: the server may be writing, and a reader would leave marks of its own. Without the index, which runs get at
    their end, Aim reads all that there is."""
    with tempfile.TemporaryDirectory(prefix="tracelet-test-") as copied:
        for left in reversed(range(50)):
            if not (directory / ".aim" / "VERSION").exists():  # it has never been started
                return {"points": [], "things": []}
            copy = Path(tempfile.mkdtemp(dir=copied))
            try:
                shutil.copytree(directory / ".aim", copy / ".aim", ignore=shutil.ignore_patterns("index"))
                return held(copy)
            except (OSError, KeyError, RuntimeError):  # it was caught in the middle of a change
                if not left:
                    raise
                time.sleep(0.1)
    raise AssertionError


if __name__ == "__main__":
    for _ in sys.stdin:
        print(json.dumps(_read(Path(sys.argv[1]))), flush=True)
