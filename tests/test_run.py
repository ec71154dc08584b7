"""`tracelet-shim run`, as a user runs it: the command is as without us, and what became of its data is told at the end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import gated
from tests.delivery.programs import eventually, mlflow_runs, relays
from tests.replay.commands import COMMAND, environment
from tests.terminal import Terminal

pytestmark = pytest.mark.usefixtures("mlflow_store")

LOG = """
import os, signal, subprocess, sys, time
from torch.utils.tensorboard import SummaryWriter
def log(n=100):
    writer = SummaryWriter("runs/x")
    for i in range(n):
        writer.add_scalar("loss", i / 7, i)
    return writer
"""


def run(*args: str, script: str = "", code: int = 0, **env: str) -> str:
    """Run a Python program, or the command in `args`, under `tracelet-shim run`; return what was said on standard error."""
    if script:
        Path("script.py").write_text(LOG + script)
        args = (*args, "--", sys.executable, "script.py")
    # Into a file, not a pipe: a relay that outlives the command would hold it open.
    with open("errors.txt", "w+") as errors:
        done = subprocess.run(
            [COMMAND, "run", *args], env=environment(**env), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            timeout=120, check=False,
        )  # fmt: skip
        errors.seek(0)
        said = errors.read()
    assert done.returncode == code, said
    return said


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the variables for a tracker that takes nothing until ``gate`` is there; it is opened at the end."""
    yield gated.install(tmp_path / "site")
    (tmp_path / "gate").touch()
    eventually(lambda: not relays(tmp_path))


# -- the summary ------------------------------------------------------------------------------------------------------


def test_the_summary(tmp_path: Path) -> None:
    """At the end each session is named, and for each tracker the run's link and what is delivered, pending and set aside."""
    said = run("-b", "mlflow,tensorboard", "-p", "p", "-n", "e", "--strict", script="log().close()")
    assert re.search(r"session [0-9a-f]{16} \(p/e\)\n", said)
    counts = "100 delivered, 0 pending, 0 set aside"
    assert f"tracelet-shim:   mlflow: {counts}: mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db\n" in said
    assert f"tracelet-shim:   tensorboard: {counts}: tensorboard --logdir {tmp_path}/tracelet-runs/p/e\n" in said
    assert "replay" not in said


def test_quiet() -> None:
    """Where only warnings are wanted, a run in which all went well says nothing at all."""
    assert run("-b", "tensorboard", "--quiet", script="log().close()") == ""


def test_no_writer() -> None:
    """A command in which no run was opened is told why that may be in one line, and has not failed."""
    why = "no SummaryWriter was created, or by a Python without tracelet-shim (see tracelet-shim doctor)"
    line = f"tracelet-shim: no run was opened: {why}\n"
    assert run("--strict", "--", "true") == line
    assert run("--", "true", TRACELET_DISABLED="1") == ""
    assert run("--", "true", RANK="1") == ""
    assert run("--ranks", "all", "--", "true", RANK="1") == line


def test_many_sessions() -> None:
    """Of very many sessions that went well only the first are listed, the others counted."""
    script = """
import tracelet_shim as tracelet
for i in range(13):
    with tracelet.start_logging(backend="tensorboard", exp_name=f"e{i}", delivery="thread", root=f"runs/{i}"):
        SummaryWriter(f"runs/{i}").add_scalar("loss", i, i)
"""
    said = run("-b", "tensorboard", script=script)
    assert re.findall(r"session \w+ \((.*)\)", said) == [f"e{i}" for i in range(10)]
    assert "and 3 more sessions with everything delivered" in said


def test_without_state_on_disk() -> None:
    """Where no ledger can be kept, the counts are those that the session itself reports; strict does not trust that."""
    said = run("-b", "tensorboard", script="log().close()", TRACELET_STATE_DIR="/proc/1/state")
    assert "tensorboard: 100 delivered, 0 pending, 0 set aside" in said
    assert "warning: no state can be kept in /proc/1/state" in said
    run("-b", "tensorboard", "--strict", script="log().close()", code=3, TRACELET_STATE_DIR="/proc/1/state")


def test_what_a_killed_program_left_is_waited_for(tmp_path: Path) -> None:
    """A training process that is killed has its data delivered before `run` ends, so that a CI job does not cut it off."""
    end = "log()\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)"
    Path("script.py").write_text(LOG + end)
    said = run("-b", "mlflow", "--strict", "--", "sh", "-c", f"{sys.executable} script.py; true")
    assert mlflow_runs(tmp_path) == [("FAILED", 100, 100)]
    assert not relays(tmp_path)
    assert "mlflow: 100 delivered, 0 pending, 0 set aside" in said


