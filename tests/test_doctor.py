"""`tracelet-shim doctor`, as a user runs it."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.replay.commands import environment, tracelet_shim
from tracelet_shim.backends import registry


@pytest.fixture(autouse=True)
def _no_settings_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACELET_LINGER")


def doctor(code: int = 0, **env: str) -> dict[str, Any]:
    """Return the report; a field more has the findings of each level."""
    report = json.loads(tracelet_shim("doctor", "--json", code=code, **env))
    for level in ("ok", "warning", "error"):
        report[level + "s"] = [f"{f['topic']}: {f['text']}" for f in report["findings"] if f["level"] == level]
    assert all(finding["remedy"] for finding in report["findings"] if finding["level"] != "ok")
    return report


@contextmanager
def server(status: int, certificate: Path | None = None) -> Iterator[str]:
    """Answer everything with this status; by TLS, with the files of this directory, if there is one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
            found.socket = context.wrap_socket(found.socket, server_side=True)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


def test_all_is_well() -> None:
    """Where nothing is in the way, it says what would happen: the default tracker, its version, activation, state."""
    report = doctor()
    assert (report["ok"], report["errors"], report["warnings"], report["pth_active"]) == (True, [], [], True)
    assert report["settings"] == [{"name": "backend", "value": "mlflow", "from": "default"}]
    (mlflow,) = [tracker for tracker in report["trackers"] if tracker["configured"]]
    assert (mlflow["name"], mlflow["version"], mlflow["problem"]) == ("mlflow", version("mlflow"), None)
    said = tracelet_shim("doctor")
    assert f"mlflow {version('mlflow')} can be used" in said


def test_a_version_that_nobody_has_tried(tmp_path: Path) -> None:
    """One that is newer than all that the matrix has run is used as it is, and one line says so."""
    newest = registry.find("dvclive").versions.newest
    about = tmp_path / "dvclive-99.0.dist-info"  # stands before the installed one
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dvclive\nVersion: 99.0\n")
    report = doctor(TRACELET_BACKEND="dvclive", PYTHONPATH=str(tmp_path))
    assert "dvclive: dvclive 99.0 can be used" in report["oks"]
    assert f"dvclive: dvclive 99.0 is newer than {newest}, the newest that was tried" in report["warnings"]
    assert not any(line.startswith("dvclive:") for line in doctor(TRACELET_BACKEND="dvclive")["warnings"])


def test_where_settings_come_from_and_no_secrets() -> None:
    """Each setting has its origin; of credentials and secrets only their names are shown, wherever they are."""
    Path("tracelet.toml").write_text("project = 'from file'\nnotes = 'n'\n[comet]\napi_key = 'hidden-1'\n")
    env = {
        "TRACELET_BACKEND": "comet", "TRACELET_PROJECT": "from environment", "COMET_API_KEY": "hidden-2",
        "TRACELET_MLFLOW_TRACKING_URI": "http://user:hidden-3@127.0.0.1:9/", "MLFLOW_TRACKING_PASSWORD": "hidden-4",
    }  # fmt: skip
    report = doctor(**env)
    rows = {row["name"]: (row["value"], row["from"]) for row in report["settings"]}
    assert rows["project"] == ("from environment", "environment (TRACELET_PROJECT)")
    assert rows["notes"] == ("n", "file (tracelet.toml)")
    assert rows["mlflow.tracking_uri"][0] == "http://127.0.0.1:9/"
    credentials = {tracker["name"]: tracker["credentials"] for tracker in report["trackers"]}
    assert credentials["comet"] == ["COMET_API_KEY (environment)", "api_key (option)"]
    assert credentials["mlflow"] == ["MLFLOW_TRACKING_PASSWORD (environment)"]
    assert "hidden" not in json.dumps(report) + tracelet_shim("doctor", **env)


def test_secrets_within_values() -> None:
    """Neither the query of an address nor a table, however it is given, shows what is secret in it, nor does what is said of
    the server."""
    Path("tracelet.toml").write_text(
        "tags = {auth = 'hidden-1', team = 'a'}\n"
        """[wandb]\nsettings = '{"api_key": "hidden-2", "x": {"pwd": "hidden-3"}}'\n"""
    )
    with server(200) as good:
        env = {
            "TRACELET_BACKEND": "mlflow", "TRACELET_NOTES": "password=hidden-4",
            "TRACELET_TRACKIO_SERVER_URL": f"http://u:hidden-5@{good}/?write_token=hidden-6#hidden-7",
            "MLFLOW_TRACKING_URI": f"http://{good}/?write_token=hidden-8",
        }  # fmt: skip
        report = doctor(**env)
        said = tracelet_shim("doctor", **env)
    rows = {row["name"]: row["value"] for row in report["settings"]}
    assert rows["trackio.server_url"] == f"http://{good}/"
    assert json.loads(rows["wandb.settings"]) == {"api_key": "***", "x": {"pwd": "***"}}
    assert [row["address"] for row in report["servers"]] == [f"http://{good}/"]
    assert "hidden" not in json.dumps(report) + said


