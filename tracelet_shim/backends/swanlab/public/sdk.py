"""What the installed SDK has of its public API, and what differs between versions of it.

0.6.2 is the first one with an offline mode, 0.6.5 with ids and `resume`, 0.7.0 with group and kind of a run, 0.7.15 or so with
`swanlab.save`. Nothing here goes by a version's number.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import importlib.util
import inspect
import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.swanlab.knocking import knock

__all__ = ["Sdk", "active", "active_id", "has_core", "iso", "set_hosts"]

_CLOCKS = ("swanlab.data.run.key", "swanlab.data.run.exp")
"""Modules of 0.6 and 0.7 that take the time of a value from a function of theirs, `create_time`."""
_QUIET = {
    "metadata_collect": False, "collect_hardware": False, "collect_runtime": False, "requirements_collect": False,
    "conda_collect": False, "hardware_monitor": False, "log_proxy_type": "none",
}  # fmt: skip
_ID = re.compile(r"[a-z0-9]{21}")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_ours = threading.local()


def iso(wall_time: float) -> str:
    """Return a time as SwanLab writes it, to the microsecond; the epoch for what a date cannot express."""
    try:
        return datetime.fromtimestamp(wall_time, timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):
        return _EPOCH.isoformat()


def active() -> Any | None:
    """Return the run that is active in this process. Imports nothing."""
    run = getattr(sys.modules.get("swanlab.data.run.main"), "run", None)
    if run is None:
        run = getattr(sys.modules.get("swanlab.sdk.internal.run"), "_current_run", None)
        return run if run is not None and run.alive else None
    return run if getattr(run, "running", False) else None


def active_id(run: Any) -> str:
    """Return its id: in the public part of a run, since `run.id` of 0.7 is None offline."""
    public = getattr(run, "public", None)
    return str(getattr(public, "run_id", None) or run.id)


def has_core() -> bool:
    """True from 0.8 on. Imports nothing: `SWANLAB_MODE=online` would stop the import of 0.6 and 0.7."""
    found = importlib.util.find_spec("swanlab")
    places = found.submodule_search_locations if found is not None else None
    return any(Path(place, "sdk").is_dir() for place in places or ())


def set_hosts(hosts: Mapping[str, str | None]) -> None:
    """Set the variables of the service's addresses before the SDK is imported: 0.6 and 0.7 want theirs with ``/api``."""
    for name, given in hosts.items():
        variable = f"SWANLAB_{name.upper()}"
        if address := given or os.environ.get(variable):
            os.environ[variable] = address.rstrip("/").removesuffix("/api")
    if "SWANLAB_API_HOST" in os.environ and not has_core():
        os.environ["SWANLAB_API_HOST"] += "/api"


