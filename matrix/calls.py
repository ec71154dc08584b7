"""What is called to make an environment and to run something in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from matrix.cells import ROOT

__all__ = ["call", "interpreter", "last"]


def call(
    command: Sequence[str], more: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with what the environment has, and more."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PIP_CONSTRAINT", "PYTHONDONTWRITEBYTECODE"}}
    return subprocess.run(  # noqa: S603 - what stands in this file
        command, cwd=cwd, env={**environment, **(more or {})}, capture_output=True, text=True, check=False
    )


def last(text: str) -> str:
    """Return the line of an output that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "is ignored" not in line]
    errors = [line for line in lines if line.lower().startswith("error") or re.match(r"E +.*(Error|warning: \w+: cannot)", line)]
    return (errors or lines or ["it said nothing"])[-1]


def interpreter(minor: str) -> str | None:
    """Return a Python of this minor version: on the path, unless that is only a stand-in of pyenv's."""
    on_path = shutil.which(f"python{minor}")
    pyenvs = sorted(map(str, Path.home().glob(f".pyenv/versions/{minor}.*/bin/python")), reverse=True)
    candidates = [*([on_path] if on_path else []), *pyenvs]
    return next((one for one in candidates if call([one, "-c", "import venv"]).returncode == 0), None)
