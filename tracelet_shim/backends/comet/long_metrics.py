"""All points of the metrics of which Comet keeps only a sample.

Comet shows at most 15,000 points of a metric, a random sample where there are more (`comet_ml/metrics.py`). All points
of such metrics are attached as CSV at the end.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

__all__ = ["LongMetrics"]

logger = logging.getLogger("tracelet_shim.relay")

_MAX_POINTS = 15_000  # "comet.offline_sampling_size", and the server's own limit
_ROWS = 500_000  # of a CSV file of points
_SERIES = 100_000  # a program that makes up a tag a step never has too many points of one
_POINT = struct.Struct("<Iqqd")  # number of the series, step, wall time in ms, value


class LongMetrics:
    """A copy of all points, in a temporary file, until it is known whether Comet can show them all."""

    def __init__(self) -> None:
        self._series: dict[str, list[int]] = {}  # path -> [number, points]
        self._spool: IO[bytes] | None = None
        self._threshold: float = _MAX_POINTS  # inf: points could not be kept

    def expect_earlier(self) -> None:
        """An earlier session's points count too."""
        self._threshold = _MAX_POINTS // 10

    def add(self, points: Iterable[tuple[str, int, int, float]]) -> None:
        """Keep points: path, step, time in ms, value."""
        if math.isinf(self._threshold):
            return
        try:
            self._spool = self._spool or tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            rows = []
            for path, step, ms, value in points:
                if path not in self._series and len(self._series) >= _SERIES:
                    continue
                series = self._series.setdefault(path, [len(self._series), 0])
                series[1] += 1
                rows.append(_POINT.pack(series[0], step, ms, value))
            self._spool.seek(0, os.SEEK_END)
            self._spool.write(b"".join(rows))
        except (OSError, struct.error):
            logger.warning("comet: no copy of points is kept; Comet shows a sample of long metrics", exc_info=True)
            self._threshold = math.inf

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield (path, content) of CSV files with all points of the metrics that have too many."""
        long = {number: path for path, (number, count) in self._series.items() if count > self._threshold}
        if not long or self._spool is None:
            return
        spool = self._spool
        spool.seek(0)
        blocks = iter(lambda: spool.read(_POINT.size * 10_000), b"")
        points = (point for block in blocks for point in _POINT.iter_unpack(block) if point[0] in long)
        part = 0
        while True:
            out = io.StringIO(newline="")
            rows = csv.writer(out)
            rows.writerow(("tag", "step", "wall_time", "value"))
            count = 0
            for count, (number, step, ms, value) in enumerate(points, 1):
                rows.writerow((long[number], step, ms / 1000, repr(value)))
                if count == _ROWS:
                    break
            if count:
                part += 1
                yield f"scalars/points-{part:03d}.csv", out.getvalue().encode("utf-8", "surrogatepass")
            if count < _ROWS:
                return

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
