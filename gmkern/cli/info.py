"""``gmkern info``."""

from __future__ import annotations

import dataclasses

import click

import gmkern
from gmkern.cli import console

EXAMPLES = """\b
Examples:
  gmkern info
  gmkern info --json | python -m json.tool
  GMKERN_ISA=avx2 gmkern info
"""


@click.command(epilog=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """What runs where: versions, instruction set, GPU, and the backend that serves each op."""
    from rich import box
    from rich.table import Table

    found = gmkern.info()
    if as_json:
        owners_as_dicts = [owner._asdict() for owner in found.owners]
        console.print_json(dataclasses.asdict(found) | {"owners": owners_as_dicts, "missing": found.missing()})
        return
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, text in found.facts():
        facts.add_row(name, text)
    owners = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("op", "on the CPU", "on a GPU"):
        owners.add_column(heading)
    for owner in found.owners:
        owners.add_row(owner.op, owner.cpu, owner.cuda)
    view = console.out()
    view.print(facts)
    view.print()
    view.print(owners)
