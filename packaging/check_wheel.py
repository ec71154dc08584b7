"""Try an installed wheel: run by `make wheel` with the interpreter of an environment that has the wheel, no tracker; and, by
`make matrix`, with that of one that has the wheel, one tracker and tensorboard, but no torch.

Usage: python -I packaging/check_wheel.py dist/tracelet_shim-*.whl [TRACKER]
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STATE = "import sys; print(any('tracelet_shim' in repr(f) for f in sys.meta_path), 'tracelet_shim' in sys.modules)"


def check_contents(wheel: Path) -> None:
    """Each module of the source tree is in the wheel, and so are the files that are no modules."""
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "tracelet_shim").rglob("*.py")}
    wanted |= {"tracelet_shim/py.typed", "tracelet_shim.pth", "tracelet_shim.start"}
    missing = sorted(wanted - names)
    if missing:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        sys.exit(f"{wheel.name} has no LICENSE")


def output_of(*command: str, cwd: Path = BIN, quiet: bool = True, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRACELET_", "PYTHON"))}
    done = subprocess.run(
        command, env={**environment, **variables}, cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode or (quiet and done.stderr):
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def expect(what: str, wanted: str, found: str | None) -> None:
    if found != wanted:
        sys.exit(f"{what}: expected {wanted!r}, found {found!r}")
    print(f"ok: {what}: {found}")


def main() -> None:
    """Check the wheel given on the command line; exits with a message at the first fault."""
    wheel = Path(sys.argv[1])
    check_contents(wheel)
    check_tracker(sys.argv[2]) if len(sys.argv) > 2 else check_core(wheel)
    print(f"ok: {wheel.name}")


def check_core(wheel: Path) -> None:
    """What holds where nothing but the package is installed."""
    version = wheel.name.split("-")[1]
    python, command = sys.executable, str(BIN / "tracelet-shim")
    where = output_of(python, "-c", "import tracelet_shim; print(tracelet_shim.__file__)")
    expect("imported from the wheel", "True", str("site-packages" in where))
    expect("tracelet-shim --version", f"tracelet-shim {version}", output_of(command, "--version"))
    expect("python -m tracelet_shim", f"tracelet-shim {version}", output_of(python, "-m", "tracelet_shim", "--version"))
    expect("without the variable: finder, module", "False False", output_of(python, "-c", STATE))
    expect("TRACELET_BACKEND set", "True True", output_of(python, "-c", STATE, TRACELET_BACKEND="mlflow"))
    off = output_of(python, "-c", STATE, TRACELET_BACKEND="mlflow", TRACELET_DISABLED="1")
    expect("TRACELET_DISABLED set", "False False", off)
    expect("tracelet-shim run", "True True", output_of(command, "run", "-b", "mlflow", "--quiet", "--", python, "-c", STATE))
    # The core needs neither torch nor any tracker: everything public can be had, and every backend can be loaded.
    public = "import tracelet_shim as t; print(sorted(n for n in t.__all__ if not hasattr(t, n)))"
    expect("public names that are missing", "[]", output_of(python, "-c", public))
    rows = json.loads(output_of(command, "backends", "--json"))
    for row in rows:
        remedy = f"pip install 'tracelet-shim[{row['name']}]'"
        expect(f"backend {row['name']}", remedy, row["install"] or row["problem"])
    said = subprocess.run([command, "replay", str(ROOT / "docs")], capture_output=True, text=True, check=False)
    named = said.returncode != 0 and "pip install tensorboard" in said.stdout + said.stderr
    expect("replay names what it lacks", "True", str(named))


PROGRAM = """
import tracelet_shim as tracelet
session = tracelet.get_session() or tracelet.start_logging(backend=["{tracker}"], exp_name="by hand")
for step in range(5):
    session.log_metrics({{"loss": step / 8}}, step=step)
session.log_params({{"lr": 0.1}})
session.log_table("rows", [{{"a": 1, "b": "x"}}])
print(session.flush())
"""
EVENT_FILE = """
import sys
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter(sys.argv[1])
for step in range(5):
    value = summary_pb2.Summary.Value(tag="loss", simple_value=step / 8)
    writer.add_event(event_pb2.Event(wall_time=1.76e9 + step, step=step, summary=summary_pb2.Summary(value=[value])))
writer.close()
"""
READ = """
import sys
from pathlib import Path
from tests.backends.about import about
reader = about(sys.argv[1]).reader(Path(sys.argv[2]))
print([(point.step, point.value) for point in reader.scalars("", "loss")])
"""


def check_tracker(tracker: str) -> None:
    """What is to be had without torch: doctor, the session's own methods (by hand and under `run`), and replay."""
    python, command = sys.executable, str(BIN / "tracelet-shim")
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "lib").mkdir()
        (place / "lib" / "tests").symlink_to(ROOT / "tests")  # the readers, without the source tree of the package
        (place / "program.py").write_text(PROGRAM.format(tracker=tracker))
        library = {"PYTHONPATH": str(place / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
        roads = {
            "by hand": [python, str(place / "program.py")],
            "run": [command, "run", "--quiet", "--backend", tracker, "--", python, str(place / "program.py")],
            "replay": [command, "replay", "events", "--backend", tracker],
        }
        for road, line in roads.items():
            here, home = place / road / "store", place / road / "home"
            here.mkdir(parents=True)
            home.mkdir()
            told = output_of(python, "-c", ENVIRONMENT, tracker, str(here), str(home), cwd=here, quiet=False, **library)
            variables = {**json.loads(told.splitlines()[-1]), "TRACELET_OFFLINE": "1"}
            if road == "by hand":
                found = json.loads(output_of(command, "doctor", "--json", cwd=here, TRACELET_BACKEND=tracker, **variables))
                said = {one["topic"]: one["level"] for one in found["findings"]}
                expect("doctor", f"True warning {tracker} ok", f"{found['ok']} {said['torch']} {tracker} {said[tracker]}")
            if road == "replay":
                output_of(python, "-c", EVENT_FILE, "events", cwd=here, quiet=False, **variables)
            output_of(*line, cwd=here, quiet=False, **variables)
            read = output_of(python, "-c", READ, tracker, str(here), cwd=here, quiet=False, **library)
            expect(f"{tracker}, {road}", str([(step, step / 8) for step in range(5)]), read.splitlines()[-1])


ENVIRONMENT = """
import json, sys
from pathlib import Path
from tests.backends.about import about
from tests.environment import isolated_environment
print(json.dumps({**isolated_environment(Path(sys.argv[3])), **about(sys.argv[1]).reader.environment(Path(sys.argv[2]))}))
"""


if __name__ == "__main__":
    main()
