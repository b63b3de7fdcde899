"""`distfacegan regenerate`: one sample of a generated data set, made again alone."""

from __future__ import annotations

import yaml

from distfacegan import pipeline
from distfacegan.errors import RunDirectoryError
from distfacegan.spec import JobSpec
from distfacegan.stages import cluster, synthesize
from distfacegan.stages.sample_maker import SampleMaker
from distfacegan.store import files
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard


def regenerate(run: RunDirectory, index: int, folder: Location) -> list[Location]:
    """Make a sample of a run again, and write its files, as they are in its shard, into a folder.

    Returns the paths of the files. On the kind of device that made the data set, the files are the
    same to the byte. Raises RunDirectoryError if the run has no such sample, or if its networks are
    no longer those that made it.
    """
    if run.record(synthesize.STAGE.name) is None:
        raise RunDirectoryError(
            f"{run.root} has no generated faces: the stage synthesize has not run"
        )
    spec = JobSpec.model_validate(yaml.safe_load(run.job.read_text()))
    if spec.synthesize is None:
        raise RunDirectoryError(
            f"{run.job}: the last job of this run had no section synthesize, so it is not known "
            "what its faces were made of; run the job that made them again, it has nothing to do"
        )
    job = pipeline.begun_job(spec.model_copy(update={"run": run.root}))
    count = spec.synthesize.count
    if not 0 <= index < count:
        raise RunDirectoryError(
            f"{run.root} has {count} generated faces, with the indices 0 to {count - 1}; "
            f"--index is {index}"
        )
    job.check(synthesize.STAGE, synthesize.STAGE.inputs(job))
    maker = SampleMaker(synthesize.recipe_of(job), cluster.device(spec.device))
    [(sample, _)] = maker.samples(Shard(0, index, index + 1))
    written = []
    for name, data in spec.synthesize.format.files_of(sample).items():
        files.write_bytes(folder / name, data)
        written.append(folder / name)
    return written
