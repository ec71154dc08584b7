"""What a program says of itself: real parsers, real Hydra, real files. Each program is a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunPython

ENV = {"TRACELET_BACKEND": "tensorboard", "TRACELET_AUTOLOG": "params,models", "TRACELET_STRICT": "1"}
WRITER = """
from torch.utils.tensorboard import SummaryWriter
def write(logdir="runs/x"):
    with SummaryWriter(logdir) as writer:
        writer.add_scalar("loss", 0.5, 1)
"""

Run = Callable[..., str]


def runs(directory: Path) -> list[dict[str, Any]]:
    found = sorted(directory.glob("tracelet-runs/**/run.json"), key=lambda path: json.loads(path.read_text())["started"])
    return [json.loads(path.read_text()) for path in found]


def models(directory: Path) -> dict[str, bytes]:
    top = list(directory.glob("tracelet-runs/**/tracelet-files/artifacts"))
    return {str(path.relative_to(one)): path.read_bytes() for one in top for path in one.rglob("*") if path.is_file()}


def test_arguments_of_argparse(run_python: RunPython, tmp_path: Path) -> None:
    """Those of the command line, a subcommand's too, though TensorBoard is imported behind them; secrets are masked. Other lists
    that are parsed are none."""
    done = run_python(
        """
import argparse, inspect, sys
native = inspect.signature(argparse.ArgumentParser.parse_args)
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--sizes", type=int, nargs="+")
parser.add_argument("--api-key")
parser.add_argument("--store", default="postgres://me:hidden@host/db")
parser.set_defaults(run=print)
train = parser.add_subparsers(dest="command").add_parser("train")
train.add_argument("--steps", type=int)
other = argparse.ArgumentParser()
other.add_argument("--inner", default=1)
other.parse_args(["--inner", "2"])
first = argparse.ArgumentParser(add_help=False)
first.add_argument("--seed", type=int)
sys.argv[1:] = ["--lr", "0.5", "--sizes", "1", "2", "--api-key", "hidden", "train", "--steps", "3"]
known, rest = first.parse_known_args()
arguments = parser.parse_args()
assert vars(arguments)["api_key"] == "hidden" and arguments.run is print, arguments
assert inspect.signature(argparse.ArgumentParser.parse_args) == native
try:
    parser.parse_args(["--nothing"])
except SystemExit as error:
    assert error.code == 2
else:
    raise AssertionError
"""
        + WRITER
        + "write()",
        env=ENV,
    )
    (run,) = runs(tmp_path)
    assert run["config"] == {
        "seed": "None", "lr": 0.5, "sizes": "[1, 2]", "api_key": "***", "store": "postgres://***@host/db", "run": "print",
        "command": "train", "steps": 3,
    }  # fmt: skip
    assert "hidden" not in done.stdout + done.stderr.replace("--nothing", "")


def test_arguments_of_jsonargparse(run_python: RunPython, tmp_path: Path) -> None:
    """Groups within are names with dots."""
    run_python(
        WRITER
        + """
import sys
from dataclasses import dataclass
from jsonargparse import ArgumentParser
@dataclass
class Model:
    depth: int = 3
    name: str = "net"
parser = ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--model", type=Model)
sys.argv[1:] = ["--lr=0.5", "--model.depth=7"]
assert parser.parse_args().model.depth == 7
write()
""",
        env=ENV,
    )
    (run,) = runs(tmp_path)
    assert run["config"] == {"lr": 0.5, "model.depth": 7, "model.name": "net"}


HYDRA = """
import hydra, sys
from omegaconf import OmegaConf
import tracelet_shim as tracelet
@hydra.main(version_base=None, config_path=None, config_name="base")
def main(config):
    assert set(config) == {"lr", "model"}, config
    tracelet.start_logging("tensorboard", strict=True, quiet=True)
    write()
    tracelet.stop_logging()
from hydra.core.config_store import ConfigStore
ConfigStore.instance().store("base", {"lr": 0.1, "model": {"depth": 3, "password": "hidden"}})
"""


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_configuration_of_hydra(run_python: RunPython, tmp_path: Path, first: bool) -> None:
    """It is what the function got, and not how Hydra was called; each run of a sweep has its own, whatever was imported first."""
    early = "import hydra._internal.hydra, hydra._internal.core_plugins.basic_launcher\n"
    script = ("" if first else early) + WRITER + HYDRA
    env = {"TRACELET_AUTOLOG": "params", "TRACELET_TENSORBOARD_LOGDIR": str(tmp_path / "tracelet-runs")}
    run_python(script + 'sys.argv[1:] = ["-m", "lr=0.5", "model.depth=7,8"]\nmain()', env=env)
    found = [run["config"] for run in runs(tmp_path)]
    assert found == [{"lr": 0.5, "model.depth": depth, "model.password": "***"} for depth in (7, 8)]


def test_models(run_python: RunPython, tmp_path: Path) -> None:
    """What is saved below a writer's log directory or the named one is a model, as it was then, under its path there;
    results, errors and files are native."""
    run_python(
        WRITER
        + """
