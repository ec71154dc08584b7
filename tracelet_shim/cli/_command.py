"""How a subcommand shows itself, and options that more than one has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from tracelet_shim import errors

__all__ = ["Command", "tracker_options"]


class Command(TyperCommand):
    """A subcommand whose usage line is its `options_metavar` and no more: what Typer makes of arguments differs between its
    versions (``{COMMAND...}...``). They are told of in the text, and hidden."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [self.options_metavar or ""]


def tracker_options(given: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the trackers' options, each given as ``TRACKER.KEY=VALUE``.

    Raises:
        ConfigurationError: one has another form.
    """
    options: dict[str, dict[str, str]] = {}
    for text in given:
        name, dot, rest = text.partition(".")
        key, equals, value = rest.partition("=")
        if not (dot and equals and name and key):
            raise errors.ConfigurationError(f"--option {text!r} is not of the form TRACKER.KEY=VALUE")
        options.setdefault(name.lower(), {})[key] = value
    return options
