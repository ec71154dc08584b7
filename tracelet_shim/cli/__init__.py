"""The ``tracelet-shim`` command. One module for each subcommand; what is heavy is imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tracelet_shim.cli import backends, doctor, replay, run, status

__all__ = ["app", "main"]

app = typer.Typer(
    name="tracelet-shim",
    help="TensorBoard code unchanged, data in every tracker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback as Python prints it, with no local variables (and secrets) in it
)
app.command("run", context_settings=run.CONTEXT_SETTINGS)(run.run)
app.command("replay")(replay.replay)
app.command("status")(status.status)
app.command("backends")(backends.backends)
app.command("doctor")(doctor.doctor)


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
