"""What every stage is, and the job that it is a part of."""

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
    """What a stage has, and what is left of it for the next run of the same job."""

    summary: str
    left: int = 0  # shards without a marker
    set_aside: list[str] = dataclasses.field(default_factory=list)  # shards that kept failing


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a stage has to do."""

    work: str  # in words
    amount: int | None = None  # of the stage's unit; None: not known
    gpu_seconds: float | None = None  # of one H200, a guess; None: none, or not known


class Job:
    """A checked spec, its run directory, and what several stages need: each is loaded once."""

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
        """What is known of the photos, or of the faces that were made of them."""
        return sizes.photos(self)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return what decides the output of a stage, as `Stage.settings` does."""
        if stage.name not in self._settings:
            self._settings[stage.name] = stage.settings(self)
        return self._settings[stage.name]

    def check(self, stage: Stage, inputs: Mapping[str, Any] | None = None) -> None:
        """Raise RunDirectoryError where a stage was begun with other settings, or other inputs."""
        unrecorded = stage.unrecorded(self.spec)
        self.run.check(stage.name, self.settings(stage), inputs, unrecorded)

    def begin(self, stage: Stage) -> None:
        """Record what a stage is begun with, or check that it is what it was begun with."""
        inputs = stage.inputs(self)
        self.check(stage, inputs)
        if self.run.record(stage.name) is None:
            # What is left without a record is deleted: nobody knows its settings.
            self.run.clear(stage.name, stage.writes)
            self.run.begin(stage.name, self.settings(stage), inputs)

    def forget_generators(self) -> None:
        """Load generators again: those of this run were deleted."""
        self._generators.clear()


class Stage(abc.ABC):
    """One kind of work. Everything that the rest of the program knows of it is asked of it."""

    name: ClassVar[str]  # its record and its markers in a run directory
    section: ClassVar[str]  # of a spec that asks for it: its name, where it says nothing else
    unit: ClassVar[str] = "rows"  # what it counts
    reads: ClassVar[tuple[str, ...]] = ()  # the stages whose output it reads
    writes: ClassVar[tuple[str, ...]]  # the folders of the run directory that are its own

    def __init_subclass__(cls) -> None:
        cls.section = getattr(cls, "section", cls.name)

    def wanted(self, spec: JobSpec) -> bool:
        """Tell whether it is a part of a spec's job."""
        return getattr(spec, self.section) is not None

    def unrecorded(self, spec: JobSpec) -> dict[str, Any]:
        """Return how runs acted that were begun before a setting existed, by setting."""
        return getattr(spec, self.section).unrecorded()

    @abc.abstractmethod
    def settings(self, job: Job) -> dict[str, Any]:
        """Return what decides its output; a run is resumed only with the same.

        Raises DistfaceganError where the spec asks for what cannot be had.
        """

    @abc.abstractmethod
    def inputs(self, job: Job) -> dict[str, Any]:
        """Return the identities of what it reads; raises DistfaceganError if it is not there."""

    @abc.abstractmethod
    def execute(self, job: Job) -> Outcome:
        """Finish it, however much of it is done."""

    @abc.abstractmethod
    def plan(self, job: Job) -> Plan:
        """Return what there is to do; reads the listing of the photos, and networks on disk."""

    def measure(self, job: Job, device: str) -> float | None:
        """Return the units a second of one worker on `device`: "cuda" or "cpu", one thread.

        It is timed now, for some seconds. None where there is nothing to time, or where what it
        works on is not here.
        """
        return None

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check what it wrote; discard what is damaged, and nothing else."""
        yield from ()
