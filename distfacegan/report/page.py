"""The page of a run: numbers and pictures into report/page.html."""

from __future__ import annotations

from typing import Any

import jinja2
import numpy as np

from distfacegan.report import figures, plots
from distfacegan.report.contents import STAGES, Contents
from distfacegan.store.shards import Status

MISSING = "–"
CURVES = {  # of metrics.jsonl, in plots that share an axis
    "L(x) and L(G(z))": ("loss_real", "loss_fake"),
    "M_global": ("m_global",),
    "k": ("k",),
    "learning rate": ("learning_rate",),
    "images/s": ("images_per_s",),
}


def render(contents: Contents, summary: dict[str, Any]) -> str:
    """Return the page, which loads nothing from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("distfacegan", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "decimal": decimal,
        "percent": percent,
        "duration": duration,
    }
    return environment.get_template("page.html").render(
        summary=summary,
        stages=STAGES,
        statuses=_statuses(summary),
        random_faces=figures.random_faces(contents),
        curves=_curves(contents),
        training_samples=figures.training_samples(contents),
        reconstructions=figures.reconstructions(contents),
        losses=_histogram(contents.losses, "Inversion error of every row", "mean |x − G(z)|"),
        detections=figures.detections(contents),
        deviations=_histogram(
            contents.deviations, "Deviation from the source's points", "share of the eye distance"
        ),
        test_examples=figures.test_examples(contents),
        labelled_faces=figures.labelled_faces(contents),
        ways=figures.ways_to_mirror(contents),
        synthetic=figures.synthetic_samples(contents),
        job=contents.run.job.read_text() if contents.run.job.exists() else "",
    )


def count(value: float | None) -> str:
    """Write a whole number with thousands apart."""
    return MISSING if value is None else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, and never as 1e-05 where 0.00001 fits."""
    return MISSING if value is None else f"{value:,.{digits}g}" if abs(value) < 1e3 else count(value)


def percent(value: float | None) -> str:
    """Write a share as a percentage."""
    return MISSING if value is None else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """Write seconds in the two largest units that say something."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _statuses(summary: dict[str, Any]) -> dict[str, list[int | None]]:
    """Return for each status that occurs its rows in each stage that has statuses."""
    stages = [s for s in STAGES if s not in ("began", "lgen")]
    found = {stage: summary["stages"].get(stage) for stage in stages}
    table: dict[str, list[int | None]] = {}
    for status in Status:
        cells: list[int | None] = []
        for of_stage in found.values():
            if of_stage is None:
                cells.append(None)
            elif status is Status.PENDING:
                cells.append((of_stage["rows"] or 0) - of_stage["done"])
            else:
                cells.append(of_stage["statuses"].get(status.label, 0))
        if any(cells) or status is Status.OK:
            table[status.label] = cells
    return table


def _curves(contents: Contents) -> dict[str, str]:
    lines = contents.metrics
    if not lines:
        return {}
    steps = [line["step"] for line in lines]
    return {
        title: plots.curves(steps, {name: [line[name] for line in lines] for name in names}, title)
        for title, names in CURVES.items()
    }


def _histogram(values: np.ndarray, title: str, label: str) -> str | None:
    return plots.histogram(values, title, label) if np.isfinite(values).any() else None