class Sdk:
    """The SDK, imported.

    Attributes:
        takes: the names that `swanlab.init` takes.
        keeps_times: whether a value can have a time that is not now.
        has_files: whether files can be saved with a run.
    """

    def __init__(self) -> None:
        # `SWANLAB_MODE=online` stops the import of 0.6 and 0.7, `offline` that of 0.6.1
        with variables({"SWANLAB_MODE": None}):
            import swanlab

            self._swanlab: Any = swanlab
        self.takes = set(inspect.signature(swanlab.init).parameters)
        self.has_files = callable(getattr(swanlab, "save", None))
        self.keeps_times = self._take_over_clock()
        media = [c for c in swanlab.Image.__mro__ if c.__name__ == "MediaType" and hasattr(c, "Chart")]
        self._media: Any = media[0] if media else None

    @staticmethod
    def _take_over_clock() -> bool:
        """Let a value that we log in a thread have its own time."""
        for name in _CLOCKS:
            with contextlib.suppress(ImportError):
                module: Any = importlib.import_module(name)
                clock = getattr(module, "create_time", None)
                if clock is not None and not hasattr(clock, "tracelet"):

                    def create_time(clock: Any = clock) -> str:
                        return getattr(_ours, "when", None) or str(clock())

                    create_time.tracelet = True  # type: ignore[attr-defined]
                    module.create_time = create_time
                if clock is not None:
                    return True
        return False

    @staticmethod
    @contextlib.contextmanager
    def at(wall_time: float) -> Iterator[None]:
        """What is logged within this has this time, where the SDK can be told."""
        _ours.when = iso(wall_time)
        try:
            yield
        finally:
            _ours.when = None

    # -- runs -------------------------------------------------------------------------------------------------------

    def begin(self, fields: Mapping[str, Any]) -> Any:
        """Begin a run; `fields` have the names of `tracelet_shim.backends.swanlab.settings.fields_of`. Return the SDK's object.

        Raises:
            BackendUnavailableError: this version has no such mode.
        """
        modes = getattr(importlib.import_module("swanlab.data.utils"), "SwanLabMode", ()) if self._old() else ()
        mode = fields["mode"] or os.environ.get("SWANLAB_MODE") or "online"
        if self._old() and mode == "online":
            mode = "cloud"
        if modes and mode not in [each.value for each in modes]:
            raise errors.BackendUnavailableError("swanlab", f"the installed version has no mode {mode!r}; needed: swanlab>=0.6.2")
        renamed = {"name": "experiment_name", "log_dir": "logdir"}
        given = {name if name in self.takes else renamed.get(name, name): value for name, value in fields.items()}
        if not (self._old() and mode != "cloud") and "id" in self.takes and given.get("id"):
            given["resume"] = "allow"
        else:
            given["id"] = given["resume"] = None
        given |= {"mode": mode, "settings": self._settings()}
        taken = {name: value for name, value in given.items() if name in self.takes and value is not None}
        with variables({"SWANLAB_MODE": None}):
            if mode in ("cloud", "online"):
                self._knock()
            return self._swanlab.init(**taken)

    def _knock(self) -> None:
        """Look whether the service is there: of one that is away the SDK says the same as of a wrong key."""
        if not self._old():
            return
        package = importlib.import_module("swanlab.package")
        knock(str(package.get_host_api()).removesuffix("/api"), str(package.get_key()))

    def _old(self) -> bool:
        """True for 0.6 and 0.7."""
        return "swanlab.data.run.main" in sys.modules

    def _settings(self) -> Any:
        """Return settings that record nothing but what is logged."""
        kind = self._swanlab.Settings
        if self._old():
            return kind(**{name: value for name, value in _QUIET.items() if name in kind.model_fields})
        return kind(interactive=False, terminal={"proxy_type": "none"})

    def own_id(self, wished: str) -> str:
        """Return an id for a run as this version takes it."""
        if not self._old() or _ID.fullmatch(wished):
            return wished
        number = int.from_bytes(hashlib.blake2s(wished.encode(), digest_size=16).digest(), "big")
        digits = ""
        while len(digits) < 21:
            number, digit = divmod(number, 36)
            digits += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
        return digits

    def directory(self, run: Any) -> Path:
        """Return the directory of a run."""
        public = getattr(run, "public", None)
        return Path(getattr(public, "run_dir", None) or run.dir)

    def url(self, run: Any) -> str | None:
        """Return the page of a run, or None."""
        cloud = getattr(getattr(run, "public", None), "cloud", None)
        if cloud is None and str(run.mode) != "online":  # there it is an error in 0.8
            return None
        url = getattr(cloud, "experiment_url", None) if cloud is not None else getattr(run, "url", None)
        return str(url) if url else None

    def alive(self, run: Any) -> bool:
        """True until a run has been finished."""
        return bool(run.alive if hasattr(run, "alive") else run.running)

    def finish(self, run: Any, *, failed: str | None) -> None:
        """End a run, with what failed."""
        state = run.state
        if isinstance(state, enum.Enum):
            run.finish(type(state)["CRASHED" if failed else "SUCCESS"], error=failed)
        else:
            run.finish(state="crashed" if failed else "success", error=failed)

    def save(self, file: Path, base: Path) -> None:
        """Hand over a file of the current run, below its directory of files."""
        import glob

        self._swanlab.save(glob.escape(str(file)), base_path=str(base), policy="now")

    # -- values -----------------------------------------------------------------------------------------------------

    def media(self, kind: str, name: str, data: bytes, caption: str | None) -> Any | None:
        """Return a value of SwanLab's type `kind`, of exactly these bytes where the SDK lets us; None if it has none such.

        Args:
            kind: image, audio, text, echarts, object3d, html.
            name: of the file; its end says what it is.
            data: its content.
            caption: what stands below it.
        """
        if self._media is not None:
            chart = getattr(self._media.Chart, kind.upper(), None)
            return None if chart is None else _raw(self._media, chart)(name, data, caption)
        if kind == "text":
            return self._swanlab.Text(data.decode(), caption=caption)
        maker = {"image": "Image", "audio": "Audio", "object3d": "Object3D"}.get(kind)
        if kind == "image" and name.endswith(".gif"):
            maker = "Video"
        if maker is None or not hasattr(self._swanlab, maker):
            return None
        suffix = ".swanlab.pts.json" if name.endswith(".swanlab.pts.json") else Path(name).suffix
        with tempfile.TemporaryDirectory(prefix="tracelet-swanlab-") as folder:
            path = Path(folder, f"item{suffix}")
            path.write_bytes(data)
            return getattr(self._swanlab, maker)(str(path), caption=caption)


class _Buffer(io.BytesIO):
    """What the SDK writes to a file, and gives a name for the upload."""

    file_name = ""


@functools.cache
def _raw(base: Any, kind: Any) -> Any:
    """Return a class of values whose file has exactly the bytes that they are given: `swanlab.Image` would encode them anew. One
    for each type, as the SDK wants it of the values in a list. `base` is what it derives from."""

    class Raw(base):  # type: ignore[misc]
        def __init__(self, name: str, data: bytes, caption: str | None) -> None:
            super().__init__()
            self._item = name, data, caption

        def parse(self) -> tuple[str, io.BytesIO | None]:
            name, data, _ = self._item
            return (data.decode(), None) if kind is base.Chart.TEXT else (name, _Buffer(data))

        def get_chart(self) -> Any:
            return kind

        def get_section(self) -> str:
            return str(kind.name).capitalize()

        def get_more(self) -> dict[str, str] | None:
            caption = self._item[2]
            return {"caption": caption} if caption else None

    return Raw
