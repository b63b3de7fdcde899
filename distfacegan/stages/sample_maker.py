"""The samples of a generated data set: latents, G(z), and the landmarks of the faces."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core import neighbours, uncertainty
from distfacegan.core.labelling import Labelling
from distfacegan.core.landmarks import eye_distance, nme
from distfacegan.core.pixels import to_faces
from distfacegan.core.priors import UNIFORM
from distfacegan.core.quality import Bounds, Fault, find_faults
from distfacegan.core.uncertainty import Reliability
from distfacegan.errors import RunDirectoryError
from distfacegan.samplers import Photos, Sampler, SamplerSettings
from distfacegan.sections.quality import Filter
from distfacegan.store import groups
from distfacegan.store.exports import Sample
from distfacegan.store.location import Location
from distfacegan.store.shards import Shard, Status

# Samples are computed in whole blocks of BLOCK indices, even if a shard needs only a part of a
# block. The last digits of G(z) can depend on the batch. With blocks a sample does not depend on
# the size of the shards.
BLOCK = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the samples of a data set."""

    generator: Location
    lgen: Location
    seed: int
    count: int
    sampler: SamplerSettings
    store: Location | None = None  # of the photos' latents, if the sampler uses any
    labels: str = "lgen"
    labelling: Labelling | None = None  # of the detector, for labels other than `lgen`
    filter: Filter | None = None
    photos: Location | None = None  # the store of the photos to keep away from


