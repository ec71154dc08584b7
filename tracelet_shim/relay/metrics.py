"""The system metrics of a session: its relay writes them down, and takes them like any other records."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.provenance.system_metrics import WRITER, SampleFile, Sampler

__all__ = ["SystemMetrics"]


class SystemMetrics:
    """Samples of one session, as messages to its relay.

    Args:
        run: of the training program.
        interval: seconds between samples.
        trouble: told, by kind, what cannot be had.
    """

    def __init__(self, run: RunInfo, interval: float, trouble: Callable[[str, str], None]) -> None:
        self._run = run
        self._trouble = trouble
        self._sampler: Sampler | None = Sampler(run, interval)
        self._file: SampleFile | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        if self._sampler is not None:
            self._sampler.start()

    def take(self, root: str, directory: Path | None, number: Callable[[], int]) -> list[msg.Source | msg.Records]:
        """Return what there is since the last time.

        Args:
            root: the session's root directory.
            directory: the state directory; None if there is none.
            number: returns that of the next source of ours.
        """
        if self._sampler is None:
            return []
        if self._sampler.problem is not None:
            self._trouble("system-metrics", self._sampler.problem)
            self._sampler.problem = None
        samples = self._sampler.take()
        if not samples:
            return []
        found: list[msg.Source | msg.Records] = []
        try:
            if self._file is None:
                self._file = SampleFile(self._place(directory), self._run, root, number())
                found.append(self._file.source)
            found.append(msg.Records(self._file.append(samples)))
        except OSError as error:
            self.end()
            self._trouble("system-metrics", f"no more system metrics: they cannot be written ({error})")
        return found

    def _place(self, directory: Path | None) -> Path:
        """Return where the file is made: in the state directory; without one, in a temporary place, for as long as this relay
        lives.

        Raises:
            OSError: there is no place for it.
        """
        if directory is not None:
            return directory / WRITER
        self._temporary = tempfile.TemporaryDirectory(prefix="tracelet-")
        return Path(self._temporary.name, WRITER)

    def stop(self) -> None:
        """Take no more samples; those that were taken before can still be had."""
        if self._sampler is not None:
            self._sampler.stop()

    def end(self) -> None:
        """A sample that is being taken now would come after the trackers have everything."""
        self.stop()
        self._sampler = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._temporary is not None:
            self._temporary.cleanup()
