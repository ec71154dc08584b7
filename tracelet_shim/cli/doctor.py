"""``tracelet-shim doctor``: what would happen here, and what is in the way.

Nothing of a tracker's SDK is imported, and no value of a credential is read further than to see that it is there. Of what
is shown, what looks like a secret is taken out (`tracelet_shim.provenance.secrets`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer

from tracelet_shim import errors
from tracelet_shim._bootstrap import is_set
from tracelet_shim.backends.shared.probe import Probe, place
from tracelet_shim.cli import _fleet
from tracelet_shim.provenance.secrets import MASK, is_secret, mask_arguments, mask_text

if TYPE_CHECKING:
    import ssl

    from tracelet_shim.session.settings import Settings

__all__ = ["doctor"]

_TIMEOUT = 3.0
_SECRET = re.compile(r"key|token|passw|secret|credential", re.IGNORECASE)

_PORTS = {"aim": 53800, "mariadb": 3306, "mysql": 3306, "postgres": 5432, "postgresql": 5432}
"""Where servers listen whose address has no port, by scheme. What has none otherwise (databricks://profile) is no address."""


class _Report:
    """What was found, in the form of the JSON output."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {"ok": True, "settings": [], "trackers": [], "servers": [], "findings": []}

    def find(self, level: str, topic: str, text: str, remedy: str | None = None) -> None:
        """Add a finding; `level` is ok, warning or error."""
        self.data["findings"].append({"level": level, "topic": topic, "text": mask_text(text), "remedy": remedy})
        if level == "error":
            self.data["ok"] = False


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Check settings, trackers, credentials, servers and activation. Exit code 1 if something is in the way."""
    report = _Report()
    _interpreter(report)
    settings = _settings(report)
    _activation(report)
    if settings is not None:
        if settings.redis is not None:
            report.find(*_fleet.asked(settings.redis))
        else:
            _trackers(report, settings)
        _state(report, settings)
    if as_json:
        typer.echo(json.dumps(report.data, indent=2))
    else:
        _print(report.data)
    raise typer.Exit(0 if report.data["ok"] else 1)


def _interpreter(report: _Report) -> None:
    report.data["python"] = {"version": platform.python_version(), "executable": sys.executable}
    report.data["version"] = metadata.version("tracelet-shim")
    packages = (
        ("torch", "warning", "there is no SummaryWriter without it; replay and the session's own methods are there"),
        ("tensorboard", "error", "it decodes what is logged"),
    )
    for package, level, why in packages:
        if importlib.util.find_spec(package) is None:
            report.find(level, package, f"not installed: {why}", f"pip install {package}")
        else:
            report.find("ok", package, f"version {metadata.version(package)}")


def _settings(report: _Report) -> Settings | None:
    """Say what is configured, and where."""
    from tracelet_shim.backends import registry
    from tracelet_shim.session.settings import DEFAULT_BACKEND, Problem, from_environment, from_file, resolve
    from tracelet_shim.session.watched import described

    known = registry.names()
    problems: list[Problem] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            settings = resolve({}, known, problems=problems)
            sources = {
                "file": from_file(os.environ, known, []),
                "environment": from_environment(os.environ, known),
            }
        except errors.ConfigurationError as error:
            report.find("error", "settings", str(error), "correct the value; the documentation has the list of settings")
            return None
    for problem in problems:
        report.find("error", "settings", str(problem.error), "correct the value; the documentation has the list of settings")
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        report.find("warning", "settings", text, "correct the name, or unset it")
    rows = {}
    for origin, values in sources.items():
        for name, value in values.items():
            if name != "options":
                rows[name] = (_shown(name, value), _place(origin, name))
        for backend, options in values.get("options", {}).items():
            for key, value in options.items():
                rows[f"{backend}.{key}"] = (_shown(key, value), _place(origin, f"{backend}_{key}"))
    if "backend" not in rows:
        rows["backend"] = (DEFAULT_BACKEND, "default")
    report.data["settings"] = [
        {"name": name, "value": value, "from": origin} for name, (value, origin) in sorted(rows.items())
    ]
    for name in settings.backend:
        if name not in known:
            report.find("error", "settings", str(errors.UnknownBackendError(name, known)), "correct the name")
    for can_be, text in described(settings):
        report.find("ok" if can_be else "error", "watch", text, None if can_be else "name a directory")
    if is_set("TRACELET_DISABLED"):
        report.find("warning", "settings", "TRACELET_DISABLED is set: nothing is logged", "unset TRACELET_DISABLED")
    return settings


def _place(origin: str, name: str) -> str:
    if origin == "environment":
        return f"environment (TRACELET_{name.upper().replace('-', '_')})"
    return f"file ({os.environ.get('TRACELET_CONFIG') or 'tracelet.toml'})"


def _shown(name: str, value: Any) -> str:
    """Return a value for people: no secrets, and no texts that may have some."""
    if _is_hidden(name):
        return "(set, not shown)"
    if name == "config" and isinstance(value, Mapping):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # an option may be a table or a list, in JSON
            parsed = json.loads(value)
            value = parsed if isinstance(parsed, dict | list) else value
    shown = _without_secrets(value)
    if isinstance(shown, dict):
        return json.dumps(shown, default=str)
    return ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown)


