"""System metrics: what the training's processes, the machine and its GPUs do, at an interval.

A sample is written to an event file of its own, in the state directory, and its records go the way of all others from
there: ledger, retry, resume and replay know no difference. Tags have the writer ``system``; the step is the number of
seconds since the session began, rounded.

    cpu.percent                 of all processors together, 0 to 100
    memory.percent              of the machine's memory, 0 to 100
    disk.free.gb                where the log directory is
    network.sent.mb             by the machine since the session began; network.received.mb likewise
    process.cpu.percent         of one processor, by the training and its child processes; four busy ones are 400
    process.memory.mb           resident, of these processes; what they share counts for each
    gpu.<n>.percent             and .memory.mb, .memory.percent, .celsius, .watts; <n> is NVML's number

MB are 10^6 bytes, GB 10^9. psutil and nvidia-ml-py do the measuring.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import make_directory, open_file
from tracelet_shim.eventfiles.own_files import OWN_SUFFIX, SYSTEM
from tracelet_shim.eventfiles.tfrecord import joined
from tracelet_shim.provenance.gpus import Gpus

__all__ = ["WRITER", "SampleFile", "Sampler"]

WRITER = SYSTEM
_FIRST_SECONDS = 1.0
_MOST_WAITING = 10_000

logger = logging.getLogger("tracelet_shim.relay")


class Sample(NamedTuple):
    """Values by tag, at a time in seconds since the epoch."""

    wall_time: float
    values: list[tuple[str, float]]


class Sampler:
    """Takes samples in a thread of its own, until `stop`.

    Args:
        run: of the training program.
        interval: seconds from one sample to the next. The first comes after a second, if that is earlier.

    Attributes:
        problem: what the user should know; None if nothing.
    """

    def __init__(self, run: RunInfo, interval: float) -> None:
        self._run = run
        self._interval = interval
        self._samples: deque[Sample] = deque(maxlen=_MOST_WAITING)
        self._stop = threading.Event()
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._main, name="tracelet-system", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more samples."""
        self._stop.set()

    def take(self) -> list[Sample]:
        """Return the samples since the last time."""
        taken = []
        while self._samples:
            taken.append(self._samples.popleft())
        return taken

    def _main(self) -> None:
        try:
            machine = _Machine(self._run)
            self.problem = machine.gpus.problem
            pause = min(self._interval, _FIRST_SECONDS)
            while not self._stop.wait(pause):
                pause = self._interval
                self._samples.append(Sample(time.time(), list(machine.sample())))
        except Exception as error:
            logger.warning("system metrics cannot be taken", exc_info=True)
            self.problem = f"system metrics cannot be taken: {type(error).__name__}: {error}"


class _Machine:
    """Measures. Rates are since the sample before, so the first look is at nothing yet."""

    def __init__(self, run: RunInfo) -> None:
        import psutil

        self._psutil: Any = psutil
        self.gpus = Gpus()
        self._disk = run.root or run.program.cwd
        self._is_relay = run.program.pid != os.getpid()
        self._processes: dict[Any, Any] = {}  # psutil keeps in them what its next rate is reckoned from
        self._main: Any = None
        with contextlib.suppress(psutil.Error):
            self._main = psutil.Process(run.program.pid)
        self._network = psutil.net_io_counters()
        psutil.cpu_percent(None)
        list(self._of_processes())

    def sample(self) -> Iterator[tuple[str, float]]:
        psutil = self._psutil
        yield "cpu.percent", psutil.cpu_percent(None)
        yield "memory.percent", psutil.virtual_memory().percent
        with contextlib.suppress(OSError):  # the root may be a URL
            yield "disk.free.gb", psutil.disk_usage(self._disk).free / 1e9
        network = psutil.net_io_counters()
        if network is not None and self._network is not None:
            yield "network.sent.mb", (network.bytes_sent - self._network.bytes_sent) / 1e6
            yield "network.received.mb", (network.bytes_recv - self._network.bytes_recv) / 1e6
        yield from self._of_processes()
        yield from self.gpus.sample()

    def _of_processes(self) -> Iterator[tuple[str, float]]:
        processor = memory = 0.0
        found: dict[Any, Any] = {}
        for process in self._tree():
            known = found[process] = self._processes.get(process, process)
            with contextlib.suppress(self._psutil.Error), known.oneshot():  # it may have ended
                processor += known.cpu_percent(None)
                memory += known.memory_info().rss
        self._processes = found
        if found:
            yield "process.cpu.percent", processor
            yield "process.memory.mb", memory / 1e6

    def _tree(self) -> list[Any]:
        """Return the training's processes, without the relay and what belongs to that."""
        if self._main is None:
            return []
        with contextlib.suppress(self._psutil.Error):
            processes = [self._main, *self._main.children(recursive=True)]
            if self._is_relay:
                relay = self._psutil.Process()
                ours = {relay, *relay.children(recursive=True)}
                processes = [process for process in processes if process not in ours]
            return processes
        return []


class SampleFile:
    """The event file of a session's samples.

    Args:
        directory: where it is made.
        run: of the session.
        root: the session's root directory.
        source: the number of the source that it is.

    Attributes:
        source: what the relay has to know of it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, directory: Path, run: RunInfo, root: str, source: int) -> None:
        make_directory(directory)
        number = source - msg.OWN_SOURCES
        name = f"{int(time.time()):010d}.{run.program.host}.{run.program.pid}.{run.session}.{number}{OWN_SUFFIX}"
        path = directory / name
        self.source = msg.Source(source, str(path), f"{root.rstrip('/')}/{WRITER}")
        self._started = run.started
        self._file = open(path, "xb", buffering=0, opener=open_file)  # noqa: SIM115 - closed by close()
        self._position = 0

    def append(self, samples: list[Sample]) -> list[msg.Record]:
        """Write samples; return their records, once they are in the file.

        Raises:
            OSError: the file cannot be written. It has not grown.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2

        written: list[tuple[bytes, float | None]] = []
        if self._position == 0:
            version = event_pb2.Event(wall_time=samples[0].wall_time, file_version="brain.Event:2")
            written.append((version.SerializeToString(), None))
        for sample in samples:
            step = max(0, round(sample.wall_time - self._started))
            for tag, value in sample.values:
                summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
                event = event_pb2.Event(wall_time=sample.wall_time, step=step, summary=summary)
                written.append((event.SerializeToString(), value))
        end = self._file.tell()
        view = memoryview(joined(data for data, _ in written))
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise
        first, self._position = self._position, self._position + len(written)
        return [msg.Record(self.source.id, first + i, data, value) for i, (data, value) in enumerate(written)]

    def close(self) -> None:
        self._file.close()
