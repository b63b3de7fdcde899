"""The arrays of latents.zarr, by group.

    photos/     image u1 [N,R,R,3] · box f4 [N,4] px of the source · key str [N] · status u1 [N]
                brightness f4 [N] mean over the middle half of the photo, in [0,1]
    landmarks/  points f4 [N,49,2] units of the face · score f4 [N,49] · status u1 [N]
                deviation f4 [N] from the source's own points, in eye distances; NaN without any
                disagreement f4 [N] of the face and its mirror image, in eye distances
    latents/    z f4 [N,Z] · loss f4 [N] mean |x - G(z)|, pixels in [-1,1] · steps i4 [N] · status
    mirrored/   z, loss, steps and status of the mirrored faces
    pairs/      z, points, score, disagreement and status of generated faces (stages/pairs.py)
                shift f4 [N] of the points when G(z) is shifted by a pixel, in eye distances
                judged f4 [N,49,2] points of a second detector
                only some of the fresh latents have shift and judged

The fill is 0, "" or NaN. Status 0 is pending.
"""

from __future__ import annotations

import dataclasses

import numpy as np

WRITTEN_BY = {
    "photos": "ingest",
    "landmarks": "landmarks",
    "latents": "invert",
    "mirrored": "mirror",
    "pairs": "pairs",
}


@dataclasses.dataclass(frozen=True)
class ArraySchema:
    """One array of a group; letters in `shape` stand for lengths given at creation."""

    dtype: str
    shape: tuple[int | str, ...] = ()
    fill: float | str = 0


_LATENTS = {
    "z": ArraySchema("float32", ("Z",), np.nan),
    "loss": ArraySchema("float32", (), np.nan),
    "steps": ArraySchema("int32"),
    "status": ArraySchema("uint8"),
}
GROUPS: dict[str, dict[str, ArraySchema]] = {
    "photos": {
        "image": ArraySchema("uint8", ("R", "R", 3)),
        "box": ArraySchema("float32", (4,), np.nan),
        "key": ArraySchema("str", (), ""),
        "brightness": ArraySchema("float32", (), np.nan),
        "status": ArraySchema("uint8"),
    },
    "landmarks": {
        "points": ArraySchema("float32", (49, 2), np.nan),
        "score": ArraySchema("float32", (49,), np.nan),
        "deviation": ArraySchema("float32", (), np.nan),
        "disagreement": ArraySchema("float32", (), np.nan),
        "status": ArraySchema("uint8"),
    },
    "pairs": {
        "z": ArraySchema("float32", ("Z",), np.nan),
        "points": ArraySchema("float32", (49, 2), np.nan),
        "score": ArraySchema("float32", (49,), np.nan),
        "disagreement": ArraySchema("float32", (), np.nan),
        "shift": ArraySchema("float32", (), np.nan),
        "judged": ArraySchema("float32", (49, 2), np.nan),
        "status": ArraySchema("uint8"),
    },
    "latents": _LATENTS,
    "mirrored": _LATENTS,
}
