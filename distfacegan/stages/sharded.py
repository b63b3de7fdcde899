"""What the stages that work shard by shard have in common: what is left, the pool, the record."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from distfacegan.stages.outcome import Outcome
from distfacegan.stages.pool import run_shards
from distfacegan.stages.progress import Progress
from distfacegan.stages.telemetry import Telemetry
from distfacegan.store import shards
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, ShardStats

log = logging.getLogger(__name__)


def run_stage(
    run: RunDirectory,
    stage: str,
    plan: Sequence[Shard],
    worker: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    workers: tuple[int | None, Mapping[str, float]],
    unit: str,
    upstream: Sequence[Collection[int]] = (),
    in_flight: int = 1,
) -> Outcome:
    """Finish a stage whose record was begun: run every shard that has no marker yet.

    A worker is given up to `in_flight` shards at once, from as many threads.
    `upstream` gives the done shards of the stages that this one reads; a shard that one of them
    lacks is left for the next run, which will have tried it again.
    """
    started = time.time()
    markers = run.markers(stage)
    run.note(stage, rows=sum(map(len, plan)), shards=len(plan))
    made = shards.read_markers(markers)
    done = {stats.shard for stats in made}
    ready = [s for s in plan if all(s.index in indices for indices in upstream)]
    todo = [s for s in ready if s.index not in done]
    totals = shards.totals(made)
    statuses, sums = (collections.Counter(totals[name]) for name in ("statuses", "sums"))
    failures: collections.Counter[str] = collections.Counter()
    num_workers, resources = workers
    telemetry = Telemetry(
        run,
        stage,
        left=sum(map(len, plan)) - totals["rows"],
        gpus_each=resources.get("num_gpus", 0),
    )
    with telemetry, Progress(stage, sum(map(len, plan)), unit, initial=totals["rows"]) as progress:

        def advance(stats: ShardStats) -> None:
            done.add(stats.shard)
            statuses.update(stats.statuses)
            sums.update(stats.sums)
            telemetry.shard(stats)
            progress.advance(stats.stop - stats.start, shards.in_words(statuses, sums))

        def fail(error: Exception) -> None:
            failures[type(error).__name__] += 1
            telemetry.failed(error)

        set_aside = run_shards(
            worker,
            arguments,
            todo,
            num_workers=num_workers,
            resources=resources,
            on_done=advance,
            on_failed=fail,
            on_size=telemetry.workers,
            in_flight=in_flight,
        )
        telemetry.set_aside(len(set_aside))
    for failure in set_aside:
        log.error("%s: %s set aside: %s", stage, failure.shard, failure.reason)
    left = len(plan) - len(done)
    names = {str(failure.shard.index): failure.reason for failure in set_aside}
    try:
        run.end(
            stage,
            finished=left == 0,
            started=started,
            shards=len(todo),
            set_aside=names,
            failures=failures,
        )
    except OSError as error:
        if not left:
            raise
        log.error("%s: no record is kept of this run: %s", stage, error)  # the disk is full
    return Outcome(shards.in_words(statuses, sums), left, list(names))
