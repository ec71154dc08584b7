"""What ran: the files and tags that each run gets of the program, its code and its machine, and the secrets that it does
not get."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.backends import TRACKERS
from tests.backends.about import about as about_tracker
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, relays
from tests.replay.commands import tracelet_shim
from tracelet_shim import errors
from tracelet_shim.backends.base import WHAT_RAN, Program, RunInfo
from tracelet_shim.provenance.secrets import mask_arguments, mask_text
from tracelet_shim.provenance.what_ran import WhatRan
from tracelet_shim.session.settings import resolve

WORD = "abracadabra77"  # a secret that looks like any other word
SECRETS = {
    "--api-key": "Xqj7-first", "--db-password": "Xqj7-second", "--hub_token": "Xqj7-third",
}  # fmt: skip


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    """A repository with one commit, in which ``model.py`` has been changed since and ``new.py`` is not tracked."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "feature/x")
    (tmp_path / "model.py").write_text("width = 1\n")
    (tmp_path / ".gitignore").write_text("/.*\n/runs/\n/ml*\n/tracelet-runs/\n/script.py\n/store/\n")
    git(tmp_path, "add", "--force", "model.py", ".gitignore")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "remote", "add", "origin", "https://ada:Xqj7-remote@git.example/lab/nets.git")
    (tmp_path / "model.py").write_text("width = 2\npassword = 'Xqj7-diff'\n")
    (tmp_path / "new.py").write_text("x = 1\n")
    return tmp_path


def attached(directory: Path) -> dict[str, bytes]:
    """Return the files under ``code/`` of the only MLflow run."""
    (code,) = directory.glob("mlruns/*/*/artifacts/code")
    return {path.name: path.read_bytes() for path in code.iterdir()}


def about(directory: Path) -> dict[str, Any]:
    return dict(json.loads(attached(directory)["what_ran.json"]))


def tags(directory: Path) -> dict[str, str]:
    with sqlite3.connect(directory / "mlflow.db") as db:
        return dict(db.execute("SELECT key, value FROM tags").fetchall())


def files_with(text: str, directory: Path) -> list[Path]:
    """Return the files that have this text, git's own left out: there it was put by us."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.relative_to(directory).parts[0] != ".git")
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_a_run_knows_its_code_and_machine(run_python: RunPython, work_tree: Path, hosting: str) -> None:
    """The run has commit and branch as tags, and as files the changes since the commit, the packages and all the rest."""
    run_python(LOG + f"session(delivery={hosting!r})\nlog(5)", "--rate", "0.1", cwd=work_tree)
    commit = git(work_tree, "rev-parse", "HEAD")
    found = tags(work_tree)
    assert (found["git.commit"], found["git.branch"], found["git.dirty"]) == (commit, "feature/x", "true")
    files = attached(work_tree)
    assert sorted(files) == ["requirements.txt", "uncommitted.diff", "what_ran.json"]
    diff = files["uncommitted.diff"].decode()
    assert "-width = 1\n+width = 2\n" in diff
    known = json.loads(files["what_ran.json"])
    assert known["git"] == {
        "root": str(work_tree), "commit": commit, "branch": "feature/x", "dirty": True, "untracked": ["new.py"],
        "untracked_more": 0, "remote": "https://***@git.example/lab/nets.git",
    }  # fmt: skip
    script = str(work_tree / "script.py")
    command = {key: known["command"][key] for key in ("argv", "script", "cwd", "executable")}
    assert command == {
        "argv": [script, "--rate", "0.1"], "script": script, "cwd": str(work_tree), "executable": sys.executable
    }  # fmt: skip
    assert known["python"]["version"] == platform.python_version()
    assert known["packages"]["mlflow"] == metadata.version("mlflow")
    assert f"torch=={metadata.version('torch')}\n" in files["requirements.txt"].decode()
    assert known["host"]["name"] == platform.node()
    assert known["host"]["memory"] > 2**28
    assert "gpus" in known


def test_the_diff_can_be_applied(run_python: RunPython, work_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commit and diff together are the code that ran, bytes that are no UTF-8 included."""
    git(work_tree, "checkout", "--quiet", "model.py")
    (work_tree / "model.py").write_bytes(b"width = 2  # \xe9\xff\r\n")
    run_python(LOG + "session()\nlog(5)", cwd=work_tree)
    clone = tmp_path_factory.mktemp("clone")
    git(clone, "clone", "--quiet", str(work_tree), "again")
    (clone / "diff").write_bytes(attached(work_tree)["uncommitted.diff"])
    git(clone / "again", "apply", "--whitespace=nowarn", "../diff")
    assert (clone / "again" / "model.py").read_bytes() == b"width = 2  # \xe9\xff\r\n"


