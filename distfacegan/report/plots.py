"""The page's plots, as SVG pictures in data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, MUTED, GRID = "#1d2733", "#5c6875", "#e6e9ed"
COLOURS = ("#0b7a75", "#d1495b", "#8d99a6", "#edae49")
MAX_POINTS = 1000  # a curve is drawn with at most this many points


def curves(
    steps: Sequence[float],
    values: Mapping[str, Sequence[float]],
    title: str,
    level: tuple[str, float] | None = None,
) -> str:
    """Draw named curves over training steps, and a named level to compare the curves with."""
    every = -(-len(steps) // MAX_POINTS) or 1
    figure, axes = _figure(title)
    for (name, curve), colour in zip(values.items(), COLOURS, strict=False):
        marker = "o" if len(steps) < 4 else None
        axes.plot(
            steps[::every], curve[::every], color=colour, lw=1.4, label=name, marker=marker, ms=4
        )
    axes.set_xlabel("step", color=MUTED, fontsize=9)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    finite = [value for curve in values.values() for value in curve if math.isfinite(value)]
    top = max(finite, default=0.0)
    if level is not None:
        top = max(top, level[1])
        axes.axhline(level[1], color=COLOURS[2], lw=1.2, ls="--", label=level[0])
    axes.set_ylim(0, 1.08 * top or 1)
    if len(values) > 1 or level is not None:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return _uri(figure)


def errors(
    values: Mapping[str, Sequence[tuple[float, float, float]]], title: str, label: str
) -> str:
    """Draw named lists of (place, mean, spread) with error bars; what is at place 0 is a level."""
    figure, axes = _figure(title, width=5.6)
    for (name, points), colour in zip(values.items(), COLOURS, strict=False):
        places, means, spreads = np.array(points).T
        if places.max() == 0:
            axes.axhline(means[0], color=colour, lw=1.4, ls="--", label=name)
            axes.axhspan(means[0] - spreads[0], means[0] + spreads[0], color=colour, alpha=0.15)
            continue
        axes.errorbar(places, means, spreads, color=colour, lw=1.4, marker="o", ms=4, label=name)
    axes.set_xlabel(label, color=MUTED, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return _uri(figure)


def histogram(values: np.ndarray, title: str, label: str) -> str:
    """Draw a histogram of values with their median. The last bar includes the largest 0.5%."""
    values = values[np.isfinite(values)]
    top = float(np.percentile(values, 99.5))
    bottom = float(values.min())
    top = top if top > bottom else bottom + 1e-3
    figure, axes = _figure(title, width=5.6)
    axes.hist(np.minimum(values, top), bins=40, range=(bottom, top), color=COLOURS[0], alpha=0.85)
    median = float(np.median(values))
    axes.axvline(median, color=COLOURS[1], lw=1.4, label=f"median {median:.3g}")
    axes.set_xlabel(label, color=MUTED, fontsize=9)
    axes.set_ylabel("faces", color=MUTED, fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return _uri(figure)


def _figure(title: str, width: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 2.7))
    margin = 0.6 / width
    figure.subplots_adjust(left=margin, right=0.98, top=0.88, bottom=0.19)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
