"""Pictures of the pages' worked examples, drawn from what the examples compute.

A page asks for one by a comment, ``<!-- picture NAME: caption -->``. The page's Python up to there is run, and the
function of that name below draws from its variables, for light and dark pages: pictures/NAME-light.png, -dark.png.

    python docs/pictures.py        what is missing or older than its page
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from gmkern.report.pictures import DOTS_PER_INCH, Theme, in_both

PICTURE = re.compile(r"^<!-- picture (\w+): (.+?) -->$", flags=re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)


def draw(docs: Path) -> None:
    """Draws what is missing or older than its page, or than this file."""
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text()
        made_of = max(page.stat().st_mtime, Path(__file__).stat().st_mtime)
        for found in PICTURE.finditer(text):
            targets = [docs / "pictures" / f"{found[1]}-{theme}.png" for theme in ("light", "dark")]
            if all(target.exists() and target.stat().st_mtime > made_of for target in targets):
                continue
            names: dict[str, Any] = {"print": lambda *words: None}
            exec(compile("\n".join(PYTHON.findall(text[: found.start()])), str(page), "exec"), names)
            targets[0].parent.mkdir(exist_ok=True)
            drawn = in_both(partial(globals()[found[1]], names))
            for target, image in zip(targets, drawn, strict=True):
                target.write_bytes(image)


def tour(names: dict[str, Any], theme: Theme) -> Figure:
    """Training points and generated ones, side by side."""
    figure = _figure(theme, 3.0)
    for at, (title, which) in enumerate((("training set", "train"), ("generated", "generated"))):
        axes = _plane(figure, theme, at, 2, title)
        axes.scatter(*names[which][:1000].T, s=3, color=theme.hues[at], linewidths=0)
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    return figure


def neighbors(names: dict[str, Any], theme: Theme) -> Figure:
    """Samples, each with the line to its nearest training point; copies ringed."""
    figure = _figure(theme, 3.4)
    axes = _plane(figure, theme, 0, 1, "")
    train, samples = names["train"], names["samples"].detach()
    copied, nearest = names["copied"], names["near"].indices[:, 0]
    axes.scatter(*train.T, s=5, color=theme.hues[0], alpha=0.5, linewidths=0, label="training points")
    axes.add_collection(
        LineCollection(torch.stack([samples, train[nearest]], 1).tolist(), color=theme.hues[1], linewidth=1)
    )
    axes.scatter(*samples.T, s=12, color=theme.hues[1], linewidths=0, label="samples", zorder=3)
    axes.scatter(
        *samples[copied].T, s=80, facecolor="none", edgecolor=theme.hues[2], linewidths=1.6, label="copies", zorder=4
    )
    _legend(axes, theme)
    return figure


def decode(names: dict[str, Any], theme: Theme) -> Figure:
    """The model's distribution, the filtered one, and the shares that were drawn."""
    figure = _figure(theme, 2.8)
    axes = _axes(figure, theme, (0.1, 0.17, 0.88, 0.78))
    tokens = list(range(len(names["kept"])))
    axes.bar(tokens, names["kept"], color=theme.hues[1], width=0.8, label="after the filters")
    axes.bar(tokens, names["logits"].softmax(0), color="none", edgecolor=theme.hues[0], width=0.8, label="softmax")
    shares = names["counts"] / names["DRAWS"]
    axes.scatter(tokens, shares, s=18, color=theme.hues[2], linewidths=0, zorder=3, label="drawn")
    axes.set_xticks(tokens)
    axes.set_xlabel("token", color=theme.quiet)
    axes.set_ylabel("probability", color=theme.quiet)
    _legend(axes, theme)
    return figure


def dynamics(names: dict[str, Any], theme: Theme) -> Figure:
    """Clusters on their way from a loose grid to the cold."""
    figure = _figure(theme, 3.7)
    frames = names["cooled"].frames[:, :4]
    frames = frames - frames.mean(2, keepdim=True)
    side = float(frames[::2].abs().max()) + 0.7
    rows = ((0, "start"), (2, "half way"), (4, "end"))
    for row, (frame, heading) in enumerate(rows):
        figure.text(0.01, 1 - (row + 0.5) / 3, heading, va="center", fontsize=8.5, color=theme.quiet)
        for column in range(4):
            axes = figure.add_axes((0.14 + 0.215 * column, 1 - (row + 1) / 3, 0.215, 1 / 3))
            axes.scatter(*frames[frame, column].T, s=1100 / side**2, color=theme.hues[1], linewidths=0)
            axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")
            axes.set_axis_off()
    return figure


