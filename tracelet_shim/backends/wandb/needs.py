"""What must be on W&B's server besides rows of the session's run, so that an event is there: files, artifacts, parameters, and
what is in the run of a trial; and its system metrics."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tracelet_shim.backends.wandb.server import Held, same_value

if TYPE_CHECKING:
    from tracelet_shim.backends.wandb.run import Run

__all__ = ["Artifact", "File", "Need", "Params", "Rows", "Samples"]


class Need(ABC):
    """One such thing.

    Args:
        run: of which run.

    Class attributes:
        kind: what it is, as `ServiceLog.unnamed` has it.

    Attributes:
        name: what it is called.
        tries: how often it was handed to W&B's service again.
        tried_at: when it was last handed over (monotonic seconds).
        failed: what was answered when the service gave it up, 0 if nothing was; None if it has not, as far as is known.
        refused: why it never will be there; None if it may.
    """

    kind: ClassVar[str]

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.tries = 0
        self.tried_at = time.monotonic()
        self.failed: int | None = None
        self.refused: str | None = None

    @abstractmethod
    def is_there(self, held: Held) -> bool:
        """True if it is among what the server has of its run."""

    def go_on(self, held: Held) -> None:  # noqa: B027 - of most, W&B's service does the rest
        """Do what can be done now that the server has this."""

    def again(self) -> None:
        """Hand it to W&B's service once more."""
        self.tries += 1
        self.tried_at = time.monotonic()
        self.failed = None

    @property
    def gives_again(self) -> bool:
        """True if that can be done."""
        return not self.run.ended

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Rows(Need):
    """So many rows of the run of a trial."""

    kind = "rows"

    def __init__(self, run: Run, rows: int) -> None:
        super().__init__(run, f"of trial {run.id}")
        self._rows = rows

    @property
    def gives_again(self) -> bool:
        return False

    def is_there(self, held: Held) -> bool:
        return held.rows + self.run.ahead >= self._rows


class Samples(Need):
    """So many samples of the system metrics of the run."""

    kind = "samples"

    def __init__(self, run: Run, samples: int) -> None:
        super().__init__(run, f"up to the {samples}th")
        self._samples = samples

    @property
    def gives_again(self) -> bool:
        return False

    def is_there(self, held: Held) -> bool:
        return held.samples >= self._samples


class File(Need):
    """A file of a run: a picture, a sound, a page, a table, or one that was saved.

    Args:
        run: of which run.
        name: its name there, as the server calls it.
        source: where it is, if an earlier process of ours has handed it over, into an earlier directory of this run.
    """

    kind = "file"

    def __init__(self, run: Run, name: str, source: Path | None = None) -> None:
        super().__init__(run, name)
        self._path = source or Path(run.sdk.dir, name)
        if source is not None:
            self.failed = 0  # nobody will upload it by itself

    def is_there(self, held: Held) -> bool:
        if self.name not in held.files:
            return False
        size, md5 = held.files[self.name]
        try:
            if size != self._path.stat().st_size:
                return False
            return len(md5) != 24 or md5 == _md5(self._path)  # some stores have another sum, or none
        except OSError:  # removed meanwhile
            return True

    def again(self) -> None:
        super().again()
        target = Path(self.run.sdk.dir, self.name)
        if not os.path.exists(self._path):
            self.refused = f"{self} is not on W&B's server, and {self._path} is gone"
            return
        if target != self._path:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path, target)
            self._path = target
        self.run.give(target)


class Artifact(Need):
    """An artifact: the user's, or one in which W&B has a table.

    Args:
        run: of which run.
        key: the user's name of either.
        client: the id that the SDK has given it; the row of a table has it.
        make: returns the SDK's object, to hand it over again, and its aliases.
        known: False if it was an earlier process of ours that handed it over.
    """

    kind = "artifact"

    def __init__(self, run: Run, key: str, client: str, make: Callable[[], tuple[Any, Sequence[str]]], *, known: bool) -> None:
        super().__init__(run, f"of {key}")
        self.client = client
        self._make = make
        if not known:
            self.failed = 0

    def is_there(self, held: Held) -> bool:
        return self.client in held.artifacts

    def again(self) -> None:
        super().again()
        self.run.log_artifact(*self._make())


class Params(Need):
    """Parameters, in the run's config.

    Args:
        run: of which run.
        told: their names.
    """

    kind = "parameters"

    def __init__(self, run: Run, told: Mapping[str, Any]) -> None:
        super().__init__(run, ", ".join(sorted(told))[:100])
        self._names = list(told)

    def is_there(self, held: Held) -> bool:
        told = self.run.told
        return all(name in held.params and same_value(held.params[name].get("value"), told[name]) for name in self._names)

    def again(self) -> None:
        super().again()
        self.run.tell({name: self.run.told[name] for name in self._names})


def _md5(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes(), usedforsecurity=False).digest()).decode()
