"""What is said of a run in its tags: by the user, by us for finding it again, and of the program."""

from __future__ import annotations

import json
import os
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.mlflow.limits import plain, run_name
from tracelet_shim.backends.mlflow.versions import context_tags
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.common.text import as_utf8
from tracelet_shim.provenance.secrets import mask_text

__all__ = ["listed", "origin", "tags_of"]


def tags_of(run: RunInfo, keys: Names, *, made: bool, joined: bool) -> dict[str, str]:
    """Return the run's tags.

    Args:
        run: the call's.
        keys: the rule for tags.
        made: False if MLflow has no run yet, and takes its name from a tag.
        joined: True for a run of the user's; it gets only what the user asked for.
    """
    tags = {keys(key): value for key, value in run.tags.items()}
    if run.exp_name or made:
        tags.pop("mlflow.runName", None)
    if run.notes is not None:
        tags["mlflow.note.content"] = run.notes
    if joined:
        return tags
    own = {
        "session": run.session,
        "run_id": keys(run.run_id) if run.run_id else None,
        "group": run.group,
        "root": run.root and as_utf8(run.root),
        "exp_name": run.exp_name if run.exp_name and run_name(run.exp_name) != run.exp_name else None,
    }
    tags.update({f"tracelet.{key}": value for key, value in own.items() if value})
    return tags


def origin(run: RunInfo) -> dict[str, str]:
    """Return the tags that say what ran: the user's program, never the relay."""
    from mlflow.utils import git_utils

    program = run.program
    script = program.script or (program.argv[0] if program.argv and program.argv[0] not in ("", "-c") else None)
    tags = {"mlflow.source.name": plain(script or program.module or "<console>"), "mlflow.source.type": "LOCAL"}
    if "git" in run.what_ran and program.script and os.path.exists(program.script):
        found = {
            "commit": git_utils.get_git_commit(program.script),
            "branch": git_utils.get_git_branch(program.script),
            "repoURL": mask_text(git_utils.get_git_repo_url(program.script) or ""),
        }
        if found["commit"]:
            tags.update({f"mlflow.source.git.{key}": value for key, value in found.items() if value})
    return context_tags(tags)


def listed(text: str | None) -> list[Any]:
    """Return what a tag lists; nothing if there is no such tag, or a server has kept only its beginning."""
    try:
        return list(json.loads(text or "[]"))
    except ValueError:
        return []
