"""``tracelet-shim run -- COMMAND``: start a program with activation switched on, wait for it, and sum up what arrived."""

from __future__ import annotations

import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tracelet_shim import errors
from tracelet_shim._bootstrap import name_near_misses
from tracelet_shim.bus.collector_place import AUTO
from tracelet_shim.cli._command import tracker_options
from tracelet_shim.common import run_report
from tracelet_shim.common.private_files import make_file
from tracelet_shim.common.text import quoted
from tracelet_shim.display.terminal import say
from tracelet_shim.session.exit_code import UNDELIVERED

if TYPE_CHECKING:
    from tracelet_shim.cli._supervisor import Supervisor
    from tracelet_shim.cli._waiting import Waiting
    from tracelet_shim.session.settings import Settings

__all__ = ["CONTEXT_SETTINGS", "run"]

CONTEXT_SETTINGS = {
    "allow_interspersed_args": False,  # from the command on, every option is the command's
}

_POSIX = hasattr(signal, "pthread_sigmask")  # else Windows
_SITE = Path(__file__).resolve().parents[1] / "_site"


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", hidden=True)],
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="Trackers, comma separated: mlflow,wandb.", metavar="NAMES")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", metavar="NAME", help="Project (MLflow: experiment).")] = None,
    exp_name: Annotated[str | None, typer.Option("--exp-name", "-n", metavar="NAME", help="Display name of the run.")] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="ID", help="Id of the run, to resume it under later.")] = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="Name that joins several runs.")] = None,
    tags: Annotated[str | None, typer.Option("--tags", metavar="TAGS", help="Tags, comma separated: nightly,seed=3.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="Free text.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="TRACKER.KEY=VALUE", help="An option of a tracker; can be repeated."),
    ] = None,
    offline: Annotated[
        bool | None, typer.Option("--offline/--no-offline", help="Use no network, on trackers that can do without.")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict/--no-strict", help="Fail where data is missing: exit code 3.")
    ] = None,
    ranks: Annotated[str | None, typer.Option("--ranks", metavar="main|all", help="Which ranks log: the first, or each.")] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="DIR", help="Directory that the writers' directories are relative to.")
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option("--watch", metavar="DIR", help="Directory whose event files are delivered, whoever writes them."),
    ] = None,
    delivery: Annotated[
        str | None, typer.Option("--delivery", metavar="WHERE", help="Where trackers run: process, thread, or a Redis.")
    ] = None,
    collector: Annotated[
        str | None, typer.Option("--collector", metavar="PATH", help="One process for many: tracelet-shim collect.")
    ] = None,
    exit_timeout: Annotated[
        float | None, typer.Option("--exit-timeout", metavar="SECONDS", help="What the end may take to deliver what is left.")
    ] = None,
    linger: Annotated[
        float | None, typer.Option("--linger", metavar="SECONDS", help="What the rest may take after that, in the background.")
    ] = None,
    accelerate: Annotated[
        bool | None,
        typer.Option("--accelerate/--no-accelerate", help="Write TensorBoard's own files for less processor time."),
    ] = None,
    quiet: Annotated[bool | None, typer.Option("--quiet/--no-quiet", help="Print warnings only.")] = None,
    ci: Annotated[bool | None, typer.Option("--ci/--no-ci", help="Tags and summary of a CI or SLURM job.")] = None,
    what_ran: Annotated[
        str | None,
        typer.Option("--what-ran", metavar="PARTS", help="What is attached: git,diff,command,packages,host,gpus; or 0."),
    ] = None,
    system_metrics: Annotated[
        float | None,
        typer.Option("--system-metrics", metavar="SECONDS", help="Time between samples of processor, memory, GPUs, ..."),
    ] = None,
    autolog: Annotated[
        str | None,
        typer.Option(
            "--autolog", metavar="WHAT", help="params: the program's arguments; models: what it saves; or both, or 0."
        ),
    ] = None,
    autolog_dir: Annotated[
        str | None, typer.Option("--autolog-dir", metavar="DIR", help="Where models are looked for, besides the log directories.")
    ] = None,
) -> None:
    """Run COMMAND with every SummaryWriter in it, and in its children, connected to the trackers.

    COMMAND is a program and its arguments: tracelet-shim run -b mlflow -- python train.py

    Each option sets the TRACELET_ variable of its name; what is not given stays as the environment has it. At the end it
    prints what each tracker has. The exit code is the command's own; with --strict it is 3 if the command ended with 0 and
    something was not delivered.
    """
    environment = dict(os.environ)
    environment.update(
        _variables(
            BACKEND=backend,
            PROJECT=project,
            EXP_NAME=exp_name,
            RUN_ID=run_id,
            GROUP=group,
            TAGS=tags,
            NOTES=notes,
            OFFLINE=offline,
            STRICT=strict,
            RANKS=ranks,
            **_option_variables(option or []),
            ROOT=None if root is None else str(Path(root).absolute()),
            WATCH=None if not watch else ",".join(str(Path(part).absolute()) for top in watch for part in top.split(",")),
            DELIVERY=delivery,
            COLLECTOR=collector if collector in (None, AUTO) else str(Path(collector).absolute()),
            EXIT_TIMEOUT=exit_timeout,
            LINGER=linger,
            ACCELERATE=accelerate,
            QUIET=quiet,
            CI=ci,
            WHAT_RAN=what_ran,
            SYSTEM_METRICS=system_metrics,
            AUTOLOG=autolog,
            AUTOLOG_DIR=None if autolog_dir is None else str(Path(autolog_dir).absolute()),
        )
    )
    name_near_misses()
    settings = _check(environment)
    if not environment.get("TRACELET_BACKEND"):
        environment["TRACELET_BACKEND"] = ",".join(settings.backend)  # without the variable, nothing is activated
    _make_reachable(environment)
    _check_interpreter(command[0], environment, strict=settings.strict)
    _supervise(command, environment, settings)


