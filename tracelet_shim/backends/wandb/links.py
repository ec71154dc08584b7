"""Links into W&B's registry, which the server makes when the artifact is whole. So one is made when that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.transient import Patience
from tracelet_shim.backends.wandb.limits import ARTIFACT
from tracelet_shim.backends.wandb.needs import Artifact, Need
from tracelet_shim.backends.wandb.server import Held

__all__ = ["Link", "Target"]

_REGISTRY = "wandb-registry-"
_DEFAULT_REGISTRY = "model"


class Target(NamedTuple):
    """A collection.

    Attributes:
        name: its name.
        project: of a registry, or another one with a portfolio; None: the run's.
        entity: whose project that is: of a registry, the organization; None: the run's.
    """

    name: str
    project: str | None
    entity: str | None

    @classmethod
    def of(cls, register_as: str, registry: str | None) -> Target:
        """Return where `register_as` goes: ``collection``, in the registry of the option; ``wandb-registry-name/collection``; or,
        as in W&B's own paths, ``entity/project/collection``."""
        *place, name = register_as.split("/")
        collection = Names(ARTIFACT, 128)(name)
        if not place:
            given = registry or _DEFAULT_REGISTRY
            place = [given if given.startswith(_REGISTRY) else f"{_REGISTRY}{given}"]
        entity = place[-2] if len(place) > 1 else None
        if entity is None and place[-1].startswith(_REGISTRY):
            entity = os.environ.get("WANDB_ORGANIZATION") or None
        return cls(collection, place[-1], entity)

    @property
    def is_registry(self) -> bool:
        return (self.project or "").startswith(_REGISTRY)

    def __str__(self) -> str:
        return "/".join(part for part in (self.entity, self.project, self.name) if part)


class Link(Need):
    """The link of an artifact. That it was refused is told, and is no refusal of the event: the artifact is there.

    Args:
        artifact: which, as it is needed.
        target: where it is to be linked.
        aliases: with it.
        tell: is told why it cannot be made.
    """

    kind = "link"

    def __init__(self, artifact: Artifact, target: Target, aliases: Sequence[str], tell: Callable[[str], None]) -> None:
        super().__init__(artifact.run, f"to {target}")
        self.client = artifact.client
        self._artifact = artifact
        self._target, self._aliases, self._tell = target, list(aliases), tell
        self._done = False
        self._patience = Patience()

    @property
    def gives_again(self) -> bool:
        return False

    def is_there(self, held: Held) -> bool:
        return self._done

    def go_on(self, held: Held) -> None:
        self.refused = self._artifact.refused
        if self.client in held.artifacts and not self._done:
            self._done = self._make()

    def _make(self) -> bool:
        """Return whether that is over."""
        import requests

        assert self.run.server is not None
        try:
            self.run.server.link(self.client, self._target, self._aliases)
        except requests.RequestException as error:
            answer = error.response
            if answer is None:
                return False
            own = "errors" in answer.text and answer.headers.get("Content-Type", "").startswith("application/json")
            if self._patience.passes(answer.status_code, own=own):
                return False
            self._tell(f"W&B's server answers {answer.status_code}: {answer.text[:200]}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._tell(str(error) if type(error) is ValueError else f"the answer of W&B's server is not understood: {error!r}")
        return True
