"""The tables of metrics: a scalar is a row, as ``plots/metric.py`` writes it (milliseconds, step, value), appended at once."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from tracelet_shim.backends.dvclive.files import walk
from tracelet_shim.common.system import pread

__all__ = ["OPEN_FILES", "Tables"]

OPEN_FILES = 64


class Tables:
    """The tables of a run's metrics. Rows are appended at once; at most `OPEN_FILES` tables are open.

    Args:
        directory: where they are.
        again: rows may come that are already there. Those of one table come in the order in which it has them, so the
            first that is not found ends the search.
    """

    def __init__(self, directory: str, *, again: bool) -> None:
        self._directory = directory
        self._again = again
        self._cursors: dict[str, int | None] = {}
        self._open: OrderedDict[str, int] = OrderedDict()
        self._untimed: set[str] = set()

    def append(self, rows: Mapping[str, list[bytes]]) -> None:
        """Append to each table its rows; after an error, none are appended."""
        done: list[tuple[str, int, int]] = []
        cursors: dict[str, int | None] = {}
        try:
            for key, given in rows.items():
                table = self._table(key)
                lines = [line.partition(b"\t")[2] for line in given] if key in self._untimed else given
                if self._again:
                    lines, cursors[key] = self._missing(key, lines)
                data = b"".join(lines)
                if data and os.fstat(table).st_size == 0:
                    data = f"timestamp\tstep\t{key.rpartition('/')[2]}\n".encode() + data
                written = 0
                try:
                    while written < len(data):
                        written += os.write(table, data[written:])
                finally:
                    if written:
                        end = os.lseek(table, 0, os.SEEK_CUR)
                        done.append((key, end - written, end))
        except OSError:
            for key, start, end in reversed(done):
                table = self._table(key)
                if os.fstat(table).st_size == end:  # else another session of the same run has written behind it
                    os.ftruncate(table, start)
            raise
        self._cursors.update(cursors)

    def _table(self, key: str) -> int:
        table = self._open.get(key)
        if table is not None:
            self._open.move_to_end(key)
            return table
        while len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        path = self._path(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            table = os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            table = os.open(path, flags, 0o666)
        self._open[key] = table
        size = os.fstat(table).st_size
        if size:
            if pread(table, 5, 0) == b"step\t":  # a run that began under `Live.log_metric` without timestamp=True
                self._untimed.add(key)
            if self._again and pread(table, 1, size - 1) != b"\n":  # the machine went down within a row
                with open(path, "rb") as file:
                    os.ftruncate(table, file.read().rfind(b"\n") + 1)
        return table

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, f"{key}.tsv")

    def _missing(self, key: str, lines: list[bytes]) -> tuple[list[bytes], int | None]:
        """Return the rows that the table does not have yet, and where to look for the next one."""
        cursor = self._cursors.get(key, 0)
        if cursor is None:
            return lines, None
        with open(self._path(key), "rb") as file:
            file.seek(cursor)
            for done, line in enumerate(lines):
                for there in iter(file.readline, b""):
                    if there == line:
                        cursor = file.tell()
                        break
                else:
                    return lines[done:], None
        return [], cursor

    def last_values(self) -> Iterator[tuple[str, float]]:
        """Yield each metric's last value."""
        for path in walk(self._directory, ".tsv"):
            with open(os.path.join(self._directory, path), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]  # half a row is none
            try:
                yield path.removesuffix(".tsv"), float(last.rpartition(b"\t")[2])
            except ValueError:  # no row but the header, or a text that the user logged through `handle`
                continue

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
