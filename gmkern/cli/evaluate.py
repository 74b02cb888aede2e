"""``gmkern evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from gmkern.cli import console

EXAMPLES = """\b
Examples:
  gmkern evaluate generated.npy train.npy
  gmkern evaluate generated.npy train.npy --holdout test.npy --out report/
  gmkern evaluate samples/ images/ --out report/          # folders of images, as pixels
  gmkern evaluate features.npz:fake features.npz:real --json > numbers.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("generated")
@click.argument("train")
@click.option("--holdout", metavar="PATH", help="Real samples that were not trained on: a baseline, and for C_T.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Folder for index.html, its pictures and report.json; made if absent.",
)
@click.option("--k", type=click.IntRange(1), default=5, show_default=True, help="Neighbours that a ball reaches to.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Distance within which a sample is a duplicate.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, not as a table.")
def evaluate(
    generated: str,
    train: str,
    holdout: str | None,
    out: Path | None,
    k: int,
    seed: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Judge GENERATED samples against TRAIN: fidelity, diversity and novelty, with confidence intervals.

    Each is a .npy file, a .npz or .pt file (FILE:NAME where it holds several arrays), or a folder of images. Arrays are
    [N, ...], one sample a row, features or raw data; distances are euclidean. Rows of shape [H, W], [H, W, C] or [C, H,
    W], C = 1, 3 or 4, are shown as images.
    """
    from gmkern.cli.loading import NotLoaded, alike, load
    from gmkern.metrics import evaluate as judge

    places = {"generated": generated, "train": train, **({} if holdout is None else {"holdout": holdout})}
    if out is not None:
        import gmkern.report  # what the page needs, before the work and not after  # noqa: F401

        _made(out)
    try:
        loaded = {name: load(place) for name, place in places.items()}
    except NotLoaded as error:
        raise click.ClickException(str(error)) from error
    shape = loaded["train"].shape
    for name, one in loaded.items():
        if one.shape != shape:
            raise click.ClickException(
                f"{places[name]}: samples of shape {list(one.shape)}, but {train} has {list(shape)}; takes one shape"
            )
    points = dict(zip(loaded, alike(*(one.points for one in loaded.values())), strict=True))
    try:
        report = judge(
            points["generated"],
            points["train"],
            holdout=points.get("holdout"),
            k=k,
            seed=seed,
            tolerance=tolerance,
            image_shape=shape if _is_image(shape) else None,
            progress=True,
        )
    except (ValueError, TypeError) as error:
        name, colon, rest = str(error).partition(":")
        raise click.ClickException(f"{places.get(name, '--' + name)}{colon}{rest}") from error
    written = None
    if out is not None:
        try:
            written = report.save(out)
        except OSError as error:
            raise click.ClickException(f"--out {out}: {error.strerror}") from error
    if as_json:
        click.echo(report.to_json())
        return
    view = console.out()
    view.print(report)
    if written is not None:
        view.print(f"\n{written}, its pictures and report.json")


def _is_image(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        return shape[0] in (1, 3, 4) or shape[2] in (1, 3, 4)
    return len(shape) == 2


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"--out {folder}: {error.strerror}") from error