class SampleMaker:
    """Holds G and L-Gen on one device."""

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        """Load the networks, and the latents of photos if the sampler uses any.

        Raises a DistfaceganError if they cannot be had.
        """
        self._recipe, self._device = recipe, device
        loaded = weights.open_generator(recipe.generator)
        self._generator = loaded.network.to(device)
        latent_dim = self._generator.latent_dim
        maker = weights.load_label_maker(recipe.lgen, latent_dim, loaded.digest)
        self._lgen, self._others = maker.lgen.to(device), [each.to(device) for each in maker.others]
        self._reliability = maker.reliability.get(recipe.labels)
        self._labeller = recipe.labelling.make(device) if recipe.labelling else None
        self._sampler = make_sampler(recipe, latent_dim)
        self._bounds = _bounds(recipe, self._reliability)
        self._photos = _thumbnails(recipe.photos) if recipe.photos is not None else None

    def samples(self, shard: Shard) -> list[tuple[Sample, Fault]]:
        """Return the samples of a shard, and why some of them are not fit for the data set."""
        blocks = range(shard.start // BLOCK, -(-shard.stop // BLOCK))
        return [
            (sample, fault)
            for block in blocks
            for sample, fault in self._block(block)
            if shard.start <= sample.index < shard.stop
        ]

    def _block(self, number: int) -> list[tuple[Sample, Fault]]:
        """Compute the samples BLOCK * number to BLOCK * (number + 1) - 1, or to the last one."""
        stop = BLOCK * (number + 1)
        indices = np.arange(BLOCK * number, min(stop, self._sampler.count or stop))
        drawn = self._sampler.draw(indices)
        with torch.inference_mode():
            on_device = torch.from_numpy(drawn.z).to(self._device)
            faces = to_faces(self._generator(on_device))
            own = self._lgen(on_device).cpu().numpy()
            others = [network(on_device).cpu().numpy() for network in self._others]
        points, detected = own, None
        if self._labeller is not None:
            found = self._labeller(faces)
            detected = np.where(found.trusted[:, None, None], found.points, own)
            points = detected if self._recipe.labels == "detector" else (own + detected) / 2
        expected = self._expected_errors(own, others, detected)
        distance = None
        if self._photos is not None:
            small = neighbours.thumbnails(faces)
            _, distance = neighbours.nearest_thumbnails(small, self._photos)
        faults = find_faults(
            faces,
            self._bounds,
            error=None if expected is None else expected.mean(axis=1),
            disagreement=None if detected is None else nme(own, detected),
            photo_distance=distance,
        )
        sides = eye_distance(own)
        return [
            (
                Sample(
                    index,
                    self._recipe.seed,
                    drawn.z[i],
                    faces[i],
                    points[i],
                    None if expected is None else sides[i] * expected[i],
                    drawn.origins[i],
                    None if distance is None else float(distance[i]),
                ),
                Fault(faults[i]),
            )
            for i, index in enumerate(indices.tolist())
        ]

    def _expected_errors(
        self, own: np.ndarray, others: list[np.ndarray], detected: np.ndarray | None
    ) -> np.ndarray | None:
        """Return the expected error of each landmark, f32 [B, 49] in eye distances.

        None if it is not known.
        """
        if self._reliability is None:
            return None
        signs = {"spread": uncertainty.spread(np.stack([own, *others]))}
        if detected is not None:
            signs["disagreement"] = uncertainty.disagreement(own, detected)
        known = np.stack([signs[name] for name in self._reliability.signs], axis=-1)
        return self._reliability.expect(known)


def check(recipe: Recipe, generator: weights.LoadedGenerator) -> None:
    """Raise a DistfaceganError if the samples of a recipe cannot be had."""
    latent_dim = generator.network.latent_dim
    make_sampler(recipe, latent_dim)
    maker = weights.load_label_maker(recipe.lgen, latent_dim, generator.digest)
    _bounds(recipe, maker.reliability.get(recipe.labels))


def make_sampler(recipe: Recipe, latent_dim: int) -> Sampler:
    """Create the sampler of a data set.

    Raises RunDirectoryError if the sampler cannot draw as many samples as are asked for.
    """
    uses, photos = recipe.sampler.uses, None
    if uses:
        assert recipe.store is not None
        photos = _load_photos(recipe.store, mirrored="mirrored" in uses)
        if len(photos.z) and photos.z.shape[1] != latent_dim:
            raise RunDirectoryError(
                f"{recipe.store}: the photos' latents have {photos.z.shape[1]} numbers, those of "
                f"the generator {recipe.generator} have {latent_dim}: give synthesize and invert "
                "the same generator"
            )
    sampler = recipe.sampler.make(recipe.seed, latent_dim, UNIFORM, photos)
    if sampler.count is not None and recipe.count > sampler.count:
        raise RunDirectoryError(
            f"synthesize.count is {recipe.count}, but the sampler {recipe.sampler.kind} has only "
            f"{sampler.count} samples here: set count to {sampler.count} or less"
        )
    return sampler


def _bounds(recipe: Recipe, reliability: Reliability | None) -> Bounds:
    """Return the bounds of a filter; raises RunDirectoryError if one of them cannot be had."""
    given = recipe.filter
    if given is None:
        return Bounds()
    if given.keep < 1 and reliability is None:
        raise RunDirectoryError(
            f"synthesize.filter.keep is {given.keep}, but the expected errors of labels "
            f"{recipe.labels!r} are not known: {recipe.lgen} has no reliability for them. Train "
            "L-Gen with a detector (and lgen.judge, for labels other than lgen), or leave keep out"
        )
    return Bounds(
        min_contrast=given.min_contrast,
        max_saturation=given.max_saturation,
        max_error=reliability.bound(given.keep) if reliability else np.inf,
        max_disagreement=given.max_disagreement or np.inf,
        min_distance=given.min_distance,
        min_photo_distance=given.min_photo_distance,
    )


def _thumbnails(store: Location) -> np.ndarray:
    """Return the thumbnails of all faces of the photos, i8 [N, D]: 768 bytes each."""
    photos = groups.open_group(store, "photos")
    found = []
    for shard in groups.plan(photos):
        good = groups.read(photos, "status", shard) == Status.OK
        found.append(neighbours.thumbnails(groups.read(photos, "image", shard)[good]))
    return np.concatenate(found)


def _load_photos(store: Location, *, mirrored: bool) -> Photos:
    """Return the photos that are inverted, and whose mirror images are, if these are needed."""
    latents = groups.open_group(store, "latents")
    good = groups.read(latents, "status") == Status.OK
    if not mirrored:
        return Photos(np.flatnonzero(good), groups.read(latents, "z")[good])
    others = groups.open_group(store, "mirrored")
    good &= groups.read(others, "status") == Status.OK
    z, of_mirror = (groups.read(group, "z")[good] for group in (latents, others))
    return Photos(np.flatnonzero(good), z, of_mirror)
