"""Settings: call arguments > ``TRACELET_*`` environment > ``tracelet.toml`` > defaults.

msgspec checks and converts the types. (pydantic-settings would do the same at 370 ms and 26 MB in the training
process, measured; this module is on the way of every start.)
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from tracelet_shim.backends.base import WHAT_RAN, Part
from tracelet_shim.backends.shared.options import switched
from tracelet_shim.common.began import began_at, working_directory
from tracelet_shim.common.suggestions import did_you_mean, slip_of, unknown_variable
from tracelet_shim.common.system import HAS_PACKETS
from tracelet_shim.common.text import as_utf8
from tracelet_shim.common.values import named, plain
from tracelet_shim.display.printable import printable
from tracelet_shim.errors import ConfigurationError
from tracelet_shim.fleet.address import Address, address_of, is_address
from tracelet_shim.provenance.secrets import mask_text

__all__ = ["DEFAULT_BACKEND", "PREFIX", "Problem", "Settings", "from_environment", "from_file", "resolve"]

DEFAULT_BACKEND = "mlflow"
PREFIX = "TRACELET_"
FILE = "tracelet.toml"

_NOT_SETTINGS = {"DISABLED", "CONFIG", "OPTIONS", "STATE_DIR", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "LOG_FORMAT"}
"""Variables that are read elsewhere: the switch, the name of the file, the place of the ledger, what collectors take."""


Autolog = Literal["params", "models"]
AUTOLOG: tuple[Autolog, ...] = get_args(Autolog)
"""What can be logged without a call."""


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What a session is started with.

    Attributes:
        backend: names of the trackers; empty means ``mlflow``.
        project, exp_name, run_id, notes: for all trackers; None leaves it to each tracker.
        group: name that joins several runs, as the trials of a sweep.
        tags: name -> value; a bare label has the value ``""``.
        config: parameters known at the start.
        offline: use no network, on trackers that have an offline mode.
        strict: raise at stop if anything was not delivered, at `start_logging` if a tracker refuses to open its run, and for
            configuration errors under environment activation.
        ranks: ``"main"`` logs from rank 0 only, ``"all"`` from every rank, each in a run of its own, grouped.
        root: directory that writers' log directories are relative to.
        watch: directories whose event files are delivered as they appear and grow, whoever writes them.
        delivery: ``"process"`` hosts the trackers in a process of their own, ``"thread"`` in this one; the address of a Redis,
            ``"redis://host:6379/0"``, has collectors deliver (docs/fleet.md).
        collector: the socket of a ``tracelet-shim collect`` that serves the trackers for many processes of this machine;
            ``"auto"``: the user's own, started when it is needed. None: each session has a process of its own.
        exit_timeout: seconds that stopping may take.
        linger: seconds that the relay process may go on by itself after that; 0: only after a program that was killed.
        memory: megabytes of event data that may be kept in memory; what is beyond is read again from the event files.
        accelerate: write TensorBoard's own event files, byte for byte the same, for less processor time.
        quiet: say nothing on the terminal but warnings.
        ci: in a CI or SLURM job, tag the runs with what is known of it, and tell it what was delivered.
        what_ran: what is attached to each run of the program and its machine: the git commit, the uncommitted changes, the
            command line, the versions of Python and packages, the host, the GPUs; 0 for nothing.
        system_metrics: seconds between samples of processor, memory, disk, network and GPUs (0.1 at least); 0 takes none.
        autolog: what becomes of the program by itself: ``"params"``: its arguments, of argparse, jsonargparse and Hydra, become
            parameters; ``"models"``: what `torch.save` and `safetensors.torch.save_file` write becomes a model.
        autolog_dir: where models are looked for, besides the log directories of writers.
        options: backend name -> its options.
    """

    backend: tuple[str, ...] = ()
    project: str | None = None
    exp_name: str | None = None
    run_id: str | None = None
    group: str | None = None
    tags: dict[str, str] = {}
    notes: str | None = None
    config: dict[str, Any] = {}
    offline: bool = False
    strict: bool = False
    ranks: Literal["main", "all"] = "main"
    root: str | None = None
    watch: tuple[str, ...] = ()
    delivery: str = "process" if HAS_PACKETS else "thread"
    collector: str | None = None
    exit_timeout: float = 60.0
    linger: float = 300.0
    memory: float = 256.0
    accelerate: bool = True
    quiet: bool = False
    ci: bool = True
    what_ran: tuple[Part, ...] = WHAT_RAN
    system_metrics: float | None = None
    autolog: tuple[Autolog, ...] = ()
    autolog_dir: str | None = None
    options: dict[str, dict[str, Any]] = {}

    @property
    def redis(self) -> Address | None:
        """Where collectors get the session from; None if it is delivered from here."""
        return address_of(self.delivery) if is_address(self.delivery) else None

    @property
    def password(self) -> str | None:
        """That of the Redis, where its address has one."""
        return self.redis.password if self.redis is not None else None


