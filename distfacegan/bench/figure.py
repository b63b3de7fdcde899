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
    """Draw the curves of a result of `invert.measure` into a file; its suffix says the format."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, way in result["ways"].items():
        if way["curve"]:
            steps = range(1, len(way["curve"]) + 1)
            style = "--" if name.endswith("box") or name in ("clip", "L-BFGS") else "-"
            axes.plot(steps, way["curve"], style, label=name, linewidth=1.4)
    axes.axhline(result["paper_loss"], color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("generator steps")
    axes.set_ylabel("mean |x - G(z)|")
    axes.set_ylim(top=2.2 * result["paper_loss"])
    axes.set_title(f"{result['faces']} faces, {result['resolution']} px; dashed: within the box")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def draw_training(result: dict[str, Any], path: Path) -> None:
    """Draw the curves of a result of `losses.measure` into a file: thin seeds, thick means."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for color, (name, curves) in zip(("C1", "C0"), result["curves"].items(), strict=True):
        ends = [(i + 1) * result["window"] for i in range(len(curves[0]))]
        for curve in curves:
            axes.plot(ends, curve, color=color, linewidth=0.7, alpha=0.6)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(ends, mean, color=color, linewidth=1.8, label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"M_global, mean of {result['window']} steps")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
