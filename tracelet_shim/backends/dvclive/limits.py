"""Names that DVCLive, DVC and Git take: a tag is a path here."""

from __future__ import annotations

import hashlib
import re

from tracelet_shim.backends.shared.names import FILE_NAME

__all__ = ["COMPONENT", "EXPERIMENT", "MAX_NAME", "PATH", "artifact_name"]

MAX_NAME = 180

_DATA = r"\.(?=(?:tsv|csv|json|ya?ml|jpe?g|png|gif|svg)(?:/|\Z))"
"""A folder of such a name would be read as a file (``report.py``, ``utils.py``), or stand where a file must."""
_HIDDEN = r"(?:^|(?<=/))\."
"""DVC and Git do not look into ``.git``, ``.dvc`` and the like."""
_COLUMN = r"(?:^|(?<=/))(?:s(?=tep\Z)|t(?=imestamp\Z))"
"""The last part of a name is the value's column in the table."""

PATH = re.compile(f"{FILE_NAME.pattern}|{_DATA}|{_HIDDEN}|{_COLUMN}")
"""What keeps a path inside its folder, folders apart from files, and the columns ``step`` and ``timestamp`` to themselves."""
COMPONENT = re.compile(f"{PATH.pattern}|/")
EXPERIMENT = re.compile(r"[^A-Za-z0-9._\-]|^[.\-]|\.(?=\.|\Z|lock\Z)")
"""What may not stand in a Git reference, which a DVC experiment is."""


def artifact_name(name: str) -> str:
    """Return the name of an artifact as DVC takes it (``gto/constants.py``): letters and digits, with dashes, underscores and
    slashes between them. It cannot be undone; what it stands for is the artifact's description."""
    key = re.sub(r"[^A-Za-z0-9_/-]+", "-", name)[:MAX_NAME].strip("-_/")
    if key == name:
        return key
    digest = hashlib.blake2s(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{key}-{digest}" if key else digest
