"""Stand-in for a ClearML server (API server and file server in one), as far as clearml 2.1's SDK needs one.

    python -m tests.backends.clearml.server --port 8101 --record DIR
    CLEARML_API_HOST=http://127.0.0.1:8101 CLEARML_WEB_HOST=http://127.0.0.1:8101 CLEARML_FILES_HOST=http://127.0.0.1:8101 \
    CLEARML_API_ACCESS_KEY=access CLEARML_API_SECRET_KEY=secret python train.py

Spoken: POST /<service>.<action> or /v2.x/<service>.<action> with JSON (events.add_batch: one JSON a line), answers in
ClearML's envelope of `meta` and `data`; uploads to the file server as multipart forms. Secrets that begin with `bad` are
refused with 401, those that begin with `forbidden` with 403.

As the real one (`EventBLL` of clearml-server), it keeps one event for each task, type, metric, variant, iteration and file: the
next one overwrites (counted in `overwritten`), but each line of the console. It refuses NaN, and answers 400 to an end of a task
that has ended. It hands events out in pages, by time; of plots those of a metric in its latest iteration up to the one that is
asked for.

State: `tasks`, `models`: id -> the document; `events`: task -> key -> event; `projects`; `files`: names;
`overwritten`: the number of events that came again with the same values, `changed`: with others.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import math
import re
import time
import uuid
from datetime import datetime, timezone
from email.message import Message
from typing import Any
from urllib.parse import unquote

from tests.servers.standin import Answer, Query, StandIn, main

VERSION = "2.30"


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def now() -> str:
    return datetime.now(timezone.utc).isoformat()


class RefusedError(Exception):
    def __init__(self, code: int, sub: int, message: str) -> None:
        super().__init__(message)
        self.code, self.sub = code, sub


class ClearML(StandIn):
    def empty(self) -> dict[str, Any]:
        tables: dict[str, Any] = {"tasks": {}, "models": {}, "events": {}, "projects": {}, "files": [], "unknown": []}
        return {**tables, "overwritten": 0, "changed": 0}

    def answer(self, method: str, path: str, query: Query, body: bytes, headers: Message) -> Answer:
        found = re.fullmatch(r"(?:/v([\d.]+))?/([a-z_]+\.[a-z_]+)", path)
        if not found:
            return self.file(method, path, body, headers)
        endpoint = found[2]
        meta: dict[str, Any] = {
            "id": uuid.uuid4().hex, "trx": uuid.uuid4().hex, "result_code": 200, "result_subcode": 0,
            "endpoint": {"name": endpoint, "requested_version": found[1] or VERSION, "actual_version": VERSION},
            "result_msg": "OK", "error_stack": "", "error_data": {},
        }  # fmt: skip
        try:
            self.allowed(headers)
            if endpoint == "events.add_batch":
                asked = [json.loads(line) for line in body.splitlines() if line.strip()]
            else:
                asked = json.loads(body or b"{}")
            known = getattr(self, "on_" + endpoint.replace(".", "_"), None)
            with self.lock:
                if known is None:
                    self.unknown(f"endpoint {endpoint}", asked)
                    raise RefusedError(400, 0, f"Unable to find endpoint for name {endpoint} and version {found[1]}")
                data = known(asked)
                if not endpoint.startswith(("auth.", "users.", "workers.")) and "get" not in endpoint.split(".")[1]:
                    self.save()
        except RefusedError as error:
            meta |= {"result_code": error.code, "result_subcode": error.sub, "result_msg": str(error)}
            return error.code, {"meta": meta, "data": {}}
        return 200, {"meta": meta, "data": data}

    @staticmethod
    def allowed(headers: Any) -> None:
        kind, _, text = headers.get("Authorization", "").partition(" ")
        secret = base64.b64decode(text).decode().partition(":")[2] if kind == "Basic" else text if kind == "Bearer" else ""
        if not secret or secret.startswith("bad"):
            raise RefusedError(401, 20, "Unauthorized (invalid credentials) (failed to locate provided credentials)")
        if secret.startswith("forbidden"):
            raise RefusedError(403, 1, "Forbidden (user is not allowed)")

    # -- log-in, users, workers --------------------------------------------------------------------------------------

    def on_auth_login(self, _: Any) -> Any:
        claims = {
            "exp": int(time.time()) + 86400 * 30, "iat": int(time.time()), "auth_type": "Bearer", "env": "stand-in",
            "api_version": VERSION, "server_version": "2.0.0", "feature_set": "basic",
            "identity": {"user": "u1", "company": "c1", "user_name": "standin", "company_name": "standin", "role": "user"},
        }  # fmt: skip
        return {"token": f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims)}.{'s' * 43}"}

    def on_users_get_current_user(self, _: Any) -> Any:
        return {"user": {"id": "u1", "name": "standin", "company": {"id": "c1", "name": "standin"}}, "getting_started": None}

    def on_users_get_all(self, _: Any) -> Any:
        return {"users": [{"id": "u1", "name": "standin"}]}

    def on_users_get_by_id(self, _: Any) -> Any:
        return {"user": {"id": "u1", "name": "standin"}}

    def on_workers_register(self, _: Any) -> Any:
        return {}

    on_workers_unregister = on_workers_status_report = on_workers_register

    # -- projects ----------------------------------------------------------------------------------------------------

    def on_projects_get_or_create(self, asked: dict[str, Any]) -> Any:
        for number, project in self.state["projects"].items():
            if project["name"] == asked["name"]:
                return {"id": number}
        return self.on_projects_create(asked)

    def on_projects_create(self, asked: dict[str, Any]) -> Any:
        number = uuid.uuid4().hex
        default = asked.get("default_output_destination")
        self.state["projects"][number] = {"id": number, "name": asked["name"], "default_output_destination": default}
        return {"id": number}

    def on_projects_get_all(self, asked: dict[str, Any]) -> Any:
        found = list(self.state["projects"].values())
        if asked.get("id"):
            found = [p for p in found if p["id"] in asked["id"]]
        if asked.get("name"):
            found = [p for p in found if re.search(asked["name"], p["name"])]
        return {"projects": found}

    def on_projects_get_by_id(self, asked: dict[str, Any]) -> Any:
        return {"project": self.state["projects"][asked["project"]]}

    # -- tasks -------------------------------------------------------------------------------------------------------

    def task(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.state["tasks"][asked["task"]]
        except KeyError:
            raise RefusedError(400, 101, f"Invalid task id: id={asked.get('task')}, company=c1") from None

    def on_tasks_create(self, asked: dict[str, Any]) -> Any:
        number = uuid.uuid4().hex
        made = {"created": now(), "last_update": now(), "status_changed": now()}
        ids = {"id": number, "company": "c1", "user": "u1"}
        self.state["tasks"][number] = {
            "tags": [], "system_tags": [], "hyperparams": {}, "configuration": {}, "execution": {}, "script": {},
            "comment": "", "status_message": "", "status_reason": "", "last_iteration": 0, "output": {},
            **asked, **ids, **made, "status": "created",
        }  # fmt: skip
        return {"id": number}

    def on_tasks_get_by_id(self, asked: dict[str, Any]) -> Any:
        return {"task": self.task(asked)}

    def on_tasks_get_by_id_ex(self, asked: dict[str, Any]) -> Any:
        return {"tasks": [self.state["tasks"][n] for n in asked["id"] if n in self.state["tasks"]]}

    def on_tasks_get_all(self, asked: dict[str, Any]) -> Any:
        found = list(self.state["tasks"].values())
        if asked.get("id"):
            found = [t for t in found if t["id"] in asked["id"]]
        for what in ("tags", "system_tags"):
            wanted = [tag for tag in asked.get(what) or [] if not tag.startswith(("-", "__"))]
            unwanted = [tag[1:] for tag in asked.get(what) or [] if tag.startswith("-")]
            found = [t for t in found if all(tag in t[what] for tag in wanted) and not any(x in t[what] for x in unwanted)]
        if asked.get("name"):
            found = [t for t in found if re.search(asked["name"], t["name"])]
        if asked.get("project"):
            found = [t for t in found if t.get("project") in asked["project"]]
        if asked.get("status"):
            found = [t for t in found if t["status"] in asked["status"]]
        if "-last_update" in (asked.get("order_by") or []):
            found.sort(key=lambda t: str(t["last_update"]), reverse=True)
        return {"tasks": found}

    on_tasks_get_all_ex = on_tasks_get_all

    def on_tasks_edit(self, asked: dict[str, Any]) -> Any:
        task = self.task(asked)
        fields = {k: v for k, v in asked.items() if k not in ("task", "force")}
        task.update(fields, last_update=now())
        return {"updated": 1, "fields": fields}

    on_tasks_update = on_tasks_edit

    def on_tasks_delete_hyper_params(self, asked: dict[str, Any]) -> Any:
        hyper = self.task(asked)["hyperparams"]
        for given in asked["hyperparams"]:
            hyper.get(given["section"], {}).pop(given.get("name"), None)
        return {"deleted": 1}

    def on_tasks_edit_hyper_params(self, asked: dict[str, Any]) -> Any:
        task = self.task(asked)
        mode = asked.get("replace_hyperparams", "none")
        if mode == "all":
            task["hyperparams"] = {}
        elif mode == "section":
            for given in asked["hyperparams"]:
                task["hyperparams"].pop(given["section"], None)
        for given in asked["hyperparams"]:
            task["hyperparams"].setdefault(given["section"], {})[given["name"]] = given
        return {"updated": 1}

    def on_tasks_edit_configuration(self, asked: dict[str, Any]) -> Any:
        task = self.task(asked)
        if asked.get("replace_configuration"):
            task["configuration"] = {}
        for given in asked["configuration"]:
            task["configuration"][given["name"]] = given
        return {"updated": 1}

    def on_tasks_add_or_update_artifacts(self, asked: dict[str, Any]) -> Any:
        kept = self.task(asked)["execution"].setdefault("artifacts", [])
        for given in asked["artifacts"]:
            kept[:] = [a for a in kept if (a["key"], a.get("mode")) != (given["key"], given.get("mode"))] + [given]
        return {"updated": 1, "added": [], "replaced": []}

    def on_tasks_add_or_update_model(self, asked: dict[str, Any]) -> Any:
        """A later model of a name replaces the earlier one in the task's list."""
        if asked["model"] not in self.state["models"]:
            raise RefusedError(400, 201, f"Invalid model id: id={asked['model']}, company=c1")
        listed = self.task(asked).setdefault("models", {"input": [], "output": []}).setdefault(asked["type"], [])
        listed[:] = [item for item in listed if item["name"] != asked["name"]]
        listed.append({"name": asked["name"], "model": asked["model"], "updated": now()})
        return {"updated": 1}

    # -- models ------------------------------------------------------------------------------------------------------

    def on_models_create(self, asked: dict[str, Any]) -> Any:
        if asked.get("task") and asked["task"] not in self.state["tasks"]:
            raise RefusedError(400, 101, f"Invalid task id: id={asked['task']}, company=c1")
        if len(asked["name"].strip()) < 3:
            raise RefusedError(400, 12, "Validation error: String value is too short: name")
        number = uuid.uuid4().hex
        self.state["models"][number] = {
            "tags": [], "system_tags": [], "comment": "", "framework": "", "design": {}, "labels": {}, "ready": False,
            **asked, "id": number, "company": "c1", "user": "u1", "created": now(), "last_update": now(),
        }  # fmt: skip
        return {"id": number, "created": True}

    def on_models_get_all(self, asked: dict[str, Any]) -> Any:
        found = list(self.state["models"].values())
        for name in ("id", "task", "project", "uri"):
            if asked.get(name):
                found = [model for model in found if model.get(name) in asked[name]]
        for what in ("tags", "system_tags"):
            found = [model for model in found if set(asked.get(what) or ()) <= set(model[what])]
        if asked.get("name"):
            found = [model for model in found if re.search(asked["name"], model["name"])]
        found.sort(key=lambda model: str(model["created"]), reverse=(asked.get("order_by") or ["created"])[0].startswith("-"))
        return {"models": found}

    on_models_get_all_ex = on_models_get_all

    def on_models_get_by_id(self, asked: dict[str, Any]) -> Any:
        if asked["model"] not in self.state["models"]:
            raise RefusedError(400, 201, f"no such public or company model: id={asked['model']}, company=c1")
        return {"model": self.state["models"][asked["model"]]}

    # -- how a task ends ---------------------------------------------------------------------------------------------

    def _status(self, asked: dict[str, Any], status: str, allowed: tuple[str, ...]) -> Any:
        task = self.task(asked)
        if task["status"] not in allowed and not asked.get("force"):
            raise RefusedError(400, 110, f"Invalid task status: current_status={task['status']}, new_status={status}")
        task.update(status=status, status_changed=now(), last_update=now(), last_change=now())
        for key in ("status_message", "status_reason"):
            task[key] = asked.get(key) or ""
        if status in ("completed", "failed", "stopped"):
            task["completed"] = now()
        fields = {"status": status, "status_changed": now()}
        return {"updated": 1, "fields": fields, "started": int(status == "in_progress")}

    def on_tasks_started(self, asked: dict[str, Any]) -> Any:
        data = self._status(asked, "in_progress", ("created", "queued", "in_progress", "stopped", "failed"))
        self.task(asked).setdefault("started", now())
        return data

    def on_tasks_completed(self, asked: dict[str, Any]) -> Any:
        return self._status(asked, "completed", ("in_progress", "stopped", "created"))

    def on_tasks_stopped(self, asked: dict[str, Any]) -> Any:
        return self._status(asked, "stopped", ("in_progress", "created"))

    on_tasks_stop = on_tasks_stopped

    def on_tasks_failed(self, asked: dict[str, Any]) -> Any:
        return self._status(asked, "failed", ("in_progress", "created"))

    def on_tasks_ping(self, asked: dict[str, Any]) -> Any:
        self.task(asked)["last_update"] = now()
        return {}

    def on_tasks_set_requirements(self, asked: dict[str, Any]) -> Any:
        self.task(asked)["script"]["requirements"] = asked.get("requirements")
        return {"updated": 1}

    # -- events ------------------------------------------------------------------------------------------------------

    def on_events_add_batch(self, asked: list[dict[str, Any]]) -> Any:
        wrong = [e for e in asked if isinstance(e.get("value"), float) and not math.isfinite(e["value"])]
        if wrong:
            raise RefusedError(400, 400, "Validation error: value is not finite")
        for event in asked:
            if event["task"] not in self.state["tasks"]:
                raise RefusedError(400, 101, f"Invalid task id: id={event['task']}")
            kept = self.state["events"].setdefault(event["task"], {})
            task = self.state["tasks"][event["task"]]
            if event.get("metric") not in (":monitor:machine", ":monitor:gpu"):  # ``services.events.ignore_iteration``
                task["last_iteration"] = max(task["last_iteration"], event.get("iter") or 0)
            parts = (event["type"], event.get("metric"), event.get("variant"), event.get("iter"), event.get("key"))
            key = json.dumps(parts) if event["type"] != "log" else uuid.uuid4().hex
            if key in kept:
                same = all(kept[key].get(k) == event.get(k) for k in ("value", "url", "plot_str"))
                self.state["overwritten" if same else "changed"] += 1
            kept[key] = event
        return {"added": len(asked), "errors": 0, "errors_info": {}}

    def on_events_add(self, asked: dict[str, Any]) -> Any:
        return self.on_events_add_batch([asked])

    def on_events_get_task_events(self, asked: dict[str, Any]) -> Any:
        found = self.events(asked["task"], asked.get("event_type"))
        found.sort(key=lambda event: int(event["timestamp"]), reverse=asked.get("order") == "desc")
        start = int(asked.get("scroll_id") or 0)
        page = found[start : start + min(int(asked.get("batch_size") or 500), 10_000)]
        return {"events": page, "returned": len(page), "total": len(found), "scroll_id": str(start + len(page))}

    def on_events_get_task_log(self, asked: dict[str, Any]) -> Any:
        """As `LogEventsIterator`: lines before (or behind) a time, and all others of the last one's time."""
        every = self.events(asked["task"], "log")
        earlier, start = asked.get("navigate_earlier", True), asked.get("from_timestamp")
        found = [e for e in every if start is None or (e["timestamp"] < start if earlier else e["timestamp"] > start)]
        found.sort(key=lambda event: int(event["timestamp"]), reverse=earlier)
        page = found[: int(asked.get("batch_size") or 500)]
        if page:
            page += [e for e in found[len(page) :] if e["timestamp"] == page[-1]["timestamp"]]
        return {"events": page, "returned": len(page), "total": len(every)}

    def on_events_get_plot_sample(self, asked: dict[str, Any]) -> Any:
        found = [e for e in self.events(asked["task"], "plot") if e["metric"] == asked["metric"]]
        latest = max((e["iter"] for e in found if e["iter"] <= asked["iteration"]), default=None)
        return {"events": [e for e in found if e["iter"] == latest], "scroll_id": "1"}

    def events(self, task: str, kind: str | None) -> list[dict[str, Any]]:
        return [event for event in self.state["events"].get(task, {}).values() if kind in (None, event["type"])]

    # -- files -------------------------------------------------------------------------------------------------------

    def file(self, method: str, path: str, body: bytes, headers: Any) -> Answer:
        if method in ("GET", "HEAD"):
            target = self.folder / "files" / unquote(path).lstrip("/")
            return (200, target.read_bytes()) if target.is_file() else (200 if path == "/" else 404, b"")
        kind = headers.get("Content-Type", "")
        if kind.startswith("multipart/"):
            head = f"Content-Type: {kind}\r\n\r\n".encode()
            message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
            parts = [(part.get_filename(), part.get_payload(decode=True)) for part in message.iter_parts()]
        else:
            parts = [(path, body)]
        names = [self.store((name or path).lstrip("/"), data) for name, data in parts]
        with self.lock:
            self.state["files"] += [n for n in names if n not in self.state["files"]]
            self.save()
        return 200, ",".join(names).encode()


if __name__ == "__main__":
    main(ClearML, __doc__)
