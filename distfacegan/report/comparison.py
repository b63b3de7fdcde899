"""Two runs side by side: their numbers, and the settings in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import jinja2

from distfacegan import report
from distfacegan.report.contents import STAGES
from distfacegan.report.page import count, decimal, duration, percent
from distfacegan.store import files
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory

Better = Literal["low", "high", ""]
# What is compared: a name, the place in summary.json, how it is written, and what is better.
NUMBERS: tuple[tuple[str, str, Any, Better], ...] = (
    ("photos", "rows", count, ""),
    ("diversity ratio of the generator", "diversity_ratio", decimal, "high"),
    ("inversion error, median", "invert.loss.median", decimal, "low"),
    ("inversion error, mean", "invert.loss.mean", decimal, "low"),
    ("landmark error on new faces (NME)", "lgen.fresh.nme", percent, "low"),
    ("linear regression there", "lgen.fresh.nme_linear", percent, ""),
    ("mean shape there", "lgen.fresh.nme_mean_shape", percent, ""),
    ("landmark error on held-out rows (NME)", "lgen.nme", percent, "low"),
    ("mean shape there ", "lgen.nme_mean_shape", percent, ""),
    ("synthetic faces", "synthesize.count", count, ""),
    *((f"time of {stage}", f"stages.{stage}.seconds", duration, "") for stage in STAGES),
)


def write(run: RunDirectory, other: RunDirectory) -> Location:
    """Write report/comparison.html into the first run's directory; return its path.

    The reports of both runs are written anew first, so that their numbers are of today.
    """
    runs = (run, other)
    for each in runs:
        report.write(each)
    summaries = [files.read_json(each.report / "summary.json") for each in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("distfacegan.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("comparison.html").render(
        names=[summary["name"] for summary in summaries],
        places=[str(each.root) for each in runs],
        numbers=list(_numbers(*summaries)),
        settings=list(_settings(*runs)),
    )
    path = run.report / "comparison.html"
    files.write_bytes(path, html.encode())
    return path


def _numbers(first: Any, second: Any) -> Iterator[tuple[str, list[str], int | None]]:
    """Yield the name of a number, both values as texts, and which of the two is better, if any."""
    for name, place, written, better in NUMBERS:
        values = [_at(summary, place) for summary in (first, second)]
        if values == [None, None]:
            continue
        best = None
        if better and None not in values and values[0] != values[1]:
            best = int((values[1] < values[0]) == (better == "low"))
        yield name.strip(), [written(value) for value in values], best


def _settings(run: RunDirectory, other: RunDirectory) -> Iterator[tuple[str, list[str]]]:
    """Yield the settings in which the stages of two runs differ, with both values."""
    for stage in STAGES:
        records = [each.record(stage) for each in (run, other)]
        known = [{} if record is None else record.settings for record in records]
        for key in sorted({*known[0], *known[1]}):
            values = [json.dumps(settings.get(key), sort_keys=True) for settings in known]
            if values[0] != values[1]:
                yield f"{stage}.{key}", values


def _at(summary: Any, place: str) -> Any:
    """Return the value at a place such as `lgen.fresh.nme`; None if there is none."""
    for key in place.split("."):
        summary = summary.get(key) if isinstance(summary, dict) else None
    return summary
