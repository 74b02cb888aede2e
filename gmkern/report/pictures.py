"""Pictures with matplotlib, each drawn for light and dark pages. No window is opened, no global style changed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator


class Theme(NamedTuple):
    """Colours of a page, ``sheet`` under an image; ``hues`` tell series apart for colour-blind eyes too."""

    paper: str
    sheet: str
    ink: str
    quiet: str
    line: str
    hues: tuple[str, ...]


LIGHT = Theme("#fcfcfb", "#f1f2f4", "#1d1f23", "#62676f", "#dcdee2", ("#62676f", "#1f5fbf", "#d4610c", "#2a8a57"))
DARK = Theme("#16181c", "#24272d", "#f2f4f7", "#9aa1ab", "#343840", ("#9aa1ab", "#7fb0ff", "#ffa05c", "#6fcf97"))

DOTS_PER_INCH = 240


class Drawn(NamedTuple):
    """One picture as PNG bytes, for light pages and for dark ones."""

    light: bytes
    dark: bytes


def in_both(draw: Callable[[Theme], Figure]) -> Drawn:
    """What ``draw`` draws in each theme."""
    return Drawn(_png(draw(LIGHT)), _png(draw(DARK)))


def pairs(
    left: np.ndarray,
    right: np.ndarray,
    notes: Sequence[str],
    *,
    columns: int = 5,
    highest: float,
    marked: Sequence[bool] | None = None,
) -> Drawn:
    """Images of ``left`` each beside that of ``right``, a note below each pair; ``marked`` pairs have a frame.

    Images are [N, H, W], where 0 is paper and ``highest`` ink, or colours [N, H, W, 3] from 0 to 1.
    """
    count, height, width = left.shape[:3]
    rows = -(-count // columns)
    gap, below = 0.14 * width, 0.46 * height  # between the two of a pair; for the note
    across, down = 2 * width + 4 * gap, height + below
    high = rows * down + gap  # room for the first row's frames

    def draw(theme: Theme) -> Figure:
        figure = _figure(theme, 4.6, 4.6 * high / (columns * across))
        axes = figure.add_axes((0, 0, 1, 1))
        shades = LinearSegmentedColormap.from_list("ink", [theme.sheet, theme.ink])
        for at in range(count):
            y, x = at // columns * down, at % columns * across + 1.5 * gap
            for image, left_edge in ((left[at], x), (right[at], x + width + gap)):
                axes.imshow(
                    image, cmap=shades, vmin=0, vmax=highest, extent=(left_edge, left_edge + width, y + height, y)
                )
            stands_out = marked is not None and marked[at]
            if stands_out:
                edge = gap / 2
                frame = Rectangle((x - edge, y - edge / 2), 2 * width + 2 * gap, height + edge, fill=False)
                frame.set(edgecolor=theme.hues[2], linewidth=1.6)
                axes.add_patch(frame)
            axes.text(
                x + width + gap / 2,
                y + height * 1.05,
                notes[at],
                ha="center",
                va="top",
                fontsize=7,
                fontweight="bold" if stands_out else "normal",
                color=theme.hues[2] if stands_out else theme.quiet,
            )
        axes.set_xlim(0, columns * across)
        axes.set_ylim(high - gap, -gap)
        axes.set_axis_off()
        return figure

    return in_both(draw)


def histograms(values: Mapping[str, np.ndarray], *, bins: int, across: str) -> Drawn:
    """The shares of several sets of numbers, as outlines over one axis that begins at 0."""
    edges = np.linspace(0, max(float(one.max()) for one in values.values()) or 1.0, bins + 1)

    def draw(theme: Theme) -> Figure:
        figure = _figure(theme, 4.6, 2.5)
        axes = _axes(figure, theme, (0.02, 0.2, 0.96, 0.78))
        for (name, numbers), hue in zip(values.items(), theme.hues, strict=False):
            shares = np.histogram(numbers, edges)[0] / len(numbers)
            axes.stairs(shares, edges, color=hue, linewidth=2, label=name)
            axes.stairs(shares, edges, color=hue, fill=True, alpha=0.10)
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.set_xlabel(across, color=theme.quiet)
        axes.legend(frameon=False, labelcolor=theme.ink, loc="best")
        return figure

    return in_both(draw)


def lines(
    at: Sequence[float], solid: Mapping[str, Sequence[float]], dashed: Mapping[str, Sequence[float]], *, across: str
) -> Drawn:
    """Shares, from 0 to 1, at the numbers ``at``; dashed lines have the colour of the solid one of their name."""

    def draw(theme: Theme) -> Figure:
        figure = _figure(theme, 4.6, 2.8)
        axes = _axes(figure, theme, (0.09, 0.18, 0.89, 0.7))
        for (name, shares), hue in zip(solid.items(), theme.hues[1:], strict=False):
            axes.plot(at, shares, color=hue, linewidth=2, marker="o", markersize=4, label=name, clip_on=False)
            if name in dashed:
                axes.plot(at, dashed[name], color=hue, linewidth=1.2, linestyle="--", clip_on=False)
        axes.set_xscale("log")
        axes.set_xticks(list(at), [f"{one:g}" for one in at])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1)
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        axes.set_xlabel(across, color=theme.quiet)
        axes.legend(
            frameon=False, labelcolor=theme.ink, ncols=len(solid), loc="lower left", bbox_to_anchor=(-0.02, 1.0)
        )
        return figure

    return in_both(draw)


def over_time(at: Sequence[float], panels: Mapping[str, np.ndarray], *, across: str, most: int = 32) -> Drawn:
    """Quantities [F, S] of S systems at the F numbers ``at``, a panel each: ``most`` systems thin, the mean bold."""
    height = 0.35 + 1.5 * len(panels)  # inches

    def draw(theme: Theme) -> Figure:
        figure = _figure(theme, 4.6, height)
        for row, ((name, values), hue) in enumerate(zip(panels.items(), theme.hues[1:], strict=False)):
            axes = _axes(figure, theme, (0.16, 1 - 1.5 * (row + 1) / height + 0.06, 0.81, 1.5 / height - 0.13))
            if values.shape[1] > 1:
                axes.plot(at, values[:, :most], color=hue, linewidth=0.5, alpha=0.35)
            axes.plot(at, values.mean(1), color=hue, linewidth=2)
            axes.set_title(name, loc="left", fontsize=9, color=theme.ink)
            axes.grid(axis="y", color=theme.line, linewidth=0.6)
            if row < len(panels) - 1:
                axes.set_xticklabels([])
            else:
                axes.set_xlabel(across, color=theme.quiet)
        return figure

    return in_both(draw)


def intervals(
    names: Sequence[str], panels: Mapping[str, Sequence[tuple[float, float, float]]], *, pale: Sequence[bool]
) -> Drawn:
    """Panels side by side of one share a name, from 0 to 1, with its interval: (value, low, high).

    A dashed line is at the first name's; ``pale`` names are drawn so.
    """
    height = 0.55 + 0.24 * len(names)

    def draw(theme: Theme) -> Figure:
        figure = _figure(theme, 4.6, height)
        left, wide = 0.31, 0.215
        for at, (heading, values) in enumerate(panels.items()):
            axes = _axes(figure, theme, (left + at * (wide + 0.02), 0.28 / height, wide, 1 - 0.55 / height))
            axes.axvline(values[0][0], color=theme.quiet, linewidth=1, linestyle="--")
            for row, (value, low, high) in enumerate(values):
                hue = theme.hues[0] if pale[row] else theme.hues[1]
                axes.plot([low, high], [row, row], color=hue, linewidth=2, solid_capstyle="round", clip_on=False)
                axes.plot([value], [row], color=hue, marker="o", markersize=4.5, clip_on=False)
            axes.set_xlim(-0.04, 1.04)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
            axes.set_yticks(range(len(names)), names if at == 0 else [""] * len(names))
            axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
            axes.grid(axis="x", color=theme.line, linewidth=0.5)
            axes.set_title(heading, fontsize=9, color=theme.ink, fontweight="bold")
        return figure

    return in_both(draw)


def paths(frames: np.ndarray, headings: Sequence[str], *, side: float) -> Drawn:
    """Clouds of points in the plane [F, S, N, 2] on their way: a row a frame, a column a cloud, y downwards."""
    times, clouds = frames.shape[:2]

    def draw(theme: Theme) -> Figure:
        across = 4.6 / (clouds + 1)
        figure = _figure(theme, 4.6, across * times)
        for row in range(times):
            figure.text(0.01, 1 - (row + 0.5) / times, headings[row], va="center", fontsize=6.5, color=theme.quiet)
            for column in range(clouds):
                axes = figure.add_axes(
                    ((column + 0.95) / (clouds + 1), 1 - (row + 1) / times, 1 / (clouds + 1), 1 / times)
                )
                axes.scatter(frames[row, column, :, 0], frames[row, column, :, 1], s=1.6, color=theme.ink, linewidths=0)
                axes.set_xlim(-side, side)
                axes.set_ylim(side, -side)
                axes.set_axis_off()
        return figure

    return in_both(draw)


class Bars(NamedTuple):
    """A group of two bars: a name, its two numbers and what is written beside them."""

    name: str
    first: float
    second: float
    first_text: str
    second_text: str


def bars(groups: Sequence[Bars], *, first: str, second: str, tick_text: Callable[[float], str]) -> Drawn:
    """Pairs of lying bars on a logarithmic axis, for positive numbers orders of magnitude apart."""
    height = 0.75 + 0.68 * len(groups)  # inches: key, groups, axis
    values = [value for group in groups for value in (group.first, group.second)]
    low, high = 10.0 ** np.floor(np.log10(min(values)) - 0.3), max(values) * 8

    def draw(theme: Theme) -> Figure:
        figure = _figure(theme, 4.6, height)
        axes = _axes(figure, theme, (0.03, 0.3 / height, 0.94, 1 - 0.6 / height))
        for row, group in enumerate(groups):
            for value, text, shift, hue in (
                (group.first, group.first_text, 0.0, theme.hues[1]),
                (group.second, group.second_text, 0.27, theme.hues[0]),
            ):
                axes.barh(row + shift, value - low, left=low, height=0.25, color=hue)
                axes.text(value * 1.08, row + shift, text, va="center", fontsize=8.5, color=theme.ink)
            axes.text(low, row - 0.27, group.name, va="center", fontsize=9, color=theme.ink)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_yticks([])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value) if value > 2 * low else ""))
        for name, hue, x in ((first, theme.hues[1], 0.03), (second, theme.hues[0], 0.27)):
            figure.text(x, 1 - 0.06 / height, f"■ {name}", va="top", fontsize=9, color=hue)
        return figure

    return in_both(draw)


def _figure(theme: Theme, width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=theme.paper)


def _axes(figure: Figure, theme: Theme, place: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(place, facecolor=theme.paper)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.line)
    axes.tick_params(colors=theme.quiet, which="both", labelsize=8.5)
    return axes


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
