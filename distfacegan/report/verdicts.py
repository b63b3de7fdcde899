"""The first screen of the page: whether each stage's result is good, by one number."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from distfacegan.report.pictures import Picture
from distfacegan.store.shards import Status

Level = Literal["good", "fair", "poor", "unknown"]
# The bounds of good and of fair.
FOUND, TRUSTED, DIVERSITY, KEPT = (0.9, 0.7), (0.95, 0.8), (0.7, 0.5), (0.8, 0.4)
EXPLAINED = (0.6, 0.4)  # 1 - the inversion error over the difference of two random photos
TRUE = (0.6, 0.5)  # 1 - L-Gen's error over that of the mean shape


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the first screen says of a stage."""

    stage: str
    level: Level
    share: float | None  # the number that decides, 1 is best
    means: str  # what the share is
    picture: Picture | None = None


def verdicts(summary: dict[str, Any], pictures: dict[str, Any]) -> list[Verdict]:
    """Return the verdicts on the stages that have a result."""
    of_photos = _share(summary, "ingest", without=[Status.UNREADABLE, Status.PENDING])
    trusted = _share(summary, "landmarks", without=[Status.NOTHING_UPSTREAM, Status.PENDING])
    kept = _share(summary, "synthesize", without=[Status.PENDING])
    ratio, loss = summary["diversity_ratio"], summary["invert"]["loss"]["median"]
    apart = summary["diversity_real"]
    explained = 1 - loss / (apart / 127.5) if loss is not None and apart else None
    random = pictures["random_faces"]
    detected, written = _first(pictures["detections"]), _first(pictures["synthetic"])
    first = next(iter(pictures["reconstructions"].values()), None)
    found = [
        _verdict("ingest", of_photos, FOUND, "of the photos have a face", random.get("real")),
        _verdict("landmarks", trusted, TRUSTED, "of the faces have trusted landmarks", detected),
        _verdict(
            "began",
            ratio,
            DIVERSITY,
            "of the real faces' variety in the generated ones",
            random.get("generated"),
        ),
        _verdict(
            "invert",
            explained,
            EXPLAINED,
            "of the difference between two photos is explained by z",
            first[0][1] if first else None,
        ),
        _of_lgen(summary, pictures),
        _verdict("synthesize", kept, KEPT, "of the faces made are in the data set", written),
    ]
    return [verdict for verdict in found if verdict.share is not None]


def _of_lgen(summary: dict[str, Any], pictures: dict[str, Any]) -> Verdict:
    """Return the verdict on L-Gen: on new faces where it is known there, else on photos."""
    lgen = summary["lgen"]
    fresh, on = lgen["fresh"] or {}, "new faces"
    error, of_mean = fresh.get("nme"), fresh.get("nme_mean_shape")
    if error is None:
        error, of_mean, on = lgen["nme"], lgen["nme_mean_shape"], "held-out photos"
    share = max(0.0, 1 - error / of_mean) if error is not None and of_mean else None
    means = f"of the mean shape's error on {on} is gone"
    verdict = _verdict("lgen", share, TRUE, means, _first(pictures["labelled_faces"]))
    linear = fresh.get("nme_linear")
    if error is not None and linear is not None and error >= linear:
        return dataclasses.replace(verdict, level="poor")
    return verdict


def _verdict(
    stage: str,
    share: float | None,
    bounds: tuple[float, float],
    means: str,
    picture: Picture | None,
) -> Verdict:
    good, fair = bounds
    level: Level = "poor"
    if share is None:
        level = "unknown"
    elif share >= good:
        level = "good"
    elif share >= fair:
        level = "fair"
    return Verdict(stage, level, share, means, picture)


def _share(summary: dict[str, Any], stage: str, without: list[Status]) -> float | None:
    """Return the share of the rows of a stage that are ok, among those of some statuses."""
    of = summary["stages"].get(stage)
    if of is None:
        return None
    left_out = {status.label for status in without}
    counted = {label: n for label, n in of["statuses"].items() if label not in left_out}
    total = sum(counted.values())
    return counted.get(Status.OK.label, 0) / total if total else None


def _first(pictures: list[Picture]) -> Picture | None:
    return pictures[0] if pictures else None
