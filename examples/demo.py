"""Train with plain TensorBoard code, send the data to three trackers on this machine, read it back, compare.

    python examples/demo.py        (or: make demo)

`train.py` beside this file knows nothing of tracelet-shim. It runs in the directory demo-output, with three environment
variables set. What is read back is read with the trackers' own libraries. The exit code is 1 if anything is missing.
On a machine that is busy with other work, the end of the program waits for its trackers for up to five minutes.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

OUTPUT = Path("demo-output").absolute()
PROGRAM = Path(__file__).with_name("train.py").absolute()
ACTIVATION = {"TRACELET_BACKEND": "mlflow,aim,tensorboard", "TRACELET_PROJECT": "demo", "TRACELET_EXP_NAME": "spirals"}
EVENT_FILES = OUTPUT / "runs" / "spirals"
COPY = OUTPUT / "tracelet-runs" / "demo" / "spirals"

PATIENCE = 300
UNDELIVERED = 3  # exit code of a strict program that has waited for so many seconds, and something is not there

KINDS = ["scalar series", "histograms", "images", "texts", "PR curves", "graphs"]


def train():
    """Run the program in a fresh directory; return its exit code, and its wall time in seconds."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    mine = ("TRACELET_", "MLFLOW_", "AIM_")  # settings of yours would send the data elsewhere
    environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    environment.update(ACTIVATION, TRACELET_STRICT="1", TRACELET_EXIT_TIMEOUT=str(PATIENCE), MPLBACKEND="Agg")
    variables = " ".join(f"{name}={value}" for name, value in ACTIVATION.items())
    print(f"cd demo-output\n{variables} python {os.path.relpath(PROGRAM, OUTPUT)} runs/spirals\n", flush=True)
    start = time.monotonic()
    command = [sys.executable, str(PROGRAM), "runs/spirals"]
    code = subprocess.run(command, cwd=OUTPUT, env=environment, check=False).returncode  # noqa: S603
    return code, time.monotonic() - start


# -- reading back: each returns (counts by kind, [(step, value)] of all scalars, parameters) ----------------------------


def read_event_files(directory):
    """Read with TensorBoard's EventAccumulator: what was written, and the copy of it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    counts, points, params = Counter(), [], {}
    for run in sorted({file.parent for file in directory.rglob("*tfevents*")}):
        events = EventAccumulator(str(run), size_guidance=dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0))
        events.Reload()
        tags = events.Tags()
        counts["scalar series"] += len(tags["scalars"])
        points += [(event.step, event.value) for tag in tags["scalars"] for event in events.Scalars(tag)]
        counts["histograms"] += sum(len(events.Histograms(tag)) for tag in tags["histograms"])
        counts["images"] += sum(len(events.Images(tag)) for tag in tags["images"])
        counts["graphs"] += tags["graph"]
        plugins = {"text": "texts", "pr_curves": "PR curves"}
        for tag in tags["tensors"]:
            plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
            counts[plugins.get(plugin, plugin)] += len(events.Tensors(tag))
        for content in hparams_of(events):
            for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
                params[name] = getattr(value, value.WhichOneof("kind"))
    return counts, points, params


def hparams_of(events):
    """Return the contents of the hparams plugin, or nothing where the run has none."""
    try:
        return events.PluginTagToContent("hparams").values()
    except KeyError:
        return ()


def read_mlflow():
    """Read with MLflow's client."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{OUTPUT}/mlflow.db")
    experiment = client.get_experiment_by_name("demo")
    (run,) = client.search_runs([experiment.experiment_id])
    check("the MLflow run is finished", run.info.status == "FINISHED")

    def files(folder=""):
        for entry in client.list_artifacts(run.info.run_id, folder):
            if entry.is_dir:
                yield from files(entry.path)
            else:
                yield entry.path

    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    points = [(point.step, point.value) for history in histories for point in history]
    folders = {"histograms/.json": "histograms", "images/.png": "images", "text/.md": "texts"}
    folders |= {"pr_curves/.csv": "PR curves", "graphs/.pbtxt": "graphs"}
    counts = Counter(folders.get(f"{path.split('/')[0]}/{Path(path).suffix}") for path in files())
    counts["scalar series"] = len(histories)
    return counts, points, run.data.params