def test_a_large_diff_is_cut(run_python: RunPython, work_tree: Path) -> None:
    """Of a diff beyond a megabyte the first megabyte is kept, to the end of a line, and it says so."""
    (work_tree / "model.py").write_text("".join(f"x{i} = {i}\n" for i in range(150_000)))
    run_python(LOG + "session()\nlog(5)", cwd=work_tree)
    *lines, last = attached(work_tree)["uncommitted.diff"].decode().splitlines()
    assert last == "... [cut: the diff is longer than 1000000 bytes]"
    number = len(lines) - 7  # five lines of header, the old line, and the first of the new ones is x0
    assert lines[-1] == f"+x{number} = {number}"


def test_outside_of_a_repository(run_python: RunPython, tmp_path: Path) -> None:
    """Without git there is no tag and no diff; the rest is there."""
    run_python(LOG + "session()\nlog(5)", env={"PATH": str(tmp_path)})
    assert sorted(attached(tmp_path)) == ["requirements.txt", "what_ran.json"]
    assert "git" not in about(tmp_path)
    assert not [name for name in tags(tmp_path) if name.startswith("git.")]


def test_git_that_hangs(run_python: RunPython, tmp_path: Path) -> None:
    """Data and run do not wait for it; it is ended with all that it has started, and the rest is attached."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nsleep 600\n")
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    log = LOG.replace('["mlflow", "tensorboard"]', '"tensorboard"')  # MLflow asks git by itself
    run_python(log + "s = session()\nlog(5)\nassert s.flush(60)", cwd=tmp_path, env=env)
    code = tmp_path / "tracelet-runs" / "p" / "e" / "tracelet-files" / "code"
    assert sorted(path.name for path in code.iterdir()) == ["requirements.txt", "what_ran.json"]
    for pid in (tmp_path / "pids").read_text().split():
        eventually(lambda group=int(pid): _is_gone(group))  # what git has started is not the relay's child: init collects it


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def what_ran(work_tree: Path, *parts: str) -> WhatRan:
    """Return what collects, for a program that was started in the work tree."""
    script = str(work_tree / "model.py")
    program = Program(
        script=script, module=None, argv=("train.py",), cwd=str(work_tree), executable=sys.executable, pid=1, host="h"
    )  # fmt: skip
    return WhatRan(RunInfo(session="s", started=1.0, root=str(work_tree), what_ran=parts, program=program))


def test_a_slow_status_does_not_keep_the_run_waiting(
    work_tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commit and branch are there while git still compares the files, and the diff is asked for before untracked files."""
    place = tmp_path_factory.mktemp("slow")
    (place / "git").write_text(
        f"""#!/bin/sh
echo "$@" >> {place}/asked
case "$*" in *" status "*) while [ ! -e {place}/go ]; do sleep 0.1; done;; esac
exec {shutil.which("git")} "$@"
"""
    )
    (place / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    collected = what_ran(work_tree, "git", "diff")
    collected.start()
    assert collected.tags(60) == {"git.commit": git(work_tree, "rev-parse", "HEAD"), "git.branch": "feature/x"}
    (place / "go").touch()
    files = {blob.name: blob.data for blob in collected.files(60) or []}
    assert json.loads(files["what_ran.json"])["git"]["dirty"] is True
    assert collected.tags(0)["git.dirty"] == "true"
    asked = (place / "asked").read_text()
    assert 0 < asked.index(" diff ") < asked.index(" ls-files ")


def test_a_part_that_fails_is_named(work_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are there, and so are all packages but the one that is broken."""
    broken = work_tree / "site" / "broken-1.dist-info"
    broken.mkdir(parents=True)
    (broken / "METADATA").write_bytes(b"Name: broken\nVersion: \xff\n")
    monkeypatch.syspath_prepend(str(broken.parent))

    def fails(program: Program) -> dict[str, Any]:
        raise RuntimeError("no such machine")

    monkeypatch.setattr("tracelet_shim.provenance.what_ran._host", fails)
    collected = what_ran(work_tree, *WHAT_RAN)
    collected.start()
    files = {blob.name: blob.data for blob in collected.files(60) or []}
    known = json.loads(files["what_ran.json"])
    assert known["not_found_out"] == [f"packages: {broken}", "host"]
    assert known["packages"]["mlflow"] == metadata.version("mlflow")
    assert (known["git"]["branch"], known["command"]["argv"]) == ("feature/x", ["train.py"])
    assert sorted(files) == ["requirements.txt", "uncommitted.diff", "what_ran.json"]


def test_the_ci_jobs_word_is_taken_before_gits(run_python: RunPython, work_tree: Path) -> None:
    """A job that builds the merge of a pull request has the head as commit; the file says what was checked out."""
    env = {
        "GITLAB_CI": "true", "CI_COMMIT_SHA": "f" * 40, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "1" * 40,
        "CI_MERGE_REQUEST_IID": "7",
    }  # fmt: skip
    run_python(LOG + "session()\nlog(5)", cwd=work_tree, env=env)
    assert tags(work_tree)["git.commit"] == "1" * 40
    assert about(work_tree)["git"]["commit"] == git(work_tree, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("setting", "files", "parts"),
    [
        ("0", [], set()),
        ("git,command", ["what_ran.json"], {"git", "command"}),
        ("diff", ["uncommitted.diff", "what_ran.json"], set()),
        ("packages,host,gpus", ["requirements.txt", "what_ran.json"], {"packages", "python", "host", "gpus"}),
    ],
)
def test_each_part_has_its_switch(
    run_python: RunPython, work_tree: Path, setting: str, files: list[str], parts: set[str]
) -> None:
    """What is not asked for is in no file and no tag."""
    env = {"TRACELET_WHAT_RAN": setting}
    run_python(LOG + "session()\nlog(5)", f"--{WORD}", cwd=work_tree, env=env)
    if files:
        assert sorted(attached(work_tree)) == files
        assert set(about(work_tree)) == parts | {"session", "started"}
    else:
        assert not list(work_tree.glob("mlruns/*/*/artifacts/code"))
    known = [name for name in tags(work_tree) if "git." in name]
    assert bool(known) is ("git" in setting)
    assert bool(files_with(WORD, work_tree)) is ("command" in setting)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        *[(None, WHAT_RAN), (True, WHAT_RAN), (False, ()), ("1", WHAT_RAN), ("off", ())],
        *[(["git"], ("git",)), ("git, gpus", ("git", "gpus"))],
    ],
)
def test_how_the_switch_is_given(given: Any, parts: tuple[str, ...]) -> None:
    """A flag, a list, or names with commas."""
    assert resolve({"what_ran": given}, (), {}).what_ran == parts


def test_an_unknown_part_is_an_error() -> None:
    """It names what is wrong."""
    with pytest.raises(errors.ConfigurationError, match=r"what_ran=\('git', 'env'\) cannot be used"):
        resolve({"what_ran": ["git", "env"]}, (), {})


@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_all_trackers_have_it_and_no_secret(run_python: RunPython, work_tree: Path, hosting: str) -> None:
    """One program, all trackers: each has the three files in its own store, and none has a secret of the arguments, of the
    environment, of the remote's URL or of the changed code, in any file that it has written."""
    store = work_tree / "store"
    env = {"EXAMPLE_CREDENTIAL": "Xqj7-environment", "TRACELET_DELIVERY": hosting, "TRACELET_EXIT_TIMEOUT": "120"}
    for name in TRACKERS:
        (store / name).mkdir(parents=True)
        env.update(about_tracker(name).reader.environment(store / name))
    arguments = [part for pair in SECRETS.items() for part in pair]
    program = f"""
        import tracelet_shim as tracelet
        from torch.utils.tensorboard import SummaryWriter
        session = tracelet.start_logging({list(TRACKERS)!r}, project="p", exp_name="e", offline=True, strict=True)
        writer = SummaryWriter("runs/x")
        for step in range(3):
            writer.add_scalar("loss", 1.0, step)
        writer.close()
        session.stop()
        """
    arguments += ["AUTH_TOKEN=Xqj7-fourth", "https://u:Xqj7-fifth@h.example/"]
    run_python(program, *arguments, cwd=work_tree, env=env, timeout=280)
    for name in TRACKERS:
        stored = [path.read_bytes() for path in unpacked(store / name)]
        assert any(b'"untracked_more": 0' in data for data in stored), f"{name}: what_ran.json"
        assert any(b"+width = 2" in data for data in stored), f"{name}: uncommitted.diff"
        assert any(f"torch=={metadata.version('torch')}\n".encode() in data for data in stored), f"{name}: requirements.txt"
    assert [path for path in unpacked(work_tree) if b"Xqj7" in path.read_bytes() and path.name != "model.py"] == []


def unpacked(directory: Path) -> list[Path]:
    """Return all files but git's own, archives unpacked beside themselves."""
    for archive in [*directory.rglob("*.zip")]:
        shutil.unpack_archive(archive, archive.with_suffix(".unpacked"))
        archive.unlink()
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if path.relative_to(directory).parts[0] != ".git"]


ATTACHED = """
s = session()
w = log(300)
assert s.flush(60)
relay = s._bus._parts[0].bus.relay_pid
import pathlib
while len(list(pathlib.Path().glob("mlruns/*/*/artifacts/code/*"))) < 3:
    time.sleep(0.05)
"""
"""A session, up to where what ran has been attached to its run."""


def test_once_a_run(run_python: RunPython, work_tree: Path) -> None:
    """A relay that is killed and started once more does not attach it again: the files are those of the start."""
    run_python(
        LOG
        + ATTACHED
        + """
pathlib.Path("later.py").touch()
os.kill(relay, signal.SIGKILL)
log(300, w, 300)
assert s.flush(60), s.status()
""",
        cwd=work_tree,
    )
    assert about(work_tree)["git"]["untracked"] == ["new.py"]


def test_a_run_that_is_opened_later_has_it_as_it_was(run_python: RunPython, work_tree: Path) -> None:
    """Where no run could be opened, `replay --resume` attaches what the session had found out, not what is there by then."""
    bad = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "TRACELET_EXIT_TIMEOUT": "5"}
    run_python(LOG + "session()\nlog(5)", cwd=work_tree, env=bad)
    git(work_tree, "commit", "--quiet", "--all", "--message", "second")
    tracelet_shim("replay", str(work_tree / "runs" / "x"), "--resume", MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    first = git(work_tree, "rev-parse", "HEAD~1")
    assert (about(work_tree)["git"]["commit"], tags(work_tree)["git.commit"]) == (first, first)
    assert b"+width = 2" in attached(work_tree)["uncommitted.diff"]
    assert not list((work_tree / "runs" / "x" / ".tracelet").glob("*.what-ran"))


def test_a_replay_knows_nothing_of_what_ran(run_python: RunPython, work_tree: Path) -> None:
    """The machine and the code of a replay are not those of the program that wrote the files."""
    run_python("from torch.utils.tensorboard import SummaryWriter\nSummaryWriter('runs/x').add_scalar('a', 1, 1)", cwd=work_tree)
    tracelet_shim("replay", str(work_tree / "runs" / "x"), "--backend", "mlflow")
    assert not list(work_tree.glob("mlruns/*/*/artifacts/code"))
    assert not [name for name in tags(work_tree) if "git." in name]


def test_a_crashed_run_keeps_what_it_had(run_python: RunPython, work_tree: Path) -> None:
    """After SIGKILL of training and relay, `--resume` goes on in the same run and attaches nothing of its own."""
    run_python(
        LOG
        + ATTACHED
        + """
os.kill(relay, signal.SIGSTOP)
log(100, w, 300)
w.flush()
os.kill(relay, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
""",
        cwd=work_tree,
        check=False,
    )
    eventually(lambda: not relays(work_tree))
    first = about(work_tree)
    (work_tree / "later.py").touch()
    tracelet_shim("replay", str(work_tree / "runs" / "x"), "--resume")
    assert about(work_tree) == first


def test_a_joined_run_gets_nothing_of_it(run_python: RunPython, work_tree: Path) -> None:
    """A run of the user's has what the user puts there."""
    run_python(
        """
        import mlflow, tracelet_shim as tracelet
        from torch.utils.tensorboard import SummaryWriter
        with mlflow.start_run():
            with tracelet.start_logging("mlflow"):
                SummaryWriter("runs/x").add_scalar("loss", 1.0, 1)
        """,
        env={"MLFLOW_TRACKING_URI": f"sqlite:///{work_tree}/mlflow.db"},
        cwd=work_tree,
    )
    assert not list(work_tree.glob("mlruns/*/*/artifacts/code"))
    assert "git.commit" not in tags(work_tree)


ARGUMENTS = {
    "--api-key abc": "--api-key ***", "--token=abc": "--token=***", "--hub_token abc": "--hub_token ***",
    "--apiKey abc": "--apiKey ***", "-p secret=abc": "-p secret=***", "WANDB_API_KEY=abc": "WANDB_API_KEY=***",
    "model.auth.password=abc": "model.auth.password=***", "+db.credentials=abc": "+db.credentials=***",
    "--private-key abc": "--private-key ***", "--url=postgres://u:abc@h/d": "--url=postgres://***@h/d",
    "https://abc@h/x.git": "https://***@h/x.git", "https://h/x?sig=abc&v=1": "https://h/x?sig=***&v=1",
    "--x=a?token=abc&b=c": "--x=a?token=***&b=c",
    '{"api_key":"abc","lr":1}': '{"api_key":"***","lr":1}', "hf_abcdefghijkl": "***", "--model=sk-abcdefghijkl": "--model=***",
    "--x ghp_abcdefghijkl": "--x ***",
    "--wandb_key abc": "--wandb_key ***", "--openai-key abc": "--openai-key ***", "wandb.key=abc": "wandb.key=***",
    "--encryption-key=abc": "--encryption-key=***", "--db-pass abc": "--db-pass ***", "DB_PASS=abc": "DB_PASS=***",
    "--password -abc --lr 1": "--password *** --lr 1", "https://h/?write_token=abc": "https://h/?write_token=***",
    "--hook=https://hooks.slack.com/services/T0/B0/abc": "--hook=https://hooks.slack.com/services/***",
    "AKIAABCDEFGHIJKLMNOP": "***", "eyJhbGciOiJIUzI1NiJ9.eyJz.c2ln": "***",
}  # fmt: skip
HARMLESS = [
    "--tokenizer bert", "--max-tokens 5", "--pad-token [PAD]", "--author ada", "--password-file p.txt", "--lr=0.1",
    "--sort-key loss", "--use-auth --lr", "--monkey 3", "train.py", "risk-averse-agents", "--note a=b", "a=b=" * 5000, "ssh://git@h/x",
    "https://h/x@y", "--api-key --lr", "--passes 3", "C:\\data",
    "key=value", "lr: 0.1", "num_tokens: 5", "monkey: 1", "keyboard=us", "--primary-key id", "--rng_key 3", "--low-pass 5",
    "--public-key k", "--cache_key=x", "https://h/?page=2&tokens=5", "--prompt_key text", "s3_key=x",
]  # fmt: skip


@pytest.mark.parametrize("line", ARGUMENTS)
def test_secrets_in_arguments_are_masked(line: str) -> None:
    """By the argument's name, and by the secret's look."""
    assert " ".join(mask_arguments(line.split(" "))) == ARGUMENTS[line]


@pytest.mark.parametrize("line", HARMLESS)
def test_other_arguments_stay(line: str) -> None:
    """What only resembles a secret is recorded as it is."""
    assert " ".join(mask_arguments(line.split(" "))) == line


def test_secrets_in_a_diff_are_masked() -> None:
    """Literals and variables of a secret name, known tokens, private keys; code that only speaks of tokens stays."""
    diff = """\
+password = "abc"
+  "client_secret": 'abc',
+export API_TOKEN=abc
+headers = {"Authorization": "Bearer abcdefghijkl"}
+url = "https://ada:abc@h.example/x"
+-----BEGIN RSA PRIVATE KEY-----
+abc
+-----END RSA PRIVATE KEY-----
+key = "hf_abcdefghijkl"
"""
    masked = mask_text(diff)
    assert "abc" not in masked
    assert masked.count("\n") == diff.count("\n") - 2
    code = "+token = tokens[i]\n+for token in tokenizer(text):\n+secret: str\n+x = 'password'\n"
    assert mask_text(code) == code


UNQUOTED = [
    "db_password: hunter2", "api_key: hunter2", "  WANDB_API_KEY: hunter2", "password = hunter2", "password=hunter2",
    "  - WANDB_API_KEY=hunter2", "ENV WANDB_API_KEY=hunter2", "export api_key=hunter2", "password: hunter2  # of ada",
    "password: hunter2\r", "'password': hunter2", "WANDB_API_KEY=hunter2 python train.py", "auth.token: hunter.two",
    "os.environ.setdefault('WANDB_API_KEY', 'hunter2')", "parser.add_argument('--api-key', default='hunter2')",
    'parser.add_argument(\n+    "--api-key",\n+    type=str,\n+    default="hunter2",\n+)', 'run(["x", "--api-key", "hunter2"])',
    "wandb.login(key='hunter2')", 'wandb.login(relogin=True, key="hunter2")', "u = https://h/?write_token=hunter2",
    'api_key: str | None = "hunter2"', "password = 'hunter2'", '  "password": "hunter2",', "https://hooks.slack.com/services/T0/B0/hunter2",
]  # fmt: skip
ORDINARY = [
    "key=value", "lr: 0.1", "num_tokens: 5", "monkey: 1", "keyboard: us", "sort_key: loss", "pad_token: 5", "password: str",
    "token = tokens[i]", "token = next(tokens)", "api_key=api_key,", "self.api_key = api_key", "api_key = args.api_key",
    "token = None", "api_key: ${{ secrets.KEY }}", "API_KEY=$KEY", "API_KEY=$(cat key)", "login(name='x')", "rng_key: 3",
    "parser.add_argument('--pad-token', default='[PAD]')", "parser.add_argument('--api-key', help='of the tracker')",
    "parser.add_argument('--api-key', '--ak')", "@click.option('--api-key', 'api_key')", "d.get('sort_key', 'loss')",
    "secret: abc def ghi", "for token in tokens:", "https://h/?page=2&tokens=5",
]  # fmt: skip


@pytest.mark.parametrize("line", UNQUOTED)
@pytest.mark.parametrize("mark", ["+", "-", " ", ""])
def test_secrets_without_quotes_are_masked(line: str, mark: str) -> None:
    """As settings, shells, containers and calls have them, in any line of a diff; nothing else of the line is."""
    masked = mask_text(f"{mark}{line}\n")
    assert masked.split("***") == re.split(r"hunter2|hunter\.two|T0/B0/hunter2", f"{mark}{line}\n")


@pytest.mark.parametrize("line", ORDINARY)
def test_code_and_hyper_parameters_stay(line: str) -> None:
    """Types, references and calls are no secrets, and no more are names of which only a part sounds like one."""
    assert mask_text(f"+{line}\n") == f"+{line}\n"


def test_masking_takes_time_in_proportion() -> None:
    """A line of a megabyte, as notebooks and minified files have it, is looked at once: it ends at all."""
    for line in ("a" * 10**6, "a-" * 500_000, "a.b/" * 250_000, "=" * 10**6, " " * 10**6, "eyJ" * 300_000, "\n" * 10**6):
        mask_text(line)
    for begin in ("password", "password: x", "('api_key',", "login(key", "- ", "'--a',", "api_key:"):
        for more in (" ", "a", "a ", "a="):
            mask_text(begin + more * (300_000 // len(more)))
