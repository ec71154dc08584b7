"""Stand-in for a Comet server, as far as comet_ml 3.58's SDK needs one (REST only; this version has no websocket).

    python -m tests.backends.comet.server --port 8101 --record DIR
    COMET_URL_OVERRIDE=http://127.0.0.1:8101/clientlib/ COMET_API_KEY=<key> python train.py

Spoken, below /clientlib: logger/add/run and logger/get/run (hand-shake), status-report/update, batches of metrics and
parameters, tags, asset uploads (multipart), asset items, and every rest/v2/write/... call; below /api/rest/v2 the same
and account-details. Keys that begin with `bad` are refused as Comet does (400, sdk_error_code 90212), those that begin
with `forbidden` with 403.

State: `experiments`: key -> project, workspace, `metrics` (a list of [name, step, value, timestamp] in the order of
arrival: nothing is recognised), `params`, `others`, `tags`, `assets` (name, type, step, file), `writes` (endpoint ->
number), `alive` (the last status), `crashed`.
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
        return {"experiments": {}, "unknown": [], "notify": []}

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
            "featureToggles": [], "githubEnabled": False, "name": made["others"].get("Name", "made_up_name"),
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
        made["assets"].append({"id": number, "name": name, "type": kind, "step": step, "file": file, "size": len(data or b"")})
        return 200, {"assetId": number, "link": f"{self.base}/{unquote(str(name))}"}


ROUTES = [
    (r"/logger/add/run", "add_run"),
    (r"/logger/get/run", "get_run"),
    (r"/status-report/update", "status"),
    (r"/health/ping", "fine"),
    (r"/notify/event", "notify"),
    (r"/asset/3d-limits", "limits"),
    (r"/account-details", "account"),
    (r"/experiment/metadata", "metadata"),
    (r"/experiment/tags", "get_tags"),
    (r"/batch/logger/experiment/metric", "metrics"),
    (r"/experiment/metrics/get-metric", "get_metric"),
    (r"/experiment/asset/list", "asset_list"),
    (r"/batch/logger/experiment/parameter", "parameters"),
    (r"/tags/add-tags-to-experiment", "tags"),
    (r"/(?:asset/upload|asset|asset/asset-item|visualizations/upload|git-patch/upload|asset/[^/]+/thumbnail)", "asset"),
    (r"/write/experiment/(.*)", "write"),
    (r"/(?:rpc|symlink|notification)/.*", "fine"),
]

if __name__ == "__main__":
    main(Comet, __doc__)
