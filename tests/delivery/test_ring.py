"""The ring by itself, and what stands before it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import ring as ring_module
from tracelet_shim.bus import ring_places
from tracelet_shim.bus.accounts import Accounts
from tracelet_shim.bus.outbox import Outbox
from tracelet_shim.bus.ring import Ring, RingError, RingReader
from tracelet_shim.bus.ring_places import in_memory
from tracelet_shim.common import file_systems
from tracelet_shim.events import Array
from tracelet_shim.relay.leftovers import tidy

SMALL = 1 << 16


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path, "s", SMALL)


def records(messages: list[msg.Message]) -> list[msg.Record]:
    return [record for message in messages if isinstance(message, msg.Records) for record in message.records]


def everything(reader: RingReader) -> list[msg.Message]:
    found: list[msg.Message] = []
    while messages := reader.read():
        found += messages
        reader.free()
    reader.free()
    return found


sizes = st.integers(0, 200) | st.integers(0, SMALL // 3)
some_records = st.builds(
    msg.Record,
    st.integers(0, 2**31), st.integers(0, 2**63), st.none() | sizes.map(lambda size: b"x" * size),
    st.none() | st.floats(allow_nan=False), st.sampled_from([None, msg.Nested(), msg.Series("\ud800 a"), msg.Figure()]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(some_records | st.just("read") | st.just("successor"), max_size=60))
def test_what_is_put_is_read(tmp_path_factory: pytest.TempPathFactory, steps: list[msg.Record | str]) -> None:
    """Whatever is put comes out as it was and in order, round and round, whenever it is read, also by a successor of the reader,
    which leaves out what its index has; what finds no room changes nothing."""
    ring = Ring(tmp_path_factory.mktemp("ring"), "s", SMALL)
    outbox = Outbox(Accounts())
    outbox.begin(ring)
    reader = RingReader(ring.path)
    put: list[msg.Record] = []
    read: list[msg.Record] = []
    for step in steps:
        if step == "read":
            read += records(reader.read())
            if len(read) % 2:
                reader.free()
        elif step == "successor":
            reader.close(remove=False)
            reader = RingReader(ring.path)
            assert reader.skip(len(read)) == 0
        elif isinstance(step, msg.Record) and outbox._put_record(step):
            put.append(step)
    read += records(reader.read())
    assert read == put
    assert ring.records == len(put)
    assert reader.is_empty
    reader.close(remove=True)


def test_a_full_ring(ring: Ring) -> None:
    """What finds no room follows when there is some: as positions and exact values, each in the order of its file. What is told
    behind records stays behind them, and all of them are counted all the time."""
    accounts = Accounts()
    outbox = Outbox(accounts)
    outbox.begin(ring)
    reader = RingReader(ring.path)
    for i in range(20_000):
        outbox.put(msg.Record(i % 2, i // 2, b"x" * 40, i / 7, msg.Nested() if i % 1000 == 7 else None))
    outbox.put(msg.Writer("/new"))
    for i in range(20_000, 30_000):
        outbox.put(msg.Record(i % 2, i // 2, b"x" * 40, i / 7))
    outbox.put(msg.Close("finished", 1.0))
    assert outbox.published() == 30_000 - 20
    found: list[msg.Message] = []
    while not (found and isinstance(found[-1], msg.Close)):
        found += everything(reader)
        outbox.settle()
        assert outbox.published() == 30_000 - 20
    for source in (0, 1):
        mine = [record for record in records(found) if record.source == source]
        assert [record.position for record in mine] == list(range(15_000))
        assert [record.value for record in mine] == [i / 7 for i in range(source, 30_000, 2)]
    assert sum(record.hint == msg.Nested() for record in records(found)) == 20 == len(accounts.nested)
    assert len(records(found[: found.index(msg.Writer("/new"))])) == 20_000
    outbox.put(msg.Record(0, 15_000, b"again"))
    assert len(records(everything(reader))) == 1
    left = everything(RingReader(ring.path))  # a successor is to find the end, and what comes behind it
    assert [type(message) for message in left[-2:]] == [msg.Close, msg.Records]
    reader.close(remove=True)


def test_what_is_larger_than_the_ring(ring: Ring) -> None:
    """A record whose data does not fit is read from its event file; an embedding, which is in none, comes in parts, and so does a
    message."""
    outbox = Outbox(Accounts())
    outbox.begin(ring)
    reader = RingReader(ring.path)
    matrix = Array.of(np.random.default_rng(0).random((1000, 100)))
    embedded = msg.Embedded("default", 1, 2.0, matrix, None, None, None)
    outbox.put(msg.Record(0, 1, b"x" * 2 * SMALL, 0.5))
    outbox.put(msg.Record(1, 0, None, None, embedded))
    outbox.put(msg.Writer("/" + "w" * 3 * SMALL))
    outbox.put(msg.Record(0, 2, b"small"))
    found: list[msg.Message] = []
    for _ in range(100):
        outbox.settle()
        found += everything(reader)
    assert sorted(records(found), key=lambda record: (record.source, record.position)) == [
        msg.Record(0, 1, None, 0.5), msg.Record(0, 2, None), msg.Record(1, 0, None, None, embedded),
    ]  # fmt: skip
    assert [len(message.logdir) for message in found if isinstance(message, msg.Writer)] == [3 * SMALL + 1]
    assert outbox.published() == ring.records == 3
    reader.close(remove=True)


@pytest.mark.parametrize("rounds", range(9))
def test_a_reader_dies_with_a_part_of_what_is_larger_than_the_ring(tmp_path: Path, rounds: int) -> None:
    """Wherever in an embedding that comes in parts its reader dies, the successor has the whole of it, once, and what follows."""
    ring = Ring(tmp_path, "s", SMALL)
    outbox = Outbox(Accounts())
    outbox.begin(ring)
    reader = RingReader(ring.path)
    embedded = msg.Embedded("default", 1, 2.0, Array.of(np.random.default_rng(0).random((200, 100))), None, None, None)
    put = [msg.Record(0, 1, b"x"), msg.Record(1, 0, None, None, embedded), msg.Record(0, 2, b"y"), msg.Record(0, 3, b"z")]
    for record in put[:3]:
        outbox.put(record)
    found: list[msg.Record] = []
    for _ in range(rounds):
        outbox.settle()
        found += records(reader.read(SMALL // 4))
        reader.free()
    reader.close(remove=False)
    outbox.begin_again()
    outbox.put(put[3])
    reader = RingReader(ring.path)
    assert reader.skip(len(found)) == 0
    for _ in range(20):
        outbox.settle()
        found += records(everything(reader))
    by_place = sorted(found, key=lambda record: (record.source, record.position))
    assert [(record.source, record.position, record.hint) for record in by_place] == [
        (0, 1, None), (0, 2, None), (0, 3, None), (1, 0, embedded),
    ]  # fmt: skip
    assert outbox.published() == ring.records == 4
    assert not outbox._large
    reader.close(remove=True)


def test_a_handler_that_logs_in_the_middle_of_a_put(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that comes in the middle of a put loses nothing and damages nothing."""
    outbox = Outbox(Accounts())
    outbox.begin(ring)
    put = Ring.put

    def interrupted(self: Ring, record: msg.Record, hint: bytes = b"") -> bool:
        if record.position % 10 == 0:
            outbox.put(msg.Record(0, record.position + 1, b"handler"))
        return put(self, record, hint)

    monkeypatch.setattr(Ring, "put", interrupted)
    for i in range(0, 100, 2):
        outbox.put(msg.Record(0, i, b"data"))
    reader = RingReader(ring.path)
    found = [record.position for record in records(everything(reader))]
    assert found == sorted([*range(0, 100, 2), *range(1, 100, 10)])
    reader.close(remove=True)


