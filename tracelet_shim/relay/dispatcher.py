"""The right half of the picture as one object: messages in, replies out.

It neither knows nor cares whether it lives in a process of its own or in a thread of the training process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.decode import Decoder
from tracelet_shim.naming import WriterNames
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.worker import Worker

__all__ = ["Relay"]

logger = logging.getLogger("tracelet_shim.relay")


class Relay:
    """Decodes records and delivers them to the trackers.

    Args:
        reply: takes each reply; called from several threads, must not block.
        objects: backend objects of the user's, by name, for specs that have no target.

    Attributes:
        closing, closed: the end has been asked for; has been reached.
    """

    def __init__(self, reply: Callable[[msg.Reply], None], objects: Mapping[str, Backend] | None = None) -> None:
        self._reply = reply
        self._objects = objects or {}
        self.workers: list[Worker] = []
        self._names = WriterNames()
        self._decoder = Decoder(self._names)
        self._log = Log(self._decoder, 0)
        self._flushes: list[tuple[int, int]] = []
        self._reported: tuple[object, ...] = ()
        self._deadline = 0.0
        self.closing = False
        self.closed = False

    def handle(self, message: msg.Message) -> None:
        """Take one message. Never waits for a tracker."""
        if isinstance(message, msg.Records):
            self._log.append(message.records)
        elif isinstance(message, msg.Source):
            self._decoder.add_source(message)
        elif isinstance(message, msg.Writer):
            self._names(message.logdir)
        elif isinstance(message, msg.Flush):
            self._flushes.append((message.id, self._log.length))
            for worker in self.workers:
                worker.request_flush(self._log.length)
        elif isinstance(message, msg.Open):
            self._open(message)
        else:
            self._begin_close(message)

    def tick(self) -> None:
        """Answer flushes that are done, report the counters if they changed, end when all workers have ended or the
        deadline is over; to be called about ten times a second."""
        while self._flushes and all(worker.has_flushed(self._flushes[0][1]) for worker in self.workers):
            self._report()
            self._reply(msg.Flushed(self._flushes.pop(0)[0]))
        self._report()
        if self.closing and not self.closed and not (self._alive() and time.monotonic() < self._deadline):
            self._end()

    def states(self) -> dict[str, msg.BackendState]:
        """Return where each tracker stands now."""
        for worker in self.workers:
            worker.state.pending = worker.pending()
        return {worker.name: worker.state for worker in self.workers}

    def _open(self, message: msg.Open) -> None:
        self._names.root = message.root
        self._log.memory = message.memory
        for spec in message.backends:
            self.workers.append(Worker(spec, message.run, self._log, self._reply, self._objects.get(spec.name)))
        for worker in self.workers:
            worker.start()

    def _report(self) -> None:
        states = self.states()
        now = tuple((s.state, s.delivered, s.pending, s.failed, s.error) for s in states.values())
        if now != self._reported:
            self._reported = now
            self._reply(msg.Counters(states, self._log.spilled))

    def _begin_close(self, message: msg.Close) -> None:
        self.closing = True
        self._deadline = time.monotonic() + message.deadline
        for worker in self.workers:
            worker.close(message.status, self._deadline)

    def _alive(self) -> bool:
        return any(worker.alive for worker in self.workers)

    def _end(self) -> None:
        for worker in self.workers:
            if not worker.join():
                logger.warning("%s missed the deadline", worker.name)
        self._reply(msg.Closed(self.states()))
        self._log.close()
        self.closed = True