import io, os, threading, inspect, torch, torch.serialization
from pathlib import Path
from safetensors.torch import save_file
os.makedirs("runs/x/ckpt")
write()
os.makedirs("kept/deep")
assert torch.save({"a": 1}, "runs/x/ckpt/last.pt") is None
before = Path("runs/x/ckpt/last.pt").read_bytes()
torch.save({"a": 2}, Path("runs/x/last.pt"))
torch.serialization.save({"a": 3}, f=os.path.abspath("kept/deep/best.pt"))
save_file({"a": torch.zeros(2)}, "runs/x/net.safetensors")
torch.save({"a": 4}, "elsewhere.pt")
buffer = io.BytesIO()
torch.save({"a": 5}, buffer)
with open("runs/x/by_handle.pt", "wb") as file:
    torch.save({"a": 6}, file)
never = "runs/x/never.pt"
for wrong in (lambda: torch.save(lambda: 0, never), lambda: torch.save({}), lambda: save_file({"a": 1}, never)):
    try:
        wrong()
    except Exception as error:
        assert "tracelet" not in str(error)
    else:
        raise AssertionError
Path(never).unlink(missing_ok=True)
assert list(inspect.signature(torch.save).parameters)[:2] == ["obj", "f"]
def many(number):
    for i in range(5):
        torch.save({"n": i}, f"runs/x/thread{number}.pt")
threads = [threading.Thread(target=many, args=(n,)) for n in range(3)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
pid = os.fork()
if pid == 0:
    torch.save({"a": 7}, "runs/x/child.pt")
    os._exit(0)
os.waitpid(pid, 0)
""",
        env={**ENV, "TRACELET_AUTOLOG_DIR": "kept"},
    )
    found = models(tmp_path)
    assert sorted(found) == [
        "ckpt/last.pt", "deep/best.pt", "last.pt", "net.safetensors", "thread0.pt", "thread1.pt", "thread2.pt",
    ]  # fmt: skip
    for name in ("ckpt/last.pt", "last.pt", "net.safetensors", "thread1.pt"):
        assert found[name] == (tmp_path / "runs" / "x" / name).read_bytes(), name
    assert found["deep/best.pt"] == (tmp_path / "kept" / "deep" / "best.pt").read_bytes()


def test_nothing_without_the_setting(run_python: RunPython, tmp_path: Path) -> None:
    """It is off by default; and a program that has arguments and no writer leaves nothing."""
    program = "import argparse, torch\nargparse.ArgumentParser().parse_args()\n"
    save = "torch.save({}, 'runs/x/a.pt')\nprint(type(torch.save).__name__)"
    done = run_python(WRITER + program + "write()\n" + save, env={**ENV, "TRACELET_AUTOLOG": ""})
    assert done.stdout.split() == ["function"]
    (run,) = runs(tmp_path)
    assert run["config"] is None
    assert models(tmp_path) == {}
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    parse = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--a', default=1)\np.parse_args()\n"
    run_python(parse + WRITER, env=ENV)
    assert [path.name for path in tmp_path.iterdir() if path.name != "script.py"] == []


def test_what_goes_wrong_is_one_line(run_python: RunPython, tmp_path: Path) -> None:
    """The native calls go on as ever; a module that is none of the real ones is left alone."""
    done = run_python(
        "import sys, types\nsys.modules['safetensors.torch'] = types.ModuleType('safetensors.torch')\n"
        + WRITER
        + """
import argparse, torch
class Odd:
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__
parser = argparse.ArgumentParser()
parser.add_argument("--odd", default=Odd())
write()
for _ in range(3):
    assert type(parser.parse_args().odd) is Odd
torch.save({}, "runs/x/a.pt")
print("went on")
""",
        env={**ENV, "TRACELET_STRICT": "0"},
    )
    assert done.stdout == "went on\n"
    lines = [line for line in done.stderr.splitlines() if "no text" in line]
    assert len(lines) == 1, done.stderr
    assert sorted(models(tmp_path)) == ["a.pt"]
