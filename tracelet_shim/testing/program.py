"""A training program that uses every method of SummaryWriter, in plain TensorBoard code (`main`), and then those of the session
(`log_run`), which do nothing where there is none.

    python program.py LOGDIR

Everything is made from fixed seeds, so that a test can make the same data again (`data`).
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

WALL = 1_760_000_000.125
HOSTILE = [
    *("", "../../x", "/etc/x", "a\0b", "line\nbreak", "a", "a/b", "Case", "case", "acc@1", "acc_x40_1", "é ü", "x" * 5000, ".")
]
STEPS = [5, 1, 3, 3, 0, 2**40, -2]  # out of order, repeated, zero, large, negative


def data() -> dict[str, Any]:
    """Return the arrays that are logged."""
    rng = np.random.default_rng(7)
    return {
        "image": rng.integers(0, 255, (3, 12, 16), dtype=np.uint8),
        "grey": rng.integers(0, 255, (10, 14), dtype=np.uint8),
        "video": np.stack([np.full((3, 8, 10), 60 * i, np.uint8) for i in range(4)])[None],
        "audio": np.sin(np.linspace(0, 60, 800)),
        "samples": rng.normal(size=2000),
        "matrix": rng.normal(size=(9, 5)).astype(np.float32),
        "labels": (rng.random(100) < 0.5).astype(np.int64),
        "scores": rng.random(100),
        "vertices": np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.5]]], np.float32),
        "faces": np.array([[[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]], np.int32),
        "colors": np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 99, 199]]], np.uint8),
        "tensor": np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 7,
    }


LAYOUT: dict[str, dict[str, list[Any]]] = {
    "Losses": {"both": ["Multiline", ["train/loss", "val/loss"]], "band": ["Margin", ["m", "lo", "hi"]]}
}

PARAMS: dict[str, Any] = {"optimizer": {"name": "adamw", "betas": [0.9, 0.999]}, "depth": 3, "dropout": 0.25, "pretrained": True}
COLUMNS = ["n", "value", "te|xt", "ok"]
ROWS: list[list[Any]] = [[1, 0.1, "a|b", True], [2**40, float("nan"), 'x,"y" <i>', False], [None, -1e300, "é", None]]
TEXT = "**bold** é\n<script>"
ALERT = ("diverged", "loss is **NaN**", "warning")
FILES = {"notes.txt": b"second", "data/a.txt": b"a", "data/deep/b.bin": bytes(range(256)) * 40, "net/weights.bin": b"\0\1" * 500}
"""What the artifacts ``notes.txt`` (its second version) and ``data``, and the model ``net`` have."""


def main(logdir: str) -> None:
    import torch
    from torch.utils.tensorboard import SummaryWriter

    d = data()
    train, val = SummaryWriter(f"{logdir}/train"), SummaryWriter(f"{logdir}/val")
    for step in range(20):
        train.add_scalar("loss", 0.1 * step, step, walltime=WALL + step)
        if step % 5 == 0:
            val.add_scalar("loss", torch.tensor(1 / 3 + step, dtype=torch.float64), step // 5, walltime=WALL + step)
    for i, step in enumerate(STEPS):
        train.add_scalar("odd/steps", i + 0.1, step, walltime=WALL + i)
    train.add_scalar("no step", 1.5)
    train.add_scalar("large", 1e300, 1)
    train.add_scalar("integer", 3, 1)
    for i, value in enumerate((float("nan"), float("inf"), float("-inf"), 0.5)):
        train.add_scalar("special", value, i)
    for i, tag in enumerate(HOSTILE):
        train.add_scalar(tag, i + 0.25, 7)
    train.add_scalars("group/acc", {"a": 0.1, "b": np.float64(0.2)}, 3)
    for kind in ("s", "t", "i", "h"):  # one tag, four kinds
        {
            "s": lambda: train.add_scalar("same", 0.1, 1),
            "t": lambda: train.add_text("same", "text", 1),
            "i": lambda: train.add_image("same", d["image"], 1),
            "h": lambda: train.add_histogram("same", d["samples"], 1),
        }[kind]()
    for step in (3, 3, 4):  # repeated
        train.add_image("image", d["image"] + step, step)
    train.add_image("grey", d["grey"], 1, dataformats="HW")
    train.add_images("images", np.stack([d["image"]] * 2), 1)
    train.add_image_with_boxes("boxes", d["image"], np.array([[1, 1, 9, 9]]), 1)
    _figure(train)
    train.add_histogram("histogram", d["samples"], 2)
    train.add_histogram_raw("raw", 0, 3, 6, 9, 14, [1.0, 2.0, 3.0], [1, 2, 3], 2)
    train.add_video("video", d["video"], 2, fps=4)
    train.add_audio("audio", d["audio"], 2, sample_rate=8000)
    train.add_text("text", "**bold** é\n<script>", 2)
    train.add_pr_curve("pr", d["labels"], d["scores"], 2)
    train.add_mesh("mesh", torch.tensor(d["vertices"]), torch.tensor(d["colors"]), torch.tensor(d["faces"]), global_step=2)
    train.add_mesh("cloud", torch.tensor(d["vertices"]), global_step=2)
    train.add_tensor("tensor", torch.tensor(d["tensor"]), 2)
    train.add_embedding(d["matrix"], [f"p{i}" for i in range(9)], torch.rand(9, 3, 4, 4), 2, "emb")
    train.add_graph(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()), torch.zeros(1, 3))
    train.add_custom_scalars(LAYOUT)
    train.add_custom_scalars_multilinechart(["a", "b"], "cat", "lines")
    train.add_custom_scalars_marginchart(["a", "b", "c"], "cat", "margin")
    at = {"global_step": 2} if "global_step" in inspect.signature(train.add_hparams).parameters else {}  # not in torch 2.1
    train.add_hparams({"lr": 0.1, "bs": 32, "opt": "adam", "amp": True}, {"hp/acc": 0.75}, run_name="own", **at)
    for i in (1, 2):
        train.add_hparams({"lr": 0.1 + i, "bs": 32, "opt": "sgd", "amp": False}, {"hp/acc": 0.75 + i / 8}, run_name=f"t{i}")
    train.close()
    val.close()


def log_run() -> None:
    """Use each method that a session has beside SummaryWriter's. Its files are gone when this returns."""
    import tracelet_shim

    session = tracelet_shim.get_session()
    session.log_params(PARAMS)
    session.set_tags({"stage": "try", "née": "é"})
    session.set_tags({"stage": "done"})
    for step in range(3):
        session.log_metrics({"run/acc": step / 7, "run/f1": -float(step)})
    session.log_metrics({"run/acc": 1e300}, step=10)
    session.set_summary({"run/best": 0.875})
    session.log_text("run/note", TEXT, 2)
    session.log_image("run/image", data()["image"], 3)
    session.log_figure("run/figure", _drawn(), 2)
    session.log_table("run/table", ROWS, 3, columns=COLUMNS)
    session.alert(*ALERT)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        for name, content in {**FILES, "notes.txt": b"first"}.items():
            path = Path(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        session.log_artifact(f"{place}/notes.txt")
        Path(place, "notes.txt").write_bytes(FILES["notes.txt"])
        session.log_artifact(f"{place}/notes.txt")
        session.log_artifact(f"{place}/data", type="dataset", aliases=["best"])
        session.log_model(f"{place}/net", register_as="nets", aliases=["prod"])


def _figure(writer: Any) -> None:
    writer.add_figure("figure", _drawn(), 2)


def _drawn() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(1, 1), dpi=50)
    figure.add_subplot().plot([1, 3, 2])
    return figure


if __name__ == "__main__":
    main(sys.argv[1])
    log_run()
