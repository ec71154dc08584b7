"""Check a built site: each link leads somewhere, nothing is loaded from elsewhere, and no Markdown is left over.

Usage: python packaging/check_site.py DIRECTORY
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script": ["src"], "img": ["src", "srcset"], "iframe": ["src"], "source": ["src", "srcset"], "video": ["src"],
         "audio": ["src"], "embed": ["src"], "object": ["data"], "use": ["href"]}  # fmt: skip
"""By element, the attributes that a browser loads without being asked. (A `link` it does by its `rel`, below.)"""
LEADS = {"canonical", "prev", "next", "alternate"}
"""By `rel`, what a `link` only names."""
LEFT_OVER = re.compile(r"```|\]\(|^\s*\|.*\|.*\||^:::|<!--|\n {0,3}(?:[-*]|\d{1,2}\.)\s", re.MULTILINE)
"""Markdown that was not understood."""
ELSEWHERE = re.compile(r"@import\s+[^;]*//|url\(\s*['\"]?(?:https?:)?//")
"""What a style sheet loads from another host."""


class Page(HTMLParser):
    """What the checks want to know of a page.

    Attributes:
        anchors: the ids, and the names of links.
        links: where links lead.
        loads: what is loaded at once.
        words: the text outside of code and of scripts.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and "href" in found and not LEADS & set(found.get("rel", "").split()):
            self.loads.append(found["href"])
        self.loads += [found[name] for name in LOADS.get(tag, ()) if found.get(name)]
        self.words += ELSEWHERE.findall(found.get("style", ""))
        if tag in {"code", "pre", "script", "style"}:
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.words.append(data)
        elif self._within[-1] == "style" and ELSEWHERE.search(data):
            self.loads.append("https://" + data.strip()[:60])


def problems(site: Path) -> list[str]:
    """Return what is wrong with a site, a line each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        here = path.relative_to(site)
        base = site if here.name == "404.html" else path.parent  # which a server shows for whatever is not there
        found += [f"{here}: loads {load}" for load in page.loads if urlsplit(load).netloc]
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (base / unquote(parts.path).lstrip("/" if here.name == "404.html" else "")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{here}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"__top"}:
                found.append(f"{here}: {link} has no such anchor")
        found += [f"{here}: Markdown is left over: {text[0]}" for text in map(LEFT_OVER.search, page.words) if text]
    for sheet in sorted(site.rglob("*.css")):
        if match := ELSEWHERE.search(sheet.read_text(encoding="utf-8")):
            found.append(f"{sheet.relative_to(site)}: loads {match[0]}")
    return found if pages else [f"{site}: there are no pages"]


def main(site: Path) -> None:
    found = problems(site)
    if found:
        sys.exit("\n".join(found))
    print(f"{site}: {len(list(site.rglob('*.html')))} pages, all links lead somewhere, nothing is loaded from elsewhere")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
