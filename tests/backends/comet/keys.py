"""The names under which a run stands in Comet's archives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.backends.comet.reader import CometReader


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the archives of one program's runs: of the run, and of its trials."""
    reader = CometReader(directory)
    for key, archives in reader._archives.items():
        whose = "trial" if "tracelet.trial" in reader.others(key) else "run"
        for archive in archives:
            yield f"archive: {archive.path.suffix}"
            yield from (f"{whose}: about {field}" for field in archive.about)
            for kind, payload in archive.messages:
                yield from (f"{whose}: {kind} {text}" for text in _names(kind, payload))


def _names(kind: str, payload: dict[str, Any]) -> Iterator[str]:
    if kind == "metric_msg":
        yield str(payload["metric"]["metricName"])
    elif kind == "parameter_msg":
        yield str(payload["param"]["paramName"])
    elif kind == "log_other":
        value = payload["value"] if payload["key"] in ("Name", "tracelet.trial", "tracelet.run_id") else ""
        yield f"{payload['key']} {value}".rstrip()
    elif kind == "file_upload":
        params = payload["additional_params"]
        yield f"{payload['upload_type']} {params.get('fileName') or params.get('figName')} ({', '.join(sorted(params))})"
    elif kind == "3d-image":
        yield str(payload["name"])
    else:
        yield ", ".join(sorted(payload))