class Problem(NamedTuple):
    """A value that cannot be used.

    Attributes:
        error: names the value, where it came from, and the remedy.
        instead: what is done where it may not end everything.
    """

    error: ConfigurationError
    instead: str


def resolve(
    arguments: Mapping[str, Any],
    known_backends: Iterable[str],
    environment: Mapping[str, str] | None = None,
    *,
    problems: list[Problem] | None = None,
) -> Settings:
    """Merge all sources.

    Args:
        arguments: of the call; None means not given.
        known_backends: names whose options may be set by environment variables and in the file.
        environment: `os.environ` if None.
        problems: takes single values that cannot be right; all others count. If None, they are raised.

    Raises:
        ConfigurationError: a value that cannot be right, or a source that cannot be read.
    """
    environment = os.environ if environment is None else environment
    known = sorted(known_backends)
    merged: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    call = {name: value for name, value in arguments.items() if value is not None}
    for origin, values in (
        ("file", from_file(environment, known, problems)),
        ("environment", from_environment(environment, known)),
        ("argument", call),
    ):
        for backend, given in _tables(values.pop("options", {}), origin).items():
            options.setdefault(backend, {}).update(given)
        for name, value in values.items():
            try:
                merged[name] = _convert(name, value, origin)
            except ConfigurationError as error:
                _add(problems, error, _INSTEAD.get(name, _IGNORED))
                if name in _INSTEAD:
                    merged[name] = _nearest(name, value)
    return Settings(**merged, options=options)


_IGNORED = "it is ignored"
_INSTEAD = {"offline": "it counts as 1", "what_ran": "what is known of it counts"}
"""Where ignoring a value could send what the user wanted to keep here."""


def _nearest(name: str, value: Any) -> Any:
    if name == "offline":
        return True
    listed = _listed(value) if isinstance(value, (str, list)) else ()
    return tuple(part for part in WHAT_RAN if part in listed)


def _add(problems: list[Problem] | None, error: ConfigurationError, instead: str) -> None:
    if problems is None:
        raise error
    problems.append(Problem(error, instead))


def _tables(given: Any, origin: str) -> dict[str, dict[str, Any]]:
    """Return options by tracker. What they are is not shown: they may be credentials."""
    where = "argument options" if origin == "argument" else f"{FILE}: options"
    remedy = 'remedy: {"mlflow": {"tracking_uri": "..."}}'
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where} cannot be used: it is no table of trackers, but a {type(given).__name__}; {remedy}")
    for backend, table in given.items():
        if not isinstance(backend, str):
            raise ConfigurationError(f"{where} cannot be used: {backend!r} is no name of a tracker; {remedy}")
        if not isinstance(table, Mapping):
            problem = f"what it has for {backend!r} is no table of options, but a {type(table).__name__}"
            raise ConfigurationError(f"{where} cannot be used: {problem}; {remedy}")
    return {backend.strip().lower(): plain(table, str) for backend, table in given.items()}  # an option may be a path


