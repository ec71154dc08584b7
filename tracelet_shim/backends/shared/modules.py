"""What to install for a module that is missing: the module's name is often not that of what pip installs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata

__all__ = ["remedy"]

_DISTRIBUTIONS = {
    "attr": "attrs",
    "azure.identity": "azure-identity",
    "azure.storage": "azure-storage-blob",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "distutils": "setuptools",
    "dotenv": "python-dotenv",
    "git": "GitPython",
    "google.auth": "google-auth",
    "google.cloud": "google-cloud-storage",
    "google.protobuf": "protobuf",
    "jwt": "PyJWT",
    "MySQLdb": "mysqlclient",
    "PIL": "Pillow",
    "pkg_resources": "'setuptools<81'",  # without it since 81
    "psycopg2": "psycopg2-binary",
    "pynvml": "nvidia-ml-py",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Of what trackers' SDKs import, each for one way of using them; where the distribution is called otherwise."""


def remedy(error: ImportError) -> str:
    """Return what can be done about a module, or a name in one, that is not there; empty if that is not known."""
    if not error.name:
        return ""
    parts = error.name.split(".")
    if isinstance(error, ModuleNotFoundError) and not _is_there(parts[0]):
        return f"pip install {_distribution(parts) or parts[0]}"
    # There is something of that name: the module is of a part that is installed by itself, or of another version.
    named = _distribution(parts)
    if isinstance(error, ModuleNotFoundError) and named is not None:
        return f"pip install {named}"
    owners = metadata.packages_distributions().get(parts[0], [])
    told = " and ".join(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners)))
    return f"install another version than {told}" if told else ""


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _distribution(parts: Sequence[str]) -> str | None:
    found = (_DISTRIBUTIONS.get(".".join(parts[:count])) for count in range(len(parts), 0, -1))
    return next((name for name in found if name is not None), None)
