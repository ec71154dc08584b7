"""Write the pages of docs/ that are made from the code: run by `make docs`; a test fails where they are stale.

Usage: python packaging/generate_docs.py [DIRECTORY]
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import comparison

import matrix
import tracelet_shim
from matrix import frameworks as recipes
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend
from tracelet_shim.cli import backends
from tracelet_shim.session.settings import PREFIX, Settings

DOCS = Path(__file__).resolve().parents[1] / "docs"

OTHER_VARIABLES = {
    "DISABLED": ("1 or 0", "1 switches everything off, `start_logging` included"),
    "CONFIG": (
        "path",
        "the file to read instead of `tracelet.toml` [where the program began](activation.md#which-directory); it has to exist",
    ),
    "REDIS_PASSWORD": ("text", "the password of the Redis that `delivery` names, where its address has none ([Fleet](fleet.md))"),
    "REDIS_PASSWORD_FILE": ("path", "a file that has it"),
    "LOG_FORMAT": ("text", "`json`: what `tracelet-shim collect` logs is for programs"),
    "STATE_DIR": ("path", "where the ledger is kept; default: `.tracelet` in the session's root directory"),
}
"""Variables that are no settings: the switch, and two paths."""


def ours() -> list[type[Backend]]:
    """Return the backends of this distribution; what else is installed here is no part of its documentation."""
    found = [registry.find(name) for name in registry.names()]
    return [backend for backend in found if backend.__module__.startswith("tracelet_shim.")]


def title(backend: type[Backend]) -> str:
    """Return the tracker's name as people write it: the first line of its page."""
    return page(backend).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def page(backend: type[Backend]) -> Path:
    return DOCS / "trackers" / f"{backend.name}.md"


def rows() -> dict[str, backends.Row]:
    return {row.name: row for row in backends.rows()}


def fidelity() -> str:
    lines = [
        "# What arrives where",
        "",
        "<!-- Made by `make docs` from the backends' capability tables; do not edit. -->",
        "",
        *backends.markdown_matrix([rows()[backend.name] for backend in ours()], [title(backend) for backend in ours()]),
        "",
        "How each is done stands on the [page of the tracker](index.md#pages); `tracelet-shim backends --markdown` prints it for",
        "all.",
        "",
        "## How we know that it is there",
        "",
        "What an SDK was handed is not there yet. An event is *delivered* when what stands here has happened; until then it is",
        "pending, for the program's end, `status`, strict and `replay --resume`. What can neither be learnt nor asked is",
        "`unconfirmed`, and counts as missing. [Delivery](delivery.md#online) has the faults, each with its test.",
        "",
        *backends.markdown_table(
            ["tracker", "on this machine, or offline", "on a server", "once, after a fault"],
            [[title(backend), *backend.acknowledged] for backend in ours()],
        ),
    ]
    return "\n".join(lines) + "\n"


BEGIN = "<!-- From here on made by `make docs` from the code; do not edit. -->\n"
END = "<!-- end -->\n"


def tracker(backend: type[Backend]) -> str:
    """Return a tracker's page with the tables of its options and of what arrives how, which stand between two marks."""
    before, begin, rest = page(backend).read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page(backend)} lacks the lines between which its tables go:\n{BEGIN}{END}")
    prefix = f"{PREFIX}{backend.name.upper().replace('-', '_')}_"
    options = [[f"`{name}`", f"`{prefix}{name.upper()}`", text] for name, text in backend.options.items()]
    lines = ["", "## Options", ""]
    lines += backends.markdown_table(["option", "variable", "meaning"], options) if options else ["It has none."]
    lines += ["", "## What arrives how", "", *backends.markdown_how(rows()[backend.name]), "", ""]
    return before + begin + "\n".join(lines) + end + after


OF_THE_SESSION = ("table", "artifact", "model", "tags", "alert", "used")
"""What only a session's own methods make; parameters, numbers, texts and pictures arrive as SummaryWriter's do."""


def the_run() -> str:
    """Return the page of these methods with the table of what each tracker makes of them, which stands between two marks."""
    before, begin, rest = (DOCS / "the-run.md").read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"the-run.md lacks the lines between which its table goes:\n{BEGIN}{END}")
    body = []
    for backend in ours():
        cells = rows()[backend.name].capabilities or {}
        shown = (f"**{cells[kind]['level']}**: {cells[kind]['how']}" for kind in OF_THE_SESSION)
        body.append([f"[{title(backend)}](trackers/{backend.name}.md)", *shown])
    heads = [f"`{backends.METHODS[kind][0].removeprefix('session.')}`" for kind in OF_THE_SESSION]
    return before + begin + "\n".join(["", *backends.markdown_table(["tracker", *heads], body), "", ""]) + end + after


