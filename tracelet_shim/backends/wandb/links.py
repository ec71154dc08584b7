"""What W&B's server does with an artifact that it has: links into its registry, and inputs of runs.

The server does neither before the artifact is whole; so it is done when the server is asked what it has. That it is refused is
told, and is no refusal of the event.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tracelet_shim.backends.shared.transient import Patience
from tracelet_shim.backends.wandb import limits
from tracelet_shim.backends.wandb.needs import Artifact, Need
from tracelet_shim.backends.wandb.run import Run
from tracelet_shim.backends.wandb.server import Held, Server

__all__ = ["Link", "OwnInput", "Request", "StoredInput", "Target"]

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
        collection = limits.artifact(name)
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


class Request(Need):
    """Something that the server is asked to do.

    Args:
        run: of which run.
        name: what it is called.
        artifact: that has to be there first, if it is one of this session's.
        tell: is told why it cannot be done.
    """

    kind = "request"

    def __init__(self, run: Run, name: str, artifact: Artifact | None, tell: Callable[[str], None]) -> None:
        super().__init__(run, name)
        self._artifact, self._tell = artifact, tell
        self._done = False
        self._patience = Patience()

    @property
    def client(self) -> str | None:
        """The id that the SDK has given the artifact."""
        return None if self._artifact is None else self._artifact.client

    @property
    def gives_again(self) -> bool:
        return False

    def is_there(self, held: Held) -> bool:
        return self._done

    def go_on(self, held: Held) -> None:
        self.refused = None if self._artifact is None else self._artifact.refused
        if not self._done and (self.client is None or self.client in held.artifacts):
            self._done = self._ask()

    @abstractmethod
    def _do(self, server: Server) -> None:
        """Have it done; nothing happens if it has been done before.

        Raises:
            RequestException, ValueError, KeyError, TypeError, AttributeError: as of `Server.link`.
        """

    def _ask(self) -> bool:
        """Return whether that is over."""
        import requests

        assert self.run.server is not None
        try:
            self._do(self.run.server)
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


class Link(Request):
    """The link of an artifact into a collection.

    Args:
        artifact: which, as it is needed.
        target: where it is to be linked.
        aliases: with it.
        tell: is told why it cannot be made.
    """

    kind = "link"

    def __init__(self, artifact: Artifact, target: Target, aliases: Sequence[str], tell: Callable[[str], None]) -> None:
        super().__init__(artifact.run, f"to {target}", artifact, tell)
        self._target, self._aliases = target, list(aliases)

    def _do(self, server: Server) -> None:
        server.link(server.id_of(self.client), self._target, self._aliases)


class OwnInput(Request):
    """An artifact of the run's own, as its input; arguments as of `Link`."""

    kind = "input"

    def __init__(self, artifact: Artifact, tell: Callable[[str], None]) -> None:
        super().__init__(artifact.run, artifact.name, artifact, tell)

    def _do(self, server: Server) -> None:
        server.use(server.id_of(self.client))


class StoredInput(Request):
    """An artifact that the server gave, as an input of a run.

    Args:
        run: which run.
        path: ``entity/project/name:v3``.
        tell: is told why it cannot be made.
    """

    kind = "input"

    def __init__(self, run: Run, path: str, tell: Callable[[str], None]) -> None:
        super().__init__(run, path, None, tell)
        self._path = path

    def _do(self, server: Server) -> None:
        server.use(server.find(self._path))
