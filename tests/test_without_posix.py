"""What Windows lacks is taken away, and a program delivers all the same. It is no Windows: open files can be removed here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.environment import isolated_environment

PROGRAM = Path(__file__).with_name("without_posix.txt")


def test_a_program_without_what_windows_lacks(tmp_path: Path) -> None:
    """Every module but the one for POSIX signals can be imported, the trackers are served from a thread, and all arrives."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, check=False, timeout=250, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **isolated_environment(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["cannot be imported: tracelet_shim.cli._supervisor", "tensorboard closed 54 0 0 None"]
    assert "could not be taken" not in done.stderr
