"""Texts that are no UTF-8 pass through messages, the ledger and a shell, and can be read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.wire import Decoder, Encoder
from tracelet_shim.common.text import as_utf8, escaped, quoted, second_name, unescaped
from tracelet_shim.state.ledger import Ledger

CAFE = os.fsdecode(b"/data/caf\xe9")

texts = st.text(st.characters(), max_size=20) | st.text("a\ue000\udce9\ud800/e0'\\ \n", max_size=20)
names = st.binary(min_size=1, max_size=20).map(lambda data: data.replace(b"\0", b"")).map(os.fsdecode)


@given(texts)
def test_what_is_escaped_comes_back(text: str) -> None:
    """Every text, whatever is in it, becomes UTF-8 and the same text again; what is UTF-8 already stays, nearly always."""
    assert unescaped(escaped(text).encode().decode()) == text
    as_utf8(text).encode()


def test_bytes_that_are_no_utf8_can_be_read() -> None:
    """A person sees the byte, and everything else unchanged."""
    assert as_utf8(CAFE) == r"/data/caf\xe9"
    assert as_utf8("/data/café") == escaped("/data/café") == "/data/café"


@given(st.lists(names, max_size=3))
def test_a_shell_gives_the_bytes_back(paths: list[str]) -> None:
    """A path in a command line that is shown is the same path when a shell has read it."""
    command = " ".join(["printf '%s\\0'", *map(quoted, paths)]) if paths else "true"
    done = subprocess.run(["bash", "-c", command.encode()], capture_output=True, check=True, env={"LC_ALL": "C"})
    assert done.stdout == b"".join(os.fsencode(path) + b"\0" for path in paths)


@pytest.mark.parametrize(
    "message",
    [
        msg.Source(1, f"{CAFE}/events", CAFE, None, replay=True),
        msg.Writer("/data/\ue000"),
        msg.Records([
            msg.Record(1, 2, b"\xff\xe9", 0.5, msg.Series("k\udce9")),
            msg.Record(1, 3, b"", None, msg.Trial("n", {"lr\udce9": 0.5, "b": True}, {"acc": 1.0}, {"x": ["\udce9"]})),
        ]),
    ],
)  # fmt: skip
def test_messages_hold_any_text(message: Any) -> None:
    """What one process says is what the other one hears."""
    heard = Decoder[msg.Message](msg.Message).decode(Encoder().encode(message))
    assert heard == message


def test_the_ledger_holds_any_path(tmp_path: Path) -> None:
    """Session, event file and log directory come out of the ledger as they went in."""
    program = Program(
        script=f"{CAFE}/train.py", module=None, argv=("train.py",), cwd=CAFE, executable="python", pid=1, host="h"
    )  # fmt: skip
    run = RunInfo(session="s", program=program, started=1.0, project=None, exp_name=None, run_id=None, tags={}, notes=None)
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    source = msg.Source(0, f"{CAFE}/events", CAFE, f"{CAFE}/parent", replay=True)
    ledger = Ledger(directory)
    ledger.begin(run, CAFE)
    ledger.add_source("s", source)
    ledger.add_writer("s", 0, CAFE)
    ledger.close()
    ledger = Ledger(directory)
    (session,) = ledger.sessions()
    assert (session.root, session.cwd, session.script) == (CAFE, CAFE, program.script)
    assert ledger.sources("s") == [source]
    assert ledger.writers("s") == [CAFE]
    assert ledger.event_files() == {source.path}
    ledger.close()


def test_the_working_directory_has_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that cannot be told the name of the working directory is told another one that leads there."""
    assert second_name() is None
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    directory.mkdir()
    monkeypatch.chdir(directory)
    name = second_name()
    assert name is not None
    assert os.path.samefile(name, directory)
    name.encode()