def settings() -> str:
    arguments = set(inspect.signature(tracelet_shim.start_logging).parameters)
    body = []
    described = dict(sections(tracelet_shim.start_logging, "Args"))
    for names, shared in attributes():
        for name in names:
            field = FIELDS[name]
            text = shared if len(names) == 1 else described[name]
            variable = {"config": "", "options": f"`{PREFIX}<TRACKER>_<OPTION>`"}.get(name, f"`{PREFIX}{name.upper()}`")
            call = f"`{name}=`" if name in arguments else ""
            body.append([f"`{name}`", call, variable, value_of(name), default_of(field), text])
    lines = [
        "# Settings",
        "",
        "<!-- Made by `make docs` from the code; do not edit. -->",
        "",
        "An argument of `start_logging` wins over the environment variable, the variable over `tracelet.toml`, that over",
        "the default. In `tracelet.toml` a setting has the name in the first column, and a tracker's options stand in a",
        "table of its name:",
        "",
        "```toml",
        'backend = ["mlflow", "aim"]',
        'project = "comparison"',
        "",
        "[mlflow]",
        'tracking_uri = "sqlite:///all.db"',
        "```",
        "",
        "A setting that is not known is an error in the call and in the file, and a warning in the environment. An option",
        "that a tracker does not have is an error everywhere; if the environment activates, and does not use that tracker,",
        "it is a line on standard error. Each message has the nearest name.",
        "",
        "A value that cannot be right is an error in the call, and at a program under `tracelet-shim run` before it starts.",
        "Where the environment activates, it is a line on standard error, and that value alone is ignored: the one in the file",
        "or the default counts. Two count in part, since ignoring them could send what was to stay here: any wrong value of",
        "`TRACELET_OFFLINE` counts as 1, and of `TRACELET_WHAT_RAN` the parts that are known count. A tracker that does not",
        "exist, or has a wrong option, is left out, and the others go on. With `TRACELET_STRICT=1` each of these is an error.",
        "",
        "`config` can be a mapping (OmegaConf's, too), a namespace, a dataclass, or an object of attrs, msgspec or pydantic;",
        "what is within becomes tables, lists, numbers and texts in the same way.",
        "",
        "No `.env` is read. The SDKs of Comet and SwanLab read the one in the working directory, for themselves;",
        "`tracelet-shim doctor` names what they take from it.",
        "",
        *backends.markdown_table(["setting", "argument", "variable", "value", "default", "meaning"], body),
        "",
        "Variables beside the settings:",
        "",
        *backends.markdown_table(
            ["variable", "value", "meaning"],
            [[f"`{PREFIX}{name}`", value, text] for name, (value, text) in OTHER_VARIABLES.items()],
        ),
        "",
        "## Options of the trackers",
        "",
        "They stand on the [page of the tracker](index.md#pages). In the call:",
        '`options={"mlflow": {"tracking_uri": "..."}}`. On the command line of `tracelet-shim run` and `replay`:',
        "`--option mlflow.tracking_uri=...`. In a terminal, `tracelet-shim backends mlflow` lists them.",
    ]
    return "\n".join(lines) + "\n"


FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def attributes() -> Iterator[tuple[list[str], str]]:
    """Yield (names, text) of what the docstring of Settings says; it must speak of every field."""
    found = [([name.strip() for name in names.split(",")], text) for names, text in sections(Settings, "Attributes")]
    named = sorted(name for names, _ in found for name in names)
    if named != sorted(FIELDS):
        sys.exit(f"the docstring of Settings describes {named}, its fields are {sorted(FIELDS)}")
    yield from found


