"""L-Gen's errors against the detector on generated faces, and the reliability of the landmarks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from distfacegan.core import audit as checks
from distfacegan.core import uncertainty
from distfacegan.core.audit import Audit
from distfacegan.core.landmarks import nme
from distfacegan.core.lgen import LandmarkGenerator
from distfacegan.core.uncertainty import Reliability
from distfacegan.stages import pair_rows, pairs
from distfacegan.stages.lgen_search import Rows
from distfacegan.store import groups
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

MIN_FACES = 50  # a reliability is measured on this many faces at least


@dataclasses.dataclass(frozen=True)
class FreshFaces:
    """The generated faces of fresh latents whose landmarks are trusted: M of `count`."""

    count: int
    z: np.ndarray  # f32 [M, Z]
    points: np.ndarray  # f32 [M, 49, 2], the detector's points
    disagreement: np.ndarray  # f32 [M], between the detector's two views
    shift: np.ndarray  # f32 [M], NaN for faces without this measurement
    judged: np.ndarray  # f32 [M, 49, 2], the second detector's points, NaN without any

    @property
    def seen_twice(self) -> np.ndarray:
        """Whether the second detector has seen a face: bool [M]."""
        return np.isfinite(self.judged).all(axis=(1, 2))


def fresh_faces(run: RunDirectory) -> FreshFaces:
    """Read the fresh faces from the group `pairs` of a run."""
    record = run.record(pairs.STAGE.name)
    assert record is not None
    layout, group = pair_rows.layout_of(run, record), groups.open_group(run.latents, "pairs")
    rows = layout.fresh
    good = groups.read(group, "status", rows) == Status.OK
    names = ("z", "points", "disagreement", "shift", "judged")
    return FreshFaces(layout.num_fresh, *(groups.read(group, each, rows)[good] for each in names))


def reliability(fresh: FreshFaces, networks: list[LandmarkGenerator]) -> dict[str, Reliability]:
    """Return the reliability of each kind of label, by name.

    A reliability predicts the error of a label from signs such as the spread of the networks. The
    errors are measured against a second detector, without the mean offset of each landmark. Without
    a second detector only L-Gen's labels are judged, against the detector.
    """
    if len(networks) == 1 or len(fresh.z) < MIN_FACES:
        return {}
    predicted = np.stack([predict(network, fresh.z) for network in networks])
    signs = {"spread": uncertainty.spread(predicted)}
    own, detected, judged = predicted[0], fresh.points, fresh.judged
    seen = fresh.seen_twice
    if seen.sum() < MIN_FACES:
        errors = uncertainty.disagreement(own, detected)
        return {"lgen": uncertainty.calibrate(signs, errors, "the detector")}
    apart = {"disagreement": uncertainty.disagreement(own, detected)}
    labels = {"lgen": own, "detector": detected, "mean": (own + detected) / 2}
    found = {}
    for name, points in labels.items():
        known = signs if name == "lgen" else signs | apart
        truth = judged[seen]
        errors = uncertainty.disagreement(checks.centred(points[seen], truth), truth)
        known = {sign: values[seen] for sign, values in known.items()}
        found[name] = uncertainty.calibrate(known, errors, "the second detector")
    return found


def audit(fresh: FreshFaces, run: RunDirectory, rows: Rows, final: LandmarkGenerator) -> Audit:
    """Measure L-Gen against the detector on faces of fresh latents, and simpler methods too."""
    found = Audit(count=fresh.count, trusted=len(fresh.z))
    if not len(fresh.z):
        return found
    truth, predicted = fresh.points, predict(final, fresh.z)
    linear = checks.apply_linear(checks.linear_map(rows.z, rows.points), fresh.z)
    shape = np.broadcast_to(truth.mean(axis=0), truth.shape)
    found = dataclasses.replace(
        found,
        nme=float(nme(predicted, truth).mean()),
        nme_linear=float(nme(linear, truth).mean()),
        nme_mean_shape=float(nme(shape, truth).mean()),
        noise=_mean(fresh.disagreement / 2),
        noise_shift=_mean(fresh.shift),
        nme_points=checks.nme_of_points(predicted, truth).tolist(),
    )
    seen = fresh.seen_twice
    if seen.any():
        judged = checks.judge(predicted[seen], truth[seen], fresh.judged[seen])
        found = dataclasses.replace(found, judged=judged)
    return dataclasses.replace(found, **_on_reconstructions(run, final))


def _on_reconstructions(run: RunDirectory, final: LandmarkGenerator) -> dict[str, Any]:
    """Return L-Gen's errors on G(z) of photos' latents, as fields of Audit.

    The result is empty if L-Gen has learnt from photos' latents.
    """
    record = run.record(pairs.STAGE.name)
    assert record is not None
    rows, group = pair_rows.layout_of(run, record).photos, groups.open_group(run.latents, "pairs")
    good = groups.read(group, "status", rows) == Status.OK
    if record.settings["pairs"] != "prior" or not good.any():
        return {}
    z, points = (groups.read(group, name, rows)[good] for name in ("z", "points"))
    error = float(nme(predict(final, z), points).mean())
    return {"reconstructions": len(z), "nme_reconstructions": error}


def predict(network: LandmarkGenerator, z: np.ndarray) -> np.ndarray:
    """Return L-Gen's landmarks f32 [N, 49, 2] of latents f32 [N, Z]."""
    with torch.inference_mode():
        return network(torch.from_numpy(z)).numpy()


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of the finite values; None if no value is finite."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None