def test_threads_put_in_turn(tmp_path: Path) -> None:
    """Eight threads lose nothing, and each one's records stay in order."""
    outbox = Outbox(Accounts())
    outbox.begin(Ring(tmp_path, "s", 1 << 22))
    threads = [
        threading.Thread(target=lambda source=source: [outbox.put(msg.Record(source, i, b"x")) for i in range(2000)])
        for source in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.ring is not None
    reader = RingReader(outbox.ring.path)
    found = records(everything(reader))
    assert [[r.position for r in found if r.source == source] for source in range(8)] == [list(range(2000))] * 8
    reader.close(remove=True)


@pytest.mark.parametrize("at", [_at * 8 for _at in range(3)])
def test_a_damaged_ring_is_not_believed(ring: Ring, at: int) -> None:
    """Where somebody has written into the file, nothing wrong is read, and nothing is waited for."""
    ring.put(msg.Record(0, 1, b"x"))
    with open(ring.path, "r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 8)
    with pytest.raises(RingError):
        RingReader(ring.path).read()


def test_where_a_ring_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that does not keep the space that it has given, the ring is in memory, where only its owner can read it;
    where there is no room either, there is none."""
    monkeypatch.setattr(ring_places, "_SHARED_MEMORY", str(tmp_path / "shm"))
    monkeypatch.setattr(ring_module, "keeps_space", lambda path: False)
    ring = Ring(tmp_path / "state", "s", SMALL)
    path = Path(ring.path)
    assert path.parent == Path(in_memory(tmp_path / "state"))
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    ring.close(remove=True)
    assert not path.parent.parent.exists()
    path.parent.parent.mkdir()
    path.parent.parent.chmod(0o777)
    with pytest.raises(OSError, match="no place for a ring"):
        Ring(tmp_path / "state", "s", SMALL)


def test_a_ring_takes_a_small_part_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container ``/dev/shm`` has 64 MB, which the workers of a DataLoader need; where there is too little, there is no
    ring."""
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(file_systems, "_SHARE", free >> 20)
    ring = Ring(tmp_path, "s", 32 << 20)
    assert (1 << 19) < Path(ring.path).stat().st_size < (1 << 21)
    ring.close(remove=True)
    monkeypatch.setattr(file_systems, "_SHARE", 1 << 62)
    with pytest.raises(OSError, match="No space left"):
        Ring(tmp_path, "s", 32 << 20)


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_rings_that_nobody_comes_back_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay removes what killed sessions have left, where it has been taken, and else all but what is still to be read, at
    either end of the ring. What somebody uses stays as it is."""
    monkeypatch.setattr(ring_places, "_SHARED_MEMORY", str(tmp_path / "shm"))
    with monkeypatch.context() as patched:
        patched.setattr(ring_module, "keeps_space", lambda path: False)
        rings = {name: Ring(tmp_path / "elsewhere", name, 1 << 20) for name in ("empty", "begun", "round", "used")}
    size, data = 1 << 20, b"x" * 100_000
    for name in ("empty", "begun", "round"):
        reader = RingReader(rings[name].path)
        for position in range({"empty": 3, "begun": 3, "round": 9}[name]):
            assert rings[name].put(msg.Record(0, position, data))
        everything(reader)
        reader.close(remove=False)
    assert rings["begun"].put(msg.Record(0, 3, b"last"))
    assert all(rings["round"].put(msg.Record(0, position, data)) for position in (9, 10))
    paths = {name: Path(ring.path) for name, ring in rings.items()}
    for path in paths.values():
        os.utime(path, (1, 1))
    for name in ("empty", "begun", "round"):
        rings[name].close()
    mine = Ring(tmp_path / "state", "mine", SMALL)
    tidy(mine.path)
    assert not paths["empty"].exists()
    assert blocks(paths["begun"]) < 20_000
    assert 200_000 <= blocks(paths["round"]) < 300_000  # and what is left over at the end of the ring
    assert blocks(paths["used"]) > size
    assert Path(mine.path).exists()
    assert records(everything(RingReader(paths["begun"]))) == [msg.Record(0, 3, b"last")]
    assert records(everything(RingReader(paths["round"]))) == [msg.Record(0, position, data) for position in (9, 10)]
