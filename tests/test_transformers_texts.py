"""The Trainer of transformers writes its arguments as texts: they are parameters, too, and no other text is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard.summary import text

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.transformers_texts import parameters
from tracelet_shim.eventfiles.writer_names import WriterNames

ARGS: dict[str, Any] = {
    "output_dir": "runs/hf_trainer", "per_device_train_batch_size": 16, "num_train_epochs": 3, "max_steps": -1,
    "learning_rate": 0.003, "lr_scheduler_kwargs": None, "bf16": False, "report_to": ["tensorboard"], "use_cache": False,
    "hub_token": "<HUB_TOKEN>", "seed": 42, "accelerator_config": {"split_batches": False, "dispatch_batches": None},
}  # fmt: skip
MODEL = {"hidden_size": 32, "model_type": "bert", "transformers_version": "5.24.0", "use_cache": True, "id2label": {"0": "é"}}
"""As transformers 5.24 writes them, shortened."""

PROGRAM = """
import json, sys
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter("runs") as writer:
    for tag, told in json.loads(sys.argv[1]):
        writer.add_text(tag, json.dumps(told, indent=2))
"""


def event(tag: str, told: str) -> ev.Text:
    return ev.Text(writer="", tag=tag, step=0, wall_time=1.0, record=ev.RecordId("f", 1), source=b"", logdir="/logs", text=told)


def test_arguments_and_the_models_configuration() -> None:
    args = parameters(event("args", json.dumps(ARGS, indent=2)))
    assert list(args) == list(ARGS)
    assert (args["learning_rate"], args["bf16"], args["seed"]) == (0.003, False, 42)
    assert (args["lr_scheduler_kwargs"], args["report_to"]) == ("null", '["tensorboard"]')
    assert args["accelerator_config"] == '{"split_batches": false, "dispatch_batches": null}'
    model = parameters(event("model_config", json.dumps(MODEL)))
    assert not set(model) & set(args)
    assert (model["model/hidden_size"], model["model/use_cache"], model["model/id2label"]) == (32, True, '{"0": "é"}')


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("arguments", json.dumps(ARGS)),
        ("train/args", json.dumps(ARGS)),
        ("model_config", json.dumps(ARGS)),
        ("args", json.dumps(MODEL)),
        ("args", json.dumps([ARGS])),
        ("args", json.dumps({**ARGS, "learning_rate": "0.003"})),
        ("args", json.dumps({name: value for name, value in ARGS.items() if name != "output_dir"})),
        ("args", json.dumps(ARGS)[:-1]),
        ("args", '{"a":' * 100_000),
        ("model_config", '{"hidden_size": 32}'),
    ],
)
def test_other_texts_are_texts(tag: str, told: str) -> None:
    assert parameters(event(tag, told)) == {}


def test_a_record_has_both_events_each_with_its_own_id() -> None:
    """Text and parameters of one record, the same when it is read again."""
    decoder = Decoder(WriterNames("/logs"))
    decoder.add_source(msg.Source(0, "/logs/events.out.tfevents.0", "/logs", None))
    data = Event(summary=text("args", json.dumps(ARGS)), step=0, wall_time=1.0).SerializeToString()
    record = msg.Record(0, 1, data, None, None)
    events, counts = decoder.decode([record])
    assert ([e.kind for e in events], counts, [e.record.index for e in events]) == (["text", "hparams"], [2], [0, 1])
    assert decoder.decode([record]) == (events, counts)


@pytest.mark.parametrize("replayed", [False, True])
def test_they_arrive_in_mlflow_and_trackio(tmp_path: Path, replayed: bool) -> None:
    """The same live and from an event file that was there before; a text beside them is none."""
    import sqlite3

    from mlflow import MlflowClient

    told = json.dumps([["args", ARGS], ["model_config", MODEL], ["other", {**ARGS, "only_text": 1}]])
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "TRACELET_BACKEND": "mlflow,trackio"}
    bare = {name: value for name, value in env.items() if name != "TRACELET_BACKEND"}
    options: dict[str, Any] = {"cwd": tmp_path, "timeout": 180}
    subprocess.run([sys.executable, "-c", PROGRAM, told], env=bare if replayed else env, check=True, **options)
    if replayed:
        subprocess.run([sys.executable, "-m", "tracelet_shim", "replay", "runs"], env=env, check=True, **options)

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    expected = {"learning_rate": "0.003", "use_cache": "False", "model/use_cache": "True", "report_to": '["tensorboard"]'}
    assert expected.items() <= run.data.params.items()
    assert "only_text" not in run.data.params
    (database,) = (p for p in (tmp_path / "trackio").glob("*.db"))
    with sqlite3.connect(database) as db:
        ((config,),) = db.execute("select config from configs").fetchall()
    config = json.loads(config)
    assert (config["learning_rate"], config["use_cache"], config["model/use_cache"]) == (0.003, False, True)
    assert "only_text" not in config