def _variables(**given: str | float | bool | None) -> dict[str, str]:
    return {
        f"TRACELET_{name}": str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in given.items()
        if value is not None
    }


def _option_variables(given: Sequence[str]) -> dict[str, str]:
    """Return what the trackers' options set, named as of `_variables`. Whether a tracker has them is for `_check` to say."""
    from tracelet_shim.backends import registry

    known = registry.names()
    try:
        options = tracker_options(given)
        for name in options:
            if name not in known:  # as a variable it would be none of ours, and a warning
                raise errors.UnknownBackendError(name, known)
    except errors.ConfigurationError as error:
        say(str(error))
        raise typer.Exit(2) from None
    return {
        f"{name.upper().replace('-', '_')}_{key.upper()}": value for name, own in options.items() for key, value in own.items()
    }


def _check(environment: Mapping[str, str]) -> Settings:
    """Refuse settings that cannot be right here, where someone is looking, rather than in a log hours later.

    Returns them, with the names of the trackers.
    """
    import msgspec

    from tracelet_shim.backends import registry
    from tracelet_shim.session.settings import DEFAULT_BACKEND, resolve

    known = registry.names()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the program will warn by itself
            settings = resolve({}, known, environment)
        for name in (*settings.backend, *settings.options):
            if name not in known:
                raise errors.UnknownBackendError(name, known)
        for name, options in settings.options.items():
            registry.find(name)(options)  # raises for unknown options
    except errors.ConfigurationError as error:
        say(str(error))
        raise typer.Exit(2) from None
    return settings if settings.backend else msgspec.structs.replace(settings, backend=(DEFAULT_BACKEND,))


def _make_reachable(environment: dict[str, str]) -> None:
    """Put our ``sitecustomize`` on ``PYTHONPATH`` if no site directory of this interpreter has the .pth file."""
    directories = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    if any(Path(directory, "tracelet_shim.pth").is_file() for directory in directories):
        return
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(_SITE) not in paths:
        environment["PYTHONPATH"] = os.pathsep.join([str(_SITE), *paths])


