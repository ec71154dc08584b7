"""One W&B run: the only code that writes to it.

Rows. W&B's own step may only grow: a lower ``step=`` is dropped with a warning (`wandb.Run.log`). So rows are logged
without ``step=`` and carry TensorBoard's step as the value ``global_step``, which `define_metric` makes the x axis of
every chart. ``_timestamp`` in a row replaces W&B's own (`sdk/interface/interface.py`, `publish_partial_history`).

Joined runs. In a run of the user's, each of our rows moves W&B's step on by one. Rows that the user then logs with a
``step=`` below it are dropped by W&B, with its own warning; without ``step=`` nothing is lost. Only our own keys get
global_step as x axis there.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Status
from tracelet_shim.backends.shared.values import plain
from tracelet_shim.backends.wandb.fast import Rows
from tracelet_shim.backends.wandb.resume import There

__all__ = ["Run"]

_EXIT_CODES = {"finished": 0, "failed": 1, "killed": 255}  # 255 is what W&B itself sends after Ctrl-C (exit_hooks.py)


class Run:
    """One W&B run.

    Args:
        sdk: the SDK's object.
        lent: True for a run of the user's.

    Attributes:
        id: its id.
        folder: its directory on disk, with the log.
        offline: True if it is not uploaded.
        about: what is worth knowing of it, beside its parameters; the config has it under ``tracelet/``.
        there: rows that come again, since an earlier log has them.
        fast: hands many rows over at a time, if `accelerate` was called and the SDK allows it.
    """

    def __init__(self, sdk: Any, *, lent: bool = False) -> None:
        self.sdk = sdk
        self.lent = lent
        self.id = str(sdk.id)
        self.offline = bool(sdk.offline)
        self.folder = os.path.dirname(sdk.dir)
        self.about: dict[str, Any] = {}
        self.there = There()
        self.fast: Rows | None = None
        self._defined: set[str] = set()

    def define(self) -> None:
        """Make global_step the x axis; in a run of the user's only for our keys, as they come."""
        self.sdk.define_metric("global_step", hidden=True)
        if not self.lent:
            self.sdk.define_metric("*", step_metric="global_step")

    def accelerate(self) -> None:
        """Have rows of numbers handed over many at a time, if the installed SDK is a known one."""
        self.fast = Rows.of(self.sdk)

    # -- rows -------------------------------------------------------------------------------------------------------

    @property
    def takes_many(self) -> bool:
        """True if rows of numbers can be handed over many at a time."""
        return self.fast is not None and not self.there and not self.sdk._is_finished  # the last by the user: `row` raises then

    def rows(self, found: Iterable[tuple[ev.Scalar, Mapping[str, float]]]) -> None:
        """Log rows of numbers, each at the step and wall time of its first event, all or none of them."""
        assert self.fast is not None
        self.fast.publish([_row(first, values) for first, values in found])

    def row(self, event: ev.Event, values: Mapping[str, Any]) -> None:
        """Log a row at the step and wall time of `event`."""
        if self.there:
            values = {key: value for key, value in values.items() if not self.there.take(key, event, value)}
            if not values:
                return
        if self.lent:
            for key in values.keys() - self._defined:
                if not {".", "*"} & set(key):  # define_metric would take them for a path and for any text
                    self.sdk.define_metric(key, step_metric="global_step")
                self._defined.add(key)
        self.sdk.log(_row(event, values))

    # -- everything else --------------------------------------------------------------------------------------------

    def save(self, path: str, data: bytes) -> None:
        """Save a file with the run."""
        target = Path(self.sdk.dir, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.sdk.save(str(target), base_path=self.sdk.dir, policy="now")

    def tell(self, params: Mapping[str, Any], **about: Any) -> None:
        """Set parameters, and what is worth knowing of the run."""
        self.about |= about
        if values := {**params, **{f"tracelet/{key}": plain(value) for key, value in self.about.items()}}:
            self.sdk.config.update(values, allow_val_change=True)

    def finish(self, status: Status) -> str | None:
        """End the run. Return its directory, quoted for a shell, if not everything was uploaded in time."""
        try:
            self.sdk.finish(exit_code=_EXIT_CODES.get(status, 1))
        except TimeoutError:
            return shlex.quote(self.folder)
        return None


def _row(event: ev.Event, values: Mapping[str, Any]) -> dict[str, Any]:
    row = {**values, "global_step": event.step}
    if math.isfinite(event.wall_time):
        row["_timestamp"] = event.wall_time
    return row
