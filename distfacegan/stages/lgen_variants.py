"""The variants of L-Gen that a search tries, in groups that are trained together."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from distfacegan.core.lgen import Variant
from distfacegan.core.seeding import permutation
from distfacegan.sections.lgen import LGen, SearchSpace

VARIED = [field.name for field in dataclasses.fields(Variant)]
OF_SHAPE = ["depth", "width", "activation", "batch"]  # those that Variant.shape has
OTHERS = [name for name in VARIED if name not in OF_SHAPE]
TOGETHER = 4  # variants in a group


def own_variant(section: LGen) -> Variant:
    """Return the variant that the section gives. The section's defaults are those of Table I."""
    return Variant(**{name: getattr(section, name) for name in VARIED})


def draw_groups(section: LGen, seed: int) -> list[list[Variant]]:
    """Return the variants to try, in groups of at most TOGETHER variants of one shape.

    The first is the section's own. The others are random points of the search space: random shapes,
    and random other settings for each shape. There are fewer variants than `trials` if the search
    space has no more.
    """
    own, left = own_variant(section), section.trials
    queues = [_of_shape(section.search, shape, own, seed) for shape in _shapes(section, seed)]
    queues[0] = itertools.chain([own], queues[0])
    groups = []
    while left and queues:
        unfinished = []
        for queue in queues:
            group = list(itertools.islice(queue, min(TOGETHER, left)))
            left -= len(group)
            if group:
                groups.append(group)
                unfinished.append(queue)
        queues = unfinished
    return groups


def _shapes(section: LGen, seed: int) -> list[dict[str, Any]]:
    """Return the shape of the section's own variant, and random others of the search space."""
    own = {name: getattr(section, name) for name in OF_SHAPE}
    others = (shape for shape in _points(section.search, OF_SHAPE, seed) if shape != own)
    return [own, *itertools.islice(others, section.trials)]


def _of_shape(
    space: SearchSpace, shape: dict[str, Any], own: Variant, seed: int
) -> Iterator[Variant]:
    """Yield the variants of one shape, other than `own`, in random order."""
    if any(value not in getattr(space, name) for name, value in shape.items()):
        return  # only the section's own variant has this shape
    for others in _points(space, OTHERS, seed, of=str(shape)):
        variant = Variant(**shape, **others)
        if variant != own:
            yield variant


def _points(
    space: SearchSpace, names: list[str], seed: int, of: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield all points of some dimensions of the search space, in random order."""
    choices = [getattr(space, name) for name in names]
    sizes = [len(values) for values in choices]
    for index in permutation(seed, 0, math.prod(sizes), of):
        positions = np.unravel_index(index, sizes)
        chosen = (values[position] for values, position in zip(choices, positions, strict=True))
        yield dict(zip(names, chosen, strict=True))
