"""What runs at the start of an interpreter when ``TRACELET_BACKEND`` is set: the target of the .pth and .start files.

Here only `os` and `sys` are imported, and nothing is done but to wait: a finder on `sys.meta_path` sees when the
program imports a writer of event files (torch's, TensorBoard's own, tensorboardX's, TensorFlow's), and only then the rest of the
package is loaded and the session prepared. A process that never does (``pip list``, a data loader, a helper of the
shell) pays under a millisecond and leaves nothing behind.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all of this module
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, NoReturn

__all__ = ["Lookout", "activate", "activate_now", "is_set", "name_near_misses", "start"]

_TARGETS = ("torch.utils.tensorboard", "tensorboardX", "tensorboard.summary.writer.event_file_writer", "tensorflow")
_WRITERS = ("torch.utils.tensorboard.writer", "tensorboardX.writer")
_DIRECTORIES = ("/torch/utils/tensorboard", "/tensorboardX", "/tensorboard/summary/writer")
_NAMED = "_TRACELET_NAMED"
"""Environment variable: near misses have been named, so the children of this process need not do it again."""

_PARSERS = ("argparse", "jsonargparse", "hydra")
"""A program may parse its arguments before it comes to TensorBoard."""

_decided = False
"""True once the package knows that the program uses TensorBoard, and what becomes of it is decided."""


def start() -> None:
    """Activate if the environment asks for it: ``TRACELET_BACKEND`` set, ``TRACELET_DISABLED`` not."""
    if is_set("TRACELET_DISABLED"):
        return
    if os.environ.get("TRACELET_BACKEND"):
        activate()
    else:
        name_near_misses()


def activate() -> None:
    """Connect to the writers of event files when one is imported, or now if one has been.

    The second time it only looks again: two site directories can expose the same .pth file, and a program under
    ``tracelet-shim run`` may import `tracelet_shim.auto` as well, perhaps because its import hooks have thrown ours out.
    """
    global _finder
    if _decided:
        return
    if _finder is None:
        import atexit

        _finder = _Finder()
        atexit.register(_at_exit, os.getpid())
    if any(name in sys.modules for name in _PARSERS):
        watch_arguments()
    if _is_loaded():
        _finder.connect()
    else:
        _finder.post()


def watch_arguments() -> None:
    """If the program's arguments are to become parameters, have the package look at what parses them, now or as soon as it is
    imported. Nothing that goes wrong here is lost: the session says it again."""
    if not os.environ.get("TRACELET_AUTOLOG") or is_set("TRACELET_DISABLED"):
        return
    try:
        from tracelet_shim import intercept

        intercept.install_autolog()
    except Exception as error:
        _say(error)


def activate_now() -> None:
    """Activate if the environment asks for it, in a program that asks for its session by itself: it may have no use for
    the writers of event files."""
    global _decided
    if _decided or not os.environ.get("TRACELET_BACKEND") or is_set("TRACELET_DISABLED"):
        return
    _connect()
    _decided = True
    if _finder is not None:
        _finder.leave()


class _Loaded:
    """Loader of a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class Lookout:
    """Is asked when the program imports something, and finds nothing by itself.

    Finders of others come in front, at any time, and claim what they like: comet_ml's claims ``torch.utils.tensorboard``.
    None claims everything that is imported on the way, so `look` is called for whatever is asked for. To be asked even
    where one does, or where `sys.meta_path` has been replaced, the object is a path hook as well: `PathFinder`, whoever
    uses it, asks all of those when it comes to a directory for the first time.
    """

    def post(self) -> None:
        """Take up the place in front; nothing happens if this object has one."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if self not in sys.path_hooks:
            sys.path_hooks.insert(0, self)

    def leave(self) -> None:
        """Be asked no more."""
        # New lists, not `remove`: another thread may be going through the old ones and would skip an entry.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        sys.path_hooks = [hook for hook in sys.path_hooks if hook is not self]

    def look(self, fullname: str) -> bool:
        """See what there is to do, now that this (or something) is being imported; return True to ask all other finders."""
        raise NotImplementedError

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return self.ask_others(fullname, path, target) if self.look(fullname) else None

    def ask_others(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """Return what the first of all other finders finds."""
        loaded = sys.modules.get(fullname)
        if loaded is not None and target is None and not _is_target(fullname):
            # `look` has imported it: not once more. importlib goes by the spec of the module that it finds there.
            loader: Any = _Loaded(loaded)
            loaded.__spec__ = type(sys.__spec__)(fullname, loader)
            return loaded.__spec__
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None) if finder is not self else None
            spec: ModuleSpec | None = find_spec(fullname, path, target) if find_spec else None
            if spec is not None:
                return spec
        return None

    def __call__(self, path: str) -> NoReturn:
        """Be a path hook, which claims no directory. Who searches the package's own is about to import a part of it."""
        if str(path).replace(os.sep, "/").endswith(_DIRECTORIES):
            # In place, and forward only: a loop over the list in another thread sees a finder twice, but skips none.
            sys.meta_path[:] = [self, *(finder for finder in sys.meta_path if finder is not self)]
            self.look("")
        raise ImportError


