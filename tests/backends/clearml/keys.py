"""The names under which a run stands in ClearML's offline sessions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the folders of one program's sessions: of the run, and of its trials."""
    for session in (directory / "offline").glob("offline-*"):
        kept = session.name.removesuffix(".zip")
        if session.is_file():
            yield f"session: {session.name.replace(kept, 'offline-#')}"
            continue
        task = json.loads((session / "task.json").read_bytes())
        whose = "trial" if task.get("parent") else "task"
        yield from (f"{whose}: {key}" for key in _task_keys(task))
        yield from (f"{whose}: {key}" for key in _event_keys(session / "metrics.jsonl"))
        for folder, _, names in os.walk(session):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), session)
                yield f"{whose}: file {path.replace(session.name, 'offline-#')}"


def _task_keys(task: dict[str, object]) -> Iterator[str]:
    yield f"name {task['name']} in {task['project_name']}, {task['type']}"
    yield from (f"field {key}" for key in task)
    yield from (f"script {key}" for key in _dict(task.get("script")))
    yield from (f"tag {tag}" for tag in _list(task.get("tags")))
    yield from (f"configuration {name}" for name in _dict(task.get("configuration")))
    for section, items in _dict(task.get("hyperparams")).items():
        yield from (f"hyperparameter {section}/{name} ({item.get('type')})" for name, item in items.items())
    for artifact in _list(_dict(task.get("execution")).get("artifacts")):
        yield f"artifact {artifact['key']} at {os.path.basename(artifact['uri'])}"


def _event_keys(log: Path) -> Iterator[str]:
    lines = log.read_bytes().splitlines() if log.exists() else []
    for event in (event for line in lines for event in json.loads(line)):
        file = os.path.basename(event["key"]) if event.get("key") else ""
        place = f" {event['metric']} | {event['variant']} {file}" if "metric" in event else ""  # else it is a line of the console
        yield (event["type"] + place).rstrip()


def _dict(value: object) -> dict[str, dict[str, object]]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[dict[str, str]]:
    return value if isinstance(value, list) else []