def latent(names: dict[str, Any], theme: Theme) -> Figure:
    """Noise and its image; a point keeps its shade."""
    figure = _figure(theme, 3.0)
    shade = torch.atan2(names["z"][:, 1], names["z"][:, 0])
    for at, (title, x) in enumerate((("z", names["z"]), ("decoder(z)", names["points"]))):
        _plane(figure, theme, at, 2, title).scatter(*x.T, c=shade, cmap="twilight", s=4, linewidths=0)
    return figure


def context(names: dict[str, Any], theme: Theme) -> Figure:
    """Training points, and sets that were drawn from them."""
    figure = _figure(theme, 3.2)
    axes = _plane(figure, theme, 0, 1, "")
    axes.scatter(*names["train"].T, s=4, color=theme.hues[0], alpha=0.5, linewidths=0)
    for each, (points, marker) in enumerate(zip(names["points"], "o^s", strict=False)):
        axes.scatter(*points.T, s=34, marker=marker, color=theme.hues[each + 1], linewidths=0, label=f"set {each}")
    _legend(axes, theme)
    return figure


def classical(names: dict[str, Any], theme: Theme) -> Figure:
    """Data, samples of the mixture, lines of its density."""
    figure = _figure(theme, 3.2)
    axes = _plane(figure, theme, 0, 1, "")
    axes.scatter(*names["data"].T, s=4, color=theme.hues[0], alpha=0.6, linewidths=0, label="data")
    axes.scatter(*names["points"][:300].T, s=5, color=theme.hues[2], linewidths=0, label="samples")
    across, up = torch.linspace(-7, 7, 141), torch.linspace(-4, 6, 101)
    grid = torch.cartesian_prod(up, across).flip(1)
    density = names["mixture"].log_prob(grid).view(len(up), len(across))
    axes.contour(across, up, density, levels=[-7.0, -5, -3], colors=[theme.hues[1]], linestyles="solid")
    _legend(axes, theme)
    return figure


def diffusion(names: dict[str, Any], theme: Theme) -> Figure:
    """Paths in time, and where they end."""
    figure = _figure(theme, 3.0)
    frames = names["path"].frames
    axes = _axes(figure, theme, (0.08, 0.17, 0.4, 0.7))
    axes.plot(torch.linspace(0, 1, len(frames)), frames[:, :60, 0], color=theme.hues[1], linewidth=0.6, alpha=0.7)
    axes.set_xlabel("time", color=theme.quiet)
    axes.set_title("first coordinate", loc="left", fontsize=9, color=theme.ink)
    ends = _plane(figure, theme, 1, 2, "ends, and the target's centres")
    ends.scatter(*frames[-1].T, s=3, color=theme.hues[0], linewidths=0)
    ends.scatter(*names["centres"].T, s=50, marker="x", color=theme.hues[2])
    return figure


def _figure(theme: Theme, height: float) -> Figure:
    return Figure(figsize=(5.2, height), dpi=DOTS_PER_INCH, facecolor=theme.paper)


def _axes(figure: Figure, theme: Theme, place: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(place, facecolor=theme.paper)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("bottom", "left"), color=theme.line)
    axes.tick_params(colors=theme.quiet, labelsize=8)
    return axes


def _plane(figure: Figure, theme: Theme, at: int, of: int, title: str) -> Axes:
    """Panel ``at`` of ``of`` side by side, for points in the plane."""
    axes = figure.add_axes((at / of + 0.02, 0.02, 1 / of - 0.04, 0.87 if title else 0.96), facecolor=theme.paper)
    axes.set_title(title, fontsize=9, color=theme.ink)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return axes


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=8, loc="upper right")


if __name__ == "__main__":
    draw(Path(__file__).parent)