class _Finder(Lookout):
    """Waits for a writer of event files."""

    def __init__(self) -> None:
        self.connecting = False

    def look(self, fullname: str) -> bool:
        if self.connecting or _decided:
            return False
        if fullname in _PARSERS and os.environ.get("TRACELET_AUTOLOG"):
            self.connecting = True
            try:
                watch_arguments()
            finally:
                self.connecting = False
            return True  # wrapt has put a finder of its own in front, and is to see this very import
        if not _is_target(fullname) and not _is_loaded():
            return False
        self.connect()
        return True  # the package has just put a finder at the front. The loop that called us is past it

    def connect(self) -> None:
        """Hand over to the package."""
        global _decided
        self.connecting = True
        try:
            _connect()  # raises under strict, and then again at the next import: strict cannot be had by retrying
        finally:
            self.connecting = False
        _decided = True
        self.leave()


_finder: _Finder | None = None


def _is_target(fullname: str) -> bool:
    return fullname in _TARGETS or fullname.startswith(("torch.utils.tensorboard.", "tensorboardX."))


def _is_loaded() -> bool:
    """True if a real writer is or is being imported: no None, and no mock of a test suite."""
    for name in _TARGETS:
        module = sys.modules.get(name)
        if module is None:
            continue
        try:
            if object.__getattribute__(module, "__dict__").get("__spec__") is not None:  # makes no lazy module load
                return True
        except AttributeError:
            continue
    return False


def _at_exit(pid: int) -> None:
    """Say so if the program has imported `SummaryWriter`, and nobody has asked us for any of it."""
    if _decided or os.getpid() != pid:
        return
    if not any(sys.modules.get(name) for name in _WRITERS) and not os.environ.get("TRACELET_WATCH"):
        return
    from tracelet_shim.session import api

    api.tell_missed_at_exit()


def _connect() -> None:
    """Hand over to the package; what goes wrong becomes one line, unless strict."""
    try:
        from tracelet_shim.session import api

        api.activate_from_environment()
    except Exception as error:
        if is_set("TRACELET_STRICT"):
            raise
        _say(error)


def _say(error: Exception) -> None:
    from tracelet_shim.display.printable import printable

    text = printable(" ".join(str(error).split()))
    if type(error).__module__ != "tracelet_shim.errors":  # our own messages need no type in front of them
        text = f"{type(error).__name__}: {text}"
    _write(f"{text} (training goes on without it)")


def _write(line: str) -> None:
    try:  # noqa: SIM105 - contextlib would be one more import
        sys.stderr.write(f"tracelet-shim: {line}\n")
    except (AttributeError, OSError, ValueError):
        pass  # no standard error, or a closed one: then nobody can be told


def near_misses(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables that are ``TRACELET_BACKEND`` but for a slip, where that one is not there."""
    if "TRACELET_BACKEND" in environment:
        return []
    suspects = [name for name in environment if name[:2] in ("TR", "tr") and "BACK" in name.upper()]  # as in the .pth file
    if not suspects:
        return []
    from tracelet_shim.common.suggestions import slip_of

    return [name for name in suspects if slip_of(name, ["TRACELET_BACKEND"])]


def name_near_misses() -> None:
    """Say which variables are a near miss, once in a process and all that it starts."""
    if _NAMED in os.environ:
        return
    for name in near_misses():
        from tracelet_shim.common.suggestions import unknown_variable

        os.environ[_NAMED] = "1"
        _write(unknown_variable(name, ["TRACELET_BACKEND"]))


def is_set(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """True if the environment variable switches something on."""
    return environment.get(variable, "").strip().lower() in ("1", "true", "yes", "on", "y", "t")
