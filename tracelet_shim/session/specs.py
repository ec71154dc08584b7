"""Which trackers a session opens: what was given as `backend`, and whether each can be used here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend
from tracelet_shim.bus.messages import BackendSpec
from tracelet_shim.display.terminal import say
from tracelet_shim.fleet.address import require_client
from tracelet_shim.provenance.secrets import is_secret
from tracelet_shim.session.settings import DEFAULT_BACKEND, Settings

__all__ = ["names_and_objects", "specs_of"]


def names_and_objects(given: Any) -> tuple[list[str] | None, dict[str, Backend]]:
    """Take apart what was given as the backend: names, and objects by their names."""
    if given is None:
        return None, {}
    if isinstance(given, str):
        given = given.split(",")
    elif isinstance(given, AbstractSet):
        given = sorted(given, key=str)  # the same set has another order in another process
    elif isinstance(given, (Backend, bytes, Mapping, type)) or not isinstance(given, Iterable):
        given = [given]
    items = list(given)
    for item in items:
        if not isinstance(item, (str, Backend)):
            problem = "it is neither the name of a tracker nor a Backend object"
            remedy = f"{item.__name__}()" if isinstance(item, type) else '"mlflow"'
            if isinstance(item, Mapping):
                remedy = 'backend="mlflow", and its options in options={"mlflow": {...}}'
            raise errors.ConfigurationError(f"argument backend={item!r} cannot be used: {problem}; remedy: {remedy}")
    objects = {item.name: item for item in items if isinstance(item, Backend)}
    return [item.name if isinstance(item, Backend) else item for item in items], objects


def specs_of(settings: Settings, objects: Mapping[str, Backend], *, lenient: bool = False) -> list[BackendSpec]:
    """Return what to open. A tracker that cannot be used here is an error or, if `lenient`, one line and left out."""
    names = list(dict.fromkeys(settings.backend)) or [DEFAULT_BACKEND]
    rest = "the others go on" if len(names) > 1 else "training goes on"
    for name in settings.options:
        if name not in registry.names():
            raise errors.UnknownBackendError(name, registry.names())
        try:
            registry.find(name)(settings.options[name])  # raises for unknown options, of trackers that are not used as well
        except errors.ConfigurationError as error:
            if not lenient:
                raise
            # A tracker without an option that it was to have could log to another place.
            say(f"{error} ({rest} without it)" if name in names else f"{error} (it is ignored)")
            names = [other for other in names if other != name]
    if settings.redis is not None:
        require_client()
    specs: list[BackendSpec] = []
    for name in names:
        if name in objects:
            specs.append(BackendSpec(name, "", {}))
            continue
        try:
            backend = registry.find(name)
            options = dict(settings.options.get(name, {}))
            if settings.redis is None:
                backend.check(offline=settings.offline, options=options)
            elif secret := next(filter(is_secret, options), None):
                raise errors.ConfigurationError(
                    f"option {secret!r} of {name} is not handed over to collectors, since it looks like a secret; remedy: set it "
                    "where they run"
                )
        except errors.TraceletError as error:
            if not lenient:
                raise
            say(f"{error} ({rest} without it)")
            continue
        specs.append(BackendSpec(name, f"{backend.__module__}:{backend.__qualname__}", options))
    return specs
