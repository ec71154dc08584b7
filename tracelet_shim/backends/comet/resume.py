"""Points that are there already: which come again, since nobody knows whether they had arrived.

Offline, the last batch of a killed session is in its messages; files and registered models have an id there. Online, the server
appends points and recognises none. So where it is not known whether a request has arrived (no answer, an experiment that is
continued), it is asked for the points that it has before they are sent again. (`Line` does so for files.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tracelet_shim.backends.comet.archive import last_messages
from tracelet_shim.backends.comet.line import Line, RefusedError, point
from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.shared.transient import Verdict, judge

__all__ = ["Left", "StoredPoints", "identity", "left_behind"]

logger = logging.getLogger("tracelet_shim.relay")


class Left(NamedTuple):
    """What is at the end of what a killed session of an experiment has left in the offline directory.

    Attributes:
        points: its points.
        others: what identifies other messages (`identity`).
    """

    points: Seen
    others: frozenset[str]


def left_behind(directory: str, key: str) -> Left:
    """Return what a killed session of this experiment has left in the offline directory."""
    points, others = [], set()
    for kind, payload in last_messages(directory, key):
        if kind == "metric_msg":
            points.append(_identity(payload))
        elif (name := identity(kind, payload)) is not None:
            others.add(name)
    return Left(Seen(points), frozenset(others))


def identity(kind: str, payload: Mapping[str, Any]) -> str | None:
    """Return what tells a message from all others, in an experiment: of files and registered models. None for any other one."""
    if kind == "register_model":
        return f"{payload['registry_name']} {payload['version']}"
    params = payload.get("additional_params") or {}
    found = params.get("assetId") or params.get("imageId")
    return None if found is None else str(found)


class StoredPoints:
    """What is known of the points that one experiment has.

    Attributes:
        known: the points that it has, of those that may come again.
        doubtful: the server may have points that come again.
    """

    def __init__(self) -> None:
        self.known = Seen()
        self.doubtful = False

    def send(self, messages: Sequence[Any], send: Callable[[Sequence[Any]], None], line: Line | None) -> None:
        """Send those of the points that are not there.

        Args:
            messages: of points.
            send: what sends them.
            line: the way to the server, which can be asked; None offline.
        """
        if self.doubtful and line is not None:
            self.known = self._ask(line, messages)
        left = self.known.copy()
        if left:
            messages = [message for message in messages if not left.take(_identity(message.to_message_dict()))]
        try:
            send(messages)
        except RefusedError as error:
            self.doubtful = self.doubtful or error.may_be_done
            raise
        except OSError:
            self.doubtful = True
            raise
        self.known = left
        self.doubtful = self.doubtful and not messages  # what comes behind one that was not there is not there either

    def _ask(self, line: Line, messages: Sequence[Any]) -> Seen:
        """Return which points of these metrics the server has. One that cannot say that holds up nothing."""
        try:
            return Seen(line.points(messages))
        except OSError:
            raise
        except Exception as error:
            if isinstance(error, RefusedError) and judge(error.status, own=error.own) is Verdict.PASSES:
                raise
            logger.warning("comet: the server does not say which points it has; some may be there twice", exc_info=True)
            self.doubtful = False
            return Seen()


def _identity(payload: Mapping[str, Any]) -> tuple[Any, ...]:
    metric = payload["metric"]
    return point(metric["metricName"], metric["metricValue"], metric.get("step"), payload["local_timestamp"])
