"""Which version of W&B's SDK is installed, for what its users have to write in another way."""

from __future__ import annotations

from importlib import metadata

from packaging.version import Version

__all__ = ["since"]


def since(version: str) -> bool:
    """True if this version is installed, or a later one."""
    try:
        return Version(metadata.version("wandb")) >= Version(version)
    except metadata.PackageNotFoundError:
        return True