def test_the_waiting_is_bounded(gate: dict[str, str], tmp_path: Path) -> None:
    """A tracker that takes nothing holds the end up for `exit_timeout`, or `linger`, no longer; strict then has a code of its
    own."""
    said = run("--strict", "--exit-timeout", "2", script="log()\ntime.sleep(1)\nos._exit(0)", code=3, **gate)
    assert "waiting for what a program has left to deliver, for up to 2 s" in said
    assert "gated (open): 0 delivered, 100 pending, 0 set aside" in said
    assert "warning: it is still running" in said
    assert relays(tmp_path)


def test_ctrl_c_ends_the_waiting(gate: dict[str, str], tmp_path: Path) -> None:
    """Who does not want to wait for the trackers of a killed program need not."""
    Path("script.py").write_text(LOG + "log()\ntime.sleep(1)\nos._exit(5)")
    command = [COMMAND, "run", "--exit-timeout", "600", "--", sys.executable, "script.py"]
    with Terminal(command, environment(**gate)) as terminal:
        terminal.wait_for("waiting for what a program has left")
        terminal.type("\x03")
        assert terminal.end() == 5


def test_killed_program_on_the_page_of_its_job(tmp_path: Path) -> None:
    """What a program that was killed could not tell its CI job, `run` tells; of one that ended in good order it is told once."""
    page = tmp_path / "summary.md"
    job = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(page)}
    said = run("-b", "tensorboard", script="log()\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)", code=-9, **job)
    assert "| tensorboard | `tensorboard --logdir " in page.read_text()
    assert "| 100 | 0 | 0 | closed |" in page.read_text()
    assert "::notice title=tracelet-shim::tensorboard: " in said
    page.unlink()
    run("-b", "tensorboard", script="log().close()", **job)
    assert page.read_text().count("| tensorboard |") == 1


HANDLED = "signal.signal(15, lambda *a: sys.exit(5)); os.kill(os.getpid(), 15)"


@pytest.mark.parametrize("end", ["sys.exit(5)", "os._exit(5)", HANDLED])
def test_strict_keeps_the_code_of_a_program_that_failed(end: str, tmp_path: Path) -> None:
    """A program that failed by itself keeps its exit code, also if something was not delivered."""
    (tmp_path / "tracelet-runs").touch()  # so that no run can be opened
    run("-b", "tensorboard", "--strict", script=f"log()\n{end}", code=5)


# -- strict -----------------------------------------------------------------------------------------------------------

IGNORES = """
import tracelet_shim as tracelet
tracelet.start_logging(strict=False)
log()
"""


@pytest.mark.parametrize(
    ("options", "end", "code"),
    [((), "", 0), (("--strict",), "", 3), (("--strict",), "sys.exit(5)", 5), (("--strict",), "os.kill(os.getpid(), 15)", -15)],
    ids=["not strict", "strict", "fails anyway", "is killed"],
)
def test_undelivered(gate: dict[str, str], options: tuple[str, ...], end: str, code: int, tmp_path: Path) -> None:
    """Under --strict data that is missing fails a job that would have succeeded, even if the session itself does not care; a
    job that fails by itself keeps its code. The command that delivers the rest is named, and works."""
    said = run(*options, "--exit-timeout", "2", script=IGNORES + end, code=code, **gate)
    assert ("error: not everything was delivered" in said) == (code == 3)
    if code in (0, 3):
        (command,) = set(re.findall(r"to deliver what is missing: (tracelet-shim replay .*)", said))
        Path("gate").touch()
        subprocess.run(
            [COMMAND, *command.split()[1:]], env=environment(**gate), capture_output=True, timeout=120, check=True
        )


def test_strict_from_the_environment(gate: dict[str, str]) -> None:
    """The variable is as good as the option."""
    run("--exit-timeout", "2", script=IGNORES, code=3, TRACELET_STRICT="1", **gate)


def test_run_in_run(gate: dict[str, str]) -> None:
    """The outer of two `run` knows what the inner one knows."""
    Path("script.py").write_text(LOG + IGNORES)
    inner = (COMMAND, "run", "--exit-timeout", "2", "--no-strict", "--", sys.executable, "script.py")
    said = run("--strict", "--", *inner, code=3, **gate)
    assert said.count("gated (abandoned): 0 delivered, 100 pending") == 2


# -- the command is as without us -------------------------------------------------------------------------------------


