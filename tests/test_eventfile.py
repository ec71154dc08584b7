"""Event files are read by position, whole or cut off anywhere, while they grow, and when they are damaged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from tests.intercept import native
from tracelet_shim.eventfiles.tfrecord import DamagedRecordError, EventFileReader, checked_records, count_records, records

FRAME = 16
"""Bytes of a record beyond its data: length, and two checksums."""

payloads = st.lists(st.binary(max_size=40), max_size=8)


@contextmanager
def file_of(data: list[bytes]) -> Iterator[Path]:
    """Give a file with these records, written by TensorBoard's own writer."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "events")
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for item in data:
                writer.write(item)
        yield path


def whole(data: list[bytes], size: int) -> list[bytes]:
    """Return the records that are complete in the first `size` bytes."""
    offset, found = 0, []
    for item in data:
        offset += FRAME + len(item)
        if offset > size:
            break
        found.append(item)
    return found


@given(payloads, st.data())
def test_complete_records_are_read_and_counted(data: list[bytes], draw: st.DataObject) -> None:
    """Of a file that is cut off anywhere, all ways to read find the records before the cut, and leave the rest."""
    with file_of(data) as path:
        size = draw.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, size)
        expected = whole(data, size)
        assert count_records(str(path)) == len(expected)
        with path.open("rb") as file:
            assert list(records(file)) == expected
            end = sum(FRAME + len(item) for item in expected)
            assert file.tell() == end
            offsets = list(checked_records(file))
        assert [item for _, item in offsets] == expected
        assert [offset for offset, _ in offsets][-1:] == [end] * bool(expected)


@given(payloads, st.lists(st.integers(0, 9), max_size=20))
def test_positions_are_read_in_any_order(data: list[bytes], positions: list[int]) -> None:
    """Forwards, backwards and again; None behind the end."""
    with file_of(data) as path:
        reader = EventFileReader(str(path))
        for position in positions:
            assert reader.read(position) == (data[position] if position < len(data) else None)
        reader.close()


@given(payloads.filter(bool), st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_a_file_may_grow_under_a_reader(data: list[bytes], steps: list[int]) -> None:
    """A record is there as soon as it is complete, and no earlier; what was half there is read again."""
    with file_of(data) as path:
        content = path.read_bytes()
        path.write_bytes(b"")
        reader = EventFileReader(str(path))
        position = written = 0
        with path.open("ab", buffering=0) as file:
            for step in [*steps, len(content)]:
                file.write(content[written : written + step])
                written = min(written + step, len(content))
                there = whole(data, written)
                assert count_records(str(path)) == len(there)
                while position < len(there):
                    assert reader.read(position) == data[position]
                    position += 1
                assert reader.read(position) is None
        assert position == len(data)
        reader.close()


@given(st.binary(max_size=200))
def test_what_is_no_event_file_has_no_end_in_an_error(content: bytes) -> None:
    """Any bytes are some records, or none: a damaged length asks for no memory."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "events")
        path.write_bytes(content)
        with path.open("rb") as file:
            found = list(records(file))
        assert count_records(str(path)) == len(found)
        reader = EventFileReader(str(path))
        assert reader.read(len(found)) is None
        reader.close()


def test_a_length_beyond_all_memory_is_an_incomplete_record(tmp_path: Path) -> None:
    """Eight bytes of damage do not make a reader allocate exabytes."""
    path = tmp_path / "events"
    path.write_bytes(b"\xff" * 7 + b"\x0f" + b"\0" * 100)
    reader = EventFileReader(str(path))
    assert reader.read(0) is None
    assert count_records(str(path)) == 0
    reader.close()


@given(payloads.filter(bool), st.data())
def test_a_flipped_bit_is_found(data: list[bytes], draw: st.DataObject) -> None:
    """Checked reading yields what is before the damage, and tells where the damaged record begins."""
    with file_of(data) as path:
        content = bytearray(path.read_bytes())
        place = draw.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << draw.draw(st.integers(0, 7))
        path.write_bytes(content)
        before = whole(data, place)
        found: list[bytes] = []

        def read() -> None:
            with path.open("rb") as file:
                for _, item in checked_records(file):
                    found.append(item)

        with pytest.raises(DamagedRecordError) as caught:
            read()
        assert found == before
        assert caught.value.offset == sum(FRAME + len(item) for item in before)


@given(payloads, st.integers(0, 8))
def test_checked_reading_continues_at_an_offset(data: list[bytes], first: int) -> None:
    """The offset that came with a record is where the next one begins."""
    with file_of(data) as path, path.open("rb") as file:
        start = sum(FRAME + len(item) for item in data[:first])
        assert [item for _, item in checked_records(file, start)] == data[first:]


def test_missing_files_are_the_callers_error(tmp_path: Path) -> None:
    """An event file that was deleted is an OSError, which callers expect."""
    with pytest.raises(FileNotFoundError):
        count_records(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        EventFileReader(str(tmp_path / "gone"))


def test_torchs_own_files_are_read(tmp_path: Path) -> None:
    """The same records as TensorBoard's loader finds, the ``file_version`` at position 0 included."""
    writer = SummaryWriter(tmp_path)
    for step in range(30):
        writer.add_scalar("a", step, step)
    writer.close()
    path = native.only_event_file(tmp_path)
    expected = native.records(path)
    assert count_records(str(path)) == len(expected) == 31
    reader = EventFileReader(str(path))
    assert [reader.read(position) for position in (30, 0, 17)] == [expected[30], expected[0], expected[17]]
    reader.close()
