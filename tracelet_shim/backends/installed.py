"""What can be known of a tracker without importing its SDK: part of the contract in `tracelet_shim.backends.base`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim.backends.shared.versions import Versions

__all__ = ["Installed"]


class Installed:
    """The part of `tracelet_shim.backends.base.Backend` that says whether the tracker can be used here."""

    name: ClassVar[str]
    module: ClassVar[str]
    distribution: ClassVar[str]
    versions: ClassVar[Versions] = Versions()
    """Which of the SDK can be used."""

    @classmethod
    def installed(cls) -> str | None:
        """Return the installed version of the SDK, or None. Imports nothing."""
        try:
            if importlib.util.find_spec(cls.module) is None:
                return None
            return metadata.version(cls.distribution)
        except metadata.PackageNotFoundError:
            return "unknown"
        except (ImportError, ValueError):
            return None

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        """Raise `BackendUnavailableError` for what can be known at once: not installed, too old, no credential.

        Called in the training process; must not import the SDK, use the network or take noticeable time.
        """
        version = cls.installed()
        if version is None:
            raise errors.BackendUnavailableError(
                cls.name, f"{cls.distribution} is not installed; remedy: pip install 'tracelet-shim[{cls.name}]'"
            )
        if problem := cls.versions.problem(cls.distribution, version):
            raise errors.BackendUnavailableError(cls.name, "; remedy: ".join(problem))
