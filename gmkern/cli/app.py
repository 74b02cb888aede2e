"""The group of commands."""

from __future__ import annotations

from typing import Any

import click

from gmkern._version import __version__
from gmkern.cli.bench import bench
from gmkern.cli.demo import demo
from gmkern.cli.evaluate import evaluate
from gmkern.cli.generate import generate
from gmkern.cli.info import info
from gmkern.cli.simulate import simulate


class Commands(click.Group):
    """Commands, any of which a wrong ``GMKERN_ISA`` stops with a line that says so."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RuntimeError as error:
            if "GMKERN_ISA" not in str(error):
                raise
            raise click.ClickException(str(error)) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has examples: gmkern COMMAND --help",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Compiled kernels for generative modelling in PyTorch.

    Draw samples, and judge them for fidelity, diversity and novelty.
    """


app.add_command(bench)
app.add_command(demo)
app.add_command(evaluate)
app.add_command(generate)
app.add_command(info)
app.add_command(simulate)