def sections(owner: Any, title: str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the entries in one section of a docstring."""
    section = inspect.cleandoc(owner.__doc__ or "").partition(f"{title}:\n")[2].partition("\n\n")[0]
    for names, text in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
        yield names, " ".join(text.split()).replace("``", "`").rstrip(".")


def value_of(name: str) -> str:
    kind = FIELDS[name].type
    special = {"tags": "`nightly,seed=3`", "config": "table", "options": "", "root": "path", "backend": "`mlflow,aim`"}
    special |= {"what_ran": "`git,command`, or 0", "system_metrics": "number"}
    special |= {"autolog": "`params,models`, or 0", "autolog_dir": "path"}
    if name in special:
        return special[name]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(kind))
    return {bool: "1 or 0", float: "number"}.get(kind, "text")


def default_of(field: Any) -> str:
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if default in (None, (), {}):
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return "0" if default is False else f"`{default}`" if isinstance(default, str) else f"{default:g}"


def compatibility() -> str:
    """Return the page of versions with the tables of what was run, from matrix/results, which stand between two marks."""
    before, begin, rest = (DOCS / "compatibility.md").read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"compatibility.md lacks the lines between which its tables go:\n{BEGIN}{END}")
    results = {cell: result for cell, result in matrix.results() if result}
    missing = [cell.name for cell, result in matrix.results() if not result]
    by_tracker = []
    for backend in ours():
        theirs = [(cell, result) for cell, result in results.items() if cell.tracker == backend.name and cell.version]
        needs = [f"{need.versions}: `{need.distribution}{need.specifier}` ({need.why})" for need in backend.versions.needs]
        head = f"[{title(backend)}](trackers/{backend.name}.md)"
        accepted = f"`{backend.distribution}` {backend.versions.oldest} to {backend.versions.newest}"
        by_tracker.append([head, accepted, "; ".join(_ran(cell, result) for cell, result in theirs), "; ".join(needs)])
    core = [
        [cell.version, f"Python {cell.python}", _needed(cell, result), _verdict(result)]
        for cell, result in results.items() if cell.tracker == "core"
    ]  # fmt: skip
    rest_of_all = [
        [f"Python {cell.python}", ", ".join(map(_title, cell.trackers)), _beside(result), _verdict(result)]
        for cell, result in results.items() if not cell.version
    ]  # fmt: skip
    lines = [
        "",
        *backends.markdown_table(["tracker", "accepted", "run with", "needs beside it"], by_tracker),
        "",
        *backends.markdown_table(["what the package needs", "interpreter", "run with", "result"], core),
        "",
        *backends.markdown_table(["interpreter", "trackers, as pip installs them there", "with", "result"], rest_of_all),
        "",
        *([f"Not run yet: {', '.join(missing)}.", ""] if missing else []),
    ]
    return before + begin + "\n".join(lines) + end + after


def _title(tracker: str) -> str:
    return title(registry.find(tracker))


def _ran(cell: matrix.Cell, result: matrix.Result) -> str:
    python = "" if cell.python == "3.11" else f"Python {cell.python}"
    failed = "" if matrix.holds(result) else _verdict(result)
    inside = ", ".join(filter(None, [python, *(f"`{pin}`" for pin in cell.beside), failed]))
    return cell.version + (f" ({inside})" if inside else "")


def _beside(result: matrix.Result) -> str:
    """Name what else a result rests on."""
    versions = result.get("installed", {})
    return ", ".join(f"{name} {versions[name]}" for name in ("torch", "tensorboard", "numpy", "protobuf") if name in versions)


def _needed(cell: matrix.Cell, result: matrix.Result) -> str:
    """Name the versions of what the package needs, of torch and of what the metrics of the system need."""
    names = dict.fromkeys(canonicalize_name(Requirement(line).name) for line in matrix.needed(cell.python))
    return ", ".join(f"{name} {result['installed'][name]}" for name in names if name in result["installed"])


def _verdict(result: matrix.Result) -> str:
    if "problem" in result:
        return f"fails: {result['problem']}"
    if "wheel" in result:
        return "the wheel without torch: doctor, `run`, `replay`, the session's methods"
    passed = ", ".join(f"{name}: {row['passed']} passed" for name, row in sorted(result["hostings"].items()))
    failed = sum(len(checks) for row in result["hostings"].values() for checks in row["failed"].values())
    if "own" in result:
        passed += f", tests of our own: {result['own']['passed']} passed"
        failed += sum(map(len, result["own"]["failed"].values()))
    return passed + (f", {failed} failed" if failed else "")


def which_tracker() -> str:
    """Return the page that compares the trackers, with the tables of what the code knows, each between two marks of its own."""
    text = (DOCS / "which-tracker.md").read_text(encoding="utf-8")
    made = iter(comparison.tables(ours(), rows(), title))
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    text = between.sub(lambda _: BEGIN + "\n".join(["", *next(made), "", ""]) + END, text)
    if next(made, None) is not None:
        sys.exit(f"which-tracker.md lacks lines between which a table goes:\n{BEGIN}{END}")
    return text


def frameworks() -> str:
    """Return the page of the frameworks, with the table of what came out of `make frameworks` between two lines of its own."""
    before, begin, rest = (DOCS / "frameworks.md").read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"frameworks.md lacks the lines between which its table goes:\n{BEGIN}{END}")
    results = recipes.results()
    rows_of_all = [
        [
            f"[{framework.title}](../examples/frameworks/{framework.recipe})",
            ", ".join(f"{one} {version}" for one, version in results[name].get("installed", {}).items()),
            *_arrived(results[name]),
        ]
        for name, framework in recipes.frameworks().items()
    ]
    head = ["recipe", "run with", "scalars in event files", "in MLflow", "in Trackio", "parameters"]
    return before + begin + "\n".join(["", *backends.markdown_table(head, rows_of_all), "", ""]) + end + after


def _arrived(result: Mapping[str, Any]) -> list[str]:
    if "points" not in result:
        return [result.get("problem", "not run yet"), "", "", ""]
    return [str(result[key]) if result[key] else "" for key in ("points", "mlflow", "trackio", "params")]


PAGES = {
    "compatibility.md": compatibility, "fidelity.md": fidelity, "frameworks.md": frameworks,
    "settings.md": settings, "the-run.md": the_run,
    "which-tracker.md": which_tracker,
}  # fmt: skip


def main() -> None:
    """Write all pages."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, make in PAGES.items():
        (directory / name).write_text(make(), encoding="utf-8")
    (directory / "trackers").mkdir(exist_ok=True)
    for backend in ours():
        (directory / "trackers" / f"{backend.name}.md").write_text(tracker(backend), encoding="utf-8")


if __name__ == "__main__":
    main()
