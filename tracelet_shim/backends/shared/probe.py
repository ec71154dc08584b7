"""Where a tracker takes its server and its credentials from: for `Backend.check`, and for ``tracelet-shim doctor``.

Names of variables and files; their values are read no further than to see that they are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["OFF", "ON", "Probe", "Switch"]

ON, OFF = "(?i)1|true|yes|on|y|t", "(?i)0|false|no|off|n|f"


class Switch(NamedTuple):
    """A variable with which the tracker's own TensorBoard hook is on, so that everything is logged twice.

    Attributes:
        variable: its name.
        value: pattern of the values that switch it on.
        remedy: how it is switched off.
    """

    variable: str
    value: str
    remedy: str


class Probe(NamedTuple):
    """What can be known of a tracker's surroundings without its SDK. In names of files ``~`` and ``$NAME`` are filled in.

    Attributes:
        server: options and variables that name the server; the first that is set wins.
        default: the server if nothing is said.
        stored: files that may have the server's address, and the pattern of it there.
        credentials: variables with keys, tokens, passwords.
        files: files with such.
        hooks: variables that switch the tracker's own hook on.
        hook_files: files that do, and the pattern of the line.
        offline: option or variable, and the pattern of the values with which no server is used.
        dotenv: what begins with this is read from ``.env`` in the working directory, by the SDK.
        import_hook: the SDK's import hook that claims ``torch.utils.tensorboard`` for itself.
    """

    server: tuple[str, ...] = ()
    default: str = ""
    stored: tuple[tuple[str, ...], str] = ((), "")
    credentials: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    hooks: tuple[Switch, ...] = ()
    hook_files: tuple[tuple[str, ...], str] = ((), "")
    offline: tuple[tuple[str, str], ...] = ()
    dotenv: str = ""
    import_hook: str = ""

    def address(self, options: Mapping[str, Any]) -> str:
        """Return the server's address that options or variables give, or an empty text."""
        return next((found for found in (_given(options, name) for name in self.server) if found), "")

    def stored_address(self) -> str:
        """Return the server's address that the tracker's own files have; else its default; else an empty text."""
        names, pattern = self.stored
        for name in names:
            path = place(name)
            if path.is_file() and (found := re.search(pattern, path.read_text(errors="replace"))):
                return found[1]
        return self.default

    def is_offline(self, options: Mapping[str, Any]) -> bool:
        """True if the tracker's own settings keep it away from its server."""
        return any(re.fullmatch(value, _given(options, name)) for name, value in self.offline)

    def found_credentials(self) -> list[str]:
        """Return the variables and the files that have credentials: names, never values."""
        found = [f"{variable} (environment)" for variable in self.credentials if os.environ.get(variable)]
        for name in self.files:
            path = place(name)
            try:
                is_there = path.is_file() and ("netrc" not in path.name or b"machine" in path.read_bytes())
            except OSError:
                continue
            if is_there:
                found.append(str(path))
        return found


def place(name: str) -> Path:
    """Return a file by a name with ``~`` and variables in it."""
    return Path(os.path.expanduser(os.path.expandvars(name)))


def _given(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    return str(os.environ.get(name) or "" if value is None or value == "" else value)
