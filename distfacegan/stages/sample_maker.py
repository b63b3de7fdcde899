"""The samples of a generated data set: latents, G(z), and the landmarks of the faces."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core import uncertainty
from distfacegan.core.labelling import Labelling
from distfacegan.core.landmarks import eye_distance
from distfacegan.core.pixels import to_faces
from distfacegan.core.priors import UNIFORM
from distfacegan.errors import RunDirectoryError
from distfacegan.samplers import Photos, Sampler, SamplerSettings
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

    def samples(self, shard: Shard) -> list[Sample]:
        """Return the samples of a shard."""
        blocks = range(shard.start // BLOCK, -(-shard.stop // BLOCK))
        return [
            sample
            for block in blocks
            for sample in self._block(block)
            if shard.start <= sample.index < shard.stop
        ]

    def _block(self, number: int) -> list[Sample]:
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
        return [
            Sample(
                index,
                self._recipe.seed,
                drawn.z[i],
                faces[i],
                points[i],
                None if expected is None else expected[i],
                drawn.origins[i],
            )
            for i, index in enumerate(indices.tolist())
        ]

    def _expected_errors(
        self, own: np.ndarray, others: list[np.ndarray], detected: np.ndarray | None
    ) -> np.ndarray | None:
        """Return the expected error of each landmark, f32 [B, 49] in sides; None if not known."""
        if self._reliability is None:
            return None
        signs = {"spread": uncertainty.spread(np.stack([own, *others]))}
        if detected is not None:
            signs["disagreement"] = uncertainty.disagreement(own, detected)
        known = np.stack([signs[name] for name in self._reliability.signs], axis=-1)
        return self._reliability.expect(known) * eye_distance(own)[:, None]


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