def _is_hidden(name: str) -> bool:
    return _SECRET.search(name) is not None or is_secret(name)


def _without_secrets(value: Any) -> Any:
    """Return a value, however deep, without what stands under names of secrets, or looks like one."""
    if isinstance(value, Mapping):
        return {key: MASK if _is_hidden(str(key)) else _without_secrets(of_key) for key, of_key in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return mask_arguments([_without_login(value)])[0] if isinstance(value, str) else value


def _without_login(address: str) -> str:
    """Return the address of a server without user, query and fragment; any other text as it is."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        if parts.scheme and parts.netloc:
            return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
    return address


_PROBE = """
import json, sys
def name(finder):
    kind = finder if isinstance(finder, type) else type(finder)
    return f"{kind.__module__}.{kind.__qualname__}"
def claims(finder):
    try:
        return finder.find_spec("torch.utils.tensorboard") is not None
    except Exception:
        return False
finders = [(name(finder), finder) for finder in sys.meta_path]
hooks = {n: claims(f) for n, f in finders if not n.startswith(("_frozen_importlib", "tracelet_shim."))}
missed = None
if any(hooks.values()):
    from tracelet_shim import intercept
    intercept.install()
    try:
        import torch.utils.tensorboard
        missed = intercept.missed()
    except Exception as error:
        missed = repr(error)
active = any(n.startswith("tracelet_shim._bootstrap.") for n, _ in finders)
print(json.dumps({"active": active, "hooks": hooks, "missed": missed}))
"""
"""Lists the import hooks of an interpreter as it starts; and tries, if one of others claims the module, to get past it."""

def _activation(report: _Report) -> None:
    """Try whether an interpreter that finds TRACELET_BACKEND set is activated (by the .pth file, or the .start file), and
    which import hooks of others there are."""
    environment = {**os.environ, "TRACELET_BACKEND": "mlflow", "TRACELET_DISABLED": ""}
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    found: dict[str, Any] = {"active": False, "hooks": {}, "missed": None}
    with contextlib.suppress(ValueError, IndexError):  # what else starts with the interpreter may print, or end it
        found = json.loads(done.stdout.splitlines()[-1])
    report.data["pth_active"] = found["active"]
    _import_hooks(report, found["hooks"], found["missed"])
    if found["active"]:
        report.find("ok", "activation", f"TRACELET_BACKEND activates {sys.executable}")
        return
    report.find(
        "error" if os.environ.get("TRACELET_BACKEND") else "warning",
        "activation",
        f"TRACELET_BACKEND alone does not activate {sys.executable}: tracelet_shim.pth is in none of its site directories",
        "pip install --force-reinstall --no-deps tracelet-shim; or `tracelet-shim run -- COMMAND`; or import tracelet_shim.auto",
    )


def _import_hooks(report: _Report, hooks: Mapping[str, bool], missed: str | None) -> None:
    """Name the import hooks of others, and say whether one keeps `torch.utils.tensorboard` from us."""
    later = dict.fromkeys(_hooks_to_come(), True)
    report.data["import_hooks"] = [{"name": name, "claims": claims} for name, claims in {**later, **hooks}.items()]
    for name, claims in hooks.items():
        level = "error" if claims and missed is not None else "ok"
        what = "claims torch.utils.tensorboard for itself" if claims else "has nothing to do with torch.utils.tensorboard"
        so = f", and nothing of it is seen: {missed}" if level == "error" else ", and activation gets past it" if claims else ""
        remedy = "switch that hook off, or put `import tracelet_shim.auto` behind the import of torch.utils.tensorboard"
        report.find(level, "import hook", f"{name} {what}{so}", remedy if level == "error" else None)
    for name in later:
        if name not in hooks:
            text = f"{name} will claim torch.utils.tensorboard where its package is imported first; activation gets past it"
            report.find("ok", "import hook", text)


def _hooks_to_come() -> list[str]:
    """Return the import hooks of trackers that are installed, which come with the import of the SDK."""
    from tracelet_shim.backends import registry

    found = []
    for name in registry.names():
        with contextlib.suppress(errors.InvalidBackendError):  # it is named where trackers are
            backend = registry.find(name)
            if backend.probe.import_hook and backend.installed() is not None:
                found.append(backend.probe.import_hook)
    return found


def _trackers(report: _Report, settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tracelet_shim.backends import registry
    from tracelet_shim.session.settings import DEFAULT_BACKEND

    wanted = settings.backend or (DEFAULT_BACKEND,)
    servers: dict[str, str] = {}
    for name in registry.names():
        try:
            backend = registry.find(name)
        except errors.InvalidBackendError as error:
            report.find("error" if name in wanted else "warning", name, str(error), "repair or uninstall the package")
            continue
        probe, options = backend.probe, settings.options.get(name, {})
        version, problem = backend.installed(), None
        if name in wanted:
            try:
                backend(options)
                backend.check(offline=settings.offline, options=options)
                report.find("ok", name, f"{backend.distribution} {version} can be used")
                if version and backend.versions.untested(version):
                    text = f"{backend.distribution} {version} is newer than {backend.versions.newest}, the newest that was tried"
                    report.find("warning", name, text, "it is used all the same; if something is odd, install that one")
            except errors.TraceletError as error:
                problem, _, remedy = mask_text(str(error)).partition("; remedy: ")
                report.find("error", name, problem, remedy or "see the documentation of the tracker")
            _hooks(report, name, probe)
            _dotenv(report, name, probe)
        elif options:
            try:
                backend(options)
            except errors.ConfigurationError as error:
                report.find("warning", name, str(error), "correct the name, or unset it; the tracker is not used here")
        report.data["trackers"].append({
            "name": name, "distribution": backend.distribution, "version": version, "configured": name in wanted,
            "credentials": _credentials(probe, options), "problem": problem,
        })  # fmt: skip
        address = probe.address(options)
        if name in wanted and problem is None and not (settings.offline or probe.is_offline(options)):
            address = address or probe.stored_address()
        if _can_be_asked(address) and (name in wanted or not options):
            servers[name] = address
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(_ask, servers, servers.values())
        for (name, address), (milliseconds, problem, certain) in zip(servers.items(), answers, strict=True):
            shown = _without_login(address)
            report.data["servers"].append(
                {"tracker": name, "address": shown, "milliseconds": milliseconds, "problem": problem}
            )
            if problem is None:
                report.find("ok", name, f"{shown} answers in {milliseconds:.0f} ms")
            else:
                level = "error" if name in wanted and certain and not settings.offline else "warning"
                remedy = "start the server, correct its address, or work without it: TRACELET_OFFLINE=1"
                if not certain:
                    remedy = "if the tracker does not know its certificate either: REQUESTS_CA_BUNDLE=FILE"
                report.find(level, name, f"{shown}: {problem}", remedy)


def _dotenv(report: _Report, name: str, probe: Probe) -> None:
    """Name what an SDK takes from a .env in the working directory; we take nothing from it."""
    path = Path(".env")
    if not probe.dotenv or not path.is_file():
        return
    pattern = rf"(?im)^\s*(?:export\s+)?({probe.dotenv}\w+)\s*="
    variables = dict.fromkeys(re.findall(pattern, path.read_text(errors="replace")))
    if variables:
        text = f"its SDK takes {', '.join(variables)} from .env in the working directory"
        report.find("warning", name, text, "if that is not meant: start elsewhere, or set the variables in the environment")


def _hooks(report: _Report, name: str, probe: Probe) -> None:
    for variable, value, remedy in probe.hooks:
        if re.fullmatch(value, os.environ.get(variable, "")):
            report.find("warning", name, f"{variable} is set: the tracker's own hook may log everything twice", remedy)
    files, pattern = probe.hook_files
    for path in map(place, files):
        if path.is_file() and (found := re.search(pattern, path.read_text(errors="replace"))):
            report.find("warning", name, f"{found[1]} is on in {path}: everything is logged twice", "remove the line")


def _credentials(probe: Probe, options: Mapping[str, Any]) -> list[str]:
    """Return where credentials were found: names, never values."""
    return [*probe.found_credentials(), *(f"{key} (option)" for key in options if _is_hidden(key))]


def _can_be_asked(address: str) -> bool:
    """True if a server can be reached under this address; of databases and the like, only where the port is known."""
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") or parts.scheme.partition("+")[0] in _PORTS or parts.port is not None
        return "://" in address and bool(parts.hostname) and known
    except ValueError:
        return True  # it is no address: asking says what is wrong with it


def _ask(name: str, address: str) -> tuple[float | None, str | None, bool]:
    """Return how many milliseconds a tracker's server took to answer, or what is wrong, and whether that is certain: an SDK
    may know certificates that we do not."""
    import socket
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    start = time.monotonic()
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0], 0)  # raises ValueError for one that cannot be
        if parts.scheme in ("http", "https"):
            try:
                context = _certificates(name)
            except OSError as error:
                return None, f"certificates cannot be read ({error}); see REQUESTS_CA_BUNDLE and SSL_CERT_FILE", True
            request = Request(_without_login(address), headers={"User-Agent": "tracelet-shim"})  # noqa: S310 - http(s)
            try:
                urlopen(request, timeout=_TIMEOUT, context=context).close()  # noqa: S310
            except HTTPError as error:
                if error.code >= 500:
                    return None, f"it answers with an error ({error.code} {error.reason})", True
        else:
            socket.create_connection((parts.hostname or "", port), timeout=_TIMEOUT).close()
    except URLError as error:
        return None, f"no answer ({error.reason})", not isinstance(error.reason, ssl.SSLCertVerificationError)
    except (OSError, ValueError) as error:
        return None, f"no answer ({str(error) or type(error).__name__})", True
    return 1000 * (time.monotonic() - start), None, True


def _certificates(name: str) -> ssl.SSLContext:
    """Return whom to believe, by the variables that the trackers' SDKs follow.

    Raises:
        OSError: there is no such file, or it has no certificates.
    """
    import ssl

    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle and os.path.isdir(bundle):
        context = ssl.create_default_context(capath=bundle)
    else:
        context = ssl.create_default_context(cafile=bundle or None)
    if name == "mlflow" and re.fullmatch("(?i)1|true", os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "")):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _state(report: _Report, settings: Settings) -> None:
    """Check that the ledger can be written: else a job that is killed cannot be continued."""
    from tracelet_shim.state.place import state_directory

    directory = state_directory(os.path.abspath(settings.root or "runs"), os.environ)
    there = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            report.find("ok", "state", f"{directory} can be written")
    except OSError as error:
        remedy = "log to a directory that can be written, or set TRACELET_STATE_DIR"
        report.find("error", "state", f"{directory} cannot be written ({error.strerror})", remedy)


def _print(data: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from tracelet_shim.display.console import Console

    console = Console()
    console.print(f"tracelet-shim {data['version']}, Python {data['python']['version']} ({data['python']['executable']})")
    table = Table("setting", "value", "from", box=box.SIMPLE_HEAD)
    for row in data["settings"]:
        table.add_row(row["name"], row["value"], row["from"])
    console.print(table)
    table = Table("tracker", "installed", "used", "credentials found", box=box.SIMPLE_HEAD)
    for row in data["trackers"]:
        used = "yes" if row["configured"] else ""
        table.add_row(row["name"], row["version"] or "no", used, ", ".join(row["credentials"]))
    console.print(table)
    for finding in data["findings"]:
        console.print(f"{finding['level']:8}{finding['topic']}: {finding['text']}", soft_wrap=True)
        if finding["remedy"]:
            console.print(f"        remedy: {finding['remedy']}", soft_wrap=True)
