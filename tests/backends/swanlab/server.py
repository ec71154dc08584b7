"""Stand-in for a SwanLab server, as far as the SDKs of swanlab 0.6.2 to 0.10 need one.

    python -m tests.backends.swanlab.server --port 8101 --record DIR
    SWANLAB_API_HOST=http://127.0.0.1:8101 SWANLAB_WEB_HOST=http://127.0.0.1:8101 SWANLAB_API_KEY=<key> python train.py

Spoken, below /api: login/api_key, project (get, create), experiment (create or resume: 201 or 200), series (columns),
house/metrics (scalar, media, log), house/metrics/summaries, profile (config, metadata, requirements), state, heartbeat,
presigned uploads (media) and files/prepare, files/complete (saved files); uploads by PUT at /storage/... Keys that begin
with `bad` are refused with 401, with `forbidden` 403; batches with a key that begins with `refused` with 400, until there
is a file `takes-all` in DIR.

Of 0.6.2 to 0.7: project (create: 409 with the project if there is one), experiment/<id>/columns, experiment/<id>/column, and,
until 0.7.0 or so, .../sts (an object store, here at /storage/... too).

State: `experiments`: cuid -> name, description, labels, cluster, state, `scalars` (key -> step -> value, the first is
kept), `media` (key -> step -> data), `columns`, `config`, `files`; `again`: the number of points that came twice with
the same value, `changed`: with another one; `files`: names.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from datetime import datetime, timedelta, timezone
from email.message import Message
from typing import Any
from urllib.parse import quote, unquote

from tests.servers.standin import Answer, Query, StandIn, main

USER = "standin"


def stamp(days: int = 0) -> str:
    return (datetime.now(timezone.utc) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class SwanLab(StandIn):
    def empty(self) -> dict[str, Any]:
        return {"projects": {}, "experiments": {}, "files": [], "again": 0, "changed": 0, "unknown": [], "creations": []}

    def answer(self, method: str, path: str, query: Query, body: bytes, headers: Message) -> Answer:
        if path.startswith("/storage/"):
            if method == "PUT":
                with self.lock:
                    name = self.store(path.removeprefix("/storage/"), body)
                    if name not in self.state["files"]:
                        self.state["files"].append(name)
                    self.save()
            return 200, b""
        if not path.startswith("/api/"):
            return 200, b"SwanLab stand-in"
        path = path.removeprefix("/api")
        if path == "/login/api_key":
            key = headers.get("authorization", "")
            if key.startswith("forbidden"):
                return 403, {"code": "Forbidden", "message": "forbidden"}
            if key.startswith("bad") or not key:
                return 401, {"code": "Unauthorized", "message": "invalid api key"}
            return 200, {"sid": "session1", "expiredAt": stamp(30), "userInfo": {"username": USER, "name": USER}}
        if "sid=session1" not in headers.get("Cookie", ""):
            return 401, {"code": "Unauthorized", "message": "not logged in"}
        asked = json.loads(body) if body else {}
        for verb, pattern, name in ROUTES:
            if verb == method and (match := re.fullmatch(pattern, path)):
                with self.lock:
                    status, value = getattr(self, name)(asked, *map(unquote, match.groups()))
                    if method != "GET" and status < 300:
                        self.save()
                return status, value
        self.unknown(f"{method} {path}", asked)
        return 404, {"code": "Not_Found", "message": "no such route"}

    # -- projects and experiments ------------------------------------------------------------------------------------

    def get_project(self, _: Any, user: str, name: str) -> Answer:
        project = self.state["projects"].get(f"{user}/{name}")
        if project is None:
            return 404, {"code": "Not_Found", "message": "project not found"}
        count = sum(e["project"] == name for e in self.state["experiments"].values())
        counts = {"experiments": count, "contributors": 1, "collaborators": 0, "clones": 0}
        return 200, {**project, "group": {"username": user}, "_count": counts}

    def new_project(self, asked: Any, user: str) -> Answer:
        key = f"{user}/{asked['name']}"
        new = key not in self.state["projects"]
        if new:
            self.state["projects"][key] = {
                "cuid": uuid.uuid4().hex[:21], "name": asked["name"], "version": 1, "path": f"/{key}",
                "visibility": asked.get("visibility", "PRIVATE"),
            }  # fmt: skip
        return (201 if new else 200), self.state["projects"][key]

    def new_project_of_mine(self, asked: Any) -> Answer:
        user = asked.get("username") or USER
        status, project = self.new_project(asked, user)
        return (201 if status == 201 else 409), {**project, "username": user}

    def columns(self, asked: Any, cuid: str) -> Answer:
        self.state["experiments"][cuid]["columns"].update({column["key"]: column for column in asked})
        return 201, {}

    def known_columns(self, _: Any, cuid: str) -> Answer:
        columns = self.state["experiments"][cuid]["columns"].values()
        return 200, {"list": [{"key": c["key"], "type": c["type"], "class": c["class"], "error": None} for c in columns]}

    def object_store(self, _: Any, user: str, project: str, cuid: str) -> Answer:
        credentials = {"tmpSecretId": "id", "tmpSecretKey": "key", "sessionToken": "token"}
        return 200, {
            "expiredTime": time.time() + 8 * 3600 + 24 * 3600 - 3600, "prefix": cuid, "bucket": "storage", "region": "here",
            "credentials": credentials, "endPoint": self.base, "pathStyle": True,
        }  # fmt: skip

    def new_experiment(self, asked: Any, user: str, project: str) -> Answer:
        cuid = asked.get("cuid") or uuid.uuid4().hex[:21]
        found = self.state["experiments"].get(cuid)
        self.state["creations"].append([cuid, found is None])
        if found is None:
            self.state["experiments"][cuid] = {
                **asked, "cuid": cuid, "slug": cuid, "user": user, "project": project, "state": "RUNNING", "scalars": {},
                "media": {}, "columns": {}, "logs": 0, "profile": {}, "saved": {}, "heartbeats": 0,
            }  # fmt: skip
        else:
            found["state"] = "RUNNING"
        made = self.state["experiments"][cuid]
        return (200 if found else 201), {
            **{k: made.get(k) for k in ("cuid", "slug", "name", "createdAt", "profile")}, "flagId": "flag",
        }  # fmt: skip

    def get_run(self, _: Any, user: str, project: str, cuid: str) -> Answer:
        made = self.state["experiments"].get(cuid)
        if made is None:
            return 404, {"code": "Not_Found", "message": "run not found"}
        return 200, {k: made.get(k) for k in ("cuid", "slug", "name", "createdAt", "state", "profile")}

    def summaries(self, _: Any, project_id: str, cuid: str) -> Answer:
        made = self.state["experiments"][cuid]

        def last(what: str) -> list[dict[str, Any]]:
            return [{"key": key, "step": max(map(int, steps))} for key, steps in made[what].items() if steps]

        return 200, {"log": [{"key": "LOG", "step": made["logs"]}], "media": last("media"), "scalar": last("scalars")}

    def set_state(self, asked: Any, user: str, project: str, cuid: str) -> Answer:
        self.state["experiments"][cuid]["state"] = asked["state"]
        return 200, {}

    def profile(self, asked: Any, user: str, project: str, cuid: str) -> Answer:
        self.state["experiments"][cuid]["profile"].update(asked)
        return 200, {}

    def heartbeat(self, _: Any, cuid: str) -> Answer:
        self.state["experiments"][cuid]["heartbeats"] += 1
        return 200, {}

    # -- data --------------------------------------------------------------------------------------------------------

    def series(self, asked: Any, user: str, cuid: str) -> Answer:
        project = self.state["projects"].get(f"{user}/{cuid}")
        target = project if project is not None else self.state["experiments"].get(cuid)
        if target is None:
            return 404, {"code": "Not_Found", "message": "no such project"}
        for column in asked["series"]:
            target.setdefault("columns", {})[column["key"]] = column
        return 200, {}

    def metrics(self, asked: Any) -> Answer:
        made = self.state["experiments"].get(asked["experimentId"])
        if made is None:
            return 404, {"code": "Not_Found", "message": "no such experiment"}
        kind = asked["type"]
        refuses = kind != "log" and not (self.folder / "takes-all").exists()
        if refuses and any(metric["key"].startswith("refused") for metric in asked["metrics"]):
            return 400, {"code": "Bad_Request", "message": "a metric of this batch is not valid"}
        for metric in asked["metrics"]:
            if kind == "log":
                made["logs"] = max(made["logs"], metric["epoch"])
                continue
            kept = made["scalars" if kind == "scalar" else "media"].setdefault(metric["key"], {})
            step = str(metric["index"])
            if step in kept:
                self.state["again" if kept[step] == metric["data"] else "changed"] += 1
            else:
                kept[step] = metric["data"]
        return 200, {}

    # -- files -------------------------------------------------------------------------------------------------------

    def presigned(self, asked: Any) -> Answer:
        folder = f"{self.base}/storage/{asked['experimentId']}/"
        return 200, {"urls": [folder + quote(p) for p in asked["paths"]]}

    def prepare(self, asked: Any, cuid: str) -> Answer:
        return 200, {"urls": [f"{self.base}/storage/{cuid}/saved/" + quote(f["path"]) for f in asked["files"]]}

    def complete(self, asked: Any, cuid: str) -> Answer:
        for file in asked["files"]:
            self.state["experiments"][cuid]["saved"][file["path"]] = file.get("state", "UPLOADED")
        return 201, {}

    def prepare_parts(self, asked: Any, cuid: str) -> Answer:
        files = []
        for file in asked["files"]:
            url = f"{self.base}/storage/{cuid}/saved/{quote(file['path'])}"
            parts = [{"partNumber": n, "url": f"{url}.part{n}"} for n in range(1, file["count"] + 1)]
            files.append({"uploadId": uuid.uuid4().hex, "parts": parts})
        return 200, {"files": files}


ROUTES = [
    ("GET", r"/project/([^/]+)/([^/]+)", "get_project"),
    ("POST", r"/projects/([^/]+)", "new_project"),
    ("POST", r"/project", "new_project_of_mine"),
    ("POST", r"/project/([^/]+)/([^/]+)/runs", "new_experiment"),
    ("POST", r"/experiment/([^/]+)/columns", "columns"),
    ("GET", r"/experiment/([^/]+)/column", "known_columns"),
    ("GET", r"/project/([^/]+)/([^/]+)/runs/([^/]+)/sts", "object_store"),
    ("POST", r"/project/([^/]+)/([^/]+)/experiment", "new_experiment"),
    ("GET", r"/project/([^/]+)/([^/]+)/runs/([^/]+)", "get_run"),
    ("PUT", r"/project/([^/]+)/([^/]+)/runs/([^/]+)/state", "set_state"),
    ("PUT", r"/project/([^/]+)/([^/]+)/runs/([^/]+)/profile", "profile"),
    ("GET", r"/house/metrics/summaries/([^/]+)/([^/]+)", "summaries"),
    ("POST", r"/house/experiments/([^/]+)/heartbeat", "heartbeat"),
    ("POST", r"/house/metrics", "metrics"),
    ("POST", r"/projects/([^/]+)/([^/]+)/series", "series"),
    ("POST", r"/resources/presigned/put", "presigned"),
    ("POST", r"/experiment/([^/]+)/files/prepare", "prepare"),
    ("POST", r"/experiment/([^/]+)/files/complete", "complete"),
    ("POST", r"/experiment/([^/]+)/files/prepare-multipart", "prepare_parts"),
    ("POST", r"/experiment/([^/]+)/files/complete-multipart", "complete"),
]

if __name__ == "__main__":
    main(SwanLab, __doc__)
