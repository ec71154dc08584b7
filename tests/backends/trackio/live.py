"""Trackio's own server, self-hosted, for tests of faults."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.backends.trackio.reader import TrackioReader
from tests.servers.harness import Point
from tests.servers.live import Live

__all__ = ["SERVER", "TOKEN", "TrackioServer"]

TOKEN = "token-of-the-test"
_SERVE = """
import sys, threading, trackio
trackio.show(open_browser=False, block_thread=False, host="127.0.0.1", server_port=int(sys.argv[1]))
threading.Event().wait()
"""


class TrackioServer(Live):
    """``trackio.show`` with a write token.

    Attributes:
        token: that of the server, from its next start on.
        store: where its databases and files are.
    """

    name = "trackio"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.token = TOKEN
        self.store = directory

    @property
    def url(self) -> str:
        """Its address with its token, as ``trackio show`` prints it."""
        return f"{self.base}/?write_token={TOKEN}"

    @property
    def env(self) -> Mapping[str, str | None]:
        return {"TRACKIO_SERVER_URL": self.base, "TRACKIO_WRITE_TOKEN": TOKEN}

    @property
    def own_env(self) -> Mapping[str, str | None]:
        return {**TrackioReader.environment(self.store), "TRACKIO_WRITE_TOKEN": self.token}

    def command(self, port: int) -> Sequence[str]:
        return [sys.executable, "-c", _SERVE, str(port)]

    # -- what it holds -----------------------------------------------------------------------------------------------

    def _reader(self) -> TrackioReader | None:
        reader = TrackioReader(self.store)
        # The server makes a project's tables one after the other, and this may look in between.
        tables = "SELECT name FROM sqlite_master WHERE name IN ('metrics', 'configs')"
        made = [len(reader.query(tables, database=database)) == 2 for database in reader.databases()]
        runs = reader.run_ids() if made and all(made) else []
        assert len(runs) <= 1, runs
        return reader if runs else None

    def points(self) -> list[Point]:
        return sorted(
            (key, step, float(value)) for key, step, value in self._values() if isinstance(value, (int, float, str))
        )

    def things(self) -> list[str]:
        found = []
        for key, step, value in self._values():
            if isinstance(value, dict):
                kind = value["_type"].removeprefix("trackio.")
                if "file_path" in value:
                    assert (self.store / "trackio" / "media" / value["file_path"]).stat().st_size > 40
                else:
                    assert (key, value["_value"]) == ("note", f"round {step}")
                found.append(f"{'text' if kind == 'markdown' else kind} {step}")
        reader = self._reader()
        if reader is not None and "lr" in reader.config():
            metric = [(step, value) for key, step, value in self._values() if key == "hparam/acc"]
            assert (reader.config()["lr"], metric) == (0.5, [(0, 1.5)])
            found.append("hparams")
        return sorted(found)

    def _values(self) -> list[tuple[str, int, Any]]:
        """Return (key, step, value) of everything in the run's rows."""
        reader = self._reader()
        return [] if reader is None else [(key, row.step, value) for row in reader.rows() for key, value in row.values.items()]


SERVER = TrackioServer
