"""The variables that steer W&B, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("WANDB_",)


def isolated(home: Path) -> dict[str, str]:
    return {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DATA_DIR": str(home / "wandb-data"),
        "WANDB_CACHE_DIR": str(home / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(home / "wandb-config"),
    }
