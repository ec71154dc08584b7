"""What we keep on disk is nobody else's, whatever the umask is, and stands at no name that others could have taken."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.chosen import each_change
from tests.conftest import RunPython
from tests.replay.commands import COMMAND, environment
from tests.sample_events import run_info
from tracelet_shim.common import private_files
from tracelet_shim.state.ledger import Ledger

PROGRAM = """
import os, sys, time
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
os.umask(int(sys.argv[1], 8))
tracelet.start_logging(backend=["mlflow", "tensorboard"], system_metrics=0.1, exit_timeout=4)
writer = SummaryWriter("runs/x")
writer.add_scalars("both", {"a": 1.0, "b": 2.0}, 1)
while not list(tracelet_state.glob("system/*")):
    time.sleep(0.05)
"""


def modes(directory: Path) -> dict[str, int]:
    """Return the rights of a directory and of all in it, by what each is."""
    found = {"": stat.S_IMODE(directory.stat().st_mode)}
    for path in directory.rglob("*"):
        name = path.name if path.stem in ("ledger", "system") else path.suffix
        found["events" if path.parent.name == "system" else name] = stat.S_IMODE(path.stat().st_mode)
    return found


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize(
    ("named", "umask"),
    each_change([(named, umask) for named in (False, True) for umask in ("000", "277")], (False, "000"), (True, "277")),
)
def test_the_files_of_a_session(run_python: RunPython, tmp_path: Path, umask: str, named: bool) -> None:
    """All that is left of a session which could not deliver everything is 0600, in a directory that is 0700; one that the user
    has made stays as it is."""
    state = tmp_path / "mine" if named else tmp_path / "runs/x/.tracelet"
    env = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    if named:
        state.mkdir(mode=0o755)
        env["TRACELET_STATE_DIR"] = str(state)
    program = PROGRAM.replace("tracelet_state", f"__import__('pathlib').Path({str(state)!r})")
    if umask != "000" and os.geteuid():
        pytest.skip("without the owner's rights, the writer has no directory of its own")
    run_python(program, umask, env=env)
    found = modes(state)
    assert {"ledger.db", ".index", ".hints", ".log", ".what-ran", "system", "events"} <= set(found)
    assert not {".cursors", ".decoded", "ledger.db-wal", "ledger.db-shm", "ledger.db-journal"} & set(found)
    assert found.pop("") == (0o755 if named else 0o700)
    assert found.pop("system") == 0o700
    assert set(found.values()) == {0o600}


def test_the_report_of_a_run() -> None:
    """What sessions tell the `tracelet-shim run` above them is in such a file, too."""
    show = "import os; p = os.environ['_TRACELET_REPORT']; print(*(oct(os.stat(x).st_mode) for x in (p, os.path.dirname(p))))"
    command = [COMMAND, "run", "-b", "tensorboard", "--quiet", "--", sys.executable, "-c", show]
    done = subprocess.run(command, env=environment(), umask=0, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0o100600", "0o40700"]


def test_what_an_older_version_has_made(tmp_path: Path) -> None:
    """A ledger that others can read loses that with the next session; who only looks at it changes nothing."""
    path = tmp_path / "state" / "ledger.db"

    def session(name: str) -> None:
        with contextlib.closing(Ledger(tmp_path / "state")) as ledger:
            ledger.begin(run_info(session=name), "/logs", ["mlflow"])

    session("first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with contextlib.closing(Ledger(tmp_path / "state", existing=True)) as ledger:
        assert [row.id for row in ledger.sessions()] == ["first"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    session("second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    index = tmp_path / "a.index"
    index.write_bytes(b"x")
    index.chmod(0o644)
    os.close(private_files.open_file(index, os.O_WRONLY))
    assert (stat.S_IMODE(index.stat().st_mode), index.read_bytes()) == (0o600, b"x")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """In a log directory from somebody else, the log of a session may be a link to a file of the user's."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    mine.chmod(0o644)
    (tmp_path / "session.log").symlink_to(mine)
    with pytest.raises(OSError, match="symbolic"):
        private_files.open_file(tmp_path / "session.log", os.O_WRONLY | os.O_TRUNC)
    private_files.restrict(tmp_path / "session.log")
    assert (mine.read_text(), stat.S_IMODE(mine.stat().st_mode)) == ("precious", 0o644)


def test_a_repository_of_aims_needs_no_name_in_a_common_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has taken the name of a lock in the directory for temporary files keeps nobody from making a repository."""
    from tracelet_shim.backends.aim.repository import open_repo

    where = tmp_path / "repository"
    common = tmp_path / "common"
    name = hashlib.blake2s(str(where).encode(), digest_size=8).hexdigest()
    (common / f"tracelet-aim-{os.getuid()}-{name}.lock").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(common))
    open_repo(str(where)).close()
    assert os.listdir(where) == [".aim"]


def test_one_at_a_time(tmp_path: Path) -> None:
    """While one has the lock of a directory another one waits, and goes on in the end even if it does not get it."""
    with private_files.locked(tmp_path, 60):
        start = time.monotonic()
        with private_files.locked(tmp_path, 0.2):
            waited = time.monotonic() - start
    assert waited >= 0.2
    with private_files.locked(tmp_path, 60):
        assert os.listdir(tmp_path) == []
