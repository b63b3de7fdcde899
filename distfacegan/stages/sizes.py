"""The amount of work, computed from the spec, the photos, the networks and the run directory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distfacegan import weights
from distfacegan.core.networks import Discriminator, Generator
from distfacegan.errors import DistfaceganError, SourceError
from distfacegan.sections.began import Began
from distfacegan.store import groups
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from distfacegan.stages.stage import Job

PAPER_LATENT_DIM = 64


@dataclasses.dataclass(frozen=True)
class Photos:
    """The photos of a job, or the faces that were cropped from them."""

    count: int | None  # None: not known
    here: bool  # the source can be read on this machine
    source: str  # in words
    shard_rows: int | None
    resolution: int | None  # the side of a face, in pixels


def photos(job: Job) -> Photos:
    """Return the known facts about the photos, after listing their source if there is a source."""
    section = job.spec.ingest
    if section is not None:
        count, here, said = _listed(job)
        return Photos(count, here, said, section.shard_rows, section.resolution)
    of = job.spec.invert.photos if job.spec.invert else None
    run = job.run if of is None else RunDirectory(of)
    try:
        group = groups.open_group(run.latents, "photos")
    except DistfaceganError:
        return Photos(None, False, f"those of {run.root}, which has none yet", None, None)
    count, resolution = groups.num_rows(group), groups.lengths(group)["R"]
    return Photos(count, True, f"{count:,} of {run.root}", groups.shard_rows(group), resolution)


def _listed(job: Job) -> tuple[int | None, bool, str]:
    section = job.spec.ingest
    assert section is not None
    source = section.source
    try:
        count = len(job.source.keys)
    except SourceError:
        if source.is_here():
            raise
        assumed = source.assumed_count
        said = "not here; not known" if assumed is None else f"{assumed:,} are assumed"
        return assumed, False, said
    return count, True, source.describe(count)


def generator(job: Job, given: Location | None) -> Generator | None:
    """Return the generator of a section from disk, or an untrained generator of the size to train.

    Returns None if there are neither weights nor a section began.
    """
    try:
        return job.generator(weights.generator_path(job.run, given)).network
    except DistfaceganError:
        if given is not None or job.spec.began is None:
            return None
    return Generator(**began_shape(job.spec.began))


def latent_dim(job: Job) -> int:
    """Return the length of z for the inversion's generator; the paper's if that is not known."""
    section = job.spec.invert
    network = generator(job, section.generator if section else None)
    return PAPER_LATENT_DIM if network is None else network.latent_dim


def began_shape(section: Began) -> dict[str, Any]:
    """Return the arguments for the constructors of the networks that a section trains."""
    names = ("resolution", "latent_dim", "width", "levels", "skip_connections")
    return {name: getattr(section, name) for name in names}


def flops(network: nn.Module, example: torch.Tensor) -> float:
    """Return the floating-point operations of one forward pass: additions and multiplications."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(example)
    return float(counter.get_total_flops())


def generator_flops(network: Generator) -> float:
    """Return the operations of G for one face."""
    return flops(network, torch.zeros(1, network.latent_dim))


def discriminator_flops(network: Discriminator, resolution: int) -> float:
    """Return the operations of D for one face."""
    return flops(network, torch.zeros(1, 3, resolution, resolution))


def in_shards(rows: int | None, shard_rows: int | None, row_bytes: float | None) -> str:
    """Return a text with the numbers of rows and shards, and the largest size in bytes."""
    if rows is None or shard_rows is None:
        return "as many rows as there are photos"
    text = f"{rows:,} rows in {-(-rows // shard_rows):,} shards of {shard_rows}"
    return text if row_bytes is None else f"{text}, at most {in_bytes(rows * row_bytes)}"


def in_bytes(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
