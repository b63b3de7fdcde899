"""What a run knows of its generated data set, for the manifest and the dataset card."""

from __future__ import annotations

from typing import Any

from distfacegan import calibrations
from distfacegan.core.lgen import Evaluation
from distfacegan.report.contents import Contents
from distfacegan.report.coverage import coverage
from distfacegan.store import shards
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status


def errors_on_fresh_faces(errors: Evaluation | None) -> dict[str, float | None]:
    """Return L-Gen's errors on generated faces, for the manifest."""
    fresh = errors.fresh if errors else None
    if fresh is None:
        return {}
    return {
        "nme_generated": fresh.nme,
        "nme_generated_linear": fresh.nme_linear,
        "nme_generated_mean_shape": fresh.nme_mean_shape,
    }


def counts(run: RunDirectory) -> dict[str, Any]:
    """Return how many faces are in the finished data set, and how many were left out, and why."""
    made = shards.totals(shards.read_markers(run.markers("synthesize")))["statuses"]
    return {"kept": made.pop(Status.OK.label, 0), "dropped": made}


def about_photos(run: RunDirectory) -> dict[str, Any]:
    """Return what the run knows of its photos and of its detector, for the dataset card."""
    found: dict[str, Any] = {}
    ingested, detected = run.record("ingest"), run.record("landmarks")
    if ingested is not None:
        found_rows = shards.totals(shards.read_markers(run.markers("ingest")))
        faces = found_rows["statuses"].get(Status.OK.label, 0)
        source = ingested.settings["source"]["kind"]
        found["photos"] = {"source": source, "count": found_rows["rows"], "faces": faces}
        found["coverage"] = coverage(Contents(run))
    if detected is not None:
        found["detector"] = detected.settings["detector"]
    path = run.landmarks / calibrations.NAME
    if path.exists():
        calibration = calibrations.load(path)
        found["calibration"] = {"num_faces": calibration.num_faces, "nme": calibration.nme}
    return found
