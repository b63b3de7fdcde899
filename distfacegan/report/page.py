"""The page of a run: report/page.html, filled with numbers and pictures."""

from __future__ import annotations

from typing import Any

import jinja2
import numpy as np

from distfacegan.report import plots
from distfacegan.report.contents import STAGES, Contents
from distfacegan.report.verdicts import verdicts
from distfacegan.store.shards import Status

MISSING = "–"
# Stages that the page leaves out if they have not run.
OF_SOME_JOBS = ("mirror", "pairs", "study")
CURVES = {  # fields of metrics.jsonl by the title of their plot
    "M_global": "m_global",
    "k": "k",
    "Learning rate": "learning_rate",
    "Images/s": "images_per_s",
}
REAL_FACES = ("real faces", 1.0)
LOOKS = {  # measures of generated faces: title, and the level of real faces
    "diversity_ratio": ("Diversity ratio", REAL_FACES),
    "encoder_distance": ("Encoder distance", None),
    "nearest_ratio": ("Nearest ratio", REAL_FACES),
}


def render(contents: Contents, summary: dict[str, Any], pictures: dict[str, Any]) -> str:
    """Return the HTML of the page. The page loads no other files."""
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
    stages = [s for s in STAGES if s not in OF_SOME_JOBS or s in summary["stages"]]
    return environment.get_template("page.html").render(
        summary=summary,
        fresh=summary["lgen"]["fresh"],
        complaints=contents.complaints,
        stages=stages,
        statuses=_statuses(summary, stages),
        curves=_curves(contents),
        looks=_looks(contents),
        looked_among=len(contents.rows_to_look_among),
        steps=_histogram(contents.steps, "Generator steps to the latent", "steps"),
        losses=_histogram(contents.losses, "Inversion error of every row", "mean |x − G(z)|"),
        deviations=_histogram(
            contents.deviations, "Deviation from the source's points", "share of the eye distance"
        ),
        study=_study(summary),
        verdicts=verdicts(summary, pictures),
        **pictures,
        job=contents.run.job.read_text() if contents.run.job.exists() else "",
    )


def count(value: float | None) -> str:
    """Write a whole number with commas between the thousands."""
    return MISSING if value is None else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with `digits` significant digits."""
    if value is None or abs(value) >= 10**digits:
        return count(value)
    return f"{value:#.{digits}g}".removesuffix(".")


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f}%"


def duration(seconds: float | None) -> str:
    """Write seconds in seconds, in minutes and seconds, or in hours and minutes."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _statuses(summary: dict[str, Any], stages: list[str]) -> dict[str, list[int | None]]:
    """Return, for each status that occurs, the number of its rows in each stage with statuses."""
    found = {s: summary["stages"].get(s) for s in stages if s not in ("began", "lgen")}
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


def _study(summary: dict[str, Any]) -> str | None:
    """Return the plot of the study's errors; None if there is no study."""
    if summary["study"] is None:
        return None
    errors: dict[str, list[tuple[int, float, float]]] = {}
    for each in summary["study"]["networks"]:
        point = each["real_faces"], each["nme_mean"], each["nme_std"]
        errors.setdefault(each["way"], []).append(point)
    return plots.errors(errors, "Error on real faces", "real faces learnt from")


def _curves(contents: Contents) -> dict[str, str]:
    """Return the plots of the training by title."""
    lines, record = contents.metrics, contents.run.record("began")
    if not lines:
        return {}
    names = ("step", "loss_real", "loss_fake", *CURVES.values())
    of = {name: [getattr(line, name) for line in lines] for name in names}
    ratio = [fake / real for real, fake in zip(of["loss_real"], of["loss_fake"], strict=True)]
    gamma = None if record is None else ("gamma", record.settings["gamma"])
    losses = {"L(x), real": of["loss_real"], "L(G(z)), generated": of["loss_fake"]}
    drawn = {
        "Losses": plots.curves(of["step"], losses, "Losses"),
        "Balance": plots.curves(of["step"], {"L(G(z)) / L(x)": ratio}, "Balance", gamma),
    }
    for title, name in CURVES.items():
        drawn[title] = plots.curves(of["step"], {title: of[name]}, title)
    return drawn


def _looks(contents: Contents) -> dict[str, str]:
    """Return the plots of the measures of generated faces, by the name of the measure."""
    drawn = {}
    for name, (title, level) in LOOKS.items():
        lines = [line for line in contents.metrics if getattr(line, name) is not None]
        if lines:
            values = {title: [getattr(line, name) for line in lines]}
            drawn[name] = plots.curves([line.step for line in lines], values, title, level)
    return drawn


def _histogram(values: np.ndarray, title: str, label: str) -> str | None:
    return plots.histogram(values, title, label) if np.isfinite(values).any() else None
