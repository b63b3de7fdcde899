"""The contents of a run directory for its report, each read when first used, or None if missing.

Losses, steps and statuses are read for all rows. Faces are read only for the rows that are shown.
r is the side of a generated face, R the side of a stored face, Z the latent dimension.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import yaml

from distfacegan import weights
from distfacegan.core.lgen import Evaluation, LandmarkGenerator, Trial, split
from distfacegan.core.networks import Generator
from distfacegan.core.pixels import to_faces, to_images
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import RunDirectoryError
from distfacegan.report.generator import load_generator
from distfacegan.report.tables import Table, open_table
from distfacegan.store import files, formats, groups, metrics, shards
from distfacegan.store.checkpoints import Checkpoints, Rollback
from distfacegan.store.exports import Sample, recorded_format
from distfacegan.store.location import Location, locate, numbered
from distfacegan.store.run_directory import STAGES as ALL_STAGES
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

STAGES = ALL_STAGES[:-1]  # all but the report itself
NUM_FACES = 256  # generated faces, and real faces, for the diversity
NUM_LOOKED_AMONG = 4096  # real faces among which the nearest to a generated face is looked for
BATCH = 64


class Contents:
    """Everything the report reads of one run."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        """The resolved spec of the last run; empty if there is none."""
        try:
            return yaml.safe_load(self.run.job.read_text()) if self.run.job.exists() else {}
        except yaml.YAMLError as error:
            raise RunDirectoryError(
                f"{self.run.job} is damaged ({error}); `run` of its spec writes it anew, and "
                "`distfacegan verify` checks everything else"
            ) from None

    @property
    def seed(self) -> int:
        """The job's seed, from which the report draws its own latents."""
        return int(self.spec.get("seed", 0))

    @functools.cached_property
    def photos(self) -> Table | None:
        """The faces of this run, or the faces of another run that this run inverted."""
        other = self.spec.get("invert", {}).get("photos")
        run = RunDirectory(locate(other)) if other else self.run
        record = self.run.record("invert") if other else None
        if record is not None and (
            run.record("ingest") is None or run.identity("ingest") != record.inputs["photos"]
        ):
            return None  # the other run's faces are gone, or are not those that were inverted
        return open_table(run, "ingest", "photos")

    @functools.cached_property
    def landmarks(self) -> Table | None:
        """The detected landmarks."""
        return open_table(self.run, "landmarks", "landmarks")

    @functools.cached_property
    def latents(self) -> Table | None:
        """The inversions."""
        return open_table(self.run, "invert", "latents")

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """Equation 3 of every row, f32 [N]: NaN for rows that are not inverted.

        Empty before the stage invert has begun.
        """
        return groups.read(self.latents.group, "loss") if self.latents else np.empty(0, np.float32)

    @functools.cached_property
    def steps(self) -> np.ndarray:
        """The generator steps to the latent of every inverted row, i32 [n].

        Empty before the stage invert has begun.
        """
        if self.latents is None:
            return np.empty(0, np.int32)
        return groups.read(self.latents.group, "steps")[np.isfinite(self.losses)]

    @functools.cached_property
    def at_the_wall(self) -> float | None:
        """The share of the coordinates of z at the bounds of the search, from a sample of rows."""
        record = self.run.record("invert")
        radius = record.settings.get("radius") if record else None
        if self.latents is None or radius is None or len(rows := self.latents.sample(1000)) == 0:
            return None
        return float((np.abs(self.latents.read("z", rows)) >= radius).mean())

    @functools.cached_property
    def deviations(self) -> np.ndarray:
        """Deviations of detected landmarks from the source's own, f32 [n], of rows with both."""
        if self.landmarks is None:
            return np.empty(0, np.float32)
        found = groups.read(self.landmarks.group, "deviation")
        return found[np.isfinite(found)]

    @functools.cached_property
    def metrics(self) -> list[metrics.MetricsLine]:
        """The lines of metrics.jsonl, without a last line that is still being written."""
        return metrics.read(self.run.metrics)

    @functools.cached_property
    def rollbacks(self) -> list[Rollback]:
        """The rollbacks of the training to earlier checkpoints, oldest first."""
        return Checkpoints(self.run).rollbacks()

    @property
    def samples(self) -> list[Location]:
        """The sample grids that BEGAN wrote, oldest first; each is named by its step."""
        return numbered(self.run.began / "samples", ".png")

    @functools.cached_property
    def _generator(self) -> weights.LoadedGenerator | None:
        return load_generator(self.run, self.spec)

    @property
    def generator(self) -> Generator | None:
        """G: the generator that was inverted, else the newest generator of this run."""
        return self._generator.network if self._generator else None

    @property
    def generator_digest(self) -> str | None:
        """The digest of G's weights."""
        return self._generator.digest if self._generator else None

    @functools.cached_property
    def lgen(self) -> LandmarkGenerator | None:
        """The L-Gen of the synthesis, which was trained on all rows."""
        found, record = self._generator, self.run.record("synthesize")
        given = self.spec.get("synthesize", {}).get("lgen")
        if record is not None and found is not None and record.inputs["generator"] != found.digest:
            given = None  # the given L-Gen belongs to a generator that the report does not draw
        folder = locate(given) if given else self.run.lgen / "final"
        if found is None or not folder.is_dir():
            return None
        weights.warn_if_unowned(folder, found.digest)
        return weights.load_lgen(folder, found.network.latent_dim, found.digest)

    @functools.cached_property
    def held_out_lgen(self) -> LandmarkGenerator | None:
        """L-Gen trained on the training rows alone."""
        folder, record = self.run.lgen / "held_out", self.run.record("invert")
        if self.latents is None or record is None or not folder.is_dir():
            return None
        latent_dim = self.latents.row_shape("z")[0]
        return weights.load_lgen(folder, latent_dim, record.inputs["generator"])

    @functools.cached_property
    def evaluation(self) -> Evaluation | None:
        """L-Gen's errors; None before it was trained."""
        path = self.run.lgen / "evaluation.json"
        if not path.exists():
            return None
        return weights.parse_evaluation(files.read_json(path))

    @property
    def complaints(self) -> list[str]:
        """The faults of L-Gen on generated faces, in words."""
        fresh = self.evaluation.fresh if self.evaluation else None
        return fresh.complaints if fresh else []

    @functools.cached_property
    def study(self) -> dict[str, Any] | None:
        """The results of the study; None if it is not finished."""
        path = self.run.study / "results.json"
        return files.read_json(path) if path.exists() else None

    @functools.cached_property
    def trials(self) -> list[Trial]:
        """The trials of L-Gen's search, the best first."""
        path = self.run.lgen / "trials.json"
        found = files.read_json(path) if path.exists() else []
        return [Trial(**formats.known_fields(Trial, trial)) for trial in found]

    @functools.cached_property
    def test_rows(self) -> np.ndarray:
        """The rows that neither L-Gen's training nor the choice among its variants has seen."""
        record = self.run.record("lgen")
        if not (self.latents and self.landmarks and self.evaluation and record):
            return np.empty(0, int)
        inverted = groups.read(self.latents.group, "status") == Status.OK
        good = np.flatnonzero(inverted & (groups.read(self.landmarks.group, "status") == Status.OK))
        if record.settings.get("pairs", "photos") == "prior":
            return good  # L-Gen learnt from no photo
        if len(good) != self.evaluation.num_rows:
            return np.empty(0, int)  # rows were added after L-Gen was trained
        settings = record.settings
        return good[split(len(good), settings["test_share"], settings["seed"])[1]]

    @functools.cached_property
    def real_faces(self) -> np.ndarray | None:
        """Random faces as G's training sees them, u8 [n, r, r, 3]."""
        if self.photos is None or len(rows := self.photos.sample(NUM_FACES)) == 0:
            return None
        return self.faces(rows)

    @functools.cached_property
    def rows_to_look_among(self) -> np.ndarray:
        """Rows of the real faces among which the nearest to a generated face is looked for."""
        return self.photos.stretches(NUM_LOOKED_AMONG) if self.photos else np.empty(0, int)

    def faces(self, rows: np.ndarray) -> np.ndarray:
        """Return the faces of at least one row as G's training sees them, u8 [n, r, r, 3]."""
        assert self.photos is not None
        parts = np.array_split(rows, -(-len(rows) // NUM_FACES))  # less memory than all at once
        return np.concatenate([self.shrink(self.photos.read("image", part)) for part in parts])

    @functools.cached_property
    def z(self) -> np.ndarray | None:
        """Latents of random faces, uniform in [-1, 1]: f32 [NUM_FACES, Z]."""
        if self.generator is None:
            return None
        dim = self.generator.latent_dim
        return uniform_latents(self.seed, range(NUM_FACES), dim, stream="report")

    @functools.cached_property
    def generated_faces(self) -> np.ndarray | None:
        """G(z) of `z`, u8 [NUM_FACES, r, r, 3]."""
        return None if self.z is None else self.generate(self.z)

    def generate(self, z: np.ndarray) -> np.ndarray:
        """Return the faces G(z) of latents [B, Z]: u8 [B, r, r, 3]."""
        assert self.generator is not None
        with torch.inference_mode():
            parts = torch.from_numpy(z).to(self.generator.stem.weight).split(BATCH)
            return np.concatenate([to_faces(self.generator(part)) for part in parts])

    def shrink(self, faces: np.ndarray) -> np.ndarray:
        """Return faces u8 [B, R, R, 3] in G's resolution.

        The faces are returned as they are if there is no G, or if R is no multiple of r.
        """
        side = self.generator.resolution if self.generator else None
        if side is None or faces.shape[1] % side or faces.shape[1] == side:
            return faces
        return to_faces(to_images(faces, side))

    def synthetic(self, count: int) -> list[Sample]:
        """Return the first samples of the generated dataset."""
        done = sorted(shards.done(self.run.markers("synthesize")))
        record = self.run.record("synthesize")
        if not done or record is None:
            return []
        export = recorded_format(record.settings)
        try:
            return export.read_first(self.run.synthetic, done[0], count)
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{error}; `distfacegan verify` names every damaged shard"
            ) from None