def read_aim():
    """Read with Aim's SDK."""
    from aim import Repo

    repo = Repo(str(OUTPUT))
    (run,) = repo.iter_runs()
    check("the Aim run has ended", not run.active)

    def points_of(query):
        """Return the points, (step, value), of each sequence that a query finds."""
        found = [sequence.data.view("val").items_list() for sequence in query("", report_mode=0).iter()]
        return [list(zip(steps, values, strict=True)) for steps, (values,) in found]

    metrics = points_of(repo.query_metrics)
    queries = {
        "histograms": repo.query_distributions,
        "images": repo.query_images,
        "texts": repo.query_texts,
        "PR curves": repo.query_figure_objects,
    }
    counts = Counter({kind: sum(map(len, points_of(query))) for kind, query in queries.items()})
    counts["scalar series"] = len(metrics)
    files = {name: Path(unquote(urlsplit(artifact.uri).path)) for name, artifact in run.artifacts.items()}
    counts["graphs"] = sum(name.endswith(".pbtxt") and file.is_file() for name, file in files.items())
    return counts, [point for series in metrics for point in series], run["hparams"]


# -- what arrived ------------------------------------------------------------------------------------------------------

problems = []


def check(what, holds):
    if not holds:
        problems.append(what)


def read(name, reader):
    """Return what `reader` finds in a tracker, or None if there is nothing that it could read."""
    try:
        return reader()
    except Exception as error:  # whatever it is, the others can be compared
        problems.append(f"{name} cannot be read ({type(error).__name__}: {error})")
        return None


def compare(written, found):
    """Print the table; note what is missing."""
    _, points, params = written
    table = Table("", "written", *found, box=box.SIMPLE_HEAD)
    rows = {kind: [have[kind] for have, _, _ in (written, *found.values())] for kind in KINDS}
    rows = {"scalar points": [len(have) for _, have, _ in (written, *found.values())], **rows}
    rows["parameters"] = [len(have) for _, _, have in (written, *found.values())]
    for kind, numbers in rows.items():
        for name, number in zip(found, numbers[1:], strict=True):
            check(f"{name} has {number} {kind} of {numbers[0]}", number == numbers[0])
        check(f"no {kind} were written", numbers[0])
        table.add_row(kind, *map(str, numbers))
    same = [in_float32(have) == in_float32(points) for _, have, _ in found.values()]
    table.add_row("the same values?", "", *("yes" if each else "NO" for each in same))
    Console(highlight=False).print(table)
    for name, (_, _, have), equal in zip(found, found.values(), same, strict=True):
        check(f"{name} has other values", equal)
        texts = {key: str(value) for key, value in have.items()}
        for key, value in params.items():
            check(f"{name} has {key}={texts.get(key)}, not {value}", number_or_text(texts.get(key)) == number_or_text(value))


def in_float32(points):
    """TensorBoard's files have float32; the trackers have the float64 that the program passed."""
    return sorted((step, float(np.float32(value))) for step, value in points)


def number_or_text(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def main():
    code, seconds = train()
    if code == UNDELIVERED:
        print(f"\nAfter {seconds:.0f} s not everything had arrived; the lines above say what is missing, and what brings it.")
        print("What is there now is shown below. Is the machine busy with other work? Then try again when it is not.\n")
        problems.append("what train.py said above")
    elif code:
        print(f"\nThe program itself failed, with exit code {code}; its output is above. Nothing is compared.")
        return 1
    found = {"MLflow": read("MLflow", read_mlflow), "Aim": read("Aim", read_aim)}
    found["TensorBoard"] = read("TensorBoard", lambda: read_event_files(COPY))
    compare(read_event_files(EVENT_FILES), {name: have for name, have in found.items() if have is not None})
    print(
        f"Trained and delivered in {seconds:.0f} s. MLflow has histograms, texts, PR curves and the graph as files of the run.\n"
        "To look at it yourself, from this directory:\n"
    )
    for command, address in (
        (f"{tool('mlflow')} ui --backend-store-uri sqlite:///demo-output/mlflow.db", "http://127.0.0.1:5000"),
        (f"{tool('aim')} up --repo demo-output", "http://127.0.0.1:43800"),
        (f"{tool('tensorboard')} --logdir demo-output/tracelet-runs", "http://localhost:6006"),
    ):
        print(f"    {command:80} {address}")
    print()
    for problem in problems:
        print(f"missing: {problem}")
    return 1 if problems else 0


def tool(name):
    """Return the path of a command that is installed beside this Python."""
    path = Path(sys.executable).with_name(name)
    return shlex.quote(os.path.relpath(path) if Path.cwd() in path.parents else str(path))


if __name__ == "__main__":
    sys.exit(main())
