"""What the tests that go through all trackers have to know of W&B."""

from __future__ import annotations

from pathlib import Path

from tests.backends.about import About, UsersRun, text_in, two_times
from tests.backends.wandb.installed import since
from tests.backends.wandb.reader import WandbReader, _log_records

FINISH_PREVIOUS = "finish_previous" if since("0.19.10") else True


def times(here: Path, _home: Path) -> tuple[float, float]:
    return two_times(text_in("offline-run-*/*.wandb", here / "wandb"))


def check_resumed(directory: Path) -> None:
    """The project is that of the user's run."""
    logs = [record for path in directory.rglob("*.wandb") for record in _log_records(path)]
    assert {record.run.project for record in logs if record.WhichOneof("record_type") == "run"} == {"p"}


ABOUT = About(
    reader=WandbReader,
    opening={"wandb/offline-run-*": {}, "wandb/offline-run-*/run-*.wandb": {}},
    own_places=("wandb/offline-run-*",),
    times=times,
    users_run=UsersRun(
        begin="wandb.init(project='p', name=name)", run_id="run.id", end="run.finish()",
        outlives_program=True, keeps_back=True, check_resumed=check_resumed,
        begin_next=f"wandb.init(project='p', name=name, reinit={FINISH_PREVIOUS!r})", is_context=True,
        other_ways=(
            ("wandb.init(project='p', name=name, reinit=True)", "wandb.finish()"), ("", "run.finish(exit_code=1)"),
            ("", "run.__exit__(None, None, None)"), ("", "wandb.teardown()"),
        ),
        begin_again="wandb.init(project='p', id=ids[0], resume='allow')",
    ),
    own_hook=True,
)  # fmt: skip