def _convert(name: str, value: Any, origin: str) -> Any:
    kind, given = _TYPES[name], value
    if name == "delivery" and isinstance(value, str) and is_address(value):
        address_of(value)
        return value
    if name in _READERS:
        try:
            value = _READERS[name](value)
        except Exception as error:  # a configuration is the user's own object
            problem = f" ({type(error).__name__}: {error})" if str(error) else ""
            raise _unusable(name, given, origin, f"it is no {_WANTED[name]}{problem}; remedy: {_remedy(name, given)}") from None
    elif isinstance(value, str):
        value = _flag(value) if kind is bool else as_utf8(value)
    try:
        converted = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            problem = f"it is none of {', '.join(map(repr, choices))}{did_you_mean(str(value), choices)}"
        elif kind is bool:
            problem = f"it is neither {'True nor False' if origin == 'argument' else '1 nor 0'}"
        elif name in _LEAST:
            problem = _number(name)
        elif kind == str | None:
            problem = f"it is no text; remedy: {name}={str(given)!r}"
        else:
            problem = str(error)
        raise _unusable(name, given if kind is bool or origin != "argument" else value, origin, problem) from None
    if name in _LEAST and converted is not None and not _LEAST[name][0] <= converted <= _MOST:
        raise _unusable(name, given, origin, _number(name))
    return converted


def _number(name: str) -> str:
    least, unit = _LEAST[name]
    return f"it is no number of {unit} from {least:g} to {_MOST:,.0f}"


def _unusable(name: str, value: Any, origin: str, problem: str) -> ConfigurationError:
    variable = f"environment variable {PREFIX}{name.upper()}"
    where = {"file": f"{FILE}: {name}", "environment": variable, "argument": f"argument {name}"}[origin]
    return ConfigurationError(f"{where}={_shown(value)} cannot be used: {problem}")


def _shown(value: Any) -> str:
    text = mask_text(repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 100
_MOST = 1e9  # what an operating system can wait for has an end
_LEAST = {
    "exit_timeout": (0.0, "seconds"), "linger": (0.0, "seconds"), "memory": (0.0, "megabytes"),
    "system_metrics": (0.1, "seconds"),
}  # fmt: skip
_WANTED = {
    "backend": "name of a tracker, and no list of names", "config": "table of names and values, and no object with fields",
    "tags": "table of names and texts, and no list of labels", "what_ran": "switch, and no list of parts", "root": "path",
    "collector": "path",
    "autolog": "switch, and no list of parts", "autolog_dir": "path", "watch": "path, and no list of paths",
}  # fmt: skip


def _remedy(name: str, value: Any) -> str:
    if name == "config" and isinstance(value, (str, os.PathLike)):
        return f"read it first, as in config=yaml.safe_load(open({os.fspath(value)!r}))"
    return {
        "backend": 'backend=["mlflow", "wandb"], and what is a tracker\'s own in options={"mlflow": {...}}',
        "config": 'config={"lr": 0.1}', "tags": 'tags={"name": "value"} or tags=["label"]',
        "what_ran": f"what_ran={','.join(WHAT_RAN)!r}, or some of these", "root": "root='runs'",
        "autolog": f"autolog={','.join(AUTOLOG)!r}, or one of these", "autolog_dir": "autolog_dir='checkpoints'",
        "watch": "watch='logs', or watch=['logs', 'more']", "collector": "collector='auto'",
    }[name]  # fmt: skip


_TYPES: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Settings)}
_TYPES["delivery"] = Literal["process", "thread"]  # or an address


def from_environment(environment: Mapping[str, str], known: list[str]) -> dict[str, Any]:
    """Return what environment variables set, each as a text, and under ``options`` what they set for the trackers in `known`."""
    values: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    plain = {f"{PREFIX}{name.upper()}": name for name in _TYPES if name != "options"}
    ignored = {PREFIX + name for name in _NOT_SETTINGS}
    prefixes = {f"{PREFIX}{backend.upper().replace('-', '_')}_": backend for backend in known}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            meant = slip_of(variable, [*plain, *ignored])
            if meant is not None:
                _warn(unknown_variable(variable, [meant]))
            continue
        if variable in ignored:
            if variable == f"{PREFIX}DISABLED" and value.strip() and not isinstance(_flag(value), bool):
                _warn(f"environment variable {variable}={value!r} is neither 1 nor 0; it is ignored")
            continue
        if variable in plain:
            if value != "":
                values[plain[variable]] = value
            continue
        backend = next((p for p in sorted(prefixes, key=len, reverse=True) if variable.startswith(p)), None)
        if backend is not None:
            options.setdefault(prefixes[backend], {})[variable[len(backend) :].lower()] = value
        else:
            rest = variable[len(PREFIX) :].partition("_")[2]
            near = [*plain, *ignored, *(f"{prefix}{rest}" for prefix in prefixes if rest)]
            _warn(unknown_variable(variable, near))
    if options:
        values["options"] = options
    return values


