"""The command line, as a user runs it: in a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from tests.terminal import Terminal
from tracelet_shim.backends import registry
from tracelet_shim.backends.mlflow import MLflowBackend
from tracelet_shim.backends.tensorboard import TensorBoardBackend
from tracelet_shim.cli import backends
from tracelet_shim.cli.backends import METHODS
from tracelet_shim.events import EVENT_TYPES, Histogram
from tracelet_shim.handle.methods import Handle

COMMAND = str(Path(sys.executable).parent / "tracelet-shim")

SHOW = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('TRACELET_')}))"


def tracelet_shim(*args: str, command: tuple[str, ...] = (COMMAND,), **env: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TRACELET_")}
    return subprocess.run(
        [*command, *args], env={**ours, **env}, capture_output=True, text=True, check=False, timeout=60
    )


def shown(*args: str) -> str:
    """Return what a terminal of 80 columns and 24 lines shows, line by line."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TRACELET_")}
    with Terminal([COMMAND, *args], {**ours, "COLUMNS": "80", "LINES": "24", "TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
        return terminal.text


@pytest.mark.parametrize("command", [(COMMAND,), (sys.executable, "-m", "tracelet_shim")], ids=["script", "module"])
def test_version(command: tuple[str, ...]) -> None:
    """Both ways to call it print the version in the package's metadata."""
    done = tracelet_shim("--version", command=command)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tracelet-shim {version('tracelet-shim')}\n", "")


def test_the_command_line_loads_nothing_heavy() -> None:
    """It has started before any SDK, torch or numpy is looked at."""
    script = "import sys, tracelet_shim.cli; print({'numpy', 'torch', 'wrapt', 'msgspec', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_run_sets_a_variable_for_each_option(tmp_path: Path) -> None:
    """What the options say arrives in the environment of the command."""
    done = tracelet_shim(
        *("run", "--backend", "mlflow,aim", "--project", "p", "--exp-name", "e", "--run-id", "r", "--tags", "a,b=1"),
        *("--notes", "some text", "--offline", "--no-strict", "--ranks", "all", "--root", "runs"),
        *("--delivery", "thread", "--exit-timeout", "2.5", "--linger", "7.5", "--no-accelerate", "--quiet"),
        *("--no-ci", "--what-ran", "git,host", "--system-metrics", "7"),
        *("--", sys.executable, "-c", SHOW),
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "TRACELET_BACKEND": "mlflow,aim",
        "TRACELET_PROJECT": "p",
        "TRACELET_EXP_NAME": "e",
        "TRACELET_RUN_ID": "r",
        "TRACELET_TAGS": "a,b=1",
        "TRACELET_NOTES": "some text",
        "TRACELET_OFFLINE": "1",
        "TRACELET_STRICT": "0",
        "TRACELET_RANKS": "all",
        "TRACELET_ROOT": str(tmp_path / "runs"),
        "TRACELET_DELIVERY": "thread",
        "TRACELET_EXIT_TIMEOUT": "2.5",
        "TRACELET_LINGER": "7.5",
        "TRACELET_CI": "0",
        "TRACELET_WHAT_RAN": "git,host",
        "TRACELET_SYSTEM_METRICS": "7.0",
        "TRACELET_ACCELERATE": "0",
        "TRACELET_QUIET": "1",
    }


def test_run_leaves_the_environment_as_it_is_otherwise() -> None:
    """An option that is not given does not hide the variable that is set."""
    done = tracelet_shim(
        "run", "--project", "q", "--", sys.executable, "-c", SHOW, TRACELET_BACKEND="aim", TRACELET_PROJECT="p"
    )
    assert json.loads(done.stdout) == {"TRACELET_BACKEND": "aim", "TRACELET_PROJECT": "q"}


def test_run_names_the_default_tracker_where_none_is_named() -> None:
    """Asking for `run` is asking for activation; the trackers are those of `start_logging()` without arguments."""
    done = tracelet_shim("run", sys.executable, "-c", SHOW)
    assert json.loads(done.stdout) == {"TRACELET_BACKEND": "mlflow"}


def test_run_takes_the_trackers_of_the_settings_file(tmp_path: Path) -> None:
    """A `tracelet.toml` in the working directory comes before the default, and after the option."""
    (tmp_path / "tracelet.toml").write_text("backend = ['wandb', 'aim']\n")
    done = tracelet_shim("run", sys.executable, "-c", SHOW)
    assert json.loads(done.stdout) == {"TRACELET_BACKEND": "wandb,aim"}
    done = tracelet_shim("run", "-b", "clearml", sys.executable, "-c", SHOW)
    assert json.loads(done.stdout) == {"TRACELET_BACKEND": "clearml"}


def test_run_passes_the_arguments_of_the_command_on() -> None:
    """From the command on, nothing is an option of ours, with or without the two dashes."""
    command = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "--backend", "x", "--", "-h"]
    for dashes in (["--"], []):
        done = tracelet_shim("run", "-b", "aim", *dashes, *command)
        assert done.stdout == "['--backend', 'x', '--', '-h']\n"


def test_run_activates_the_command_and_its_children() -> None:
    """A shell script that starts Python is a command, too."""
    script = "import sys; print(sum(type(f).__module__ == 'tracelet_shim._bootstrap' for f in sys.meta_path))"
    done = tracelet_shim("run", "-b", "aim", "--quiet", "--", "sh", "-c", f'{sys.executable} -c "{script}"')
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("code", [0, 3, 255])
def test_run_ends_with_the_exit_code_of_the_command(code: int) -> None:
    """A job scheduler sees what it would have seen."""
    assert tracelet_shim("run", "-b", "aim", "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_reach_the_command(name: str) -> None:
    """What is sent to the process that the caller knows arrives at the command."""
    script = f"import signal; print('up', flush=True); print(signal.sigwait([signal.{name}]).name)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.{name}]); {script}"
    with subprocess.Popen(
        [COMMAND, "run", "-b", "aim", "--", sys.executable, "-c", blocked], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(getattr(signal, name))
        assert process.communicate(timeout=60)[0] == f"{name}\n"
        assert process.returncode == 0


def test_a_command_killed_by_a_signal_is_reported_as_such() -> None:
    """The status is the kernel's own; a shell shows it as 128 + n."""
    assert tracelet_shim("run", "-b", "aim", "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_run_with_an_unknown_command_or_file(tmp_path: Path) -> None:
    """The exit codes are those of a shell."""
    done = tracelet_shim("run", "-b", "aim", "--", "no-such-command")
    assert (done.returncode, done.stderr) == (127, "tracelet-shim: command not found: no-such-command\n")
    (tmp_path / "data").touch()
    done = tracelet_shim("run", "-b", "aim", "--", "./data")
    assert (done.returncode, done.stderr) == (126, "tracelet-shim: cannot run ./data: Permission denied\n")


def test_run_refuses_an_unknown_tracker_at_once() -> None:
    """Someone is looking at the command line; nobody reads a log in time."""
    done = tracelet_shim("run", "--backend", "mlfow", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean" in done.stderr
    assert "mlflow" in done.stderr


def test_run_refuses_a_value_that_cannot_be_right() -> None:
    """Every option is checked as the program would check it."""
    done = tracelet_shim("run", "--delivery", "pigeon", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "TRACELET_DELIVERY" in done.stderr
    assert "pigeon" in done.stderr
    done = tracelet_shim("run", "-b", "aim", "--", "echo", "ran", TRACELET_AIM_REPOS="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'repo'" in done.stderr


def test_run_says_so_when_the_interpreter_is_another_one(tmp_path: Path) -> None:
    """The usual slip: the tool of one virtual environment, the `python` of another."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other")], check=True)
    other = str(tmp_path / "other" / "bin" / "python")
    done = tracelet_shim("run", "-b", "aim", "--", other, "-c", "print('ran')")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.startswith(f"tracelet-shim: not installed for {other}, so nothing will be logged; ")
    done = tracelet_shim("run", "-b", "aim", "--strict", "--", other, "-c", "print('ran')")
    assert (done.returncode, done.stdout) == (2, "")


def test_backends_lists_every_tracker() -> None:
    """The table has a line for each registered name."""
    done = tracelet_shim("backends")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("aim", "clearml", "mlflow", "tensorboard", "wandb"):
        assert any(line.split()[:1] == [name] for line in done.stdout.splitlines())


def test_backends_as_json() -> None:
    """Programs get the version, or the line that installs it, or what is wrong with the backend."""
    done = tracelet_shim("backends", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["tensorboard"].pop("capabilities")["histogram"] == {
        "level": "native",
        "how": TensorBoardBackend.capabilities[Histogram].how,
        "methods": ["add_histogram", "add_histogram_raw"],
    }
    assert rows["tensorboard"] == {
        "name": "tensorboard",
        "distribution": "tensorboard",
        "version": version("tensorboard"),
        "install": None,
        "problem": None,
        "options": dict(TensorBoardBackend.options),
    }
    (row,) = json.loads(tracelet_shim("backends", "MLflow", "--json").stdout)
    assert row["name"] == "mlflow"


def test_every_method_makes_a_type_of_the_matrix() -> None:
    """Each method of SummaryWriter that takes data is named in one row, and each of a session's; each event type has a row."""
    from torch.utils.tensorboard import SummaryWriter

    named = [method for methods in METHODS.values() for method in methods if not method.startswith("session.")]
    others = [method.removeprefix("session.") for methods in METHODS.values() for method in methods if method not in named]
    assert sorted(others) == sorted(name for name in vars(Handle) if not name.startswith("_"))
    assert sorted(named) == sorted(name for name in vars(SummaryWriter) if name.startswith("add_"))
    assert list(METHODS) == [kind.kind for kind in EVENT_TYPES]


def test_backends_fits_a_screen() -> None:
    """What is asked for first can be read at once, on 80 columns and 24 lines: every tracker, and how to ask for more."""
    seen = shown("backends")
    lines = seen.splitlines()
    assert len(lines) <= 23  # and the prompt
    assert [name for name in registry.names() if not any(line.split()[:1] == [name] for line in lines)] == []
    assert "tracelet-shim backends TRACKER" in seen
    counts = {line.split()[0]: line.split()[3:] for line in lines if line.split()[:1] in ([name] for name in registry.names())}
    assert {sum(map(int, found)) for found in counts.values()} == {len(METHODS)}


def test_backends_tells_of_one_tracker() -> None:
    """Its name is enough for all details: how each kind is done, and its options."""
    seen = shown("backends", "mlflow")
    for kind in METHODS:
        assert any(line.split()[:1] == [kind] for line in seen.splitlines())
    for option in MLflowBackend.options:
        assert any(line.split()[:1] == [option] for line in seen.splitlines())
    done = tracelet_shim("backends", "mlfow")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'mlflow'" in done.stderr


@pytest.mark.parametrize("command", ["", "run", "replay", "status", "backends", "doctor"])
def test_help_shows_flags_as_flags(command: str) -> None:
    """On 80 columns, without a box, each option on a line of its own with a word for its value, and none for a flag."""
    done = tracelet_shim(*command.split(), "--help", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not re.search(r"<|\{|\.\.\.$|\b(BOOLEAN|INTEGER|FLOAT|bool)\b|[─│]", done.stdout.partition("\n")[2]), done.stdout
    options = [re.split(r" {2,}", line.strip())[0] for line in lines if re.match(r" {2}-", line)]
    assert "--help" in options
    for text in options:
        words = text.split()
        if "/" in words:  # a flag that a setting can have on, so that off has to be said
            assert (len(words), words[2]) == (3, words[0].replace("--", "--no-"))
        else:
            names = [word for word in words if word.startswith("-")]
            assert words[len(names) :] == [] or re.fullmatch(r"[A-Z]+(\.KEY=VALUE)?|[a-z|]+", " ".join(words[len(names) :])), text


def test_run_takes_options_of_trackers() -> None:
    """`--option` sets the variable of a tracker's option, wins over it, and is refused at once where there is none."""
    given = ("--option", "mlflow.tracking_uri=sqlite:///a=b.db", "-o", "AIM.repo=a b")
    command = ("run", "--quiet", "-b", "mlflow,aim", *given, "--", sys.executable, "-c", SHOW)
    done = tracelet_shim(*command, TRACELET_AIM_REPO="other")
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "TRACELET_BACKEND": "mlflow,aim", "TRACELET_MLFLOW_TRACKING_URI": "sqlite:///a=b.db", "TRACELET_AIM_REPO": "a b",
        "TRACELET_QUIET": "1",
    }  # fmt: skip
    for wrong, problem in (
        ("tracking_uri=x", "TRACKER.KEY=VALUE"), ("mlflow.tracking_uri", "TRACKER.KEY=VALUE"),
        ("mlfow.tracking_uri=x", "did you mean 'mlflow'"), ("mlflow.tracking_url=x", "did you mean 'tracking_uri'"),
    ):  # fmt: skip
        done = tracelet_shim("run", "-o", wrong, "--", "echo", "ran")
        assert (done.returncode, done.stdout) == (2, "")
        assert problem in done.stderr


def test_backends_prints_the_matrix() -> None:
    """A row for each event type, a cell for each tracker; no SDK is imported for it."""
    done = tracelet_shim("backends", "--matrix")
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    (head,) = (line for line in lines if line[:1] == ["data"])
    names = registry.names()
    assert head[-len(names) :] == names
    for kind in EVENT_TYPES:
        (line,) = (line for line in lines if line[0] == kind.kind)
        assert line[-len(names) :] == [registry.find(name).capabilities[kind].level.value for name in names]
    script = "from tracelet_shim.cli.backends import rows; rows(); import sys; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    sdks = {registry.find(name).module for name in names} - sys.stdlib_module_names
    assert not [sdk for sdk in sdks if repr(sdk) in modules]
    assert "'torch'" not in modules


@pytest.mark.parametrize("width", [70, 80, 120, 300])
def test_the_matrix_fits_a_terminal(width: int) -> None:
    """In a narrow terminal the trackers that have no room go below, and none is lost."""
    found = backends.rows()
    console = Console(width=width, file=io.StringIO())
    for matrix in backends._matrices(found, width):
        console.print(matrix)
    printed = console.file.getvalue()
    heads = [line.split()[4:] for line in printed.splitlines() if line.split()[:1] == ["data"]]
    assert [name for head in heads for name in head] == [row.name for row in found]
    assert len(heads) == 1 or width < 300
    assert "…" not in printed


def test_backends_tells_how_to_install_what_is_missing(tmp_path: Path) -> None:
    """A tracker of someone else's is named by its own package, and a broken one by its fault."""
    info = tmp_path / "third_party-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[tracelet_shim.backends]\nabsent = third_party:Absent\nbroken = third_party:Nothing\n"
    )
    (tmp_path / "third_party.py").write_text(
        "from tracelet_shim.testing import RecordingBackend\n"
        "class Absent(RecordingBackend):\n    name, module, distribution = 'absent', 'no_such_module', 'no-such-sdk'\n"
    )
    done = tracelet_shim("backends", "--json", PYTHONPATH=str(tmp_path))
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert (rows["absent"]["version"], rows["absent"]["install"]) == (None, "pip install no-such-sdk")
    assert "Nothing" in rows["broken"]["problem"]
