"""What the tests that go through all trackers have to know of each: ``ABOUT`` in its ``about.py``."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.backends import TRACKERS, part
from tracelet_shim.backends import registry
from tracelet_shim.testing import Reader

__all__ = ["About", "UsersRun", "about", "all_about", "sdk", "seconds", "text_in", "two_times"]


@dataclass(frozen=True, kw_only=True)
class UsersRun:
    """A run that a program opens, called ``name``, and ends by itself; the texts are expressions with the SDK imported.

    Attributes:
        begin, run_id, end: open it as ``run``; its id; end it.
        outlives_program: it lives in the program, and can be continued when that was killed.
        keeps_back: the SDK keeps for some seconds what it is given, and a kill takes that away.
        begin_next: opens the next one as `begin` does, and ends by that the one that is open; None if the SDK does not.
        begin_again: opens the one with the id ``ids[0]``, called ``r``, after its end; None if that is not possible here.
        other_ways: other expressions of (begin, end); an empty one is as above.
        is_context: it is a context manager, which knows of an exception that leaves it.
        check_resumed: looks, in the directory that the reader was given, whether what continued it knows it well.
    """

    begin: str
    run_id: str
    end: str
    outlives_program: bool = False
    keeps_back: bool = False
    begin_next: str | None = None
    begin_again: str | None = None
    other_ways: tuple[tuple[str, str], ...] = ()
    is_context: bool = False
    check_resumed: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class About:
    """One tracker.

    Attributes:
        reader: reads a run back.
        opening: what appears while a run is opened, as patterns in the directory that `reader.environment` was given, each with
            the variables that it takes beside those; a test kills the relay when the first thing of a pattern is there.
        own_places: patterns for what each run has for itself; none where runs share a store.
        own_place_made: pattern of what is in such a place from when on it is one of the run's, which may have several; empty
            where it has one.
        times: (working directory, home) -> when the only run there began and ended, in seconds since the epoch, as the store
            has it. The home is the one that `environment.isolated` was given.
        users_run: None if it has no run that a program can have active.
        float32: keeps scalars as TensorBoard does.
        draws_at_import: its SDK binds random numbers where it is imported, so that it matters who does that first.
        own_hook: its SDK has a hook for TensorBoard of its own.
        reads_dotenv: its SDK reads ``.env`` in the working directory.
    """

    reader: type[Reader]
    opening: Mapping[str, Mapping[str, str | None]]
    own_places: tuple[str, ...] = ()
    own_place_made: str = ""
    times: Callable[[Path, Path], tuple[float, float]]
    users_run: UsersRun | None = None
    float32: bool = False
    draws_at_import: bool = False
    own_hook: bool = False
    reads_dotenv: bool = False


def about(tracker: str) -> About:
    """Return what is known of one tracker."""
    found: About = part(tracker, "about").ABOUT
    return found


def all_about() -> dict[str, About]:
    """Return what is known of each."""
    return {tracker: about(tracker) for tracker in TRACKERS}


def sdk(tracker: str) -> str:
    """Return the name under which a program imports its SDK."""
    return registry.find(tracker).module


# -- help for `About.times` -------------------------------------------------------------------------------------------


def seconds(time: str) -> float:
    """Return an ISO time, UTC, as seconds since the epoch; fractions are left out."""
    return datetime.fromisoformat(f"{time[:19]}+00:00").timestamp()


def text_in(pattern: str, top: Path) -> str:
    """Return what the only file of this pattern has, as text: of an archive all that is in it."""
    (path,) = top.glob(pattern)
    if path.suffix != ".zip":
        return path.read_bytes().decode("latin-1")
    with zipfile.ZipFile(path) as archive:
        return "\n".join(archive.read(name).decode("latin-1") for name in archive.namelist())


def two_times(text: str) -> tuple[float, float]:
    """Return the two ISO times of June 2019, when the replayed log was written, that a text has."""
    begin, end = sorted(set(re.findall(r"2019-06-08T[0-9:]{8}(?=Z)", text)))
    return seconds(begin), seconds(end)