def _check_interpreter(program: str, environment: Mapping[str, str], *, strict: bool) -> None:
    """Say so if the command is another Python (a virtual environment that is not activated) that we are not in."""
    found = shutil.which(program)
    if found is None or not Path(found).name.startswith("python") or Path(found).parent == Path(sys.executable).parent:
        return
    probe = subprocess.run(  # noqa: S603 - the program that we are about to run anyway
        [found, "-c", "import sys; sys.exit('tracelet_shim._bootstrap' not in sys.modules)"],
        env={**environment, "TRACELET_DISABLED": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        say(
            f"not installed for {Path(found).absolute()}, so nothing will be logged; install it there, or use {sys.executable}"
        )
        if strict:
            raise typer.Exit(2)


def _supervise(command: list[str], environment: dict[str, str], settings: Settings) -> NoReturn:
    """Run the command, wait for its deliveries, sum up, and end as it ended."""
    end_like = _end_like()
    try:
        directory = tempfile.TemporaryDirectory(prefix="tracelet-run-", ignore_cleanup_errors=True)
    except OSError as error:
        say(f"warning: no temporary directory can be made ({error}): there will be no summary")
        end_like(_start(command, environment).wait())
    with directory:
        report = os.path.join(directory.name, "report")
        make_file(report)
        supervisor = _start(command, {**environment, run_report.VARIABLE: report})
        code = supervisor.wait()
        try:
            delivered = _sum_up(report, supervisor, environment, settings)
        except Exception as error:  # whatever it is, the job has the exit code of the command
            say(f"warning: nothing is known of the deliveries: {error!r}")
            delivered = not settings.strict
        run_report.pass_on(report)
    if code == 0 and not delivered:
        say("error: not everything was delivered")
        code = UNDELIVERED
    end_like(code)


def _end_like() -> Callable[[int], NoReturn]:
    if _POSIX:
        from tracelet_shim.cli._supervisor import end_like

        return end_like
    from tracelet_shim.cli._waiting import end_with

    return end_with


def _start(command: list[str], environment: Mapping[str, str]) -> Supervisor | Waiting:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if _POSIX:
            from tracelet_shim.cli._supervisor import Supervisor

            return Supervisor(command, environment)
        from tracelet_shim.cli._waiting import Waiting

        return Waiting(command, environment)
    except FileNotFoundError:
        say(f"command not found: {command[0]}")
        raise typer.Exit(127) from None  # the codes that shells, env(1) and nohup(1) use
    except OSError as error:
        say(f"cannot run {command[0]}: {error.strerror}")
        raise typer.Exit(126) from None


def _sum_up(report: str, supervisor: Supervisor | Waiting, environment: Mapping[str, str], settings: Settings) -> bool:
    """Wait for what is still being delivered, and print what became of it; return False if something is missing that must not
    be."""
    from tracelet_shim.cli import _summary

    _summary.wait_for_relays(report, settings.exit_timeout, supervisor.pause)
    found = _summary.accounts(report)
    _summary.print_summary(found, quiet=settings.quiet)
    if settings.ci:
        _summary.tell_job(found, environment, quiet=settings.quiet)
    unseen = [entry["pid"] for entry in run_report.read(report) if "unseen" in entry]
    for pid in unseen:
        say(f"warning: process {pid} has written event files of which nothing was delivered; it has said why")
    if not found and not unseen and not settings.quiet and _logs_here(environment, settings):
        say("no run was opened: no SummaryWriter was created, or by a Python without tracelet-shim (see tracelet-shim doctor)")
        for top in settings.watch:
            command = f"tracelet-shim replay {quoted(top)} --backend {','.join(settings.backend)}"
            say(f"nothing of {top} was delivered; to deliver all that is there: {command}")
    if settings.strict:
        return not unseen and all(account.complete for account in found)
    return all(account.complete for account in found if account.strict)


def _logs_here(environment: Mapping[str, str], settings: Settings) -> bool:
    """True if a writer in the command would open a run: it is not switched off, and this is no rank beside the first."""
    from tracelet_shim._bootstrap import is_set
    from tracelet_shim.provenance.launcher import rank

    return not is_set("TRACELET_DISABLED", environment) and (settings.ranks == "all" or rank(environment) == 0)
