"""The progress of a run. It is read from the run directory alone, without a Ray cluster."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterable, Iterator

import yaml

from distfacegan.errors import RunDirectoryError
from distfacegan.store import metrics, shards
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import STAGES, RunDirectory
from distfacegan.store.shards import ShardStats

RECENT = 100  # the rate is measured over this many of the last markers
NAMED = 10  # at most this many shards are named for one kind of failure


@dataclasses.dataclass(frozen=True)
class StageStatus:
    """The progress of one stage."""

    stage: str
    state: str  # done, unfinished, not begun
    done: int = 0
    total: int | None = None
    unit: str = ""
    # Of the last run: the shards that failed, each with the reason.
    set_aside: dict[str, str] = dataclasses.field(default_factory=dict)
    failures: dict[str, int] = dataclasses.field(default_factory=dict)  # of the last run, by kind
    rate: float | None = None  # units per second over the last RECENT markers, or of a training
    workers: int = 0  # the number of workers that wrote the last RECENT markers
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at the recent rate; None without a rate, and when done."""
        if not self.rate or self.total is None or self.state == "done":
            return None
        return (self.total - self.done) / self.rate


def read(run: RunDirectory) -> list[StageStatus]:
    """Return the status of every stage that the job has or that has begun, in order."""
    try:
        job = yaml.safe_load(run.job.read_text()) if run.job.exists() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        job = None
    if not isinstance(job, dict):
        raise RunDirectoryError(
            f"{run.job} is damaged; `run` of its spec writes it anew, and `distfacegan verify` "
            "checks everything else"
        )
    records = ((stage, run.record(stage)) for stage in STAGES)
    return [
        StageStatus(stage, state="not begun") if record is None else _stage(run, stage, record)
        for stage, record in records
        if record is not None or stage in job
    ]


def describe(run: RunDirectory) -> str:
    """Return the status of a run as a text for people."""
    holder = run.holder()
    lines = [f"{run.root}: " + (f"job {holder['job']!r} is at it" if holder else "no job is at it")]
    for status in read(run):
        parts = [f"{status.stage:<10} {status.state:<10}"]
        if status.total:
            left = f", {status.total - status.done} left" if status.done < status.total else ""
            parts.append(f"{status.done} of {status.total} {status.unit}{left}")
        if status.rate:
            parts.append(f"{status.rate:.1f}/s")
        if status.workers:
            parts.append(f"{status.workers} worker" + "s" * (status.workers > 1))
        if status.eta_s is not None:
            parts.append(f"ETA {datetime.timedelta(seconds=round(status.eta_s))}")
        if status.statuses:
            parts.append(shards.in_words(status.statuses, status.sums))
        lines.append("  ".join(part for part in parts if part))
        lines += [f"    {line}" for line in _failures(status)]
        lines += [f"    warning: {line}" for line in status.warnings]
    return "\n".join(lines)


def _failures(status: StageStatus) -> list[str]:
    """Return a line for every kind of error that set shards aside, and one for failed attempts."""
    by_kind: dict[str, list[str]] = {}
    for shard, reason in status.set_aside.items():
        by_kind.setdefault(reason.partition(":")[0], []).append(shard)
    lines = []
    for kind, indices in by_kind.items():
        names = ("shard " if len(indices) == 1 else "shards ") + ", ".join(indices[:NAMED])
        more = " and others" if len(indices) > NAMED else ""
        reason = status.set_aside[indices[-1]].partition("\n")[0]
        lines.append(f"{len(indices)} set aside by {kind}: {names}{more}; the last: {reason}")
    if status.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in status.failures.items())
        lines.append(f"failed attempts of the last run: {kinds}")
    return lines


def _stage(run: RunDirectory, stage: str, record: StageRecord) -> StageStatus:
    state = "done" if record.finished else "unfinished"
    last = record.last_run
    if record.shards is not None:
        recent: list[ShardStats] = []
        totals = shards.totals(_noting(shards.read_markers(run.markers(stage)), recent))
        rate, workers = _rate(recent)
        return StageStatus(
            stage,
            state,
            done=totals["rows"],
            total=record.rows,
            unit="rows",
            set_aside={} if record.finished or last is None else dict(last.set_aside),
            failures={} if last is None else dict(last.failures),
            rate=rate,
            workers=workers,
            statuses=totals["statuses"],
            sums=totals["sums"],
        )
    if record.steps is not None:
        lines = metrics.read(run.metrics)
        done, images_per_s = (lines[-1].step, lines[-1].images_per_s) if lines else (0, 0.0)
        rate = images_per_s / record.settings["batch"]
        return StageStatus(stage, state, done, record.steps, "steps", rate=rate)
    return StageStatus(stage, state, warnings=tuple(record.warnings))


def _noting(markers: Iterable[ShardStats], recent: list[ShardStats]) -> Iterator[ShardStats]:
    """Yield markers, and keep the last RECENT of them in `recent`, in the order of their time."""
    for marker in markers:
        recent.append(marker)
        if len(recent) >= 2 * RECENT:
            _keep_recent(recent)
        yield marker
    _keep_recent(recent)


def _keep_recent(markers: list[ShardStats]) -> None:
    markers[:] = sorted(markers, key=lambda marker: marker.written)[-RECENT:]


def _rate(recent: list[ShardStats]) -> tuple[float | None, int]:
    """Return rows per second over the last shards, and the number of their workers."""
    if not recent:
        return None, 0
    begun = min(marker.written - marker.seconds for marker in recent)
    seconds = min(max(recent[-1].written - begun, 1e-3), time.time() - begun)
    rows = sum(marker.stop - marker.start for marker in recent)
    return rows / seconds, len({marker.worker for marker in recent})