def test_settings_that_cannot_be_right() -> None:
    """A wrong value or tracker is an error with exit code 1, an unknown variable a warning with the nearest name."""
    assert "unknown backend 'mlfow' (did you mean 'mlflow'?)" in doctor(1, TRACELET_BACKEND="mlfow")["errors"][0]
    assert "pigeon" in doctor(1, TRACELET_DELIVERY="pigeon")["errors"][0]
    assert "TRACELET_PROJET" in doctor(TRACELET_PROJET="x")["warnings"][0]
    assert "did you mean 'repo'" in doctor(TRACELET_AIM_REPOS="x")["warnings"][0]


def test_a_missing_credential() -> None:
    """A tracker that would refuse to start is an error, with what to do about it."""
    report = doctor(1, TRACELET_BACKEND="wandb", WANDB_MODE="online")
    assert "no API key" in report["errors"][0]
    (finding,) = [finding for finding in report["findings"] if finding["level"] == "error"]
    assert "wandb login" in finding["remedy"]


def test_servers() -> None:
    """A server that is configured is asked, and how fast it answers is shown; one that is gone or broken is an error."""
    with server(200) as good, server(503) as bad, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        report = doctor(MLFLOW_TRACKING_URI=f"http://{good}")
        (row,) = report["servers"]
        assert (row["tracker"], row["problem"]) == ("mlflow", None)
        assert 0 < row["milliseconds"] < 3000
        assert "503" in doctor(1, MLFLOW_TRACKING_URI=f"http://{bad}")["errors"][0]
        dead = f"http://127.0.0.1:{gone.getsockname()[1]}"
        assert "no answer" in doctor(1, MLFLOW_TRACKING_URI=dead)["errors"][0]


def test_addresses_that_are_no_servers() -> None:
    """A profile of Databricks is not looked up as a host, nor is a database without a port that is known."""
    for address in ("databricks://prod", "databricks-uc://prod", "mssql://u:p@dsn/mlflow", "sqlite:///x.db"):
        assert doctor(MLFLOW_TRACKING_URI=address, DATABRICKS_TOKEN="t")["servers"] == []


def test_the_port_of_a_database() -> None:
    """A database without a port in its address is asked at the one where it listens as a rule."""
    for scheme, port in (("postgresql", 5432), ("mysql+pymysql", 3306)):
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.77", port))  # of this test alone
            listening.listen()
            (row,) = doctor(MLFLOW_TRACKING_URI=f"{scheme}://u:p@127.0.0.77/mlflow")["servers"]
        assert (row["address"], row["problem"]) == (f"{scheme}://127.0.0.77/mlflow", None)


def test_certificates(tmp_path: Path) -> None:
    """A certificate that we do not know is a warning; it is known where the SDKs' variables say so, or nobody is to check."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with server(200, tmp_path) as good:
        env = {"MLFLOW_TRACKING_URI": f"https://{good}", "REQUESTS_CA_BUNDLE": "", "SSL_CERT_FILE": ""}
        assert "CERTIFICATE_VERIFY_FAILED" in doctor(**env)["warnings"][0]
        known = {"REQUESTS_CA_BUNDLE": "cert.pem"}, {"SSL_CERT_FILE": "cert.pem"}, {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
        for more in known:
            (row,) = doctor(**env | more)["servers"]
            assert row["problem"] is None
        assert "certificates cannot be read" in doctor(1, **env | {"REQUESTS_CA_BUNDLE": "gone.pem"})["errors"][0]


def test_servers_of_the_trackers_own_files(tmp_path: Path) -> None:
    """An address in the tracker's own file is asked as well; without one, the tracker's service, but never when offline."""
    with server(200) as good:
        Path("clearml.conf").write_text(f"api {{\n  # api_server: http://no\n  api_server: http://{good}\n}}\n")
        env = {"TRACELET_BACKEND": "clearml", "CLEARML_CONFIG_FILE": "clearml.conf", "CLEARML_OFFLINE_MODE": ""}
        (row,) = doctor(**env)["servers"]
        assert (row["address"], row["problem"]) == (f"http://{good}", None)
        assert doctor(**env, TRACELET_OFFLINE="1")["servers"] == []
    # A proxy that is not there keeps this from the network.
    env = {"TRACELET_BACKEND": "wandb", "WANDB_API_KEY": "k" * 40, "HTTPS_PROXY": "http://127.0.0.1:9"}
    (row,) = doctor(1, **env, WANDB_MODE="online")["servers"]
    assert (row["tracker"], row["address"]) == ("wandb", "https://api.wandb.ai")
    assert doctor(**env, WANDB_MODE="offline")["servers"] == []


def test_a_dotenv_that_an_sdk_reads() -> None:
    """What Comet's and SwanLab's SDKs take from .env is named, without values; for us and for the others it is no file of
    settings."""
    Path(".env").write_text("COMET_API_KEY=hidden-1\nexport COMET_WORKSPACE = w\nTRACELET_PROJECT=p\nMLFLOW_TRACKING_URI=m\n")
    report = doctor(TRACELET_BACKEND="comet,mlflow")
    assert report["warnings"] == ["comet: its SDK takes COMET_API_KEY, COMET_WORKSPACE from .env in the working directory"]
    assert report["servers"] == []
    assert [row["name"] for row in report["settings"]] == ["backend"]
    assert "hidden" not in json.dumps(report)
    assert doctor(TRACELET_BACKEND="mlflow")["warnings"] == []


def test_hooks_that_log_twice() -> None:
    """A tracker's own TensorBoard hook that is switched on is pointed out."""
    report = doctor(TRACELET_BACKEND="wandb", WANDB_SYNC_TENSORBOARD="true")
    assert "everything twice" in report["warnings"][0]


