"""What of a run W&B's server has: its number of history rows.

W&B's service uploads rows by itself (the *file stream*), and does not say how far it is; after some answers (403, 404, ...) it
stops for good, with a line in its own log and nowhere else. So the server is asked, and that log is read.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

__all__ = ["Lines"]

ASK_SECONDS = 1.0
"""How often the server is asked at most; five times more seldom as long as it does not answer."""
STUCK_SECONDS = 60.0
"""A server that answers, but has not got one more row for so long, does not get them any more; more than a request takes and the
longest pause between two."""
REQUEST_SECONDS = (3.0, 8.0)
_QUERY = """
query TraceletLines($entity: String!, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { historyLineCount } }
}
"""


class Lines:
    """The rows of one run, as far as its server has them.

    Args:
        run: the SDK's run object, of an online run.

    Attributes:
        known: how many rows the server had when it was last asked.
        answers: False if it did not answer then.
    """

    def __init__(self, run: Any) -> None:
        settings = run._settings
        self._run = run
        self._url = f"{str(settings.base_url).rstrip('/')}/graphql"
        self._key = settings.api_key
        self._verify = not settings.insecure_disable_ssl
        self._proxies = {scheme: proxy for scheme in ("http", "https") if (proxy := getattr(settings, f"{scheme}_proxy"))}
        self._log = Path(settings.log_internal)
        self._read = 0
        self._offset = self._acknowledged = 0
        self._asked = 0.0
        self._moved = time.monotonic()
        self._fatal: str | None = None
        self.known = 0
        self.answers = True

    def ask(self, *, now: bool = False) -> int:
        """Return how many rows the server has, as far as that is known; `now`: ask, however short ago that was done."""
        if now or time.monotonic() - self._asked >= ASK_SECONDS * (1 if self.answers else 5):
            self._look_into_log()
            found = self._ask() if self._key else self._acknowledged
            self._asked = time.monotonic()
            self.answers = found is not None
            if found is None or found != self.known:
                self._moved = time.monotonic()
            self.known = self.known if found is None else found
        return self.known

    def stuck(self) -> str | None:
        """Return why no more rows will arrive, though some are missing; None if they may."""
        if self._fatal is None and self.answers and time.monotonic() - self._moved > STUCK_SECONDS:
            return f"no row has arrived for {STUCK_SECONDS:.0f} s, and the server answers"
        return self._fatal

    def waits(self) -> None:
        """Something is missing from now on; up to now, nothing was."""
        self._moved = time.monotonic()

    def _ask(self) -> int | None:
        import requests

        variables = {"entity": self._run.entity, "project": self._run.project, "run": self._run.id}
        try:
            answer = requests.post(
                self._url, json={"query": _QUERY, "variables": variables, "operationName": "TraceletLines"},
                auth=("api", self._key), timeout=REQUEST_SECONDS, verify=self._verify, proxies=self._proxies or None,
            )  # fmt: skip
            answer.raise_for_status()
            return int(answer.json()["data"]["project"]["run"]["historyLineCount"])
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return None

    def _look_into_log(self) -> None:
        """Read what W&B's service has logged since the last time: ``{"level": ..., "msg": "filestream: ..."}``, one a line."""
        try:
            with open(self._log, "rb") as file:
                file.seek(self._read)
                data = file.read()
        except OSError:  # not begun yet
            return
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for line in data[:whole].splitlines():
            if b'"filestream: ' in line:
                self._take_note(line)

    def _take_note(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        text = str(said.get("msg"))
        if text.startswith("filestream: fatal error"):
            self._fatal = text.removeprefix("filestream: ")[:300]
        elif text == "filestream: sending request" and "history_offset" in said:
            self._offset = int(said["history_offset"]) + int(said.get("history_lines", 0))
        elif text == "filestream: request sent" and str(said.get("status")).startswith("2"):
            self._acknowledged = max(self._acknowledged, self._offset)
