"""Stand-in for a self-hosted W&B server, as far as wandb 0.31's SDK (wandb-core) needs one.

    python -m tests.backends.wandb.server --port 8101 --record DIR
    WANDB_BASE_URL=http://127.0.0.1:8101 WANDB_API_KEY=<40 characters> python train.py

Spoken: GraphQL at /graphql (answered by the name of the operation), file streams at
/files/<entity>/<project>/<run>/file_stream (history, events, summary, output, exit code), uploads by PUT at /storage/...,
artifacts (created, manifest, files, commit). Keys that begin with `bad` are refused with 401, with `forbidden` 403. As the real
one, which takes some seconds to count them, it may say which rows it has later than it has got them: with a number in the file
`late` in DIR, it says what it had so many questions ago.

State: `runs`: "<entity>/<project>/<run>" -> what UpsertBucket said, `history` (line number -> row), `summary`, `files`
(names uploaded), `exitcode`, `complete`; `artifacts`: id -> name, type, files, aliases, state, and the ids that clients gave it;
`links`: "<entity>/<project>/<collection>" -> the linked artifacts, in order, and which has an alias. Of registries, that of the
name `model` exists. Files are in DIR/files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tests.backends.wandb.schema import described
from tests.servers.standin import Answer, Query, StandIn, main

ENTITY = "standin"
FEATURES = ("LARGE_FILENAMES", "ARTIFACT_TAGS", "CLIENT_IDS", "FILESTREAM_GZIP", "EXPAND_DEFINED_METRIC_GLOBS")


def refusal(message: str) -> Any:
    """What the service answers to a wrong key (wandb/wandb issue 9620) and to a key without the right (issue 8609)."""
    error = {"message": message, "path": ["upsertBucket"], "extensions": {"code": "PERMISSION_ERROR"}}
    return {"errors": [error], "data": {"upsertBucket": None}}


class Wandb(StandIn):
    def __init__(self, port: int, folder: Path) -> None:
        self._past: dict[str, list[tuple[int, int]]] = {}  # how many rows and samples of a run there were at each question
        super().__init__(port, folder)

    def empty(self) -> dict[str, Any]:
        return {"runs": {}, "artifacts": {}, "links": {}, "alerts": [], "unknown": [], "upserts": []}

    def answer(self, method: str, path: str, query: Query, body: bytes, headers: Message) -> Answer:
        if path.startswith("/storage/") and method == "PUT":
            return self.upload(unquote(path.removeprefix("/storage/")), body)
        if path.startswith("/storage/"):
            return 200, (self.folder / "files" / unquote(path.removeprefix("/storage/"))).read_bytes()
        given = headers.get("Authorization", "")
        key = base64.b64decode(given[6:]).decode().partition(":")[2] if given.startswith("Basic ") else ""
        if key.startswith("bad") or not key:
            return 401, refusal("user is not logged in")
        if key.startswith("forbidden"):
            return 403, refusal("permission denied")
        if path == "/graphql":
            return self.graphql(json.loads(body))
        if match := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            return self.stream("/".join(map(unquote, match.groups())), json.loads(body))
        return 404, {"error": f"no {path}"}

    # -- GraphQL -----------------------------------------------------------------------------------------------------

    def graphql(self, asked: dict[str, Any]) -> Answer:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", asked["query"])
        name = asked.get("operationName") or (found[1] if found else "")
        if not name and re.match(r"\s*(?:query\s*)?\{\s*viewer\b", asked["query"]):  # what `wandb.Api` asks up to 0.24
            name = "Viewer"
        known = getattr(self, f"on_{name}", None)
        if (answer := described(asked["query"], asked.get("variables") or {})) is not None:
            return 200, {"data": answer}
        with self.lock:
            if known is None:
                self.unknown(f"GraphQL operation {name}", asked)
                return 400, {"errors": [{"message": f"Cannot query {name}: stand-in does not know it"}]}
            data = known(asked.get("variables") or {}, asked["query"])
            self.save()
        if isinstance(data, tuple):
            return data
        return 200, {"data": data}

    def on_Viewer(self, _: Any, __: str) -> Any:
        return {
            "viewer": {
                "id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "email": "a@b.c", "admin": False,
                "flags": "{}", "teams": {"edges": [{"node": {"name": ENTITY}}]},
            }
        }  # fmt: skip

    def on_ServerFeaturesQuery(self, _: Any, __: str) -> Any:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}}

    def on_ServerInfo(self, _: Any, __: str) -> Any:
        latest = {"outOfDate": False, "latestVersionString": "0.80.0", "versionOnThisInstanceString": "0.80.0"}
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": latest}}

    def on_OrganizationCoreWeaveOrganizationID(self, _: Any, __: str) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_OrgFeatureFlags(self, _: Any, __: str) -> Any:
        return {"organization": {"featureFlags": []}}

    def on_FetchOrgEntityFromEntity(self, _: Any, __: str) -> Any:
        return {"entity": {"organization": {"name": "org", "orgEntity": {"name": "org"}}}}

    def on_XXHashDigestsEnabled(self, _: Any, __: str) -> Any:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def on_ArtifactType(self, given: Any, _: str) -> Any:
        """What the SDK asks before it logs an artifact: of what type is the one of this name?"""
        name = given["name"].partition(":")[0]
        kinds = [artifact["type"] for artifact in self.state["artifacts"].values() if artifact["name"] == name]
        return {"project": {"artifact": {"artifactType": {"name": kinds[0]}} if kinds else None}}

    def on_FetchArtifactDigestAlgorithm(self, _: Any, __: str) -> Any:
        return {"project": {"artifactType": None}}

    def on_RunStoppedStatus(self, _: Any, __: str) -> Any:
        return {"project": {"run": {"stopped": False}}}

    def _said(self, key: str) -> dict[str, Any]:
        """Return a run with the rows that the server says it has."""
        run, late = self.state["runs"][key], self.folder / "late"
        past = self._past.setdefault(key, [])
        past.append((len(run["history"]), len(run["events"])))
        if not late.exists():
            return run  # type: ignore[no-any-return]
        known = zip(("history", "events"), past[max(0, len(past) - 1 - int(late.read_text()))], strict=True)
        return {**run, **{what: {at: run[what][at] for at in sorted(run[what], key=int)[:lines]} for what, lines in known}}

    def _bucket(self, key: str) -> dict[str, Any]:
        run = self._said(key)
        entity, project, _ = key.split("/")
        return {
            "id": run["storage_id"], "name": run["name"], "displayName": run["displayName"],
            "description": run.get("description"), "config": json.dumps(run["config"]), "sweepName": None,
            "project": {"id": f"p-{project}", "name": project, "entity": {"id": f"e-{entity}", "name": entity}},
            "historyLineCount": len(run["history"]),
        }  # fmt: skip

    def on_UpsertBucket(self, given: dict[str, Any], _: str) -> Any:
        runs = self.state["runs"]
        by_id = {run["storage_id"]: key for key, run in runs.items()}
        key = by_id.get(given.get("id") or "")
        if key is None:
            key = f"{given.get('entity') or ENTITY}/{given.get('project') or 'uncategorized'}/{given['name']}"
        new = key not in runs
        if new:
            runs[key] = {
                "storage_id": f"run{len(runs) + 1}", "name": given["name"], "displayName": given["name"], "config": {},
                "summary": {}, "history": {}, "events": {}, "output": {}, "files": [], "exitcode": None,
                "complete": False, "streams": 0, "overwritten": 0, "tags": [],
            }  # fmt: skip
        run = runs[key]
        for name, value in given.items():
            if name in ("id", "name", "project", "entity", "summaryMetrics") or value is None:
                continue
            run[name] = json.loads(value) if name == "config" else value
        if given.get("summaryMetrics"):
            run["summary"] = json.loads(given["summaryMetrics"])
        run["complete"], run["exitcode"] = False, None
        self.state["upserts"].append({"run": key, "inserted": new})
        return {"upsertBucket": {"bucket": self._bucket(key), "inserted": new}}

    def on_RunResumeStatus(self, given: dict[str, Any], _: str) -> Any:
        entity, project = given.get("entity") or ENTITY, given.get("project") or "uncategorized"
        key = f"{entity}/{project}/{given['name']}"
        model = {"id": f"p-{project}", "name": project, "entity": {"id": f"e-{entity}", "name": entity}}
        if key not in self.state["runs"]:
            return {"model": {**model, "bucket": None}}
        run = self._said(key)
        return {
            "model": {
                **model,
                "bucket": {
                    "id": run["storage_id"], "name": run["name"], "displayName": run["displayName"],
                    "summaryMetrics": json.dumps(run["summary"]), "logLineCount": len(run["output"]),
                    "historyLineCount": len(run["history"]), "eventsLineCount": len(run["events"]),
                    "historyTail": self._tail(run, "history"), "eventsTail": self._tail(run, "events"),
                    "config": json.dumps(run["config"]), "tags": run["tags"], "notes": run.get("notes"),
                    "wandbConfig": json.dumps({"t": run["config"].get("_wandb", {}).get("value", {}).get("t", {})}),
                },
            }
        }  # fmt: skip

    @staticmethod
    def _tail(run: dict[str, Any], what: str) -> str:
        """The last line, as JSON in JSON."""
        return json.dumps([run[what][at] for at in sorted(run[what], key=int)][-1:])

    def on_QueryRunInfo(self, given: dict[str, Any], _: str) -> Any:
        run = self.state["runs"].get(f"{given['entity']}/{given['project']}/{given['run']}")
        return {"project": {"run": run and {"displayName": run["displayName"], "summaryMetrics": json.dumps(run["summary"])}}}

    # -- what `wandb.Api` asks, and we, who ask the same for less

    def on_TraceletRun(self, given: dict[str, Any], query: str) -> Any:
        key = f"{given['entity']}/{given['project']}/{given['run']}"
        if key not in self.state["runs"]:
            return {"project": {"run": None}}
        run = self._said(key)
        asked: dict[str, Any] = {"historyLineCount": len(run["history"])}
        if given["params"]:
            asked["config"] = json.dumps(run["config"])
        if given["files"]:
            asked["files"] = self._files(key, given["names"])
        bucket = {"historyTail": self._tail(run, "history"), "eventsLineCount": len(run["events"])}
        return {"project": {"run": asked}, **({"model": {"bucket": bucket}} if given["tail"] else {})}

    def on_TraceletHistory(self, given: dict[str, Any], _: str) -> Any:
        rows = self._said(f"{given['entity']}/{given['project']}/{given['run']}")["history"]
        steps = range(given["minStep"], given["maxStep"])
        found = [rows[at] for at in sorted(rows, key=int) if json.loads(rows[at])["_step"] in steps]
        return {"project": {"run": {"history": found[: given["pageSize"]]}}}

    def on_Run(self, given: dict[str, Any], _: str) -> Any:
        run = self.state["runs"].get(f"{given['entity']}/{given['project']}/{given['name']}")
        about = run and {
            "id": run["storage_id"], "name": run["name"], "displayName": run["displayName"], "projectId": "1",
            "state": "finished" if run["complete"] else "running", "config": json.dumps(run["config"]), "tags": run["tags"],
            "summaryMetrics": json.dumps(run["summary"]), "historyLineCount": len(run["history"]), "sweepName": None,
            "systemMetrics": "{}", "user": {"name": ENTITY, "username": ENTITY}, "historyKeys": None,
        }  # fmt: skip
        return {"project": {"internalId": "1", "run": about}}

    def on_RunFiles(self, given: dict[str, Any], _: str) -> Any:
        key = f"{given['entity']}/{given['project']}/{given['name']}"
        run = {"fileCount": len(self.state["runs"][key]["files"]), "files": self._files(key, given.get("fileNames") or [])}
        return {"project": {"internalId": "1", "run": run}}

    def _files(self, key: str, names: list[str]) -> Any:
        """What there is of the files of a run, or of those of these names; one that is not there has the MD5 "0" (the SDK's
        `restore` goes by that)."""
        edges = []
        for name in names or self.state["runs"][key]["files"]:
            data = self.place(f"runs/{key}/{name}").read_bytes() if name in self.state["runs"][key]["files"] else None
            md5 = base64.b64encode(hashlib.md5(data).digest()).decode() if data is not None else "0"
            node = {
                "id": name, "name": name, "sizeBytes": len(data or b""), "md5": md5, "mimetype": None, "updatedAt": None,
                "directUrl": "", "url": f"{self.base}/storage/{quote(f'runs/{key}/{name}')}",
            }  # fmt: skip
            edges.append({"node": node, "cursor": name})
        return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}

    def on_TraceletServerID(self, given: dict[str, Any], _: str) -> Any:
        """``a0: clientIDMapping(clientID: $v0) { serverID }`` and so on."""
        by_client = {client: number for number, artifact in self.state["artifacts"].items() for client in artifact["clients"]}
        return {f"a{k[1:]}": {"serverID": by_client[v]} if v in by_client else None for k, v in given.items()}

    def on_TraceletState(self, given: dict[str, Any], _: str) -> Any:
        """``a0: artifact(id: $v0) { state }`` and so on."""
        return {f"a{k[1:]}": {"state": self.state["artifacts"][v]["state"]} for k, v in given.items()}

    def on_RunState(self, given: dict[str, Any], _: str) -> Any:
        run = self.state["runs"].get(f"{given['entity']}/{given['project']}/{given['run']}")
        return {"project": {"run": run and {"state": "finished" if run["complete"] else "running"}}}

    def on_CreateRunFiles(self, given: dict[str, Any], _: str) -> Any:
        key = f"{given['entity']}/{given['project']}/{given['run']}"
        files = [{"name": n, "uploadUrl": f"{self.base}/storage/{quote('runs/' + key + '/' + n)}"} for n in given["files"]]
        return {"createRunFiles": {"runID": self.state["runs"][key]["storage_id"], "uploadHeaders": [], "files": files}}

    def on_MarkRunFilesUploaded(self, _: Any, __: str) -> Any:
        return {"markRunFilesUploaded": {"success": True}}

    def on_CreateCustomChart(self, _: Any, __: str) -> Any:
        return {"createCustomChart": {"chart": {"id": "chart1"}}}

    def on_NotifyScriptableRunAlert(self, given: dict[str, Any], _: str) -> Any:
        self.state["alerts"].append(given)
        return {"notifyScriptableRunAlert": {"success": True}}

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def on_CreateArtifact(self, given: dict[str, Any], _: str) -> Any:
        made = given.get("input", given)  # up to 0.17 each field is a variable
        number = f"artifact{len(self.state['artifacts']) + 1}"
        kind, name = made.get("artifactTypeName"), made.get("artifactCollectionName") or made["artifactCollectionNames"][0]
        aliases = [alias["alias"] for alias in made.get("aliases") or []]
        for known, artifact in self.state["artifacts"].items():
            same = (artifact["name"], artifact["digest"]) == (name, made.get("digest"))
            if same and artifact["state"] == "COMMITTED":  # no other version is made of what is there
                artifact["clients"].append(made.get("clientID"))
                artifact["aliases"] = sorted({*artifact["aliases"], *aliases})
                return {"createArtifact": {"artifact": {"id": known, "state": "COMMITTED", "artifactSequence": None}}}
        self.state["artifacts"][number] = {
            "type": kind, "name": name, "run": made.get("runName"), "state": "PENDING", "files": [], "aliases": sorted(aliases),
            "place": [made.get("entityName"), made.get("projectName")],
            "metadata": made.get("metadata"), "digest": made.get("digest"),
            "client": made.get("clientID"), "clients": [made.get("clientID")],
        }  # fmt: skip
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}}

    def on_CreateArtifactManifest(self, given: dict[str, Any], _: str) -> Any:
        number = given["artifactID"]
        url = f"{self.base}/storage/{quote(f'artifacts/{number}/wandb_manifest.json')}"
        file = {"id": f"m-{number}", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": number, "file": file}}}

    def on_UpdateArtifactManifest(self, given: dict[str, Any], _: str) -> Any:
        number = given["artifactManifestID"]
        url = f"{self.base}/storage/{quote(f'artifacts/{number}/wandb_manifest.json')}"
        file = {"id": f"m-{number}", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": number, "file": file}}}

    def on_CreateArtifactFiles(self, given: dict[str, Any], _: str) -> Any:
        specs = given["input"]["artifactFiles"] if "input" in given else given["artifactFiles"]
        edges = []
        for spec in specs:
            place = f"artifacts/{spec['artifactID']}/{spec['name']}"
            node = {
                "displayName": spec["name"], "storagePath": place,
                "uploadUrl": f"{self.base}/storage/{quote(place)}", "uploadHeaders": [],
                "uploadMultipartUrls": None, "artifact": {"id": spec["artifactID"]},
            }  # fmt: skip
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, given: dict[str, Any], _: str) -> Any:
        self.state["artifacts"][given["artifactID"]]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def on_TraceletOrganization(self, given: Any, _: str) -> Any:
        return {"entity": {"organization": {"name": "org", "orgEntity": {"name": "org-entity"}}, "user": None}}

    on_FetchOrgInfoFromEntity = on_TraceletOrganization  # noqa: N815 - what the SDK calls it

    def on_TraceletLink(self, given: dict[str, Any], _: str) -> Any:
        """As `linkArtifact`: a version is in a collection once, and an alias belongs to one of its versions."""
        made = given["input"]
        entity, project, name = made["entityName"], made["projectName"], made["artifactPortfolioName"]
        artifact = self.state["artifacts"][made["artifactID"]]
        if artifact["state"] != "COMMITTED":
            raise ValueError("what is not committed cannot be linked")
        if project.startswith("wandb-registry-") and (entity, project) != ("org-entity", "wandb-registry-model"):
            return 404, {"errors": [{"message": f"project {entity}/{project} not found"}], "data": {"linkArtifact": None}}
        collection = self.state["links"].setdefault(f"{entity}/{project}/{name}", {"versions": [], "aliases": {}})
        if made["artifactID"] not in collection["versions"]:
            collection["versions"].append(made["artifactID"])
        for alias in made["aliases"]:
            collection["aliases"][alias["alias"]] = made["artifactID"]
        return {"linkArtifact": {"versionIndex": collection["versions"].index(made["artifactID"])}}

    def on_UpdateArtifact(self, given: dict[str, Any], _: str) -> Any:
        return {"updateArtifact": {"artifact": {"id": given["artifactID"]}}}

    def on_UseArtifact(self, given: dict[str, Any], _: str) -> Any:
        return {"useArtifact": {"artifact": {"id": given["input"]["artifactID"]}}}

    # -- artifacts that it gives back --------------------------------------------------------------------------------

    def on_GetDefaultEntity(self, _: Any, __: str) -> Any:
        return {"viewer": {"id": "VXNlcjox", "entity": ENTITY}}

    def _version(self, entity: str, project: str, name: str) -> tuple[str, int] | None:
        """Return an artifact's id, and which version it is, by a name with a version or an alias."""
        name, _, wanted = name.partition(":")
        linked = self.state["links"].get(f"{entity}/{project}/{name}")
        made = self.state["artifacts"]
        own = [number for number in made if (made[number]["place"], made[number]["name"]) == ([entity, project], name)]
        versions = linked["versions"] if linked else own
        if not versions:
            return None
        if found := re.fullmatch(r"v(\d+)", wanted):
            at = int(found[1])
        elif wanted in ("", "latest"):
            at = len(versions) - 1
        elif linked:
            at = versions.index(linked["aliases"][wanted]) if wanted in linked["aliases"] else -1
        else:
            at = max((at for at, number in enumerate(own) if wanted in made[number]["aliases"]), default=-1)
        return (versions[at], at) if 0 <= at < len(versions) else None

    def on_ArtifactMembershipByName(self, given: dict[str, Any], _: str) -> Any:
        found = self._version(given["entity"], given["project"], given["name"])
        if found is None:
            return {"project": {"artifactCollectionMembership": None}}
        (number, at), name = found, given["name"].partition(":")[0]
        made = self.state["artifacts"][number]

        def collection(entity: str, project: str, name: str) -> Any:
            place = {"id": f"p-{project}", "internalId": "1", "name": project, "entity": {"name": entity}}
            kind = "ArtifactPortfolio" if f"{entity}/{project}/{name}" in self.state["links"] else "ArtifactSequence"
            return {"__typename": kind, "name": name, "project": place}

        artifact = {
            "__typename": "Artifact", "id": number, "artifactSequence": collection(*made["place"], made["name"]),
            "versionIndex": at, "artifactType": {"name": made["type"]}, "description": None, "metadata": made["metadata"],
            "ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [], "historyStep": None, "state": made["state"],
            "size": 1, "digest": made["digest"], "digestAlgorithm": None, "commitHash": None, "fileCount": len(made["files"]) - 1,
            "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None,
        }  # fmt: skip
        membership = {
            "__typename": "ArtifactCollectionMembership", "id": f"m-{number}", "versionIndex": at, "createdAt": "2026-01-01",
            "aliases": [], "artifactCollection": collection(given["entity"], given["project"], name), "artifact": artifact,
        }  # fmt: skip
        return {"project": {"artifactCollectionMembership": membership}}

    def on_TraceletArtifact(self, given: dict[str, Any], _: str) -> Any:
        found = self._version(given["entity"], given["project"], given["name"])
        return {"project": {"artifactCollectionMembership": found and {"artifact": {"id": found[0]}}}}

    def on_TraceletUse(self, given: dict[str, Any], _: str) -> Any:
        made = given["input"]
        used = self.state["runs"][f"{made['entityName']}/{made['projectName']}/{made['runName']}"].setdefault("used", [])
        used += [made["artifactID"]] * (made["artifactID"] not in used)
        return {"useArtifact": {"artifact": {"id": made["artifactID"]}}}

    def on_GetArtifactMembershipFileUrls(self, given: dict[str, Any], _: str) -> Any:
        number, _ = self._version(given["entity"], given["project"], f"{given['collection']}:{given['alias']}") or ("", 0)
        names = [name for name in self.state["artifacts"][number]["files"] if name != "wandb_manifest.json"]
        nodes = [
            {"__typename": "File", "name": name, "directUrl": f"{self.base}/storage/{quote(f'artifacts/{number}/{name}')}"}
            for name in names
        ]  # fmt: skip
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        files = {"pageInfo": page, "edges": [{"node": node} for node in nodes]}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}}}

    def on_FetchArtifactManifest(self, given: dict[str, Any], _: str) -> Any:
        url = f"{self.base}/storage/artifacts/{given['id']}/wandb_manifest.json"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def on_ClientIDMapping(self, given: dict[str, Any], _: str) -> Any:
        for number, artifact in self.state["artifacts"].items():
            if given["clientID"] in artifact["clients"]:
                return {"clientIDMapping": {"serverID": number}}
        return {"clientIDMapping": None}

    # -- files -------------------------------------------------------------------------------------------------------

    def upload(self, place: str, data: bytes) -> Answer:
        self.store(place, data)
        with self.lock:
            kind, _, rest = place.partition("/")
            if kind == "runs":
                entity, project, run, name = rest.split("/", 3)
                files = self.state["runs"][f"{entity}/{project}/{run}"]["files"]
            else:
                number, name = rest.split("/", 1)
                files = self.state["artifacts"][number]["files"]
            if name not in files:
                files.append(name)
            self.save()
        return 200, b""

    def stream(self, key: str, asked: dict[str, Any]) -> Answer:
        with self.lock:
            run = self.state["runs"].get(key)
            if run is None:
                return 404, {"error": "run not found"}
            run["streams"] += 1
            for name, part in (asked.get("files") or {}).items():
                what = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}.get(name)
                if name == "wandb-summary.json":
                    run["summary"] = json.loads(part["content"][-1])
                elif what is not None:
                    for at, line in enumerate(part["content"], part["offset"]):
                        if str(at) in run[what] and run[what][str(at)] != line:
                            run["overwritten"] += 1
                        run[what][str(at)] = line
            if asked.get("complete"):
                run["complete"], run["exitcode"] = True, asked.get("exitcode")
            self.save()
        return 200, {"exitcode": None, "limits": {}}


if __name__ == "__main__":
    main(Wandb, __doc__)
