"""The `fusion` command line: one file a group of commands."""

from __future__ import annotations

import sys

import typer

from serve.cli import (
    ask,
    batch,
    catalog,
    control,
    draco,
    edition,
    evaluate,
    fusions,
    keys,
    models,
    plan,
    profile,
    research,
    route,
    router,
    server,
    sessions,
    simulate,
)
from serve.cli.common import err
from serve.cli.usage import app as usage

app = typer.Typer(
    name="fusion",
    help="A fusion cluster: workforce models, flagships, a router and a judge, one endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    server,
    models,
    catalog,
    edition,
    keys,
    ask,
    route,
    plan,
    sessions,
    control,
    fusions,
    batch,
    simulate,
    profile,
    draco,
    evaluate,
    research,
):
    group.register(app)
app.add_typer(router.app)
app.add_typer(usage)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(141)
    except UnicodeEncodeError:
        # Of an argument that is no UTF-8 Python makes half characters, which nobody can send on.
        err.print("[red]error:[/] What was given is not UTF-8 text.")
        sys.exit(2)
