"""start_logging, stop_logging, the current session."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from tracelet_shim.common.system import after_fork
from tracelet_shim.session import exit_code

if TYPE_CHECKING:
    from tracelet_shim.backends.base import Backend
    from tracelet_shim.handle.nothing import NoSession
    from tracelet_shim.session.session import Session

__all__ = ["activate_from_environment", "get_session", "start_logging", "stop_logging", "tell_missed_at_exit"]

_lock = threading.RLock()
_session: Session | None = None
_hooked = _fork_hooked = False
_asked = False
"""The environment has been asked for a session, or there has been one: after its end there is none."""


_Call = TypeVar("_Call", bound=Callable[..., Any])


def _one_positional(function: _Call) -> _Call:
    """Say what is meant where somebody gives the run's name as other libraries take it: by its place."""

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if "backend" not in kwargs else args
        if given:
            problem = f"takes one argument by its place, the backend; {', '.join(map(repr, given))} came as well"
            raise TypeError(f"start_logging() {problem}; the name of the run is exp_name={given[0]!r}")
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


@_one_positional
def start_logging(
    backend: str | Backend | Sequence[str | Backend] | None = None,
    *,
    project: str | None = None,
    exp_name: str | None = None,
    run_id: str | None = None,
    group: str | None = None,
    tags: Mapping[str, str] | Iterable[str] | None = None,
    notes: str | None = None,
    config: Mapping[str, Any] | None = None,
    offline: bool | None = None,
    strict: bool | None = None,
    ranks: Literal["main", "all"] | None = None,
    root: str | os.PathLike[str] | None = None,
    watch: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    delivery: str | None = None,
    collector: str | os.PathLike[str] | None = None,
    exit_timeout: float | None = None,
    linger: float | None = None,
    accelerate: bool | None = None,
    quiet: bool | None = None,
    ci: bool | None = None,
    what_ran: bool | str | Iterable[str] | None = None,
    system_metrics: float | None = None,
    autolog: bool | str | Iterable[str] | None = None,
    autolog_dir: str | os.PathLike[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **unknown: NoReturn,
) -> Session:
    """Send everything that goes to a `SummaryWriter` to these trackers too, from now until `stop_logging` or the end.

    Returns at once, unless `strict`; the runs open in the background. An argument that is not given comes from its ``TRACELET_*``
    environment variable, else from ``tracelet.toml`` where the program began, else it has its default.

    Args:
        backend: a name, a Backend object, or a list of them. Default: ``"mlflow"``, into a local SQLite file.
        project: MLflow's experiment, W&B's and ClearML's project, Aim's experiment.
        exp_name: display name of the run.
        run_id: an id of your own. A second session with the same one continues the run, on trackers that can.
        group: name that joins several runs, as the trials of a sweep; each tracker keeps it where it keeps such.
        tags: ``{"name": "value"}`` or a list of labels.
        notes: free text.
        config: parameters known at the start.
        offline: no network and no account, on trackers that have an offline mode.
        strict: raise at the end if anything was not delivered, and here if a tracker refuses to open its run.
        ranks: ``"main"``: under torchrun, SLURM or MPI only rank 0 logs; ``"all"``: each rank has a run, grouped.
        root: the directory that writers' log directories are relative to. Default: the first writer's log directory,
            or its parent where that is named like a split (``train``, ``val``, ``test``, ...).
        watch: a directory, or several: event files that appear or grow there from now on are delivered as well, whoever writes
            them (Keras, ``tf.summary``, child processes). A path with a comma in it goes into a list. Default: none.
        delivery: ``"process"`` or ``"thread"``: where the trackers' SDKs run; or the address of a Redis, ``"redis://host:6379/0"``,
            from which collectors deliver.
        collector: the socket of a ``tracelet-shim collect`` on this machine, or ``"auto"``: one process then has the trackers'
            SDKs for many programs. Default: each session has a relay process of its own.
        exit_timeout: seconds that the end may take to deliver what is left.
        linger: seconds that the relay process may go on with that by itself, when `exit_timeout` is over. Default: 300.
        accelerate: False leaves TensorBoard's own event writer as it is; else its files are written, byte for byte the
            same, for less processor time.
        quiet: print warnings only.
        ci: False leaves out the tags that a CI or SLURM job gives the runs (commit, branch, pull request, job, actor, nodes),
            and the summary that the job's page gets. A tag of your own of the same name wins in any case.
        what_ran: False, or some of ``git``, ``diff``, ``command``, ``packages``, ``host``, ``gpus``: what is attached to
            each run. Default: all. Secrets are taken out, and environment variables are never taken.
        system_metrics: seconds between samples of processor, memory, disk, network and GPUs, which go to the trackers under
            ``system/``. Default: none are taken. Takes the extra ``system``.
        autolog: ``"params"``: what argparse, jsonargparse and Hydra parse of the command line becomes parameters, without what is
            called like a secret; ``"models"``: what `torch.save` and `safetensors.torch.save_file` write into the log directory
            of a writer becomes a model, at the cost of a copy. True: both. Arguments that were parsed before this call are known
            if the environment variable is set. Default: nothing.
        autolog_dir: one more directory, what is saved below which becomes a model.
        options: backend name -> options of its own.
        unknown: nothing; a name that is no argument is an error that says which one is meant.

    Returns:
        The session. Called again with the same arguments while a session is active, it returns that one; with others,
        it stops that one first.

    Raises:
        UnknownBackendError, ConfigurationError, BackendUnavailableError: what can be known at once, and under `strict` that a
            tracker refuses to open the run.
        TypeError: there is no such argument.
    """
    arguments = {
        "backend": backend, "project": project, "exp_name": exp_name, "run_id": run_id, "group": group, "tags": tags,
        "notes": notes, "config": config, "offline": offline, "strict": strict, "ranks": ranks, "root": root, "watch": watch,
        "delivery": delivery, "collector": collector, "exit_timeout": exit_timeout, "linger": linger,
        "accelerate": accelerate, "quiet": quiet, "ci": ci, "what_ran": what_ran, "system_metrics": system_metrics,
        "autolog": autolog, "autolog_dir": autolog_dir, "options": options,
    }  # fmt: skip
    for name in unknown:
        from tracelet_shim.common.suggestions import did_you_mean

        raise TypeError(f"start_logging() got an unexpected keyword argument {name!r}{did_you_mean(name, arguments)}")
    with _lock:
        session = _prepare(arguments)
        if session.active and session is _session and not _importing_main_again():
            session.begin()
            if session.settings.strict:
                session.wait_opened()
                _check_opened(session)
        return session


def _check_opened(session: Session) -> None:
    """Raise if a tracker will not open a run, whatever is waited for: it ends the session that has just begun."""
    from tracelet_shim import errors

    problems = session.unopened()
    if problems:
        with contextlib.suppress(errors.DeliveryError):  # which names the same
            stop_logging("failed")
        name = next(iter(problems))
        others = "".join(f"; {other}: {problem}" for other, problem in problems.items() if other != name)
        raise errors.BackendUnavailableError(name, problems[name] + others)


def stop_logging(status: str = "finished", *, timeout: float | None = None) -> None:
    """Deliver what is left and end the runs; nothing happens if no session is active.

    Args:
        status: ``"finished"``, ``"failed"`` or ``"killed"``.
        timeout: seconds that this may take; default: the session's `exit_timeout`.

    Raises:
        DeliveryError: under `strict`, if anything was not delivered.
    """
    _stop(status, timeout)


def _stop(status: str, timeout: float | None = None) -> None:
    global _session
    with _lock:
        session, _session = _session, None
    if session is not None:
        session.stop(status, timeout)


def _stop_for_good(session: Session, status: str) -> None:
    """Stop at the end of the program, whatever signals come: a handler of the user's that raises SystemExit for one more SIGTERM
    says no more than the first one has."""
    global _session
    while True:
        try:
            with _lock:
                _session = None
            session.stop(status, at_exit=True)
        except SystemExit:
            continue
        return


def get_session() -> Session | NoSession:
    """Return the active session, or one that does nothing and is false, so that code that logs need not ask.

    If the environment asks for a session, and the program has not come to ``torch.utils.tensorboard`` yet, it is there now; it
    begins with the first method that is called.

    Raises:
        TraceletError: under ``TRACELET_STRICT``, a setting of the environment that cannot be right.
    """
    global _asked
    if _session is None and not _asked:
        from tracelet_shim._bootstrap import activate_now

        _asked = True
        activate_now()
    if _session is not None:
        return _session
    from tracelet_shim.handle.nothing import NoSession

    return NoSession()


def activate_from_environment(*, ending: bool = False) -> None:
    """Prepare a session from ``TRACELET_*`` variables; it begins with the first writer. Nothing happens if this process
    has a session already, or is the child of one that has.

    Args:
        ending: True if the program is over, and this only tells what would have been.

    Raises:
        TraceletError: a setting that cannot be right; the caller decides whether that ends the program.
    """
    from tracelet_shim.session.owner import has_other_owner

    with _lock:
        if _session is not None or has_other_owner():
            return
        _prepare({}, lenient=True, ending=ending)


def tell_missed_at_exit() -> None:
    """At the end of a program in which the environment could not activate us in time: say so, if this process was to log.
    Under strict, the process ends here with a code of its own."""
    from tracelet_shim import errors, intercept
    from tracelet_shim._bootstrap import is_set
    from tracelet_shim.display.terminal import say
    from tracelet_shim.session.watched import has_news

    if intercept.missed() is None and not has_news(os.environ.get("TRACELET_WATCH", "")):
        return
    try:
        activate_from_environment(ending=True)  # this may be a child, or a rank, that was to log nothing
    except errors.TraceletError as error:
        exit_code.verdict.undelivered = is_set("TRACELET_STRICT") and getattr(sys, "last_value", None) is None
        say(f"error: {error}")
    _at_exit()
    exit_code.exit_if_undelivered()


def _prepare(arguments: dict[str, Any], *, lenient: bool = False, ending: bool = False) -> Session:
    """Resolve settings, check the backends, make the session and route interception to it."""
    global _session, _asked
    import importlib.util

    import msgspec

    from tracelet_shim import errors, intercept
    from tracelet_shim._bootstrap import is_set
    from tracelet_shim.backends import registry
    from tracelet_shim.display.terminal import say
    from tracelet_shim.provenance.launcher import rank
    from tracelet_shim.session.session import Session
    from tracelet_shim.session.settings import Problem, resolve
    from tracelet_shim.session.specs import names_and_objects, specs_of

    names, objects = names_and_objects(arguments.get("backend"))
    for item in objects.values():
        registry.validate(type(item))
    problems: list[Problem] = []
    settings = resolve(
        {**arguments, "backend": names}, [*registry.names(), *objects], problems=problems if lenient else None
    )
    if problems and settings.strict:
        raise problems[0].error
    if _session is not None and _session.active:
        if _session.settings == settings and _session.objects == objects:
            return _session
        stop_logging()
    if is_set("TRACELET_DISABLED"):
        active = False
    else:
        # What the environment asks for begins with the first writer, in whatever process that is.
        active = (settings.ranks == "all" or rank() == 0) and (lenient or not _importing_main_again())
    for problem in problems if active else ():
        say(f"{problem.error} ({problem.instead})")
    if active and settings.system_metrics is not None and importlib.util.find_spec("psutil") is None:
        missing = "system_metrics needs psutil, which is not installed; remedy: pip install 'tracelet-shim[system]'"
        if not lenient or settings.strict:
            raise errors.ConfigurationError(missing)
        say(f"{missing} (everything else goes on without it)")
        settings = msgspec.structs.replace(settings, system_metrics=None)
    specs = specs_of(settings, objects, lenient=lenient and not settings.strict) if active else []
    active = active and bool(specs)
    session = Session(settings, specs, objects, active=active, from_environment=lenient)
    _session, _asked = session, True
    if active and not ending:
        intercept.install()
        if settings.autolog:
            intercept.install_autolog()
        intercept.set_sink(session)
        _hook_process(session)
        if settings.strict:
            session.exit_watch.watch()  # a program that fails by itself keeps its code, whether or not there was a writer
    return session


def _importing_main_again() -> bool:
    """True while multiprocessing's spawn imports the user's script in a child: its start_logging is the parent's."""
    process = sys.modules.get("multiprocessing.process")
    return bool(process is not None and getattr(process.current_process(), "_inheriting", False))


def _hook_process(session: Session) -> None:
    """Be called at a fork and at the end of the interpreter."""
    global _hooked
    global _fork_hooked
    if not _fork_hooked:
        _fork_hooked = True
        after_fork(_after_fork)
    if not _hooked:
        _hooked = True
        atexit.register(exit_code.exit_if_undelivered)
        atexit.register(_at_exit)
    if session.hosts_trackers:
        _hook_hosting()
    else:
        session.on_hosting = _hook_hosting


def _hook_hosting() -> None:
    """Come before the SDKs that live in this process, at its end."""
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        # Where SDKs live in this process, their own atexit handlers must not come first: they would end what is still
        # being opened or drained. Handlers of the threading module run before all of atexit's; among themselves the
        # latest first, so those that shut executors down have to be registered by now (and later they cannot be).
        import concurrent.futures.process
        import concurrent.futures.thread  # noqa: F401

        with contextlib.suppress(RuntimeError):  # the interpreter is ending already
            register(_at_exit)
    _handle_sigterm()


def _handle_sigterm() -> None:
    """With the trackers in this process, SIGTERM would take what they have not got yet with it: deliver first, then do
    what would have happened. (A relay process needs no handler here, it survives us.)"""
    import signal

    if threading.current_thread() is not threading.main_thread():
        return
    previous = signal.getsignal(signal.SIGTERM)
    if previous is _on_sigterm or previous == signal.SIG_IGN or previous is None:
        return
    _on_sigterm.previous = previous  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: Any) -> None:
    import signal

    previous = _on_sigterm.previous  # type: ignore[attr-defined]
    session = _session
    if callable(previous):  # the user's own: it decides what happens next
        if session is not None:
            session.exit_watch.terminated = True
        previous(number, frame)
        return
    try:
        stop_logging("killed")
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _at_exit() -> None:
    try:
        _stop_at_exit()
        exit_code.let_imports_end()
    except KeyboardInterrupt:
        return  # said by the session; a traceback of ours would tell nobody anything


def _stop_at_exit() -> None:
    from tracelet_shim import errors
    from tracelet_shim.display.terminal import say

    session = _session
    if session is None:
        return
    status = session.exit_watch.status()
    try:
        _stop_for_good(session, status)
        if session.hosts_trackers and isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
            exit_code.interrupted_after_all()
    except errors.DeliveryError as error:
        exit_code.verdict.undelivered = status == "finished"  # a program that failed by itself keeps its exit code
        say(f"error: {error}")
    if status == "finished" and session.settings.strict:
        exit_code.verdict.session = session


def _after_fork() -> None:
    """A forked child is inactive at once; the session, its threads and pipes are the parent's."""
    global _session, _lock
    from tracelet_shim import intercept

    intercept.set_sink(None)
    _lock = threading.RLock()
    global _hooked
    _hooked = False  # the fork hook itself is inherited
    session, _session = _session, None
    if session is None:
        return
    if session.active and not session.has_begun and session.from_environment:
        # Prepared for whichever process creates a writer: this may be the one.
        _session = session.renewed()
        intercept.set_sink(_session)
        _hook_process(_session)
        return
    session.after_fork()
