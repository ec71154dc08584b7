"""The user's program, in the form that ClearML has for it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from tracelet_shim.backends.run_info import RunInfo
from tracelet_shim.common.text import as_utf8
from tracelet_shim.provenance.secrets import mask_text

__all__ = ["describe"]


def describe(run: RunInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``task.data.script`` for the user's program, as `Task.init` makes it for the calling script, but no more of it
    than may be recorded, and without secrets."""
    from clearml import Task
    from clearml.backend_interface.task.repo import ScriptInfo

    program = run.program
    diff = bool(Task._store_diff) and "diff" in run.what_ran
    if "store_diff" in options:
        diff = options["store_diff"]
    found: dict[str, Any] = {}
    if program.script:
        result, _ = ScriptInfo.get(
            filepaths=[program.script], check_uncommitted=diff, create_requirements=False, detect_jupyter_notebook=False
        )
        found = dict(result.script or {})
    root = str(found.get("repo_root") or "") if found.get("repository") or found.get("version_num") else ""
    inside = bool(root) and os.path.commonpath([root, os.path.abspath(program.cwd)]) == root
    work = os.path.relpath(program.cwd, root) if inside else ("." if root else program.cwd)
    entry = program.argv[0] if program.argv else ""
    if program.module:
        entry = shlex.join(["-m", program.module, *program.argv[1:]])
    elif program.script:
        entry = os.path.relpath(program.script, os.path.join(root, work))
    git = ("repository", "branch", "version_num") if "git" in run.what_ran else ()
    script = {key: mask_text(found[key]) if found.get(key) else found.get(key) for key in (*git, "diff")}
    script |= {"working_dir": as_utf8(work), "entry_point": as_utf8(entry), "binary": os.path.basename(program.executable)}
    if options.get("packages", "packages" in run.what_ran):
        versions = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
        script["requirements"] = {"pip": "\n".join(f"{n}=={versions[n]}" for n in sorted(versions, key=str.lower))}
    return script
