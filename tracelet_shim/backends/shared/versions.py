"""Which versions of a tracker's SDK can be used: for `Backend.check`, ``tracelet-shim doctor`` and the documentation.

From the metadata of what is installed; nothing is imported. What stands here is what ``make matrix`` has run, and a test holds it
against its results (matrix/results).
"""

from __future__ import annotations

import operator
import re
from importlib import metadata
from typing import NamedTuple

__all__ = ["Need", "Versions"]


class Need(NamedTuple):
    """What some versions of an SDK need beside them that pip does not see to: they were released when nothing else was there.

    Attributes:
        versions: of the SDK, as a version specifier with numbers (PEP 440): ``<2.14``, ``>=3,<3.9``.
        distribution: what they need.
        specifier: the versions of that which they run with: ``<81``.
        why: what fails otherwise, in a few words.
    """

    versions: str
    distribution: str
    specifier: str
    why: str


class Versions(NamedTuple):
    """The range of versions that the conformance suite was run with.

    Attributes:
        oldest: what is older is refused at once; empty: nothing is.
        newest: what is newer is used as that is, and `doctor` says that nobody has tried.
        needs: see `Need`.
    """

    oldest: str = ""
    newest: str = ""
    needs: tuple[Need, ...] = ()

    def problem(self, distribution: str, version: str) -> tuple[str, str] | None:
        """Return why this version cannot be used, and what to do; None if it can, or if its name tells nothing."""
        if self.oldest and _is(version, f"<{self.oldest}"):
            return (
                f"{distribution} {version} is installed, and {self.oldest} is the oldest that can be used",
                f"pip install --upgrade '{distribution}>={self.oldest}'",
            )
        for need in self.needs:
            if _is(version, need.versions):
                found = _installed(need.distribution)
                if found is None or not _is(found, need.specifier):
                    has = "is not installed" if found is None else f"{found} is installed"
                    return (
                        f"{distribution} {version} needs {need.distribution}{need.specifier}, and {has} ({need.why})",
                        f"pip install '{need.distribution}{need.specifier}', or a newer {distribution}",
                    )
        return None

    def untested(self, version: str) -> bool:
        """True for a version that is newer than any that was tried."""
        return bool(self.newest) and _is(version, f">{self.newest}")


_SPECIFIER = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*([0-9.]+)\s*")
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}


def _is(version: str, specifier: str) -> bool:
    """Return whether a version meets all of a specifier, by its numbers: ``3.1rc2`` counts as 3.1. A test holds it against
    `packaging`, which takes longer to import in the training process than all else that stands here. What has no numbers
    ("unknown") meets nothing: let it be tried."""
    numbers = _numbers(version)
    parts = [_SPECIFIER.fullmatch(part) for part in specifier.split(",")]
    return numbers is not None and all(part and _COMPARE[part[1]](numbers, _numbers(part[2]) or ()) for part in parts)


def _numbers(version: str) -> tuple[int, ...] | None:
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if found is None:
        return None
    numbers = [int(number) for number in found[1].split(".")]
    while len(numbers) > 1 and not numbers[-1]:  # 3.0 is 3
        numbers.pop()
    return tuple(numbers)


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
