"""Which versions of a tracker's SDK can be used: for `Backend.check`, ``tracelet-shim doctor`` and the documentation.

From the metadata of what is installed; nothing is imported. What stands here is what ``make matrix`` has run, and a test holds it
against its results (matrix/results.json).
"""

from __future__ import annotations

import functools
from importlib import metadata
from typing import NamedTuple

__all__ = ["Need", "Versions"]


class Need(NamedTuple):
    """What some versions of an SDK need beside them that pip does not see to: they were released when nothing else was there.

    Attributes:
        versions: of the SDK, as a version specifier (PEP 440): ``<2.14``.
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


@functools.cache
def _is(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:  # "unknown", or a build of somebody's own: let it be tried
        return False


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
