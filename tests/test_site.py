"""What `make site` checks of the documentation's site, and how pages are made ready for it. (The site itself is built in CI.)"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Zensical needs Python 3.11")
PACKAGING = Path(__file__).parents[1] / "packaging"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """Return the program of packaging/ that the test names."""
    monkeypatch.syspath_prepend(str(PACKAGING))
    spec = importlib.util.spec_from_file_location(request.param, PACKAGING / f"{request.param}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checker = pytest.mark.parametrize("tool", ["check_site"], indirect=True)
builder = pytest.mark.parametrize("tool", ["build_site"], indirect=True)


@checker
def test_a_site_that_is_well(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "index.html").write_text('<h1 id="top">A</h1><a href="b.html#x">b</a><img src="images/a.png"><code>[a](b)</code>')
    (tmp_path / "b.html").write_text('<p id="x">B <a href=".">back</a> <a href="https://example.org">out</a></p>')
    assert tool.problems(tmp_path) == []


@checker
@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="gone.html">', "gone.html leads nowhere"),
        ('<a href="#gone">', "#gone has no such anchor"),
        ('<img src="gone.png">', "gone.png leads nowhere"),
        ('<script src="https://cdn.example/a.js"></script>', "loads https://cdn.example/a.js"),
        ('<link rel="stylesheet" href="//fonts.example/css">', "loads //fonts.example/css"),
        ('<link rel="preconnect" href="https://fonts.example">', "loads https://fonts.example"),
        ("<style>@import 'https://fonts.example/css';</style>", "loads https://"),
        ("<p>[a link](b.md)</p>", "Markdown is left over"),
        ("<p>| a | b |</p>", "Markdown is left over"),
        ("<p>one:\n2. two</p>", "Markdown is left over"),
        ("<p>::: tracelet_shim.Session</p>", "Markdown is left over"),
    ],
)
def test_a_site_that_is_not(tool: ModuleType, tmp_path: Path, html: str, problem: str) -> None:
    (tmp_path / "index.html").write_text(f"<html>{html}</html>")
    assert any(problem in found for found in tool.problems(tmp_path)), tool.problems(tmp_path)


@checker
def test_what_a_style_sheet_loads(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>A</p>")
    (tmp_path / "a.css").write_text("@font-face { src: url(https://fonts.example/a.woff2) }")
    assert len(tool.problems(tmp_path)) == 1


@checker
def test_an_empty_site_is_none(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.problems(tmp_path) != []


@builder
def test_a_page_is_made_ready(tool: ModuleType) -> None:
    """Links out of docs/ lead to pages of the site, and code stays as it is, but for what only our tests read."""
    wanted: set[Path] = set()
    page = (
        "[a](../examples/train.py) [b](index.md#pages) [c](../README.md) [d](https://a.b) ![e](images/aim-mesh.png)\n\n"
        "<!-- api: tracelet_shim.Session members=flush,stop -->\n\n```python run\nx = '[a](b.md)'\n```\n"
    )
    made = tool.translated(page, tool.DOCS / "sweeps.md", wanted)
    assert made == (
        "[a](project/examples/train.py.md) [b](index.md#pages) [c](index.md) [d](https://a.b) ![e](images/aim-mesh.png)\n\n"
        "::: tracelet_shim.Session\n    options:\n      members: [flush,stop]\n\n\n```python\nx = '[a](b.md)'\n```\n"
    )
    assert tool.ROOT / "examples" / "train.py" in wanted


@builder
def test_a_nested_list_is_made_ready(tool: ModuleType) -> None:
    """Python-Markdown takes less for a list than the host of the repository does."""
    made = tool.deepened("1. one:\n   - a\n     and\n   - b\n2. two\n\n   three\n3. four\n\nText\n1. tight\n2. list\n")
    assert made == (
        "1. one:\n\n    - a\n      and\n    - b\n\n2. two\n\n    three\n\n3. four\n\nText\n1. tight\n2. list\n"
    )
    assert tool.deepened("```text\n1. a\n   - b\n```\n") == "```text\n1. a\n   - b\n```\n"


@builder
def test_every_page_is_in_the_navigation(tool: ModuleType) -> None:
    assert tool.unlisted() == []
