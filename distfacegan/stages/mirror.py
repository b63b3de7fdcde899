"""Mirrored faces to latents, for samples on the way from a photo to its mirror image (Fig. 9)."""

from __future__ import annotations

from typing import Any

from distfacegan.spec import JobSpec
from distfacegan.stages.invert import InvertStage
from distfacegan.stages.stage import Job


class MirrorStage(InvertStage):
    """Mirror images of the faces to latents, by the search of the stage `invert`."""

    name = "mirror"
    section = "invert"
    reads = ("ingest", "began", "invert")
    writes = ("latents.zarr/mirrored",)
    group = "mirrored"
    mirrored = True

    def wanted(self, spec: JobSpec) -> bool:
        """Tell whether the spec's samples are made from mirrored faces."""
        return spec.synthesize is not None and self.group in spec.synthesize.sampler.uses

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of the faces, of the generator, and of the faces' own latents."""
        return {**super().inputs(job), "latents": job.run.identity("invert")}


STAGE = MirrorStage()
