"""Names that are not a tag: ids of our own, artifacts, registered models."""

from __future__ import annotations

import hashlib

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.names import Names

__all__ = ["aliases_of", "artifact_name", "digest", "model_version", "registry_name"]

_NAME = r"[/:\x00-\x1f\x7f\ud800-\udfff]|^\s|\s\Z"  # `artifact_name.py` divides a name at these
_ALIAS = _NAME + r"|^L(?=atest\Z)|^\d(?=\d*\.\d+\.\d+\Z)"
_MAX_NAME = 100
_MAX_ALIAS = 100


def digest(*parts: str) -> str:
    """Return 32 letters and digits that stand for `parts`."""
    return hashlib.blake2s("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def artifact_name(name: str) -> str:
    return Names(_NAME, _MAX_NAME)(name)


def aliases_of(event: ev.Artifact) -> list[str]:
    """Return the aliases of an artifact, as Comet takes them: one like a version would not be found."""
    return [Names(_ALIAS, _MAX_ALIAS)(alias) for alias in event.aliases]


def registry_name(event: ev.Model) -> str:
    """Return the name of a registered model: the server makes small letters, digits and single dashes of any."""
    from comet_ml.utils import proper_registry_model_name

    name = event.register_as or event.tag
    return str(proper_registry_model_name(name)) or f"model-{digest(name)[:8]}"


def model_version(number: int) -> str:
    """Return a version in the form that Comet asks for."""
    return f"{number}.0.0"
