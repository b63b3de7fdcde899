"""The figures of `distfacegan bench`: losses against steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from distfacegan.errors import DistfaceganError


def check(path: Path) -> None:
    """Refuse a file whose format cannot be drawn."""
    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in formats:
        raise DistfaceganError(f"{path}: a figure is one of {', '.join(sorted(formats))}")


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what `invert` or `train` measured into a file, whose suffix says the format."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    if "losses" in result:
        _draw_training(axes, result["losses"])
    else:
        _draw_inversion(axes, result)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _draw_inversion(axes: Any, result: dict[str, Any]) -> None:
    for name, way in result["ways"].items():
        if way["curve"]:
            steps = range(1, len(way["curve"]) + 1)
            axes.plot(steps, way["curve"], "-" if way["outside"] else "--", label=name)
    axes.axhline(result["paper_loss"], color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("generator steps")
    axes.set_ylabel("mean |x - G(z)|")
    axes.set_ylim(top=2.2 * result["paper_loss"])
    axes.set_title(f"{result['faces']} faces, {result['resolution']} px; dashed: within the box")


def _draw_training(axes: Any, result: dict[str, Any]) -> None:
    """Draw a thin line for every seed and a thick one for their mean."""
    for color, (name, curves) in zip(("C1", "C0"), result["curves"].items(), strict=True):
        ends = [(i + 1) * result["window"] for i in range(len(curves[0]))]
        for curve in curves:
            axes.plot(ends, curve, color=color, linewidth=0.7, alpha=0.6)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(ends, mean, color=color, linewidth=1.8, label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"M_global, mean of {result['window']} steps")
