"""What of a run W&B's server has. It is asked, with the queries of the SDK's public API (`wandb.Api`), cut to what is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tracelet_shim.backends.wandb.versions import setting

if TYPE_CHECKING:
    from tracelet_shim.backends.wandb.links import Target

__all__ = ["MOST_NAMES", "Held", "Server", "same_value"]

MOST_NAMES = 100
"""Files that are asked for at a time."""
_MOST_ARTIFACTS = 20
_REQUEST_SECONDS = (3.0, 8.0)
_RUN = """
query TraceletRun($entity: String!, $project: String!, $run: String!, $names: [String] = [], $first: Int,
    $params: Boolean!, $files: Boolean!, $tail: Boolean!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      historyLineCount
      config @include(if: $params)
      files(names: $names, first: $first) @include(if: $files) { edges { node { name sizeBytes md5 } } }
    }
  }
  model(name: $project, entityName: $entity) @include(if: $tail) {
    bucket(name: $run, missingOk: true) { historyTail eventsLineCount }
  }
}
"""
"""`apis/public/runs.py`, RUN_FRAGMENT; `apis/public/files.py`, FILE_FRAGMENT; and what the service asks when a run is resumed."""
_HISTORY = """
query TraceletHistory($entity: String!, $project: String!, $run: String!, $minStep: Int64!, $maxStep: Int64!, $pageSize: Int!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize) }
  }
}
"""
"""`apis/public/history.py`, `HistoryScan`."""
_PAGE = 1000
_LINK = "mutation TraceletLink($input: LinkArtifactInput!) { linkArtifact(input: $input) { versionIndex } }"
_USE = "mutation TraceletUse($input: UseArtifactInput!) { useArtifact(input: $input) { artifact { id } } }"
_ARTIFACT = """
query TraceletArtifact($entity: String!, $project: String!, $name: String!) {
  project(name: $project, entityName: $entity) { artifactCollectionMembership(name: $name) { artifact { id } } }
}
"""
_ORGANIZATION = """
query TraceletOrganization($entity: String!) {
  entity(name: $entity) {
    organization { name orgEntity { name } }
    user { organizations { name orgEntity { name } } }
  }
}
"""
"""`sdk/artifacts/_generated/operations.py`, LINK_ARTIFACT_GQL, ARTIFACT_MEMBERSHIP_BY_NAME_GQL, FETCH_ORG_INFO_FROM_ENTITY_GQL;
`_gqlutils.py`, `record_artifact_use`."""


class Held(NamedTuple):
    """What the server has of a run.

    Attributes:
        rows: how many rows.
        step: W&B's step behind that of the last row, if that was asked for: not the same where the user leaves out steps.
        samples: how many lines of system metrics, if that was asked for.
        files: of the files that were asked for, those that are there: (bytes, MD5 in base 64).
        params: the config, if that was asked for.
        artifacts: of the artifacts that were asked for, those that are there: the ids that the client gave them.
    """

    rows: int
    step: int
    samples: int
    files: Mapping[str, tuple[int, str]]
    params: Mapping[str, Any]
    artifacts: frozenset[str]


class Server:
    """Asks what the server has of one run.

    Args:
        run: the SDK's object, of an online run.

    Attributes:
        can_ask: False if there is nothing to log in with.
        problem: why the latest question was not answered; None if it was.
    """

    def __init__(self, run: Any) -> None:
        settings = run._settings
        self._where = {"entity": run.entity, "project": run.project, "run": run.id}
        self._base = str(settings.base_url).rstrip("/")
        self._key = settings.api_key
        token = setting(settings, "identity_token_file")
        self._credentials = Path(settings.credentials_file) if token else None
        self._verify = not setting(settings, "insecure_disable_ssl")
        self._proxies = {scheme: proxy for scheme in ("http", "https") if (proxy := setting(settings, f"{scheme}_proxy"))}
        self._ids: dict[str, str] = {}  # the server's, of artifacts, by that of the client
        self.can_ask = bool(self._key or self._credentials)
        self.problem: str | None = None

    def ask(
        self, files: Sequence[str] = (), artifacts: Sequence[str] = (), *, params: bool = False, tail: bool = False
    ) -> Held | None:
        """Return what is there; None if that is not said (`problem`).

        Args:
            files: names that are asked for, at most `MOST_NAMES`.
            artifacts: ids that are asked for.
            params: ask for the config, too.
            tail: ask for the step of the last row and for the number of samples, too.
        """
        import requests

        names = list(files[:MOST_NAMES])
        try:
            found = self._query(
                "TraceletRun", _RUN,
                {**self._where, "names": names, "first": max(len(names), 1), "params": params, "files": bool(names),
                 "tail": tail},
            )  # fmt: skip
            run = found["project"]["run"]
            edges = (run.get("files") or {"edges": []})["edges"]
            there = {node["name"]: (int(node["sizeBytes"] or 0), str(node["md5"])) for node in (edge["node"] for edge in edges)}
            held = Held(
                int(run["historyLineCount"]),
                _behind_last(found["model"]["bucket"]) if tail else 0,
                int(found["model"]["bucket"]["eventsLineCount"] or 0) if tail else 0,
                {name: about for name, about in there.items() if about[1] != "0"},  # the SDK's sign of one that is not there
                json.loads(run.get("config") or "{}"),
                self._committed(artifacts[:_MOST_ARTIFACTS]) if artifacts else frozenset(),
            )
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            self.problem = f"it answers {status}" if status else f"it does not answer: {type(error).__name__}"
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self.problem = f"its answer is not understood: {type(error).__name__}: {str(error)[:200]}"
        else:
            self.problem = None
            return held
        return None

    def there(self) -> Held:
        """Return how many rows there are, and their last step, and how many samples.

        Raises:
            ConnectionError: the server does not say.
        """
        held = self.ask(tail=True)
        if held is None:
            raise ConnectionError(f"W&B's server does not say what it has of the run: {self.problem}")
        return held

    def rows(self, first: int, behind: int) -> Iterator[dict[str, Any]]:
        """Yield the rows from one of W&B's steps up to another.

        Raises:
            ConnectionError: the server does not say.
        """
        import requests

        for start in range(first, behind, _PAGE):
            asked = {**self._where, "minStep": start, "maxStep": min(start + _PAGE, behind), "pageSize": _PAGE}
            try:
                found = self._query("TraceletHistory", _HISTORY, asked)["project"]["run"]["history"]
                page = [json.loads(row) for row in found]
            except (requests.RequestException, ValueError, KeyError, TypeError) as error:
                raise ConnectionError(f"W&B's server does not say which rows it has of the run: {error}") from error
            yield from page

    def _committed(self, clients: Sequence[str]) -> frozenset[str]:
        """Return which artifacts are whole, of those with these ids of ours: first the server's ids are asked for."""
        ids = self._each("clientIDMapping(clientID: ", "serverID", clients)
        known = {client: found["serverID"] for client, found in ids.items() if found and found.get("serverID")}
        self._ids |= known
        states = self._each("artifact(id: ", "state", list(known.values()))
        return frozenset(client for client, number in known.items() if (states.get(number) or {}).get("state") == "COMMITTED")

    def id_of(self, client: str | None) -> str:
        """Return the server's id of an artifact that it has said is whole, by that of the client."""
        return self._ids[client or ""]

    def find(self, path: str) -> str:
        """Return the server's id of an artifact, ``entity/project/name:v3``; errors as of `link`."""
        entity, project, name = path.split("/")
        found = self._query("TraceletArtifact", _ARTIFACT, {"entity": entity, "project": project, "name": name})
        membership = (found["project"] or {}).get("artifactCollectionMembership")
        if not membership:
            raise ValueError(f"there is no artifact {path}")
        return str(membership["artifact"]["id"])

    def use(self, artifact: str) -> None:
        """Note that the run has used an artifact, of this id; errors as of `link`."""
        given = {"entityName": self._where["entity"], "projectName": self._where["project"], "runName": self._where["run"]}
        self._query("TraceletUse", _USE, {"input": {**given, "artifactID": artifact}})

    def link(self, artifact: str, target: Target, aliases: Sequence[str]) -> None:
        """Link an artifact that is whole, with its aliases, into a collection, which is made if need be. One that is there is not
        linked again.

        Args:
            artifact: the server's id.
            target: the collection.
            aliases: what its version there is called.

        Raises:
            RequestException: there was no answer, or one with an error of HTTP.
            ValueError: the server does not do it.
        """
        entity, project = target.entity or self._where["entity"], target.project or self._where["project"]
        if target.is_registry:
            entity = self._organization(target.entity)
        given = {
            "artifactID": artifact, "artifactPortfolioName": target.name, "entityName": entity, "projectName": project,
            "aliases": [{"artifactCollectionName": target.name, "alias": alias} for alias in aliases],
        }  # fmt: skip
        self._query("TraceletLink", _LINK, {"input": given})

    def _organization(self, wanted: str | None) -> str:
        """Return the entity of the organization whose registries are meant (`sdk/artifacts/_gqlutils.py`, `_resolve_org_info`).

        Raises:
            ValueError: there is none, or several and none is named.
        """
        about = self._query("TraceletOrganization", _ORGANIZATION, {"entity": self._where["entity"]})["entity"] or {}
        every = [about.get("organization"), *((about.get("user") or {}).get("organizations") or ())]
        found = {each["orgEntity"]["name"]: each["name"] for each in every if each and each.get("orgEntity")}
        names = [str(entity) for entity, name in found.items() if wanted in (None, entity, name)]
        if len(names) != 1:
            who = f"of {self._where['entity']}" + (f" called {wanted}" if wanted else "")
            raise ValueError(f"there is no organization {who}" if not names else f"which organization {who} is not said")
        return names[0]

    def _each(self, call: str, field: str, ids: Sequence[str]) -> dict[str, Any]:
        """Ask the same of each id, in one request."""
        if not ids:
            return {}
        head = ", ".join(f"$v{at}: ID!" for at in range(len(ids)))
        body = " ".join(f"a{at}: {call}$v{at}) {{ {field} }}" for at in range(len(ids)))
        name = f"Tracelet{field[0].upper()}{field[1:]}"
        found = self._query(name, f"query {name}({head}) {{ {body} }}", {f"v{at}": each for at, each in enumerate(ids)})
        return {each: found[f"a{at}"] for at, each in enumerate(ids)}

    def _query(self, name: str, query: str, variables: Mapping[str, Any]) -> Any:
        import requests

        auth, headers = (("api", self._key), {}) if self._key else (None, {"Authorization": f"Bearer {self._token()}"})
        answer = requests.post(
            f"{self._base}/graphql", json={"query": query, "variables": variables, "operationName": name},
            auth=auth, headers=headers, timeout=_REQUEST_SECONDS, verify=self._verify, proxies=self._proxies or None,
        )  # fmt: skip
        answer.raise_for_status()
        said = answer.json()
        if said.get("data") is None or said.get("errors"):
            raise ValueError(str((said.get("errors") or [{}])[0].get("message", said))[:200])
        return said["data"]

    def _token(self) -> str:
        """Return what W&B's service has got for the identity token: it keeps that in a file, and renews it."""
        if self._credentials is None:
            raise ValueError("no key")
        return str(json.loads(self._credentials.read_text())["credentials"][self._base]["access_token"])


def _behind_last(bucket: Mapping[str, Any]) -> int:
    rows = json.loads(bucket["historyTail"] or "[]")
    last = json.loads(rows[-1]) if rows else {}
    return int(last.get("_step", -1)) + 1


def same_value(stored: Any, told: Any) -> bool:
    """True if a parameter is there as it was told, as far as JSON and the server keep it."""
    if isinstance(told, float) or isinstance(stored, float):
        try:
            return math.isclose(float(stored), float(told), rel_tol=1e-9) or not math.isfinite(float(told))
        except (TypeError, ValueError):
            return False
    return bool(stored == told) if isinstance(told, (str, bool, int)) else stored is not None
