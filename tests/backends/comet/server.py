"""Stand-in for a Comet server, as far as the SDK needs one, comet_ml 3.40 to 3.58 (REST only: no version
needs the websocket that those before 3.42 have).

    python -m tests.backends.comet.server --port 8101 --record DIR
    COMET_URL_OVERRIDE=http://127.0.0.1:8101/clientlib/ COMET_API_KEY=<key> python train.py

Spoken, below /clientlib: logger/add/run and logger/get/run (hand-shake), status-report/update, batches of metrics and
parameters, tags, asset uploads (multipart), asset items, notifications, and every rest/v2/write/... call; below /api/rest/v2
the same, account-details, artifacts (upsert, state, get, version, version/files, the content of a file) and the registry of
models (list, details, item/create). Keys that begin with `bad` are refused as Comet does (400, sdk_error_code 90212), those
that begin with `forbidden` with 403. While there is a file `no-plan` in DIR, so are new artifacts, registered models and
notifications.

State: `experiments`: key -> project, workspace, `metrics` (a list of [name, step, value, timestamp] in the order of
arrival: nothing is recognised), `params`, `others`, `tags`, `assets` (name, type, step, file), `writes` (endpoint ->
number), `alive` (the last status), `crashed`; `artifacts`: "workspace/name" -> id, type, `versions`: a new one each time that
one is asked for, with number, aliases (of the latest version that was given one), state, metadata, and the `assets` in it;
`registry`: "workspace/name" -> versions, of which none may come twice; `notifications`.
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import uuid
from email.message import Message
from typing import Any
from urllib.parse import unquote

from tests.servers.standin import Answer, Query, StandIn, main

WORKSPACE = "standin"


class Comet(StandIn):
    def empty(self) -> dict[str, Any]:
        return {"experiments": {}, "artifacts": {}, "registry": {}, "notifications": [], "unknown": [], "notify": []}

    def answer(self, method: str, path: str, query: Query, body: bytes, headers: Message) -> Answer:
        kind = headers.get("Content-Type", "")
        asked: Any = {}
        if kind.startswith("multipart/"):
            asked = self.multipart(kind, body)
        elif body:
            asked = json.loads(body)
        given = {name: values[0] for name, values in query.items()}
        key = headers.get("Comet-Sdk-Api") or headers.get("Authorization") or given.get("apiKey") or ""
        if isinstance(asked, dict):
            key = asked.get("apiKey") or asked.get("api_key") or key
        path = re.sub(r"^/(clientlib|api)(/rest/v2)?", "", path)
        if path == "/isAlive/ver":
            return 200, {"msg": "OK", "code": 200, "version": "9.9.9"}
        if key.startswith("bad"):
            return 400, {"msg": "API key is not registered", "code": 400, "sdk_error_code": 90212}
        if key.startswith("forbidden"):
            return 403, {"msg": "forbidden", "code": 403, "sdk_error_code": 0}
        if (self.folder / "no-plan").exists() and re.fullmatch(r"/write/artifacts/.*|.*/item/create|/notification/.*", path):
            return 403, {"msg": "not in your plan", "code": 403, "sdk_error_code": 0}
        with self.lock:
            for pattern, name in ROUTES:
                if match := re.fullmatch(pattern, path):
                    status, value = getattr(self, name)(asked, given, *match.groups())
                    if method != "GET":
                        self.save()
                    return status, value
        self.unknown(f"{method} {path}", asked)
        return 404, {"msg": "no such endpoint", "code": 404}

    @staticmethod
    def multipart(kind: str, body: bytes) -> dict[str, Any]:
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
        parts: dict[str, Any] = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            parts[name] = data if part.get_filename() or name == "file" else data.decode("utf-8", "replace")
        if "requestParams" in parts:
            asked = parts.pop("requestParams")
            parts |= json.loads(asked)
        return parts

    # -- experiments -------------------------------------------------------------------------------------------------

    def experiment(self, asked: Any, given: Any) -> dict[str, Any] | None:
        key = (asked.get("experimentKey") if isinstance(asked, dict) else None) or given.get("experimentKey")
        return self.state["experiments"].get(key or given.get("experimentId") or "")

    def shake(self, key: str) -> Any:
        made = self.state["experiments"][key]
        where = f"{self.base}/{made['workspace']}/{made['project']}/"
        return {
            "runId": made["run_id"], "project_id": made["project_id"], "focusUrl": where, "lastOffset": 0,
            "ws_url": "ws://none", "featureToggles": [{"name": "sdk_use_http_messages", "enabled": True}],  # before 3.42
            "githubEnabled": False, "name": made["others"].get("Name", "made_up_name"),
            "upload_file_size_limit_in_mb": 100, "asset_upload_file_size_limit_in_mb": 100, "uploadVideoMaxSizeMB": 100,
            "cometWebAssetUrl": f"{self.base}/api/asset/download", "cometRestApiAssetUrl": f"{self.base}/api/asset",
            "cometWebImageUrl": f"{self.base}/api/image/download", "cometRestApiImageUrl": f"{self.base}/api/image",
            "s3DirectAccessEnabled": False, "msg": None,
        }  # fmt: skip

    def add_run(self, asked: Any, _: Any) -> Answer:
        key = asked["experimentKey"]
        found = self.state["experiments"].get(key)
        if found is not None and not asked.get("getOrCreateEnabled"):
            return 400, {"msg": "experiment exists", "code": 400, "sdk_error_code": 90999}
        if found is None:
            self.state["experiments"][key] = {
                "project": asked.get("projectName") or "general", "workspace": asked.get("teamName") or WORKSPACE,
                "run_id": uuid.uuid4().hex, "project_id": uuid.uuid4().hex, "metrics": [], "params": {}, "others": {},
                "tags": [], "assets": [], "writes": {}, "alive": None, "crashed": False, "handshakes": 0,
            }  # fmt: skip
        self.state["experiments"][key]["handshakes"] += 1
        return 200, self.shake(key)

    def get_run(self, asked: Any, _: Any) -> Answer:
        key = asked["previousExperiment"]
        if key not in self.state["experiments"]:
            return 400, {"msg": "no such experiment", "code": 400, "sdk_error_code": 90210}
        self.state["experiments"][key]["handshakes"] += 1
        return 200, self.shake(key)

    def status(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is not None:
            made["alive"] = asked.get("is_alive")
        return 200, {
            "is_alive_beat_duration_millis": 10_000, "gpu_monitor_interval_millis": 60_000,
            "cpu_monitor_interval_millis": 60_000, "parameter_update_interval_millis": 2_000, "pending_rpcs": False,
        }  # fmt: skip

    def fine(self, *_: Any) -> Answer:
        return 200, {"msg": "OK", "code": 200}

    def notify(self, asked: Any, *_: Any) -> Answer:
        self.state["notify"].append({k: asked.get(k) for k in ("event_name", "err_msg")})
        return 200, {}

    def metadata(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 404, {"msg": "no such experiment", "code": 404}
        about = {"experimentKey": given.get("experimentKey"), "experimentName": made["others"].get("Name")}
        return 200, {**about, "workspaceName": made["workspace"], "projectName": made["project"], "archived": False}

    def list_experiments(self, _: Any, given: Any) -> Answer:
        """Asked for by `comet_ml.start`, before 3.47, of an experiment whose key it has not found."""
        made = self.state["experiments"].items()
        there = [key for key, each in made if given.get("projectName") in (None, each["project"])]
        return 200, {"experiments": [{"experimentKey": key, "experimentName": key} for key in there]}

    def get_tags(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        return 200, {"tags": made["tags"] if made else []}

    def limits(self, *_: Any) -> Answer:
        return 200, {"maxPointCount": 1_000_000, "maxBoxCount": 10_000}

    def get_metric(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        names = ("metricName", "step", "metricValue", "timestamp")
        rows = [dict(zip(names, row, strict=True)) for row in made["metrics"] if row[0] == given["metricName"]]
        return 200, {"metrics": [{**row, "metricValue": str(row["metricValue"])} for row in rows]}

    def account(self, *_: Any) -> Answer:
        return 200, {"userName": WORKSPACE, "defaultWorkspaceName": WORKSPACE}

    def asset_list(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        names = (("assetId", "id"), ("fileName", "name"), ("type", "type"), ("step", "step"), ("fileSize", "size"))
        return 200, {"assets": [{name: asset[ours] for name, ours in names} for asset in made["assets"]]}

    # -- data --------------------------------------------------------------------------------------------------------

    def metrics(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        for value in asked["values"]:
            metric = value.get("metric", value)
            row = [metric.get("metricName"), metric.get("step"), metric.get("metricValue"), metric.get("timestamp")]
            made["metrics"].append(row if row[0] is not None else [None, None, value, None])
        return 200, {}

    def parameters(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        for value in asked["values"]:
            param = value.get("param", value)
            made["params"][param["parameterName"]] = param["parameterValue"]
        return 200, {}

    def tags(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is not None:
            made["tags"] += [tag for tag in asked.get("addedTags", []) if tag not in made["tags"]]
        return 200, {}

    def write(self, asked: Any, given: Any, what: str) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        made["writes"][what] = made["writes"].get(what, 0) + 1
        if what == "log-other":
            made["others"][asked["key"]] = asked["value"]
        if "error" in what or "crash" in what or asked.get("hasCrashed"):
            made["crashed"] = True
        for field in ("hasCrashed", "has_crashed", "error"):
            if field in asked:
                made[field] = asked[field]
        return 200, {"msg": "OK", "code": 200}

    def asset(self, asked: Any, given: Any, *_: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        number = given.get("assetId") or asked.get("assetId") or given.get("imageId") or asked.get("imageId") or uuid.uuid4().hex
        data = asked.get("file") or asked.get("assetItemContent")
        about = {k: v for k, v in {**asked, **given}.items() if not isinstance(v, bytes)}
        name = about.get("fileName") or about.get("figName") or about.get("userFileName") or number
        file = self.store(f"{given.get('experimentId') or about.get('experimentKey')}/{number}/{name}", data) if data else None
        kind, step = about.get("type") or about.get("assetType"), about.get("step")
        kind = kind or ("image" if about.get("figName") else None)
        asset = {"id": number, "name": name, "type": kind, "step": step, "file": file, "size": len(data or b"")}
        asset |= {"model": about.get("groupingName"), "metadata": about.get("metadata")}
        if (version := self.version(about.get("artifactVersionId"))) is not None:
            if any(other["name"] == name for other in version["assets"]):
                return 400, {"msg": "immutable", "code": 400, "sdk_error_code": 90417}
            version["assets"].append({**asset, "experiment": given.get("experimentId") or about.get("experimentKey")})
        else:
            made["assets"].append(asset)
        return 200, {"assetId": number, "link": f"{self.base}/{unquote(str(name))}"}

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def version(self, number: str | None) -> Any:
        versions = (version for artifact in self.state["artifacts"].values() for version in artifact["versions"])
        return next((version for version in versions if version["id"] == number), None) if number else None

    def upsert(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None:
            return 400, {"msg": "no such experiment", "code": 400}
        new = {"id": uuid.uuid4().hex, "type": asked["artifactType"], "versions": []}
        artifact = self.state["artifacts"].setdefault(f"{made['workspace']}/{asked['artifactName']}", new)
        versions = artifact["versions"]
        for version in versions:
            version["alias"] = [alias for alias in version["alias"] if alias not in (*asked["alias"], "Latest")]
        versions.append({
            "id": uuid.uuid4().hex, "version": f"{len(versions) + 1}.0.0", "alias": [*asked["alias"], "Latest"],
            "tags": asked["versionTags"], "metadata": asked["versionMetadata"], "state": "OPEN", "assets": [],
            "experiment": asked["experimentKey"],
        })  # fmt: skip
        before = versions[-2]["version"] if len(versions) > 1 else None
        ids = {"artifactId": artifact["id"], "artifactVersionId": versions[-1]["id"]}
        return 200, {**ids, "currentVersion": versions[-1]["version"], "previousVersion": before}

    def close_version(self, asked: Any, _: Any) -> Answer:
        version = self.version(asked["artifactVersionId"])
        if version is None:
            return 400, {"msg": "no such version", "code": 400}
        version["state"] = asked["state"]
        return 200, {}

    def artifact(self, given: Any) -> tuple[str, str, Any]:
        made = self.experiment({}, given)
        workspace = given.get("workspace") or (made["workspace"] if made else WORKSPACE)
        name = unquote(given.get("artifactName", ""))
        return workspace, name, self.state["artifacts"].get(f"{workspace}/{name}")

    def get_artifact(self, _: Any, given: Any) -> Answer:
        _, name, artifact = self.artifact(given)
        if artifact is None:
            return 400, {"msg": "no such artifact", "code": 400, "sdk_error_code": 624523}
        shown = ("version", "alias", "tags", "metadata", "state")
        versions = [{"artifactVersionId": v["id"], **{key: v[key] for key in shown}} for v in artifact["versions"]]
        return 200, {"artifactId": artifact["id"], "name": name, "type": artifact["type"], "versions": versions}

    def get_version(self, _: Any, given: Any) -> Answer:
        workspace, name, artifact = self.artifact(given)
        wanted = given.get("versionOrAlias") or given.get("version") or "Latest"
        found = [v for v in (artifact or {}).get("versions", ()) if wanted == v["version"] or wanted in v["alias"]]
        if not found or artifact is None:
            return 400, {"msg": "no such version", "code": 400, "sdk_error_code": 624523}
        (version,) = found
        if version["state"] != "CLOSED":
            return 400, {"msg": "not final", "code": 400, "sdk_error_code": 90403}
        if reader := given.get("consumerExperimentKey"):
            users = version.setdefault("used by", [])
            users += [reader] * (reader not in users)
        about = {"artifactId": artifact["id"], "artifactName": name, "artifactType": artifact["type"], "tags": []}
        return 200, {
            "artifact": {**about, "workspaceName": workspace}, "artifactVersion": version["version"], "alias": version["alias"],
            "artifactVersionId": version["id"], "metadata": version["metadata"], "experimentKey": version["experiment"],
            "sizeInBytes": sum(asset["size"] for asset in version["assets"]), "tags": version["tags"],
        }  # fmt: skip

    def version_files(self, _: Any, given: Any) -> Answer:
        _, _, artifact = self.artifact(given)
        for version in (artifact or {}).get("versions", ()):
            if version["version"] == given.get("version"):
                about = {"artifactId": artifact["id"], "artifactVersionId": version["id"]}
                about |= {"link": None, "dir": None, "type": "unknown", "metadata": None, "remote": False}
                names = (("assetId", "id"), ("fileName", "name"), ("fileSize", "size"))
                return 200, {"files": [{**about, **{key: asset[ours] for key, ours in names}} for asset in version["assets"]]}
        return 400, {"msg": "no such version", "code": 400, "sdk_error_code": 624523}

    def get_asset(self, _: Any, given: Any) -> Answer:
        version, made = self.version(given.get("artifactVersionId")), self.experiment({}, given)
        assets = version["assets"] if version is not None else made["assets"] if made is not None else ()
        for asset in assets:
            if asset["id"] == given["assetId"]:
                return 200, (self.folder / "files" / asset["file"]).read_bytes()
        return 400, {"msg": "no such asset", "code": 400}

    # -- models, notifications ---------------------------------------------------------------------------------------

    def registry(self, _: Any, given: Any) -> Answer:
        names = [key.split("/", 1) for key in self.state["registry"]]
        return 200, {"registryModels": [{"modelName": name} for space, name in names if space == given["workspaceName"]]}

    def registry_details(self, _: Any, given: Any) -> Answer:
        found = self.state["registry"].get(f"{given['workspaceName']}/{given['modelName']}")
        return (200, {"versions": found}) if found is not None else (400, {"msg": "no such model", "code": 400})

    def register(self, asked: Any, given: Any) -> Answer:
        made = self.experiment(asked, given)
        if made is None or asked["experimentModelName"] not in {asset["model"] for asset in made["assets"]}:
            return 400, {"msg": "the experiment has no such model", "code": 400}
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", asked["registryModelName"]):
            return 400, {"msg": "not a name", "code": 400}
        versions = self.state["registry"].setdefault(f"{made['workspace']}/{asked['registryModelName']}", [])
        if any(version["version"] == asked["version"] for version in versions):
            return 400, {"msg": "this version exists", "code": 400}
        about = {"experimentKey": asked["experimentKey"], "model": asked["experimentModelName"]}
        number = uuid.uuid4().hex
        shown = {"version": asked["version"], "comment": asked["versionComment"], "tags": asked["tags"]}
        versions.append({"registryModelItemId": number, **shown, **about})
        return 200, {"registryModelItemId": number}

    def notification(self, asked: Any, *_: Any) -> Answer:
        kept = ("title", "status", "experiment_key", "additional_data")
        self.state["notifications"].append({key: asked[key] for key in kept})
        return 200, {}


ROUTES = [
    (r"/logger/add/run", "add_run"),
    (r"/logger/get/run", "get_run"),
    (r"/status-report/update", "status"),
    (r"/health/ping", "fine"),
    (r"/notify/event", "notify"),
    (r"/asset/3d-limits", "limits"),
    (r"/account-details", "account"),
    (r"/experiment/metadata", "metadata"),
    (r"/experiments", "list_experiments"),
    (r"/experiment/tags", "get_tags"),
    (r"/batch/logger/experiment/metric", "metrics"),
    (r"/experiment/metrics/get-metric", "get_metric"),
    (r"/experiment/asset/list", "asset_list"),
    (r"/batch/logger/experiment/parameter", "parameters"),
    (r"/tags/add-tags-to-experiment", "tags"),
    (r"/(?:asset/upload|asset|asset/asset-item|visualizations/upload|git-patch/upload|asset/[^/]+/thumbnail)", "asset"),
    (r"/write/experiment/(.*)", "write"),
    (r"/write/artifacts/upsert", "upsert"),
    (r"/write/artifacts/state", "close_version"),
    (r"/artifacts/get", "get_artifact"),
    (r"/artifacts/version", "get_version"),
    (r"/artifacts/version/files", "version_files"),
    (r"/experiment/asset/get-asset", "get_asset"),
    (r"/registry-model", "registry"),
    (r"/registry-model/details", "registry_details"),
    (r"/write/registry-model/item/create", "register"),
    (r"/notification/experiment", "notification"),
    (r"/(?:rpc|symlink)/.*", "fine"),
]

if __name__ == "__main__":
    main(Comet, __doc__)
