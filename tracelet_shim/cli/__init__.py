"""The ``tracelet-shim`` command. One module for each subcommand; what is heavy is imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tracelet_shim.cli import backends, collect, doctor, replay, run, status
from tracelet_shim.cli._command import Command

__all__ = ["app", "main"]

app = typer.Typer(
    name="tracelet-shim",
    help="TensorBoard code unchanged, data in every tracker.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes leave no room for words, and name the type of each flag
    pretty_exceptions_enable=False,  # a traceback as Python prints it, with no local variables (and secrets) in it
)
app.command(
    "run", cls=Command, options_metavar="[OPTIONS] [--] COMMAND...", context_settings=run.CONTEXT_SETTINGS,
    short_help="Run a program with activation switched on.",
)(run.run)  # fmt: skip
app.command(
    "replay", cls=Command, options_metavar="[OPTIONS] LOGDIR [SESSION]", short_help="Deliver a TensorBoard log directory."
)(replay.replay)
app.command(
    "status", cls=Command, options_metavar="[OPTIONS] [LOGDIR]", short_help="Show what was delivered, and what is pending."
)(status.status)
app.command(
    "backends", cls=Command, options_metavar="[OPTIONS] [TRACKER]...", short_help="List the trackers, and what each can show."
)(backends.backends)
app.command("collect", cls=Command, short_help="Serve many training processes from one.")(collect.collect)
app.command("doctor", cls=Command, short_help="Check settings, trackers, credentials and servers.")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tracelet-shim {version('tracelet-shim')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before the subcommand."""


def main() -> None:
    """Run the command line; exits the process."""
    app(prog_name="tracelet-shim")
