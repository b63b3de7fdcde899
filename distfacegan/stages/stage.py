"""The base class of all stages, and the job that runs them."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from distfacegan import weights
from distfacegan.sources import Source
from distfacegan.spec import JobSpec
from distfacegan.stages import sizes
from distfacegan.store.location import Location
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.verification import Finding


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a stage's run, and the shards that are left for the next run of the job."""

    summary: str
    left: int = 0  # shards without a marker
    set_aside: list[str] = dataclasses.field(default_factory=list)  # shards that kept failing


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of a stage."""

    work: str  # in words
    amount: int | None = None  # in the stage's unit; None: not known
    gpu_seconds: float | None = None  # a guess for one H200; None: no GPU is used, or not known


class Job:
    """A checked spec, its run directory, and data for several stages that is loaded only once."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec, self.run = spec, RunDirectory(spec.run)
        self._generators: dict[Location, weights.LoadedGenerator] = {}
        self._settings: dict[str, dict[str, Any]] = {}

    @functools.cached_property
    def source(self) -> Source:
        """The photos of the section ingest, listed."""
        assert self.spec.ingest is not None
        return self.spec.ingest.source.open(self.spec.seed)

    def generator(self, path: Location) -> weights.LoadedGenerator:
        """Return the generator whose weights are at `path`; raises CheckpointError."""
        if path not in self._generators:
            self._generators[path] = weights.open_generator(path)
        return self._generators[path]

    @functools.cached_property
    def photos(self) -> sizes.Photos:
        """The known facts about the photos, or about the faces that were cropped from them."""
        return sizes.photos(self)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return `stage.settings` of this job, computed only once."""
        if stage.name not in self._settings:
            self._settings[stage.name] = stage.settings(self)
        return self._settings[stage.name]

    def check(self, stage: Stage, inputs: Mapping[str, Any] | None = None) -> None:
        """Raise RunDirectoryError if a stage was begun with other settings or other inputs."""
        unrecorded = stage.unrecorded(self.spec)
        self.run.check(stage.name, self.settings(stage), inputs, unrecorded)

    def begin(self, stage: Stage) -> None:
        """Record the settings and inputs of a stage, or check them against an existing record."""
        inputs = stage.inputs(self)
        self.check(stage, inputs)
        if self.run.record(stage.name) is None:
            # Output without a record is deleted, because its settings are not known.
            self.run.clear(stage.name, stage.writes)
            self.run.begin(stage.name, self.settings(stage), inputs)

    def forget_generators(self) -> None:
        """Load generators again at their next use, because this run's generators were deleted."""
        self._generators.clear()


class Stage(abc.ABC):
    """One stage of a job. All facts about a stage are attributes or methods of its class."""

    name: ClassVar[str]  # also the name of the stage's record and folder of markers
    section: ClassVar[str]  # the section of a spec that asks for the stage; by default `name`
    unit: ClassVar[str] = "rows"  # the things that the stage counts
    reads: ClassVar[tuple[str, ...]] = ()  # the stages whose output the stage reads
    writes: ClassVar[tuple[str, ...]]  # the folders of the run directory that the stage owns

    def __init_subclass__(cls) -> None:
        cls.section = getattr(cls, "section", cls.name)

    def wanted(self, spec: JobSpec) -> bool:
        """Tell whether the spec asks for the stage."""
        return getattr(spec, self.section) is not None

    def unrecorded(self, spec: JobSpec) -> dict[str, Any]:
        """Return, for settings that old records lack, the values that old versions worked with."""
        return getattr(spec, self.section).unrecorded()

    @abc.abstractmethod
    def settings(self, job: Job) -> dict[str, Any]:
        """Return the settings that decide the output; a run is resumed only with equal settings.

        Raises DistfaceganError if the spec asks for something that is missing or does not fit.
        """

    @abc.abstractmethod
    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of the data that the stage reads.

        Raises DistfaceganError if the data is missing.
        """

    @abc.abstractmethod
    def execute(self, job: Job) -> Outcome:
        """Do all the work of the stage that earlier runs have not done."""

    @abc.abstractmethod
    def plan(self, job: Job) -> Plan:
        """Return the work of the stage, from the listing of the photos and the networks on disk."""

    def measure(self, job: Job, device: str) -> float | None:
        """Time one worker for some seconds; return its units a second.

        `device` is "cuda", or "cpu" for one thread. Returns None if there is nothing to time, or if
        the data for the work is not on this machine.
        """
        return None

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the output of the stage; discard damaged data and nothing else."""
        yield from ()
