"""The backend's options."""

from __future__ import annotations

import os
from typing import Any

from tracelet_shim.backends.shared.options import choice, directory, switch, switched

__all__ = ["OPTIONS", "PARSERS"]

OPTIONS = {
    "dir": "directory of the run; as in DVCLive, what an earlier run left there is overwritten;"
    " default: dvclive/<project>/<exp_name>, another for each run",
    "save_dvc_exp": "true: save the run as a DVC experiment at its end, and report to DVC Studio where that is"
    " configured; needs a Git repository and runs `dvc init` there if need be; the default of dir is then dvclive",
    "dvcyaml": "path of the dvc.yaml that lists the run's metrics, params and plots, or false for none;"
    " default: dvc.yaml in the run's directory",
    "report": "html or md: write a report at the end",
}


def _dvcyaml(value: Any) -> bool | str:
    """Return a path; False for no dvc.yaml, True for the default one."""
    wanted = switched(value)
    if wanted is not None:
        return wanted
    path = directory(value)
    if os.path.basename(path) != "dvc.yaml":
        raise ValueError("names a file that DVC does not read: it reads dvc.yaml")
    return path


PARSERS = {"dir": directory, "save_dvc_exp": switch, "dvcyaml": _dvcyaml, "report": choice("html", "md")}
