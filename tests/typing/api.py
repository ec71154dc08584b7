"""The public interface as a user's own, type-checked code uses it. Never run: `make types` checks it under mypy's strict mode."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tracelet_shim as tracelet
from tracelet_shim import Backend, Capability, Level, NoSession, Session
from tracelet_shim import events as ev
from tracelet_shim.backends.base import OpenedRun, RunInfo


def start(arguments: argparse.Namespace) -> Session:
    session = tracelet.start_logging(
        backend=["mlflow", "wandb"],
        project="comparison",
        exp_name="first",
        group="sweep",
        tags={"stage": "try"},
        notes="free text",
        config={"lr": 0.1, "layers": [64, 64]},
        strict=True,
        ranks="all",
        delivery="process",
        exit_timeout=30.0,
        what_ran=["git", "command"],
        options={"wandb": {"mode": "offline"}},
    )
    again: Session = tracelet.start_logging("mlflow", tags=["nightly"], config=vars(arguments))
    assert again is not session
    return session


def look(session: Session) -> None:
    links: dict[str, str | None] = session.urls
    ids: dict[str, str] = session.run_ids
    for name, state in session.status().items():
        counts: int = state.delivered + state.pending + state.failed
        error: str | None = state.error
        print(name, state.state, counts, error, links[name], ids[name])
    delivered: bool = session.flush(timeout=10.0)
    native: Any = session.native["mlflow"]
    print(delivered, native, tracelet.__version__)


def log(session: Session, arguments: argparse.Namespace) -> None:
    for handle in (session, tracelet.get_session()):
        handle.log_params({"lr": 0.1})
        handle.watch_params(arguments)
        handle.log_metrics({"loss": 0.5})
        handle.log_table("errors", {"a": [1, 2]}, step=3)
        handle.log_artifact("last.pt", type="checkpoint", aliases=["best"])
        handle.log_model("last.pt", "net", register_as="nets", aliases=("prod",))
        handle.set_tags(["label"])
        handle.alert("odd", "loss is NaN", "warning")
    session.alert("odd", level="loud")  # type: ignore[arg-type]


def stop() -> None:
    with tracelet.start_logging() as session:
        current: Session | NoSession = tracelet.get_session()
        assert current is session
    try:
        tracelet.stop_logging("failed", timeout=5.0)
    except tracelet.DeliveryError as error:
        missing: Mapping[str, int] = error.undelivered
        print(missing)
    except (tracelet.ConfigurationError, tracelet.BackendUnavailableError) as problem:
        print(problem)


class Lines(Backend):
    name = "lines"
    module = "sys"
    distribution = "lines"
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        **dict.fromkeys(ev.EVENT_TYPES, Capability(Level.FILE, "attached")),
        ev.Scalar: Capability(Level.NATIVE, "a line"),
    }

    def open(self, run: RunInfo) -> OpenedRun:
        return OpenedRun(run_id=run.session)

    def close(self, status: str) -> None:
        print(status)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        for event in events:
            print(event.path, event.step, event.value)

    def log_hparams(self, event: ev.HParams) -> None:
        print(event.params, event.metrics)

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        print(path, len(data), event.kind)


tracelet.start_logging(Lines())
tracelet.start_logging([Lines(), "tensorboard"])
tracelet.start_logging(backend=3)  # type: ignore[arg-type]
tracelet.start_logging(ranks="some")  # type: ignore[arg-type]
tracelet.start_logging(no_such_argument=1)  # type: ignore[arg-type]
