"""DVCLive's own object, without its side effects on repository, network and process; all that DVC and Studio are told.

`Live` holds parameters and summary, and is the `handle`. In any Git repository, its ``_init_dvc`` would run ``dvc init`` and
stage files (``dvc.py``, ``get_dvc_repo``): it does so only under `save_dvc_exp`, and only then is DVC Studio told of the run. Its
``next_step`` and ``sync`` read every table again (``utils.py``, ``parse_metrics``): they are not called.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.dvclive.files import content, walk
from tracelet_shim.backends.dvclive.limits import EXPERIMENT, MAX_NAME
from tracelet_shim.backends.dvclive.plots import PLOTS, TABLES, table_look
from tracelet_shim.backends.shared.names import Names

__all__ = ["note_image", "open_live", "save_experiment", "tell_studio", "undisturbed", "wants_resume", "write_report"]

logger = logging.getLogger("tracelet_shim.backends.dvclive")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Take back what the import of ``dvc`` does to the process (``dvc/logger.py``, ``setup``).

    It has colorama replace both output streams and print at exit, and silences asyncio.
    """
    streams = sys.stdout, sys.stderr
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp")}
    had_exit = getattr(sys.modules.get("colorama.initialise"), "atexit_done", False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        colorama = sys.modules.get("colorama.initialise")
        if colorama is not None and not had_exit:
            atexit.unregister(colorama.reset_all)
            colorama.atexit_done = False  # type: ignore[attr-defined]


def open_live(directory: str, run: RunInfo, *, overwrite: bool, saves: bool, report: str | None) -> Any:
    """Return a `Live` on a run's directory.

    Args:
        directory: the run's.
        run: the call's.
        overwrite: what an earlier run left there gives way to it.
        saves: the run becomes a DVC experiment at its end.
        report: the form of a report at the end.
    """
    if not overwrite:
        _set_broken_aside(directory)
    live = _live_class(studio=not run.offline)(
        dir=directory,
        report=report,
        dvcyaml=False,
        exp_name=Names(EXPERIMENT, MAX_NAME)(run.exp_name) if run.exp_name else None,
        exp_message=run.notes,
        save_dvc_exp=saves,
        resume=not overwrite,
    )
    live._step = live.summary.get("step")  # `Live` goes on with the next one; here each event has its own
    if saves and not live._save_dvc_exp:
        logger.warning("dvclive: no DVC experiment will be saved: it needs a Git repository with a commit")
    return live


def _set_broken_aside(directory: str) -> None:
    """`Live` cannot resume with half a file, from a process or machine that stopped while it wrote."""
    from dvclive.serialize import load_yaml

    for name in ("metrics.json", "params.yaml"):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            try:
                whole = isinstance(load_yaml(path), dict)  # JSON is YAML
            except Exception:
                whole = False
            if not whole:
                logger.warning("dvclive: %s cannot be read, and is kept as %s.broken", path, name)
                os.replace(path, f"{path}.broken")


def _live_class(*, studio: bool) -> Callable[..., Any]:
    """Return `Live` without its side effects: on the repository, if it saves no experiment; on the network."""
    from dvclive import Live

    class OwnLive(Live):  # type: ignore[misc]
        _save_dvc_exp: bool

        def _init_dvc(self) -> None:
            self._dvc_file = self._init_dvc_file()
            if self._save_dvc_exp and _has_commit():
                # `Live` does it as well, but only after `dvc init` has spoken on standard output.
                logging.getLogger("dvc").setLevel(logging.getLogger("dvclive").level)
                try:
                    super()._init_dvc()
                except Exception:  # a broken repository: the run is worth more than the experiment made of it
                    logger.warning("dvclive: the DVC repository cannot be used", exc_info=True)
                    self._dvc_repo = None
            if self._dvc_repo is None:
                self._save_dvc_exp = False

        def _init_test(self) -> None:  # under DVCLIVE_TEST, `Live` throws data away
            self._init_dvc()

        def _init_studio(self) -> None:
            if self._save_dvc_exp and studio:
                super()._init_studio()
            else:
                self._studio_events_to_skip |= {"start", "data", "done"}

        def post_data_to_studio(self) -> None:
            if "data" not in self._studio_events_to_skip:
                super().post_data_to_studio()

    return OwnLive


def _has_commit() -> bool:
    """True in a Git repository that has a commit. Elsewhere `Live` cannot save, and raises or runs ``dvc init``."""
    from scmrepo.exceptions import SCMError
    from scmrepo.git import Git

    try:
        git = Git()
    except SCMError:
        return False
    try:
        return not git.no_commits
    finally:
        git.close()  # type: ignore[no-untyped-call]


def wants_resume() -> bool:
    from dvclive import env
    from dvclive.utils import env2bool

    return bool(env2bool(env.DVCLIVE_RESUME))


def tell_studio(live: Any) -> None:
    """Send what is new to DVC Studio, unless it has not taken what it got: a slow Studio would pile it up."""
    if "data" in live._studio_events_to_skip:
        return
    if not hasattr(live, "post_data_to_studio"):  # before 3.46, a request that is waited for
        live.post_to_studio("data")
        return
    if live._studio_queue is None or not live._studio_queue.unfinished_tasks:
        live.post_data_to_studio()


def note_image(live: Any, path: str, step: int) -> None:
    """Tell `Live` of an image, for Studio; without Studio, nobody asks."""
    if "data" not in live._studio_events_to_skip:
        from dvclive.plots import Image

        image = Image(path, live.plots_dir)
        image.step = step
        live._images[image.name] = image


def write_report(live: Any, directory: str) -> None:
    """Let `Live` write its report. It wants to know each plot by its file (``report.py``)."""
    from dvclive.plots import CustomPlot

    for path in walk(os.path.join(directory, "plots", "custom"), ".json"):
        kind = PLOTS.get(path.partition("/")[0])
        if path.startswith(f"{TABLES}/"):
            rows = json.loads(content(os.path.join(directory, "plots", "custom", path)))
            look = table_look(rows)
            kind = {**look, "y": look["y"][0]}  # of a report, one
        if kind is not None:
            name = path.removesuffix(".json")
            live._plots[name] = CustomPlot(name, live.plots_dir, **kind)
    try:
        live.make_report()
    except Exception:  # a picture of what is there; the run itself is complete
        logger.warning("dvclive: the report of %s could not be written", directory, exc_info=True)
    finally:
        live._report_mode = None  # `end` would write it again
        live._plots.clear()


def save_experiment(live: Any, directory: str, dvcyaml: str | None) -> dict[str, Any]:
    """Save the run as a DVC experiment, with its dvc.yaml; return the experiment's name and revision."""
    if dvcyaml is not None:
        live._include_untracked.append(dvcyaml)
    live.end()
    if live._experiment_rev is None:  # `end` has told the logger why
        raise errors.BackendError(
            f"DVC has not saved the experiment; its files are in {directory}; remedy: dvc exp save -I {directory}"
        )
    return {"name": live._exp_name, "rev": live._experiment_rev}
