"""The stages of a spec, in the order that their inputs demand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

from distfacegan import specfile
from distfacegan.errors import DistfaceganError, RunDirectoryError, SpecError
from distfacegan.spec import STAGES, JobSpec
from distfacegan.stages import (
    began,
    cluster,
    ingest,
    invert,
    landmarks,
    lgen,
    reporting,
    synthesize,
)
from distfacegan.store import files
from distfacegan.store.location import reach
from distfacegan.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

# A stage is a module with three functions:
#   settings(spec) -> what decides its output; raises where the spec asks for what cannot be had
#   inputs(spec, run) -> identities of what it reads; raises where that is not there yet
#   execute(spec, run) -> Outcome; finishes the stage, however much of it is done
MODULES: dict[str, ModuleType] = {
    "ingest": ingest,
    "landmarks": landmarks,
    "began": began,
    "invert": invert,
    "lgen": lgen,
    "synthesize": synthesize,
    "report": reporting,
}

# Whose output each stage reads: what --fresh does anew with it.
READS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "landmarks": ("ingest",),
    "began": ("ingest",),
    "invert": ("ingest", "began"),
    "lgen": ("landmarks", "invert"),
    "synthesize": ("began", "lgen"),
    "report": STAGES[:-1],
}

DONE, SET_ASIDE, WRONG = 0, 1, 2  # exit codes


def run(spec: JobSpec, *, only: Sequence[str] = (), fresh: bool = False) -> int:
    """Finish a job: do what its run directory does not have yet. Return the exit code.

    `only` limits it to some of the spec's stages. `fresh` first deletes what these stages, and
    the stages that read from them, wrote before. Raises DistfaceganError, with nothing touched,
    for settings that cannot work or that differ from those on disk.
    """
    stages = chosen(spec, only)
    directory = RunDirectory(spec.run)
    reach(directory.root)
    _refuse_foreign_folder(directory)
    asked = {stage: MODULES[stage].settings(spec) for stage in stages}
    with directory.lock(spec.name):
        if fresh:
            MODULES[stages[0]].inputs(spec, directory)  # which are not among what is cleared
            _clear(directory, stages)
        for stage in stages:
            directory.check(stage, asked[stage])
        todo = [stage for stage in stages if not _is_done(spec, directory, stage)]
        if not todo:
            log.info("%s: nothing left to do in %s", spec.name, directory.root)
            return DONE
        MODULES[todo[0]].inputs(spec, directory)  # what is missing is said before a write
        with cluster.connect():
            files.write_bytes(directory.job, specfile.dump(spec).encode())
            return _execute(spec, directory, stages)


def _execute(spec: JobSpec, directory: RunDirectory, stages: Sequence[str]) -> int:
    code, changed = DONE, False
    for stage in stages:
        if _is_done(spec, directory, stage) and not (stage == "report" and changed):
            continue
        module = MODULES[stage]
        directory.begin(stage, module.settings(spec), module.inputs(spec, directory))
        log.info("%s: begins", stage)
        outcome = module.execute(spec, directory)
        changed = True
        log.info("%s: %s", stage, outcome.summary)
        if outcome.left:
            log.error(
                "%s: %d shards are not done (%d set aside); the same command tries them again",
                stage,
                outcome.left,
                len(outcome.set_aside),
            )
            code = SET_ASIDE
    return code


def _is_done(spec: JobSpec, directory: RunDirectory, stage: str) -> bool:
    """Tell whether a stage has nothing left to do; refuse it if its inputs are others now."""
    if not directory.finished(stage):
        return False
    module = MODULES[stage]
    try:
        inputs = module.inputs(spec, directory)
    except DistfaceganError:
        return True  # what it read is gone, and no longer needed
    directory.check(stage, module.settings(spec), inputs)
    return True


def chosen(spec: JobSpec, only: Sequence[str]) -> list[str]:
    """Return the stages that are to run; raise SpecError for one that the spec does not have."""
    for stage in only:
        if stage not in spec.stages:
            have = ", ".join(spec.stages)
            raise SpecError(f"--only {stage}: the spec has no section {stage}; it has {have}")
    return [stage for stage in spec.stages if not only or stage in only]


def _clear(directory: RunDirectory, stages: Sequence[str]) -> None:
    cleared = set(stages)
    for stage in STAGES:
        if cleared.intersection(READS[stage]):
            cleared.add(stage)
    for stage in reversed(STAGES):
        if stage in cleared:
            directory.clear(stage)


def _refuse_foreign_folder(directory: RunDirectory) -> None:
    """Never write into, let alone clear, a folder that is something else."""
    root = directory.root
    if root.is_file():
        raise RunDirectoryError(f"run: {root} is a file; name a folder, new or a run directory")
    if root.is_dir() and any(root.iterdir()) and not directory.exists():
        raise RunDirectoryError(
            f"run: {root} is a folder with other things in it, not a run directory; name a new one"
        )
