"""The documentation says what the code does: generated pages, code blocks, links, commands."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tracelet_shim
from benchmarks import report
from tests.conftest import RunPython
from tests.environment import warnings
from tracelet_shim.backends import registry
from tracelet_shim.session.settings import _NOT_SETTINGS, FILE, Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def ours() -> list[str]:
    return [name for name in registry.names() if registry.find(name).__module__.startswith("tracelet_shim.")]


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Return (the rest of the opening line, the text) of each block in that language."""
    found = re.findall(rf"^```{language}\b([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(info.strip(), text) for info, text in found]


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_generated_pages_are_fresh(tmp_path: Path) -> None:
    """What `make docs` writes is what is there: nobody edited it, and the code has not moved on."""
    subprocess.run([sys.executable, str(ROOT / "packaging" / "generate_docs.py"), str(tmp_path)], check=True)
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md"))
    trackers = [f"trackers/{name}.md" for name in ours()]
    others = ["compatibility.md", "fidelity.md", "frameworks.md", "settings.md", "the-run.md", "which-tracker.md"]
    assert made == sorted([*others, *trackers])
    for name in made:
        assert (DOCS / name).read_text() == (tmp_path / name).read_text(), f"docs/{name} is stale: make docs"


def test_pictures_are_small_and_shown() -> None:
    """Each picture is on a page, and each of those that `packaging/pictures.py` makes is there. None is heavy."""
    shown = {name for page in PAGES for name in re.findall(r"images/([\w-]+\.(?:png|svg))\)", page.read_text())}
    files = {file.name: file.stat().st_size for file in (DOCS / "images").iterdir()}
    assert shown == files.keys()
    made = re.findall(r'^        "([\w-]+)": Page\(', (ROOT / "packaging" / "pictures.py").read_text(), re.MULTILINE)
    assert len(made) > 8
    assert {f"{name}.png" for name in made} <= shown
    assert max(files.values()) < 150_000


def test_the_tables_of_performance_are_the_kept_results() -> None:
    """What docs/performance.md shows is what `make bench ARGS=--docs` has measured; nobody edited it."""
    text = report.PAGE.read_text()
    assert report.page(text) == text


def test_the_pages_have_every_setting_and_option() -> None:
    """No setting, variable or option is left out."""
    text = (DOCS / "settings.md").read_text()
    for name in Settings.__struct_fields__:
        assert f"| `{name}` |" in text
    for name in _NOT_SETTINGS - {"OPTIONS"}:
        assert f"| `TRACELET_{name}` |" in text
    for name in ours():
        text = (DOCS / "trackers" / f"{name}.md").read_text()
        for option in registry.find(name).options:
            assert f"| `{option}` | `TRACELET_{name.upper()}_{option.upper()}` |" in text


def test_every_tracker_has_its_page() -> None:
    """Each registered tracker has a page, and the overview and the README lead to it."""
    assert {path.stem for path in (DOCS / "trackers").glob("*.md")} == set(ours())
    for name in ours():
        assert f"(trackers/{name}.md)" in (DOCS / "index.md").read_text()
        assert f"(docs/trackers/{name}.md)" in (ROOT / "README.md").read_text()


@pages
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file that exists, and its anchor a heading of that file."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), target


@pages
def test_code_is_code(page: Path) -> None:
    """Each Python block compiles, and each TOML and YAML block can be read."""
    for _, text in blocks(page, "python"):
        ast.parse(text)
    if sys.version_info >= (3, 11):
        import tomllib

        for _, text in blocks(page, "toml"):
            tomllib.loads(text)
    yaml = pytest.importorskip("yaml")
    for _, text in blocks(page, "yaml"):
        yaml.safe_load(text)


RUNNABLE = [
    (page, i, info, text)
    for page in PAGES
    for i, (info, text) in enumerate(blocks(page, "python"))
    if re.match(r"run\b", info)
]


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize(
    ("info", "text"),
    [
        pytest.param(info, text, id=f"{page.relative_to(ROOT)}-{i}", marks=[pytest.mark.nightly] if "nightly" in info else [])
        for page, i, info, text in RUNNABLE
    ],
)
def test_code_runs(run_python: RunPython, info: str, text: str) -> None:
    """A Python block that is marked with ``run`` runs, and loses nothing. With ``needs=name``, where that is installed.

    ClearML looks through all packages that are installed before a task of the program's ends, for up to five minutes.
    """
    for name in re.findall(r"needs=(\w+)", info):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    done = run_python(text, env={"TRACELET_STRICT": "1"}, timeout=280)
    assert warnings(done.stderr) == []


WHOLE = [DOCS / f"{name}.md" for name in ("index", "migrating", "which-tracker", "hpc", "ci", "notebooks")]
"""Pages on which everything that can be run is run."""


@pytest.mark.parametrize("page", WHOLE, ids=lambda page: page.stem)
def test_nothing_is_left_to_try(page: Path) -> None:
    """A block of Python is run, or is a file of a command that is; a command is run; what is neither has another language."""
    text = page.read_text()
    assert [info for info, _ in blocks(page, "python") if not re.match(r"(run\b|file=)", info)] == []
    assert [info for info, _ in blocks(page, "bash") if not re.match(r"(run$|file=)", info)] == []
    assert set(re.findall(r"^```(\S*)", text, re.MULTILINE)) <= {"", "python", "bash", "yaml", "text"}
    assert re.findall(r"\n\n {4}\S.*", re.sub(r"^(```.*?^```|[-*] .*?\n\n(?! ))", "", text, flags=re.MULTILINE | re.DOTALL)) == []


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize("page", [page for page in WHOLE if "```bash run" in page.read_text()], ids=lambda page: page.stem)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """The commands of a page run, in their order and in one directory, which has the files that the page shows."""
    for language in ("python", "bash"):
        for info, text in blocks(page, language):
            for name in re.findall(r"file=(\S+)", info):
                (tmp_path / name).write_text(text)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "TRACELET_STRICT": "1"}
    for info, text in blocks(page, "bash"):
        if info == "run":
            command = ["timeout", "200", "bash", "-euo", "pipefail", "-c", text]  # which ends what it has left, too
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            assert warnings(done.stderr) == [], text


@pages
def test_names_exist(page: Path) -> None:
    """Variables, options of commands and arguments that a page names are real."""
    text = page.read_text()
    prefixes = [f"{name.upper()}_" for name in registry.names()] + ["<TRACKER>_", "JSONLINES_"]
    known = {name.upper() for name in Settings.__struct_fields__} | _NOT_SETTINGS | {"STATE_DIR"}
    for name in re.findall(r"TRACELET_([A-Z_<>]+)", text):
        assert name in known or any(name.startswith(prefix) for prefix in prefixes), name
    helped = ""
    for option in re.findall(r"tracelet-shim run ([^\n`]*?) -- ", text):
        helped = helped or _help("run")
        for word in re.findall(r"--[a-z-]+", option):
            assert word in helped, word
    for name in re.findall(r"tracelet(?:_shim)?\.(\w+)\(", text):
        assert name in tracelet_shim.__all__, name
    for target in re.findall(r"\bmake (demo|test|docs|venv|lint|types|wheel|constraints|help)\b", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert FILE == "tracelet.toml"


def _help(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tracelet_shim", command, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout
