"""Settings: call arguments > ``TRACELET_*`` environment > ``tracelet.toml`` > defaults.

msgspec checks and converts the types. (pydantic-settings would do the same at 370 ms and 26 MB in the training
process, measured; this module is on the way of every start.)
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from tracelet_shim._program import as_utf8
from tracelet_shim.backends.base import WHAT_RAN, Part
from tracelet_shim.errors import ConfigurationError, did_you_mean

__all__ = ["PREFIX", "Settings", "resolve"]

PREFIX = "TRACELET_"
FILE = "tracelet.toml"

_NOT_SETTINGS = {"DISABLED", "CONFIG", "OPTIONS", "STATE_DIR"}
"""Variables that are read elsewhere: the switch, the name of the file, the place of the ledger."""


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What a session is started with.

    Attributes:
        backend: names of the trackers; empty means ``mlflow``.
        project, exp_name, run_id, notes: for all trackers; None leaves it to each tracker.
        tags: name -> value; a bare label has the value ``""``.
        config: parameters known at the start.
        offline: use no network, on trackers that have an offline mode.
        strict: raise at stop if anything was not delivered, and for configuration errors under environment activation.
        ranks: ``"main"`` logs from rank 0 only, ``"all"`` from every rank, each in a run of its own, grouped.
        root: directory that writers' log directories are relative to.
        delivery: ``"process"`` hosts the trackers in a process of their own, ``"thread"`` in this one.
        exit_timeout: seconds that stopping may take.
        memory: megabytes of event data that may be kept in memory; what is beyond is read again from the event files.
        accelerate: write TensorBoard's own event files, byte for byte the same, for less processor time.
        quiet: say nothing on the terminal but warnings.
        ci: in a CI or SLURM job, tag the runs with what is known of it, and tell it what was delivered.
        what_ran: what is attached to each run of the program and its machine: the git commit, the uncommitted changes, the
            command line, the versions of Python and packages, the host, the GPUs; 0 for nothing.
        system_metrics: seconds between samples of processor, memory, disk, network and GPUs (0.1 at least); 0 takes none.
        options: backend name -> its options.
    """

    backend: tuple[str, ...] = ()
    project: str | None = None
    exp_name: str | None = None
    run_id: str | None = None
    tags: dict[str, str] = {}
    notes: str | None = None
    config: dict[str, Any] = {}
    offline: bool = False
    strict: bool = False
    ranks: Literal["main", "all"] = "main"
    root: str | None = None
    delivery: Literal["process", "thread"] = "process"
    exit_timeout: float = 60.0
    memory: float = 256.0
    accelerate: bool = True
    quiet: bool = False
    ci: bool = True
    what_ran: tuple[Part, ...] = WHAT_RAN
    system_metrics: Annotated[float, msgspec.Meta(ge=0.1)] | None = None
    options: dict[str, dict[str, Any]] = {}


def resolve(
    arguments: Mapping[str, Any], known_backends: Iterable[str], environment: Mapping[str, str] | None = None
) -> Settings:
    """Merge all sources.

    Args:
        arguments: of the call; None means not given.
        known_backends: names whose options may be set by environment variables and in the file.
        environment: `os.environ` if None.

    Raises:
        ConfigurationError: a value that cannot be right; it names the value, where it came from, and the remedy.
    """
    environment = os.environ if environment is None else environment
    known = sorted(known_backends)
    merged: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    call = {name: value for name, value in arguments.items() if value is not None}
    for origin, values in (
        ("file", _from_file(environment, known)),
        ("environment", _from_environment(environment, known)),
        ("argument", call),
    ):
        for backend, given in values.pop("options", {}).items():
            options.setdefault(backend.lower(), {}).update(_plain(dict(given), str))
        for name, value in values.items():
            merged[name] = _convert(name, value, origin)
    return Settings(**merged, options=options)


