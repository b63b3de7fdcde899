"""The rows of the group `pairs`: those that L-Gen learns from, and those that judge L-Gen."""

from __future__ import annotations

import dataclasses

import numpy as np

from distfacegan.errors import RunDirectoryError
from distfacegan.store import groups
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

NUM_RECONSTRUCTED = 500  # photos whose reconstructions are labelled too, to judge L-Gen
MIN_TRUSTED = 50  # L-Gen needs this many pairs at least


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of the group `pairs`, in the order of their rows."""

    num_pairs: int  # latents of the prior, to learn from
    num_fresh: int  # latents of the prior, to judge L-Gen
    num_photos: int = 0  # latents of photos

    @property
    def num_rows(self) -> int:
        """All rows."""
        return self.num_pairs + self.num_fresh + self.num_photos

    @property
    def prior(self) -> slice:
        """The rows to learn from."""
        return slice(0, self.num_pairs)

    @property
    def fresh(self) -> slice:
        """The rows of fresh latents."""
        return slice(self.num_pairs, self.num_pairs + self.num_fresh)

    @property
    def photos(self) -> slice:
        """The rows of photos' latents."""
        return slice(self.num_pairs + self.num_fresh, self.num_rows)


def photo_rows(layout: Layout, rows: np.ndarray, num_photos: int) -> list[int]:
    """Return the photos of rows of the group `pairs`.

    The photos of the group are spread evenly over all photos.
    """
    return ((rows - layout.photos.start) * num_photos // layout.num_photos).tolist()


def layout_of(run: RunDirectory, record: StageRecord) -> Layout:
    """Return the layout of the group `pairs` of a run."""
    num_photos = 0
    if record.inputs["latents"] is not None:
        there = groups.num_rows(groups.open_group(run.latents, "latents"))
        num_photos = num_photos_labelled(record.settings["pairs"], there)
    return Layout(record.settings["num_pairs"], record.settings["num_fresh"], num_photos)


def load_pairs(run: RunDirectory) -> tuple[np.ndarray, np.ndarray]:
    """Return z [n, Z] and landmarks [n, 49, 2] of the trusted rows that L-Gen learns from.

    Raises RunDirectoryError if there are too few such rows.
    """
    record = run.record("pairs")
    assert record is not None
    layout, group = layout_of(run, record), groups.open_group(run.latents, "pairs")
    good = groups.read(group, "status") == Status.OK
    good[layout.fresh] = False
    if record.settings["pairs"] != "both":
        good[layout.photos] = False
    if good.sum() < MIN_TRUSTED:
        raise RunDirectoryError(
            f"{run.latents}/pairs: the detector trusts its landmarks on {good.sum()} of "
            f"{layout.num_pairs} generated faces; L-Gen needs {MIN_TRUSTED} at least. Look at the "
            "faces (`distfacegan report`): perhaps the generator does not make faces yet. "
            "Otherwise lower landmarks.min_score, or raise landmarks.max_disagreement"
        )
    return groups.read(group, "z")[good], groups.read(group, "points")[good]


def num_photos_labelled(pairs: str, num_photos: int) -> int:
    return num_photos if pairs == "both" else min(num_photos, NUM_RECONSTRUCTED)
