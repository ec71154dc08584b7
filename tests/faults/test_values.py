"""Values that `SummaryWriter` accepts and trackers do not: through a real ``mlflow server``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from tests.backends.mlflow.tracking import TRAINER, MLflowServer, log_in
from tests.environment import warnings
from tests.faults.conftest import Train

LARGEST = sys.float_info.max  # how MLflow stores infinity


def test_values_that_trackers_refuse(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """NaN, infinities, integers of any size, a text of 5 MB and parameters of 10,000 characters arrive: as they are where MLflow
    can store them, else cut with a marker or under the nearest value, with the whole in a file."""
    program = train(
        """
text = "x" * 5_000_000  # the program's own memory
begin("mlflow", strict=True)
log(0, 10)
for step, value in enumerate([float("nan"), float("inf"), float("-inf"), 1e308, 10**18, -(2**70), 5e-324]):
    writer.add_scalar("odd", value, step)
for step in (0, -1, 2**31, 2**62, 2**63 - 1):
    writer.add_scalar("steps", 1.0, step)
writer.add_text("huge", text, 1)
writer.add_hparams(
    {"long": "p" * 10_000, "big": 2**80, "nan": float("nan"), "none": "", "line\\nbreak": "a\\0b"}, {"best": float("inf")}
)
log(10, 20)
""",
        env={"TRACELET_PROJECT": tmp_path.name, "MLFLOW_TRACKING_URI": server.uri, **log_in(TRAINER)},
    )
    said = program.end(20)
    assert warnings(said) == []
    points = {}
    for key, step, value in server.points(tmp_path.name):
        points.setdefault(key, []).append((step, value))
    assert points["loss"] == [(step, step / 7) for step in range(20)]
    run = server.only_run(tmp_path.name)
    odd = server.query("SELECT step, value, is_nan FROM metrics WHERE run_uuid = %s AND key = 'odd' ORDER BY step", run)
    assert odd == [
        (0, 0.0, 1), (1, LARGEST, 0), (2, -LARGEST, 0), (3, 1e308, 0), (4, 1e18, 0), (5, -(2.0**70), 0), (6, 5e-324, 0),
    ]  # fmt: skip
    assert [step for step, _ in points["steps"]] == [-1, 0, 2**31, 2**62, 2**63 - 1]
    files = server.files(tmp_path.name)
    (text,) = (data for name, data in files.items() if name.startswith("text/huge/"))
    assert text.count(b"x") == 5_000_000
    params = dict(server.query("SELECT key, value FROM params WHERE run_uuid = %s", run))
    assert params["long"].startswith("pppp")
    assert "[cut: 10000 characters, whole in params/long/" in params["long"]
    assert b"p" * 10_000 in [data for name, data in files.items() if name.startswith("params/long/")]
    assert float(params["big"]) == 2.0**80
    assert params["nan"] == "nan"
    rows = [row for name, data in files.items() if name.startswith("infinite_values/") for row in json.loads(data)]
    assert sorted((row["key"], row["step"], row["value"]) for row in rows) == [
        ("best", 0, "inf"), ("odd", 1, "inf"), ("odd", 2, "-inf"),
    ]  # fmt: skip
    assert points["best"] == [(0, LARGEST)]
    assert math.isnan(float(params["nan"]))
