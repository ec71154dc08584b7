"""What is logged through a session itself, as TensorBoard's own server reads it from both log directories."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.conftest import RunPython
from tests.faults.harness import environment, eventually, free_port, kill_group

pytestmark = pytest.mark.slow

PROGRAM = """
import glob, time
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter

session = tracelet.start_logging("tensorboard", project="p", exp_name="e", system_metrics=0.1, strict=True)
session.log_params({"lr": 0.1})
session.set_tags({"stage": "done", "label": ""})
writer = SummaryWriter("runs/x")
for step in range(3):
    writer.add_scalar("loss", step, step)
session.log_metrics({"acc": 0.5})
session.log_table("errors", {"image": [17, 23], "seen as": ["a|b", "x,y"]}, step=2)
session.alert("odd", "loss is **NaN**", "warning")
session.log_artifact(__file__, "program.py")
writer.close()
while not glob.glob("tracelet-runs/p/e/system/*"):
    time.sleep(0.05)
"""


@contextmanager
def served(directory: Path, logdir: str, fast: str) -> Iterator[str]:
    """Serve a log directory by ``tensorboard``; `fast` chooses which of its two readers reads it."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", str(port), "--load_fast", fast]
    with (directory / f"{fast}.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--reload_interval", "1"], cwd=directory, env=environment({}),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        kill_group(process)


def asked(base: str, path: str, **query: str) -> Any:
    with closing(urllib.request.urlopen(f"{base}/data/{path}?{urlencode(query)}", timeout=30)) as answer:
        return json.loads(answer.read())


def shown(base: str, plugin: str, run: str, tags: set[str]) -> list[str]:
    """Wait until the server, which reads by and by, shows these tags of a run; return its runs. There must be no other tag."""

    def there() -> bool:
        try:
            found = set(asked(base, f"plugin/{plugin}/tags").get(run, ()))
        except OSError:  # it does not listen yet
            return False
        assert found <= tags
        return found == tags

    eventually(there, 120)
    return sorted(asked(base, "runs"))


def test_what_tensorboard_shows(run_python: RunPython, tmp_path: Path) -> None:
    """Of the program's log directory it shows what the program itself has written, and nothing of ours: no run, no tag. Of the
    copy it shows what was logged through the session, too: numbers, the table and the alert as texts, tags; and system metrics as
    a run beside. Files are where its pages do not look."""
    run_python(PROGRAM)
    assert list(tmp_path.glob("runs/x/.tracelet/*/*.tracelet-records")), "what must not be seen"
    for fast in ("true", "false"):
        with served(tmp_path, "runs", fast) as base:
            assert shown(base, "scalars", "x", {"loss"}) == ["x"], fast
            assert asked(base, "plugin/text/tags") in ({}, {"x": []})
        with served(tmp_path, "tracelet-runs", fast) as base:
            texts = {f"{tag}/text_summary" for tag in ("errors", "tracelet/tags", "tracelet/alerts/odd")}
            assert shown(base, "text", "p/e", texts) == ["p/e", "p/e/system"], fast
            shown(base, "scalars", "p/e", {"loss", "acc"})
            (table,) = asked(base, "plugin/text/text", run="p/e", tag="errors/text_summary")
            (alert,) = asked(base, "plugin/text/text", run="p/e", tag="tracelet/alerts/odd/text_summary")
            (tags,) = asked(base, "plugin/text/text", run="p/e", tag="tracelet/tags/text_summary")
        assert table["step"] == 2
        assert "<td>17</td>" in table["text"]
        assert "<td>a|b</td>" in table["text"], table["text"]
        assert "<strong>warning: odd</strong>" in alert["text"]
        assert "<td>stage</td>" in tags["text"]
    files = tmp_path / "tracelet-runs" / "p" / "e" / "tracelet-files"
    (exact,) = files.glob("tables/errors/step=00000002_*.csv")
    assert exact.read_bytes() == b'image,seen as\r\n17,a|b\r\n23,"x,y"\r\n'
    content = {"columns": ["image", "seen as"], "data": [[17, "a|b"], [23, "x,y"]]}
    assert json.loads(exact.with_suffix(".json").read_text()) == content
    assert (files / "artifacts" / "program.py").read_bytes() == (tmp_path / "script.py").read_bytes()