def _convert(name: str, value: Any, origin: str) -> Any:
    if name == "backend":
        value = _listed(value)
    elif name == "what_ran":
        flag = _flag(value) if isinstance(value, str) else value
        value = (WHAT_RAN if flag else ()) if isinstance(flag, (bool, int)) else _listed(value)
    elif name == "system_metrics":
        flag = _flag(value) if isinstance(value, str) else value
        value = value if flag else None
    elif name == "tags":
        value = _tags(value)
    elif name == "root":
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
    elif name == "config":
        value = _plain(value if isinstance(value, Mapping) else vars(value))  # an argparse.Namespace will do
    elif isinstance(value, str):
        value = _flag(value) if _TYPES[name] is bool else as_utf8(value)
    try:
        return msgspec.convert(value, _TYPES[name], strict=False)
    except msgspec.ValidationError as error:
        where = {"file": FILE, "environment": f"environment variable {PREFIX}{name.upper()}", "argument": "argument"}[origin]
        problem = str(error)
        if get_origin(_TYPES[name]) is Literal:
            choices = get_args(_TYPES[name])
            problem = f"it is none of {', '.join(map(repr, choices))}{did_you_mean(str(value), choices)}"
        raise ConfigurationError(f"{where} {name}={value!r} cannot be used: {problem}") from None


_TYPES: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Settings)}


def _from_environment(environment: Mapping[str, str], known: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    plain = {f"{PREFIX}{name.upper()}": name for name in _TYPES if name != "options"}
    ignored = {PREFIX + name for name in _NOT_SETTINGS}
    prefixes = {f"{PREFIX}{backend.upper().replace('-', '_')}_": backend for backend in known}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            _look_at_stranger(variable, plain)
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
            _unknown(variable, near)
    if options:
        values["options"] = options
    return values


def _look_at_stranger(variable: str, plain: Iterable[str]) -> None:
    """Say so if the variable is one of ours but for a slip in its first word."""
    first, _, rest = variable.partition("_")
    if PREFIX + rest in plain and difflib.SequenceMatcher(None, f"{first}_", PREFIX).ratio() > 0.8:
        _unknown(variable, [PREFIX + rest])


def _unknown(variable: str, near: Iterable[str]) -> None:
    hint = did_you_mean(variable, near).replace("'", "")
    _warn(f"environment variable {variable} is not known{hint}; it is ignored")


def _warn(text: str) -> None:
    with contextlib.suppress(UserWarning):  # where warnings are errors: a typo must not cost the data
        warnings.warn(text, stacklevel=2)


def _from_file(environment: Mapping[str, str], known: list[str]) -> dict[str, Any]:
    named = environment.get(PREFIX + "CONFIG")
    path = Path(named or FILE)
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
    options = dict(values.pop("options", {}))
    for name in list(values):
        if name in known and isinstance(values[name], dict):
            options.setdefault(name, {}).update(values.pop(name))
        elif name not in _TYPES:
            names = [*_TYPES, *known]
            raise ConfigurationError(f"{path}: unknown setting {name!r}{did_you_mean(name, names)}")
    values["options"] = options
    return values


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        value = value.split(",")
    return tuple(item.strip().lower() if isinstance(item, str) else item for item in value if item != "")


def _tags(value: Any) -> dict[str, str]:
    """Accept ``{"a": "b"}``, ``["x", "a=b"]`` and ``"x,a=b"``."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, Mapping):
        pairs = (str(item).partition("=") for item in value)
        value = {name.strip(): item.strip() for name, _, item in pairs}
    return {as_utf8(str(name)): as_utf8(str(item)) for name, item in value.items()}


def _flag(value: str) -> Any:
    return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}.get(
        value.strip().lower(), value
    )


def _plain(value: Any, text: Callable[[str], str] = as_utf8) -> Any:
    """Return a value as JSON and msgpack can hold it: numpy and torch scalars as numbers, anything unknown as text. What goes
    to a tracker is UTF-8; an option may be a path, which stays what it is."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, os.PathLike):
        return text(os.fsdecode(value))
    if isinstance(value, Mapping):
        return {as_utf8(str(k)): _plain(v, text) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v, text) for v in value]
    if getattr(value, "size", None) == 1 or getattr(value, "ndim", None) == 0:
        return _plain(value.item(), text)
    return text(str(value))
