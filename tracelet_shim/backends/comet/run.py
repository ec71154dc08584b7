"""One experiment: the only code that writes to it.

What is sent. Every event becomes messages of the SDK's own classes (`comet_ml.messages`), the ones that its ``log_*``
methods make, built here (`messages`) for three reasons: `log_metric` and the rest keep the step in a variable shared by all
threads and log a parameter ``curr_step`` at each change, they take no wall time, and they log errors instead of raising them.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.comet.archive import pack
from tracelet_shim.backends.comet.artifacts import OnServer
from tracelet_shim.backends.comet.line import line_of
from tracelet_shim.backends.comet.resume import StoredPoints, identity
from tracelet_shim.backends.run_info import Status

__all__ = ["RunExperiment"]


class RunExperiment:
    """One experiment, and the way of messages into it.

    Args:
        experiment: the SDK's object.
        directory: its data directory if it is an offline one of ours.
        own: False for one that the user has opened.

    Attributes:
        params: the parameters that it has got.
        stored: what is known of the points that it has.
        line: the way to the server; None offline, and where the SDK has none that is known here.
        on_server: its artifacts and registered models; None without a line.
        known: what identifies other messages (`resume.identity`) that a killed session has left in its archive, and that may
            come again.
    """

    def __init__(self, experiment: Any, *, directory: str | None = None, own: bool = True) -> None:
        self.experiment = experiment
        self.own = own
        self.params: dict[str, Any] = {}
        self.latest = math.inf  # the time of what it got last
        self._directory = directory
        self.line = line_of(experiment) if directory is None else None
        self.on_server = OnServer(str(experiment.id), self.line) if self.line is not None else None
        self.known: frozenset[str] = frozenset()
        self.stored = StoredPoints()

    def doubt(self) -> None:
        """What comes first may be there."""
        self.stored.doubtful = True
        if self.line is not None and self.on_server is not None:
            self.line.doubtful = self.on_server.doubtful = True

    def done(self) -> None:
        """What was sent so far does not come again."""
        self.stored.known.clear()
        self.known = frozenset()
        if self.line is not None and self.on_server is not None:
            self.line.done()
            self.on_server.done()

    def send_points(self, points: Sequence[Any], others: Sequence[Any] = ()) -> None:
        """Deliver the messages of points, but for those that are there, behind others."""
        self.stored.send(points, lambda left: self.send([*others, *left]), self.line)

    def send(self, messages: Sequence[Any], *, events: bool = True) -> None:
        """Deliver messages, of `events` or of the run itself: in an offline experiment of ours all or none."""
        if not self.experiment.alive:
            raise errors.BackendError(f"Comet: the experiment {self.experiment.id} has been ended")
        if self._directory is not None:
            if self.known and events:
                messages = [m for m in messages if identity(m.type, m.to_message_dict()) not in self.known]
            self.experiment.streamer.put(messages)
        elif self.line is not None:
            self.line.send(messages, events=events)
        else:  # the SDK's own queue: of the user's offline experiment, or of any in an SDK whose inside is not known here
            for message in messages:
                if isinstance(getattr(message, "file_path", None), str) and not message.clean:
                    # read by a thread some time later, when the file may be gone
                    message.file_path, message.clean = self._own_copy(message.file_path), True
                self.experiment._enqueue_message(message)

    def _own_copy(self, file: str) -> str:
        handle, path = tempfile.mkstemp(dir=str(self.experiment.tmpdir))
        os.close(handle)
        shutil.copyfile(file, path)
        return path

    def add_tags(self, labels: Sequence[str]) -> None:
        """Add tags, which the experiment may have."""
        new = [label for label in labels if label not in self.experiment.tags]
        if not new:
            return
        if self.line is None:
            self.experiment.add_tags(new)
        else:
            self.line.call(self.line.connection.add_tags, new)
            self.experiment.tags = self.experiment.tags.union(new)
        if self._directory is not None:
            self.experiment._write_experiment_meta_file()

    @property
    def archived(self) -> bool:
        """Whether it is an offline one, which is uploaded later."""
        return hasattr(self.experiment, "offline_directory")

    @property
    def queued(self) -> bool:
        """Whether messages go through the SDK's queue."""
        return self._directory is None and self.line is None

    def begun(self, when: float) -> None:
        """Note when it began. From here on, the directory of an archive is complete at any time."""
        if self._directory is not None:
            if math.isfinite(when):
                self.experiment.start_time = round(when * 1000)
            self.experiment._write_experiment_meta_file()

    def flush(self) -> None:
        if self._directory is not None:
            self.experiment.streamer.flush()
        elif self.queued and self.own:
            self.experiment.flush()

    def end(self, status: Status, when: float) -> None:
        """End an experiment of ours, as of this time; raise if not everything has arrived."""
        if math.isfinite(when):
            self.experiment.tracelet_ended = when
        if not self.own:
            return
        from comet_ml.messages import LogOtherMessage

        experiment = self.experiment
        if experiment.alive:  # else the user has ended it, by `session.native`
            self.send([LogOtherMessage("tracelet.status", status)])
            if status != "finished":  # the nearest that Comet has: the mark of a crash
                experiment._report_experiment_error(f"the program {status}", has_crashed=True)
            experiment._log_metric = lambda *_, **__: None  # it would log "process duration": ours, not the program's
            experiment.end()
        if self._directory is not None:
            pack(self._directory)
            experiment.streamer.release()

    def discard(self) -> None:
        """Undo opening."""
        if self.own:
            self.experiment._log_metric = lambda *_, **__: None
            self.experiment.end()
        if self._directory is not None:
            self.experiment.streamer.release()
            shutil.rmtree(self._directory, ignore_errors=True)
