"""The variables that steer Trackio and the hub under it, and those that keep them silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("TRACKIO_", "HF_")


def isolated(home: Path) -> dict[str, str]:
    return {
        "TRACKIO_DIR": str(home / "trackio"),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