def _warn(text: str) -> None:
    with contextlib.suppress(UserWarning):  # where warnings are errors: a typo must not cost the data
        warnings.warn(printable(text), stacklevel=2)


def from_file(environment: Mapping[str, str], known: list[str], problems: list[Problem] | None = None) -> dict[str, Any]:
    """Return what the file sets, with the tables of the trackers in `known` under ``options``; nothing if there is no file.

    Args:
        environment: may name another file.
        known: names of trackers.
        problems: as of `resolve`.

    Raises:
        ConfigurationError: the file that the environment names is none, or it cannot be read.
    """
    named = environment.get(PREFIX + "CONFIG")
    path = Path(named or FILE)
    if (began := began_at()) != working_directory():
        path = Path(began, path)
    if not path.is_file():
        if named:
            raise ConfigurationError(f"{PREFIX}CONFIG names {named!r}, which is no file")
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    options = _tables(values.pop("options", {}), "file")
    for name in list(values):
        if name in known and isinstance(values[name], dict):
            options.setdefault(name, {}).update(values.pop(name))
        elif name not in _TYPES:
            names = [*_TYPES, *known]
            _add(problems, ConfigurationError(f"{path}: unknown setting {name!r}{did_you_mean(name, names)}"), _IGNORED)
            del values[name]
    values["options"] = options
    return values


def _listed(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = value.split(",")
    elif isinstance(value, (bytes, Mapping)):
        raise TypeError
    items = (item.strip().lower() if isinstance(item, str) else item for item in value)
    return tuple(item for item in items if item != "")


def _tags(value: Any) -> dict[str, str]:
    """Accept ``{"a": "b"}``, ``["x", "a=b"]`` and ``"x,a=b"``."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    elif isinstance(value, bytes):
        raise TypeError
    if not isinstance(value, Mapping):
        pairs = (str(item).partition("=") for item in value)
        value = {name.strip(): item.strip() for name, _, item in pairs}
    return {as_utf8(str(name)): as_utf8(str(item)) for name, item in value.items()}


def _parts(every: tuple[Any, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a reader of a list of parts, in which a switch means all of them, or none."""

    def read(value: Any) -> tuple[Any, ...]:
        flag = _flag(value) if isinstance(value, str) else value
        return (every if flag else ()) if isinstance(flag, (bool, int)) else _listed(value)

    return read


def _path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _paths(value: Any) -> tuple[Any, ...]:
    """Accept a path, several, and ``"one,other"``."""
    if isinstance(value, str):
        return tuple(part for part in map(str.strip, value.split(",")) if part)
    if isinstance(value, (bytes, Mapping)):
        raise TypeError
    return (os.fspath(value),) if isinstance(value, os.PathLike) else tuple(map(os.fspath, value))


def _interval(value: Any) -> Any:
    flag = _flag(value) if isinstance(value, str) else value
    return value if flag else None


_READERS: dict[str, Callable[[Any], Any]] = {
    "backend": _listed, "what_ran": _parts(WHAT_RAN), "tags": _tags, "config": lambda value: plain(named(value)),
    "root": _path, "collector": _path, "system_metrics": _interval, "autolog": _parts(AUTOLOG), "autolog_dir": _path,
    "watch": _paths,
}  # fmt: skip


def _flag(value: str) -> Any:
    """Return what a switch says; any other text as it is: it is named later."""
    found = switched(value)
    return value if found is None else found
