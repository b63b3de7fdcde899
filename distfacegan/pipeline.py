"""The stages of a spec, in the order that their inputs demand."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from distfacegan import specfile
from distfacegan.errors import DistfaceganError, RunDirectoryError, SpecError
from distfacegan.settings import Section
from distfacegan.spec import JobSpec
from distfacegan.stages import (
    began,
    cluster,
    ingest,
    invert,
    landmarks,
    lgen,
    mirror,
    pairs,
    reporting,
    study,
    synthesize,
)
from distfacegan.stages.stage import Job, Stage
from distfacegan.store import files, shards, verification
from distfacegan.store.location import Location, ObjectPath, reach
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.verification import Finding

log = logging.getLogger(__name__)

# In the order in which they run.
STAGES: tuple[Stage, ...] = (
    ingest.STAGE,
    landmarks.STAGE,
    began.STAGE,
    invert.STAGE,
    mirror.STAGE,
    pairs.STAGE,
    lgen.STAGE,
    synthesize.STAGE,
    study.STAGE,
    reporting.STAGE,
)

DONE, SET_ASIDE, WRONG = 0, 1, 2  # exit codes


def run(spec: JobSpec, *, only: Sequence[str] = (), fresh: bool = False) -> int:
    """Finish a job: do what its run directory does not have yet. Return the exit code.

    `only` limits it to some of the spec's stages. `fresh` first deletes what these stages, and
    the stages that read from them, wrote before. Raises DistfaceganError, with nothing touched,
    for settings that cannot work or that differ from those on disk.
    """
    cleared = _with_readers(chosen(spec, only)) if fresh else ()
    reach_stores(spec)
    job = begun_job(spec, but=cleared)
    stages = chosen(job.spec, only)
    _refuse_foreign_folder(job.run)
    for stage in stages:
        job.settings(stage)
    with job.run.lock(spec.name):
        if fresh:
            stages[0].inputs(job)  # which are not among what is cleared
        for stage in reversed(cleared):
            job.run.clear(stage.name, stage.writes)
            job.forget_generators()
        for stage in stages:
            job.check(stage)
        todo = [stage for stage in stages if not _is_done(job, stage)]
        if not todo:
            log.info("%s: nothing left to do in %s", spec.name, job.run.root)
            if not _is_whole(job.run.job):
                _write_spec(job)
            return DONE
        todo[0].inputs(job)  # what is missing is said before a write
        with cluster.connect():
            _write_spec(job)
            return _execute(job, stages)


def verify(run: RunDirectory) -> Iterator[tuple[str, Finding]]:
    """Check everything that a run stored; yield what is found, with the name of its stage.

    What is damaged is discarded, so that the next run makes it again. Raises RunDirectoryError
    while a job is at the run.
    """
    with run.lock("verify"):
        if not _is_whole(run.job):
            yield "job", Finding(f"{run.job} is damaged; to be written again")
        for stage in STAGES:
            if not run.record_path(stage.name).exists():
                continue
            record = verification.check_record(run, stage.name)
            if isinstance(record, Finding):
                if record.kind == "damaged":  # nobody knows what the stage was made with
                    run.clear(stage.name, stage.writes)
                yield stage.name, record
                continue
            damaged = False
            for finding in stage.verify(run, record):
                damaged = damaged or finding.kind == "damaged"
                yield stage.name, finding
            if damaged:
                run.note(stage.name, finished=False)


def _write_spec(job: Job) -> None:
    text = files.seal_text(specfile.dump(job.spec))
    files.write_bytes(job.run.job, text.encode())


def _is_whole(path: Location) -> bool:
    """Tell whether a sealed text is what was written; a missing one is no damage."""
    try:
        return files.is_whole_text(path.read_text())
    except FileNotFoundError:
        return True
    except UnicodeDecodeError:
        return False


def reach_stores(spec: JobSpec) -> None:
    """Check that every object store that a spec names answers; raises LocationError."""
    reach(spec.run)
    buckets = {getattr(spec.run, "bucket", None)}
    for location in _locations(spec):
        if location.bucket not in buckets:
            reach(location)
            buckets.add(location.bucket)


def _locations(value: Any) -> Iterator[ObjectPath]:
    """Yield the URLs in a section."""
    if isinstance(value, ObjectPath):
        yield value
    elif isinstance(value, Section) or dataclasses.is_dataclass(value):
        for each in vars(value).values():
            yield from _locations(each)


def stages_of(spec: JobSpec) -> list[Stage]:
    """Return the stages of a spec, in order."""
    return [stage for stage in STAGES if stage.wanted(spec)]


def chosen(spec: JobSpec, only: Sequence[str]) -> list[Stage]:
    """Return the stages that are to run; raise SpecError for one that the spec does not have."""
    stages = stages_of(spec)
    names = [stage.name for stage in stages]
    for name in only:
        if name not in names:
            have = ", ".join(names)
            raise SpecError(f"--only {name}: the spec has no stage {name}; it has {have}")
    return [s for s in stages if not only or s.name in only or s.section in only]


def begun_job(spec: JobSpec, but: Collection[Stage] = ()) -> Job:
    """Return the job of a spec, with the settings that its run was begun with.

    A setting that the spec does not give, and that the version which began a stage did not have,
    gets the value that this version acted by. Stages in `but` are to be begun anew.
    """
    directory = RunDirectory(spec.run)
    sections = {}
    for stage in stages_of(spec):
        record = None if stage in but else directory.record(stage.name)
        if record is not None and stage.name == stage.section:
            sections[stage.name] = getattr(spec, stage.name).as_begun(record.settings)
    return Job(spec.model_copy(update=sections))


def _execute(job: Job, stages: Sequence[Stage]) -> int:
    code, changed = DONE, False
    for stage in stages:
        if _is_done(job, stage) and not (stage is reporting.STAGE and changed):
            continue
        job.begin(stage)
        log.info("%s: begins", stage.name)
        outcome = stage.execute(job)
        changed = True
        log.info("%s: %s", stage.name, outcome.summary)
        if outcome.left:
            log.error(
                "%s: %d shards are not done (%d set aside); the same command tries them again",
                stage.name,
                outcome.left,
                len(outcome.set_aside),
            )
            code = SET_ASIDE
    return code


def _is_done(job: Job, stage: Stage) -> bool:
    """Tell whether a stage has nothing left to do; refuse it if its inputs are others now."""
    record = job.run.record(stage.name)
    if record is None or not job.run.finished(stage.name):
        return False
    if record.shards is not None:
        own = shards.own(job.run.markers(stage.name), job.run.identity(stage.name))
        if sum(1 for _ in own) < record.shards:
            return False
    try:
        inputs = stage.inputs(job)
    except DistfaceganError:
        return True  # what it read is gone, and no longer needed
    job.check(stage, inputs)
    return True


def _with_readers(stages: Collection[Stage]) -> list[Stage]:
    """Return the stages and all that read from them, directly or not, in order."""
    names = {stage.name for stage in stages}
    for stage in STAGES:  # whatever a stage reads comes before it
        if names.intersection(stage.reads):
            names.add(stage.name)
    return [stage for stage in STAGES if stage.name in names]


def _refuse_foreign_folder(directory: RunDirectory) -> None:
    """Never write into, let alone clear, a folder that is something else."""
    root = directory.root
    if root.is_file():
        raise RunDirectoryError(f"run: {root} is a file; name a folder, new or a run directory")
    if root.is_dir() and any(root.iterdir()) and not directory.exists():
        raise RunDirectoryError(
            f"run: {root} is a folder with other things in it, not a run directory; name a new one"
        )
