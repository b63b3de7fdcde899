"""The common part of all stages that work shard by shard.

It finds the shards that are left to do, runs them, and records the run.
"""

from __future__ import annotations

import array
import collections
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from distfacegan.stages.actors import Worker
from distfacegan.stages.pool import SetAside, run_shards
from distfacegan.stages.progress import Progress
from distfacegan.stages.stage import Job, Outcome, Stage
from distfacegan.stages.telemetry import Telemetry
from distfacegan.store import shards
from distfacegan.store.shards import Shards, ShardStats

log = logging.getLogger(__name__)


def finish_shards(
    stage: Stage,
    job: Job,
    plan: Shards,
    worker: Callable[[], Worker],
    *,
    workers: tuple[int | None, Mapping[str, float]],
    upstream: Sequence[Collection[int]] = (),
    in_flight: int = 1,
) -> Outcome:
    """Run every shard of a stage that has no marker yet. The stage must have a record.

    `worker` constructs the worker of an actor. The worker is given up to `in_flight` shards at
    once, from as many threads. `upstream` gives the done shards of each stage that this stage
    reads. A shard that is not done in one of these stages is left for the next run.
    """
    started = time.time()
    num_rows = plan[-1].stop if plan else 0
    job.run.note(stage.name, rows=num_rows, shards=len(plan))
    num_workers, resources = workers
    made_of = job.run.identity(stage.name)
    tally = _Tally(shards.own(job.run.markers(stage.name), made_of))
    left = (index for index in range(len(plan)) if index not in tally.done)
    ready = (index for index in left if all(index in indices for indices in upstream))
    todo = plan.only(array.array("q", ready), made_of)
    telemetry = Telemetry(
        job.run,
        stage.name,
        left=num_rows - tally.rows,
        gpus_each=resources.get("num_gpus", 0),
    )
    progress = Progress(stage.name, num_rows, stage.unit, initial=tally.rows)
    with telemetry, progress:

        def advance(stats: ShardStats) -> None:
            tally.add(stats)
            telemetry.shard(stats)
            progress.advance(stats.stop - stats.start, tally.in_words())

        def fail(error: Exception) -> None:
            tally.failures[type(error).__name__] += 1
            telemetry.failed(error)

        set_aside = run_shards(
            worker,
            todo,
            num_workers=num_workers,
            resources=resources,
            on_done=advance,
            on_failed=fail,
            on_size=telemetry.workers,
            in_flight=in_flight,
        )
        telemetry.set_aside(len(set_aside))
    return _end(stage, job, tally, set_aside, len(plan), started, len(todo))


class _Tally:
    """The shards of a stage that this run and earlier runs have done."""

    def __init__(self, markers: Iterable[ShardStats]) -> None:
        self.done: set[int] = set()
        self.rows = 0
        self.failures: collections.Counter[str] = collections.Counter()  # of this run, by error
        self._statuses: collections.Counter[str] = collections.Counter()
        self._sums: collections.Counter[str] = collections.Counter()
        for marker in markers:
            self.add(marker)

    def add(self, stats: ShardStats) -> None:
        self.done.add(stats.shard)
        self.rows += stats.stop - stats.start
        self._statuses.update(stats.statuses)
        self._sums.update(stats.sums)

    def in_words(self) -> str:
        return shards.in_words(self._statuses, self._sums)


def _end(
    stage: Stage,
    job: Job,
    tally: _Tally,
    set_aside: list[SetAside],
    num_shards: int,
    started: float,
    num_todo: int,
) -> Outcome:
    """Record the run of a stage, and return its outcome."""
    for failure in set_aside:
        log.error("%s: %s set aside: %s", stage.name, failure.shard, failure.reason)
    left = num_shards - len(tally.done)
    names = {str(failure.shard.index): failure.reason for failure in set_aside}
    try:
        job.run.end(
            stage.name,
            finished=left == 0,
            started=started,
            shards=num_todo,
            set_aside=names,
            failures=tally.failures,
        )
    except OSError as error:
        if not left:
            raise
        log.error("%s: no record is kept of this run: %s", stage.name, error)  # such as a full disk
    return Outcome(tally.in_words(), left, list(names))
