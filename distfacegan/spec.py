"""Job specs: what a job does, checked before anything runs.

Every model refuses unknown keys, and every field says what it is: the descriptions are the manual
and the JSON schema that editors complete from (jobs/job.schema.json).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    model_validator,
)

from distfacegan.samplers import SAMPLERS, SamplerSettings
from distfacegan.samplers.prior import OfPrior
from distfacegan.sections.began import Began
from distfacegan.sections.invert import Invert
from distfacegan.sections.landmarks import Landmarks
from distfacegan.sections.lgen import LGen, Pairs
from distfacegan.sections.quality import Filter
from distfacegan.sections.study import Study
from distfacegan.settings import Choosing, OneOf, Rows, Section, StorePath, Workers
from distfacegan.sources import SOURCES, SourceSection
from distfacegan.store.exports import FORMATS, ExportFormat
from distfacegan.store.exports.webdataset import WebDataset


class Ingest(Section):
    """Photos to cropped faces: OpenCV's frontal face cascade, largest face, crop, resize."""

    source: Annotated[SourceSection, OneOf(SOURCES)]
    """Where the photos come from."""
    resolution: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 128
    """Side of a face in pixels (R)."""
    shard_rows: Annotated[int, Field(ge=1, le=65536)] = 512
    """Rows of a shard: the unit of work, retry, storage and commit."""
    workers: Workers = None


SECTIONS = ("ingest", "landmarks", "began", "invert", "lgen", "synthesize", "study", "report")


class Synthesize(Choosing):
    """New faces with landmarks: G(z) is the face, L-Gen(z) its landmarks (section VI)."""

    chooses: ClassVar[str] = "format"

    count: Rows
    """Faces to generate."""
    sampler: Annotated[SamplerSettings, OneOf(SAMPLERS)] = OfPrior()
    """Which latents the faces are made of."""
    format: Annotated[ExportFormat, OneOf(FORMATS)] = WebDataset()
    """How they are written."""
    shard_rows: Annotated[int, Field(ge=1, le=65536)] = 1000
    """Faces of one shard, which a worker holds in memory."""
    filter: Filter | None = None
    """Leaves out faces that are not fit; default: none."""
    labels: Literal["lgen", "detector", "mean"] = "lgen"
    """Where the landmarks come from. lgen: L-Gen(z). detector: the job's detector on the very face.
    mean: the mean of both, the truest. L-Gen's stand in for a face on which the detector is not
    to be trusted."""
    generator: StorePath | None = None
    """Weights of G; default: this run's BEGAN."""
    lgen: StorePath | None = None
    """Folder of a landmark generator; default: this run's."""
    workers: Workers = None

    @model_validator(mode="after")
    def _filter_fits(self) -> Synthesize:
        if self.filter and self.filter.max_disagreement is not None and self.labels == "lgen":
            raise ValueError(
                "filter.max_disagreement compares L-Gen with the detector on every face: set "
                "labels to detector or mean, or leave it out"
            )
        return self


class Report(Section):
    """The page and its numbers."""

    attributes: StorePath | None = None
    """A table of attributes (.csv, .parquet, or CelebA's list_attr_celeba.txt), whose first column
    names the photos: the report says by attribute how many faces were found. Default: one beside
    the photos, named attributes.csv, attributes.parquet or list_attr_celeba.txt."""


class JobSpec(Section):
    """One job. A section that is absent is not run: what it would have made is read from `run`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the job in logs and in the report."""
    run: StorePath
    """The run directory: a path, or a URL (s3://bucket/folder, gs://, az://). Like every path of a
    spec a path is relative to the spec's own folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random number of the job is a function of this and of a row or a step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What GPU stages compute on; cuda waits for GPUs, auto takes them if they are there now."""
    ingest: Ingest | None = None
    landmarks: Landmarks | None = None
    began: Began | None = None
    invert: Invert | None = None
    lgen: LGen | None = None
    synthesize: Synthesize | None = None
    study: Study | None = None
    report: Report | None = None

    @model_validator(mode="after")
    def _sections_fit(self) -> JobSpec:
        if self.ingest and self.began and self.ingest.resolution % self.began.resolution:
            raise ValueError(
                f"began.resolution {self.began.resolution} must be ingest.resolution "
                f"{self.ingest.resolution}, or that divided by a whole number"
            )
        self._use_one_generator()
        if self.lgen and self.lgen.pairs in ("prior", "both") and not self.has_detector:
            raise ValueError(
                f"lgen.pairs is {self.lgen.pairs}: generated faces are labelled by the job's "
                "detector, and the section landmarks has none. Give it one "
                "(`landmarks: {detector: onnx, model: FILE}`), or set lgen.pairs to photos"
            )
        if self.synthesize and self.synthesize.labels != "lgen" and not self.has_detector:
            raise ValueError(
                f"synthesize.labels is {self.synthesize.labels}, and the section landmarks has no "
                "detector. Give it one (`landmarks: {detector: onnx, model: FILE}`), or set "
                "synthesize.labels to lgen"
            )
        if self.synthesize and "mirrored" in self.synthesize.sampler.uses and not self.invert:
            raise ValueError(
                f"synthesize.sampler is {self.synthesize.sampler.kind}: the mirrored photos have "
                "to be inverted, which needs the section invert that inverted the photos"
            )
        if not any(getattr(self, name) for name in SECTIONS):
            raise ValueError(f"nothing to do: none of the sections {', '.join(SECTIONS)} is there")
        return self

    def _use_one_generator(self) -> None:
        """Refuse the landmarks of one generator beside the faces of another."""
        if self.invert is None:
            return
        own = "this run's own"
        inverted = self.invert.generator
        used = self.synthesize.generator if self.synthesize else None
        alone = self.synthesize is None and (self.began is None or inverted is None)
        if alone or used == inverted or (self.synthesize and self.synthesize.lgen):
            return
        raise ValueError(
            f"invert.generator is {inverted or own}, synthesize.generator {used or own}: L-Gen "
            "learns the latents of the first, so its landmarks are wrong on faces of the second. "
            "Give both sections the same `generator`"
            + (", or leave it out of both: began trains one" if self.began else "")
        )

    @property
    def has_detector(self) -> bool:
        """The job's landmarks are found in pictures, so they can be found on generated faces."""
        return self.landmarks is not None and self.landmarks.detector.finds

    @property
    def pairs(self) -> Pairs:
        """What L-Gen learns from, where there is a section lgen."""
        given = self.lgen.pairs if self.lgen else None
        return given or ("prior" if self.has_detector else "photos")


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a spec as it is written."""
    schema = JobSpec.model_json_schema()
    for name in SECTIONS:  # `report:` with nothing after it means the defaults
        schema["properties"][name].setdefault("description", f"Run the stage {name}.")
    return schema
