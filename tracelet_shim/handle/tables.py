"""Rows, columns and data frames as a table. What tells of a library is looked for on the value itself; nothing is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tracelet_shim.common.values import plain
from tracelet_shim.eventfiles.own_records import TableContent
from tracelet_shim.events import Cell

__all__ = ["table"]


def table(data: Any, columns: Sequence[str] | None = None) -> TableContent:
    """Return a table.

    Args:
        data: a data frame (pandas, Polars), a mapping of column to values, or rows: mappings, or sequences. The index of a frame
            is its first columns, unless it only counts the rows, or `columns` says what is wanted.
        columns: the names of the columns of sequences, else these are ``0``, ``1``, ...; which of the others' are wanted.

    Raises:
        TypeError, ValueError: it is no table, or has not as many values as columns.
    """
    heads, rows = _parts(data, columns)
    names = _unique(str(head) for head in heads)
    cells = tuple(tuple(_cell(value) for value in row) for row in rows)
    wrong = next((number for number, row in enumerate(cells) if len(row) != len(names)), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} has {len(cells[wrong])} values, and there are {len(names)} columns")
    return TableContent(names, cells)


def _parts(data: Any, columns: Sequence[str] | None) -> tuple[Iterable[Any], Iterable[Iterable[Any]]]:
    if hasattr(data, "itertuples") and hasattr(data, "columns"):  # pandas
        if columns is not None:
            return list(columns), data[list(columns)].itertuples(index=False, name=None)
        index = _index(data.index)
        rows = data.itertuples(index=False, name=None)
        return [*(name for name, _ in index), *data.columns], ([*(of[n] for _, of in index), *row] for n, row in enumerate(rows))
    if callable(getattr(data, "rows", None)) and hasattr(data, "columns"):  # Polars
        frame = data if columns is None else data[list(columns)]
        return list(frame.columns), frame.rows()
    if isinstance(data, Mapping):
        heads = list(data if columns is None else columns)
        values = [list(data[head]) for head in heads]
        if len({len(of_column) for of_column in values}) > 1:
            raise ValueError("the columns have not all as many values")
        return heads, zip(*values, strict=True)
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise TypeError(f"a {type(data).__name__} is no table")
    rows = list(data)
    if rows and all(isinstance(row, Mapping) for row in rows):
        heads = list(dict.fromkeys(key for row in rows for key in row)) if columns is None else list(columns)
        return heads, ([row.get(head) for head in heads] for row in rows)
    rows = [list(row) for row in rows]
    return columns if columns is not None else [str(n) for n in range(len(rows[0]) if rows else 0)], rows


def _index(index: Any) -> list[tuple[Any, list[Any]]]:
    """Return (name, values) of each level of a frame's index; none if it only counts the rows. Without a name, a level is called
    as by `DataFrame.reset_index`."""
    names = list(index.names)
    if names == [None] and list(index) == list(range(len(index))):
        return []
    default = ["index"] if len(names) == 1 else [f"level_{n}" for n in range(len(names))]
    levels = (list(index.get_level_values(n)) for n in range(len(names)))
    return [(name if given is None else given, of) for name, given, of in zip(default, names, levels, strict=True)]


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in names:
        unique, number = name, 2
        while unique in found:
            unique, number = f"{name}-{number}", number + 1
        found[unique] = None
    return tuple(found)


def _cell(value: Any) -> Cell:
    """Return a value as a cell: numbers as numbers, all that has parts as text."""
    found = plain(value)
    return found if found is None or isinstance(found, (bool, int, float, str)) else str(found)
