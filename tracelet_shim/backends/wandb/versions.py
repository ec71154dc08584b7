"""What differs between the versions of W&B's SDK, from 0.17 on, in what it calls things. What is there is looked for; no version
is asked.

    0.17   it needs numpy<2, up to 0.17.1; settings of its own are ``_disable_stats``; from 0.19 on ``x_disable_stats``
    0.24   a run counts its rows as ``_local_step``, before as ``_step``; it has its `interface`, before its ``_backend`` had it
    0.19   what the service answers is waited for with ``wait_or``, which raises; before with ``wait``, which returns None
    0.27   `Run.finish` can be given a time
    0.31   the service writes its log as often as it is told; before, when a block of 32 KiB is full
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from tracelet_shim.backends.shared.versions import Need

__all__ = [
    "NUMPY",
    "answer_of",
    "bounds_its_end",
    "count_steps",
    "interface",
    "known_settings",
    "setting",
    "spelled",
    "steps",
    "writes_its_log",
]

NUMPY = Need("<0.17.2", "numpy", "<2", "it uses numpy.float_")


@functools.cache
def _names() -> frozenset[str]:
    import wandb

    return frozenset(name for each in wandb.Settings.__mro__ for name in getattr(each, "__annotations__", {}))


def _spellings(name: str) -> Iterator[str]:
    yield name
    yield f"_{name.removeprefix('x_')}"


def known_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of these fields of `wandb.Settings` that the installed version has, under its names."""
    found = {name: next((each for each in _spellings(name) if each in _names()), None) for name in fields}
    return {known: fields[name] for name, known in found.items() if known is not None}


def spelled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return all these fields, under the names that the installed version has; one that it does not know under its own."""
    return {next((each for each in _spellings(name) if each in _names()), name): value for name, value in fields.items()}


def setting(settings: Any, name: str) -> Any:
    """Return a run's setting; None if the installed version has none of that name."""
    return next((getattr(settings, each) for each in _spellings(name) if hasattr(settings, each)), None)


def bounds_its_end() -> bool:
    """True if `Run.finish` keeps to the setting ``finish_timeout``, and raises."""
    return "finish_timeout_raises" in _names()


def writes_its_log() -> bool:
    """True if W&B's service writes its log to disk as often as ``x_transaction_log_flush_interval`` says."""
    return "x_transaction_log_flush_interval" in _names()


def interface(run: Any) -> Any:
    """Return a run's way to W&B's service; None if it has another."""
    return getattr(run, "_interface", None) or getattr(getattr(run, "_backend", None), "interface", None)


def steps(run: Any) -> int:
    """Return how many rows were logged into a run, by the SDK's count."""
    return int(run._local_step if hasattr(run, "_local_step") else run._step)


def count_steps(run: Any, rows: int) -> None:
    """Rows were logged past the SDK's own method."""
    name = "_local_step" if hasattr(run, "_local_step") else "_step"
    setattr(run, name, getattr(run, name) + rows)


def answer_of(handle: Any, *, timeout: float) -> Any:
    """Return what W&B's service answers.

    Raises:
        TimeoutError: it does not.
    """
    if hasattr(handle, "wait_or"):
        return handle.wait_or(timeout=timeout)
    answer = handle.wait(timeout=timeout)
    if answer is None:
        raise TimeoutError(f"W&B's service does not answer within {timeout:.0f} s")
    return answer
