"""The ``dvc.yaml`` that lists a run's metrics, params and plots.

A whole folder of plots is one entry. The file lies in the run's directory: from a shared one, `Live` drops entries of other runs
(``dvc.py``, ``update_dvcyaml``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tracelet_shim.backends.dvclive.files import write_yaml
from tracelet_shim.backends.dvclive.plots import PLOTS
from tracelet_shim.backends.shared.names import Names

__all__ = ["Listing"]


class Listing:
    """The entries of one run.

    Args:
        directory: the run's.
        file: the dvc.yaml.
        paths: the rule for names.
    """

    def __init__(self, directory: str, file: str, paths: Names) -> None:
        self.file = file
        self._directory = directory
        self._base = os.path.dirname(file)
        self._paths = paths
        self._listed: Any = None

    def save(
        self, *, params: bool, metrics: bool, charts: Mapping[str, list[str]], keys: Iterable[str],
        tables: Mapping[str, Mapping[str, Any]], artifacts: Mapping[str, Mapping[str, Any]],
    ) -> None:  # fmt: skip
        """List what there is, in the form of ``dvclive.dvc.make_dvcyaml``.

        Args:
            params: whether there is a params.yaml.
            metrics: whether there is a metrics.json.
            charts: title -> tags of the program's own charts.
            keys: of the metrics.
            tables: file, in ``plots/custom`` -> how it is drawn.
            artifacts: name -> what is said of it, with its path in the run's directory.
        """
        entries = {
            "params": [self._place("params.yaml")] if params else [],
            "metrics": [self._place("metrics.json")] if metrics else [],
            "plots": [*self._folders(), *self._charts(charts, keys), *self._tables(tables)],
        }
        named = {name: {**about, "path": self._place(about["path"])} for name, about in artifacts.items()}
        if (entries, named) == self._listed:
            return
        if self._base == self._directory:
            sections: dict[str, Any] = {**entries, "artifacts": named}
            write_yaml(self.file, {section: new for section, new in sections.items() if new})
        else:
            self._list_among_others(entries, named, self._place(""))
        self._listed = entries, named

    def _place(self, name: str) -> str:
        return os.path.relpath(os.path.join(self._directory, name), self._base).replace(os.sep, "/")

    def _folders(self) -> Iterator[Any]:
        if os.path.isdir(os.path.join(self._directory, "plots/metrics")):
            yield {self._place("plots/metrics"): {"x": "step"}}
        if os.path.isdir(os.path.join(self._directory, "plots/images")):
            yield self._place("plots/images")
        for kind, look in PLOTS.items():
            if os.path.isdir(os.path.join(self._directory, "plots/custom", kind)):
                yield {self._place(f"plots/custom/{kind}"): dict(look)}

    def _charts(self, charts: Mapping[str, list[str]], keys: Iterable[str]) -> Iterator[Any]:
        known = sorted(keys) if charts else []
        for title, tags in charts.items():
            lines = {self._place(f"plots/metrics/{key}.tsv"): key.rpartition("/")[2] for key in _shown(tags, known)}
            if lines:
                yield {self._place(self._paths(title)): {"x": "step", "y": lines}}

    def _tables(self, tables: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
        for path, look in tables.items():
            yield {self._place(f"plots/custom/{path}"): dict(look)}

    def _list_among_others(self, entries: dict[str, list[Any]], artifacts: Mapping[str, Any], prefix: str) -> None:
        from dvc.utils.serialize import modify_yaml  # type: ignore[import-untyped]

        def ours(entry: Any) -> bool:
            return str(next(iter(entry), "") if isinstance(entry, dict) else entry).startswith(f"{prefix}/")

        os.makedirs(os.path.dirname(self.file), exist_ok=True)
        with modify_yaml(self.file) as whole:
            for section, new in entries.items():
                listed = whole.get(section)
                if listed is None:
                    listed = whole[section] = []
                for i in reversed(range(len(listed))):  # in place: comments stay
                    if ours(listed[i]):
                        del listed[i]
                listed.extend(new)
                if not listed:
                    del whole[section]
            named = whole.setdefault("artifacts", {})
            for name in [name for name, about in named.items() if str(about.get("path")).startswith(f"{prefix}/")]:
                del named[name]
            named.update(artifacts)  # the latest of a name, as `Live` does it
            if not named:
                del whole["artifacts"]


def _shown(tags: list[str], keys: Iterable[str]) -> Iterator[str]:
    """Yield the metrics that a chart shows. TensorBoard takes a layout's tags as regular expressions."""
    patterns = []
    for tag in tags:
        try:
            patterns.append(re.compile(f"(?:.*/)?(?:{tag}|{re.escape(tag)})"))
        except re.error:
            patterns.append(re.compile(f"(?:.*/)?{re.escape(tag)}"))
    return (key for key in keys if any(pattern.fullmatch(key) for pattern in patterns))
