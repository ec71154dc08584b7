"""Build the documentation's site into build/site, and check it: `make site`.

The pages of docs/ are written for the repository's host. Here they are gathered into build/site-source, with what they link to
outside of docs/ (programs, the changelog) as pages too, so that the site needs nothing but itself. Zensical then builds them, and
`check_site` reads what it has built.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import check_site
import tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "build" / "site-source"
PAGES = SOURCE / "pages"
SITE = ROOT / "build" / "site"

FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
WIDE = re.compile(r"^(\|[^|\n]*){8,}\|$", re.MULTILINE)
API = re.compile(r"^<!-- api: (\S+)((?: [a-z_]+=\S*)*) -->$", re.MULTILINE)
LANGUAGES = {".py": "python", ".yml": "yaml", ".toml": "toml", ".json": "json", ".sh": "bash"}


def place(path: Path) -> Path:
    """Return where in the site's source the page of a file or folder of the project is."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    inside = path.relative_to(ROOT)
    if path.is_dir():
        return Path("project") / inside / "index.md"
    return Path("project") / (inside if path.suffix == ".md" else inside.with_name(inside.name + ".md"))


def text_of(path: Path) -> str:
    """Return a file's or folder's page: Markdown as it is, else the text of the file, or the list of the folder's."""
    if path.is_dir():
        readme = path / "README.md"
        files = tracked(path)
        head = readme.read_text(encoding="utf-8") if readme.exists() else f"# {path.relative_to(ROOT)}\n"
        return head + "\n## Files\n\n" + "".join(f"- [{name}]({name})\n" for name in files)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.relative_to(ROOT)}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n````\n"


def tracked(folder: Path) -> list[str]:
    """Return the files of a folder that belong to the project, relative to it."""
    made = re.compile(r"\.|__pycache__|build$|dist$|.*\.egg-info$")
    found = [path for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in found if not any(map(made.match, path.relative_to(folder).parts))]
    return sorted(str(path.relative_to(folder)) for path in kept if path.stat().st_size)


def translated(text: str, here: Path, wanted: set[Path]) -> str:
    """Return a page in the dialect of Python-Markdown, with its links as they are in the site; adds what it links to.

    `here` is the file or folder that the page is made of.
    """
    folder = here if here.is_dir() else here.parent

    def link(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if not target.exists():
            sys.exit(f"{here}: {match[1]} is not there")
        if target == ROOT / "README.md":
            target = DOCS / "index.md"
        wanted.add(target)
        return os.path.relpath(place(target), place(here).parent) + (match[2] or "")

    # A wide table has the place of the table of contents.
    text = deepened(text)
    parts, position = ["---\nhide:\n  - toc\n---\n\n"] if WIDE.search(text) else [], 0
    for fence in FENCE.finditer(text):
        parts += [prose(LINK.sub(link, text[position : fence.start()])), code(fence[0])]
        position = fence.end()
    return "".join([*parts, prose(LINK.sub(link, text[position:]))])


def deepened(text: str) -> str:
    """What belongs to an item of a numbered list is indented by four, and has an empty line before it, as has the next item then;
    the host of the repository is content with three, and with none."""
    lines, inside, fenced, nested, loose = [""], False, False, False, False
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        numbered = not fenced and re.match(r"\d+\. ", line) is not None
        bullet = inside and line.startswith("   - ")
        if line.strip() and not line.startswith(" "):
            loose = loose and numbered
            inside = numbered
        if lines[-1].strip() and ((numbered and loose) or (bullet and not nested)):
            lines.append("")
        loose |= inside and (bullet or not line.strip())
        nested = bullet or (nested and inside and not numbered)
        lines.append(f" {line}" if inside and line.startswith("   ") else line)
    return "\n".join(lines[1:])


def prose(text: str) -> str:
    """A marker of the reference becomes what mkdocstrings reads."""

    def reference(match: re.Match[str]) -> str:
        pairs = (pair.partition("=")[::2] for pair in match[2].split())
        options = "".join(f"      {name}: {'[' + value + ']' if name == 'members' else value}\n" for name, value in pairs)
        return f"::: {match[1]}\n" + (f"    options:\n{options}" if options else "")

    return API.sub(reference, text)


def code(block: str) -> str:
    """Of what a block's first line has for our tests, only the name of a file is shown."""
    block = re.sub(r"\A( *```+ *\w+) file=(\S+).*", r'\1 title="\2"', block)
    return re.sub(r"\A( *```+ *\w+) (?!title=)[^\n]*", r"\1", block)


def gather() -> None:
    """Write the site's source anew."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    wanted = {path for path in DOCS.rglob("*") if path.is_file()}
    wanted |= {ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
    done: set[Path] = set()
    while todo := wanted - done:
        for path in sorted(todo):
            target = PAGES / place(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in {".png", ".svg"}:
                shutil.copyfile(path, target)
            else:
                text = text_of(path)
                if path.suffix == ".md" or path.is_dir():
                    text = translated(text, path, wanted)
                target.write_text(text, encoding="utf-8")
            done.add(path)
    (SOURCE / "zensical.toml").write_text(settings(), encoding="utf-8")
    shutil.copyfile(ROOT / "packaging" / "site.css", PAGES / "site.css")


def settings() -> str:
    """Return what Zensical is told, with each tracker's page in the navigation."""
    pages = [f'"trackers/{path.name}"' for path in sorted((DOCS / "trackers").glob("*.md"))]
    text = (ROOT / "packaging" / "zensical.toml").read_text(encoding="utf-8")
    return text.replace('"trackers/*.md"', ", ".join(pages))


def named(entries: Iterable[object]) -> set[str]:
    """Return the pages that a navigation names."""
    found: set[str] = set()
    for entry in entries:
        if isinstance(entry, str):
            found.add(entry)
        elif isinstance(entry, dict):
            for value in entry.values():
                found |= named(value if isinstance(value, list) else [value])
    return found


def unlisted() -> list[str]:
    """Return the pages of docs/ that the navigation lacks, and those that it has and that are not there."""
    listed = named(tomllib.loads(settings())["project"]["nav"])
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    return sorted(there ^ {page for page in listed if not page.startswith("project/")})


def main() -> None:
    if pages := unlisted():
        sys.exit(f"in packaging/zensical.toml's nav or in docs/, but not in both: {', '.join(pages)}")
    gather()
    tool = str(Path(sys.executable).with_name("zensical"))
    subprocess.run([tool, "build", "--clean", "--strict", "--config-file", str(SOURCE / "zensical.toml")], check=True, cwd=SOURCE)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(SOURCE / "site", SITE)
    check_site.main(SITE)


if __name__ == "__main__":
    main()
