"""Fig. 9: the way in the latent space from a photo to its mirror image (section VII)."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from distfacegan import weights
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.pixels import to_images
from distfacegan.core.recipes import RECIPES
from distfacegan.core.search import Search
from distfacegan.report.contents import Contents
from distfacegan.report.tables import Table
from distfacegan.store import files

log = logging.getLogger(__name__)

STEPS_BETWEEN = 14


def invert_mirrored(
    contents: Contents, photos: Table, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Invert the mirrored photos of some rows as the run inverts photos: z [n, Z] and loss [n].

    The result is kept in report/mirror.json for the next report.
    """
    generator, record = contents.generator, contents.run.record("invert")
    assert generator is not None
    assert record is not None
    of_run = {**record.settings, "precision": record.precision or "fp32"}
    search = Search.of(of_run)
    made_of = {
        "generator": contents.generator_digest,
        "rows": rows.tolist(),
        **dataclasses.asdict(search),
    }
    cache = contents.run.report / "mirror.json"
    kept = files.read_json(cache) if cache.exists() else {}
    if kept.get("made_of") != made_of:
        log.info("report: inverting %d mirrored photos; later reports reuse them", len(rows))
        mirrored = np.ascontiguousarray(photos.read("image", rows)[:, :, ::-1])
        faces = to_images(mirrored, generator.resolution)
        learns = RECIPES[search.recipe].needs_surrogate
        surrogate = weights.load_surrogate(contents.run.surrogate) if learns else None
        found = Inverter(latent_model(generator), search, surrogate)(faces, rows)
        kept = {"made_of": made_of, "z": found.z.tolist(), "loss": found.loss.tolist()}
        files.write_json(cache, kept)
    return np.array(kept["z"], np.float32), np.array(kept["loss"], np.float32)


def way(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return latents on the straight line from `start` to `end` [Z], both included: f32 [16, Z]."""
    share = np.linspace(0, 1, STEPS_BETWEEN + 2, dtype=np.float32)[:, None]
    return (1 - share) * start + share * end
