"""A session that goes on where an earlier relay of it has stopped."""

from __future__ import annotations

from collections.abc import Sequence

from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.offers import Offer
from tracelet_shim.relay.worker import Worker
from tracelet_shim.state.index import Index
from tracelet_shim.state.rows import Refused, SessionRow
from tracelet_shim.state.session import SessionState

__all__ = ["Restart"]


class Restart:
    """Gives log, decoder and workers what an earlier relay of their session has left. All before the workers start.

    Args:
        state: what is kept of the session.
        log: the session's records.
        decoder: of the records.
        workers: of the trackers.
    """

    def __init__(self, state: SessionState, log: Log, decoder: Decoder, workers: Sequence[Worker]) -> None:
        self._state = state
        self._log = log
        self._decoder = decoder
        self._workers = workers
        self._earlier_events = 0  # of records that are not in the index any more
        self._counted: int | None = None  # of how many records the events had been counted exactly

    def restore(self, known: SessionRow, index: Index) -> tuple[dict[int, int], int]:
        """Take over what there is. Return, by source, the position behind the last record, and how many of the records are the
        relay's own.

        Args:
            known: the session, as the ledger has it.
            index: its index.
        """
        self._log.open(index, known.events, known.records)
        self._counted = known.counted
        trials, paths = self._state.told()
        self._decoder.restore_trials(trials)
        self._decoder.restore_paths(paths)
        rows = self._state.runs()
        if index.length == 0 and known.records:  # removed, since everything had arrived: records are counted anew
            self._earlier_events = known.events
            rows = {name: row._replace(cursor=0, part=0) for name, row in rows.items()}
            self._state.write(lambda ledger, session: ledger.save(session, known.events, 0, rows.values()))
        lost = self._state.lost()
        for worker in self._workers:
            if worker.name in rows:
                worker.restore(rows[worker.name], lost.get(worker.name, 0))
        return self._taken(index)

    def _taken(self, index: Index) -> tuple[dict[int, int], int]:
        taken = self._state.taken()
        for source, position in index.taken().items():
            taken[source] = max(position, taken.get(source, 0))
        return taken, index.own()

    def count(self, *, exactly: bool) -> None:
        """Find out how many events there are: `exactly` by decoding all records, which cannot be done with event files that are
        still being written to; else those that had not been counted are counted as they are decoded."""
        if not exactly:
            if self._counted is not None:
                self._log.count_from(self._counted)
            return
        events = [self._earlier_events + number for number in self._log.review()]
        self._log.recount(events[-1])
        if self._counted is None:  # what an older version's ledger says may be half a second old
            for worker in self._workers:
                worker.progress.recount(events[min(worker.cursor, len(events) - 1)])

    def offer_again(self) -> None:
        """Look up what trackers refused, and let it be offered to them once more. A ledger of 0.1 has no numbers of files."""
        numbers = {source.path: source.id for source in self._state.sources()}
        for worker in self._workers:
            found: list[tuple[tuple[int, int], int, Refused]] = []
            for key, refused in self._state.set_aside_of(worker.name):
                source = refused.source if refused.source is not None else numbers.get(refused.path or "", -1)
                found.append(((source, refused.position), key, refused))
            at = self._log.numbers({place for place, *_ in found})
            worker.offers.add([Offer(at[place], key, refused) for place, key, refused in found if place in at])
