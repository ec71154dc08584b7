"""Under which names the tags and parameters of a session stand in its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from tracelet_shim.backends.shared.names import Shortened
from tracelet_shim.backends.shared.values import plain
from tracelet_shim.backends.wandb.limits import MAX_PARAM, key_rule, param_rule, table_rule
from tracelet_shim.backends.wandb.run import Run

__all__ = ["RunNames"]

_REMEMBERED = 100_000  # a program that makes up a tag a step must not grow us without end


class RunNames:
    """The names of one session.

    A tag that holds several types gets a key for each, since W&B shows one panel a key: the first type has the plain key, a later
    one ``tag (image)``.

    Attributes:
        plain: the rule for keys, without a type.
        param: the rule for parameters.
    """

    def __init__(self) -> None:
        self.plain = key_rule()
        self.param = param_rule()
        self._kinds: dict[str, str] = {}
        self._run_id: str | None = None

    def in_run(self, run_id: str) -> None:
        """The session's run is this one; or again this one, if it is continued."""
        if self._run_id != run_id:
            self._run_id = run_id
            self._table = table_rule(run_id)
            self._shortened = Shortened(self.plain, self._table, self.param)

    def key(self, path: str, kind: str, *, table: bool = False) -> str:
        """Return the key of a tag, with the type behind it where another type has the plain key.

        Args:
            path: the tag's.
            kind: the event type.
            table: True if W&B makes a table of it.
        """
        key = (self._table if table else self.plain)(path)
        first = self._kinds.get(key, kind)
        if len(self._kinds) < _REMEMBERED:
            self._kinds[key] = first
        return key if first == kind else f"{key} ({kind})"

    def params(
        self, given: Mapping[str, Any], file_name: Callable[[str], str], save: Callable[[str, bytes], None]
    ) -> dict[str, Any]:
        """Return parameters as the config takes them; save the whole text of one that is too long."""
        result = {}
        for name, each in given.items():
            key = self.param(str(name))
            value = plain(each)
            if isinstance(value, str) and len(value) > MAX_PARAM:
                digest = hashlib.blake2s(key.encode(), digest_size=4).hexdigest()
                path = f"hparams/{file_name(key)}={digest}.txt"
                save(path, value.encode())
                value = f"{value[:MAX_PARAM]}... (cut, whole text in {path})"
            result[key] = value
        return result

    def note(self, run: Run) -> None:
        """Save the whole of each name that had to be cut with the session's run."""
        with self._shortened.telling() as new:
            if new:
                run.save("names.json", json.dumps(self._shortened.everything(), indent=1).encode())