def test_an_interpreter_that_is_not_activated(tmp_path: Path) -> None:
    """An interpreter that finds the package on PYTHONPATH alone has no .pth file; the variable would do nothing there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "other"], check=True)
    paths = [str(Path(__file__).parents[1]), *(path for path in sys.path if path.endswith("site-packages"))]
    for backend, code in (("", 0), ("mlflow", 1)):
        done = subprocess.run(
            ["other/bin/python", "-m", "tracelet_shim", "doctor"],
            env=environment(PYTHONPATH=os.pathsep.join(paths), TRACELET_BACKEND=backend),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "tracelet_shim.pth is in none of its site directories" in done.stdout


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """Without a place for the ledger a killed job could not be continued."""
    assert "cannot be written" in doctor(1, TRACELET_STATE_DIR="/proc/1/state")["errors"][0]


def test_import_hooks_of_others() -> None:
    """Import hooks are named: those that an interpreter starts with, and comet_ml's, which claims the module at its import."""
    site = Path("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\nclass Hook:\n    def find_spec(self, name, path=None, target=None): return None\n"
        "sys.meta_path.insert(0, Hook())\nif '-c' in sys.orig_argv:\n    print('a word of its own')"
    )
    report = doctor(PYTHONPATH=str(site))
    hooks = {hook["name"]: hook["claims"] for hook in report["import_hooks"]}
    assert hooks["sitecustomize.Hook"] is False
    assert hooks["comet_ml.monkey_patching.CometModuleFinder"] is True
    assert report["pth_active"]
    assert "import hook: sitecustomize.Hook has nothing to do with torch.utils.tensorboard" in report["oks"]
    assert (
        "import hook: comet_ml.monkey_patching.CometModuleFinder will claim torch.utils.tensorboard where its package is "
        "imported first; activation gets past it"
    ) in report["oks"]


CLAIMS = """
import sys
from importlib.machinery import PathFinder
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torch.utils.tensorboard"):
            %s
            return PathFinder.find_spec(name, path, target)
sys.meta_path.insert(0, Hook())
"""


def test_an_import_hook_that_claims_the_module() -> None:
    """Whether activation gets past one that every interpreter starts with is tried, not guessed."""
    site = Path("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(CLAIMS % "pass")
    what = "import hook: sitecustomize.Hook claims torch.utils.tensorboard for itself, and "
    assert what + "activation gets past it" in doctor(PYTHONPATH=str(site))["oks"]
    ours = "'tracelet' not in type(f).__module__"
    throw = f"sys.meta_path, sys.path_hooks = ([f for f in x if {ours}] for x in (sys.meta_path, sys.path_hooks))"
    (site / "sitecustomize.py").write_text(CLAIMS % throw)
    (error,) = doctor(1, PYTHONPATH=str(site))["errors"]
    assert error.startswith(what + "nothing of it is seen: it was imported past us")
    (site / "sitecustomize.py").write_text(CLAIMS % "raise ImportError('not here')")
    assert "import hook: sitecustomize.Hook has nothing to do with torch.utils.tensorboard" in doctor(PYTHONPATH=str(site))["oks"]


def test_a_near_miss_of_the_variable() -> None:
    """What was to be TRACELET_BACKEND is a warning, with or without the underscore."""
    for name in ("TRACELET_BACKENDS", "TRACLET_BACKEND", "TRACELETBACKEND"):
        warning = f"settings: environment variable {name} is not known (did you mean TRACELET_BACKEND?); it is ignored"
        assert doctor(**{name: "aim", "_TRACELET_NAMED": "1"})["warnings"] == [warning]


def test_directories_that_are_watched() -> None:
    """Of each it is said whether it can be watched, and that what is there is not delivered."""
    Path("logs/old").mkdir(parents=True)
    Path("logs/old/events.out.tfevents.1600000000.here").write_bytes(b"")
    Path("file").touch()
    report = doctor(1, TRACELET_WATCH="logs, new,file")
    here = Path.cwd()
    assert f"watch: {here}/logs is watched; the 1 event files that it has now are delivered only as they grow" in report["oks"]
    assert f"watch: {here}/new is watched; it is not there yet" in report["oks"]
    assert f"watch: {here}/file is no directory" in report["errors"]
