"""What ``tests/backends/<tracker>/bench.py`` has for the benchmarks:

    direct() -> Opened           opens a run with the SDK alone, and tells how it is logged to by its best bulk call. What is best
                                 was measured for each SDK; private functions are left out
    hook()                       switches the SDK's own TensorBoard hook on, if it has one
    hook_first                   a module that a program with this hook has to import before torch; optional
    count(directory) -> Counts   what the store of the only run has, by kind, in whatever form: the SDK's own hook does not store
                                 things as we do; a must with `hook`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

__all__ = ["SUFFIXES", "Counts", "Log", "Opened", "counts"]

Log = Callable[[int, dict[str, float]], None]
Opened = tuple[Log, Callable[[], None]]
"""A function that takes a step's values by tag, and one that ends the run."""

Counts = dict[str, int]
KINDS = ("scalars", "images", "histograms", "texts", "audio")
SUFFIXES = {
    "png": "images", "jpg": "images", "jpeg": "images", "wav": "audio", "md": "texts", "txt": "texts", "html": "texts",
}  # fmt: skip
"""Of a file -> its kind."""


def counts(kinds: Iterator[str]) -> Counts:
    """Count each kind."""
    found = Counter(kinds)
    return {kind: found[kind] for kind in KINDS}