def test_signal_state_of_the_command() -> None:
    """The command blocks no signal, ignores what its caller had ignored and nothing else, and has every descriptor that was
    open."""
    script = (
        "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, []) and print('blocked');"
        "print([s.name for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN], os.read(7, 9))"
    )
    shell = """trap '' HUP; exec 7<<< inherited; exec "$@" """
    command = ["bash", "-c", shell, "-", COMMAND, "run", "-b", "aim", "--quiet", "--", sys.executable, "-c", script]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    # The last two Python ignores by itself.
    assert done.stdout == "['SIGHUP', 'SIGPIPE', 'SIGXFSZ'] b'inherited'\n"
    assert done.stderr == ""


def test_killing_run_kills_the_command(tmp_path: Path) -> None:
    """SIGKILL can be passed on to nobody; the kernel kills the command."""
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    env = environment(TMPDIR=str(tmp_path))  # of a process that was killed, something is left
    with subprocess.Popen(
        [COMMAND, "run", "-b", "aim", "--", sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        assert process.stdout.read() == ""  # the command has closed it as well

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    eventually(gone)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGHUP"])
def test_the_status_of_a_command_that_a_signal_ended(name: str) -> None:
    """The caller sees the same signal; there is no core of `run` in the place of the command's."""
    number = getattr(signal, name)
    script = f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number})"
    run("-b", "aim", "--", sys.executable, "-c", script, code=-number)
    assert not list(Path().glob("core*"))


def test_ctrl_c_reaches_the_command_once() -> None:
    """The terminal signals the whole process group; the command must not get it from us a second time."""
    script = """
import signal, time
calls = []
signal.signal(signal.SIGINT, lambda *a: calls.append(1))
print("up", flush=True)
while not calls:
    time.sleep(0.05)
time.sleep(1)
print("calls:", len(calls))
"""
    with Terminal([COMMAND, "run", "-b", "aim", "--", sys.executable, "-c", script], environment()) as terminal:
        terminal.wait_for("up")
        terminal.type("\x03")
        assert terminal.end() == 0
    assert "calls: 1" in terminal.text


def test_ctrl_z_and_fg(tmp_path: Path) -> None:
    """In a shell with job control the job stops as one, goes on as one, and its exit code arrives."""
    script = """
import signal, sys, time
again = []
signal.signal(signal.SIGCONT, lambda *a: again.append(1))  # twice: from the shell, and passed on
print("up", flush=True)
while not again:
    time.sleep(0.05)
print("continued", flush=True)
sys.exit(7)
"""
    Path("script.py").write_text(script)
    with Terminal(["bash", "--norc", "--noprofile", "-i"], environment(PS1="$ ")) as terminal:
        terminal.type(f"{COMMAND} run -b aim -- {sys.executable} script.py\n")
        terminal.wait_for("up")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.type("fg\n")
        terminal.wait_for("continued")
        terminal.wait_for("no SummaryWriter")
        terminal.type("echo code=$?; exit 0\n")
        assert terminal.end() == 0
    assert "code=7" in terminal.text


# -- the whole job ----------------------------------------------------------------------------------------------------


def test_one_writer_among_two_hundred_processes(tmp_path: Path) -> None:
    """A job of 200 Python processes, of which one creates a writer, opens one run, and leaves nothing else behind."""
    job = """
import subprocess, sys
for start in range(0, 200, 4):
    programs = [[sys.executable, "script.py"] if number == 117 else [sys.executable, "-c", "pass"]
                for number in range(start, start + 4)]
    for process in [subprocess.Popen(program) for program in programs]:
        assert process.wait() == 0
"""
    Path("script.py").write_text(LOG + "log(50).close()")
    Path("job.py").write_text(job)
    env = environment(TRACELET_BACKEND="mlflow", TRACELET_QUIET="1")
    done = subprocess.run([sys.executable, "job.py"], env=env, capture_output=True, text=True, timeout=240, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert mlflow_runs(tmp_path) == [("FINISHED", 50, 50)]
    assert {path.name for path in tmp_path.iterdir()} <= {"job.py", "script.py", "runs", "mlflow.db", "mlruns"}


def test_one_writer_among_the_workers_of_a_pool(tmp_path: Path) -> None:
    """Of the forked workers of a pool, the one that creates a writer opens a run."""
    script = """
import multiprocessing
def work(number):
    if number == 3:
        log(50).close()
with multiprocessing.get_context("fork").Pool(4) as pool:
    pool.map(work, range(20), chunksize=1)
    pool.close()
    pool.join()
"""
    said = run("-b", "mlflow", "--strict", script=script)
    assert mlflow_runs(tmp_path) == [("FINISHED", 50, 50)]
    assert "mlflow: 50 delivered, 0 pending, 0 set aside" in said
