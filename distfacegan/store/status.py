"""How far a run is, read from its directory alone: it works on a run whose cluster is gone."""

from __future__ import annotations

import dataclasses
import datetime
import time
from typing import Any

import yaml

from distfacegan.errors import RunDirectoryError
from distfacegan.store import networks, shards
from distfacegan.store.run_directory import STAGES, RunDirectory

RECENT = 100  # markers that the rate is measured over


@dataclasses.dataclass(frozen=True)
class StageStatus:
    """How far one stage is."""

    stage: str
    state: str  # done, unfinished, not begun
    done: int = 0
    total: int | None = None
    unit: str = ""
    # shard: reason, of the last run
    set_aside: dict[str, str] = dataclasses.field(default_factory=dict)
    rate: float | None = None  # units per second, lately
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at the recent rate; None where that says nothing."""
        if not self.rate or self.total is None or self.state == "done":
            return None
        return (self.total - self.done) / self.rate


def read(run: RunDirectory) -> list[StageStatus]:
    """Return the status of every stage of the job, and of others that have begun, in order."""
    try:
        job = yaml.safe_load(run.job.read_text()) if run.job.exists() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        job = None
    if not isinstance(job, dict):
        raise RunDirectoryError(f"{run.job} is damaged; `run` of the spec writes it anew")
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
        done = f"{status.done} of {status.total} {status.unit}" if status.total else ""
        parts = [f"{status.stage:<10} {status.state:<10}", done]
        if status.rate:
            parts.append(f"{status.rate:.1f}/s")
        if status.eta_s is not None:
            parts.append(f"ETA {datetime.timedelta(seconds=round(status.eta_s))}")
        if status.statuses:
            parts.append(shards.in_words(status.statuses, status.sums))
        lines.append("  ".join(part for part in parts if part))
        lines += [f"    shard {i} set aside: {why}" for i, why in status.set_aside.items()]
    return "\n".join(lines)


def _stage(run: RunDirectory, stage: str, record: dict[str, Any]) -> StageStatus:
    state = "done" if record["finished"] else "unfinished"
    last = record["runs"][-1] if record["runs"] else {}
    set_aside = {} if record["finished"] else last.get("set_aside", {})
    if "shards" in record:
        markers = shards.read_markers(run.markers(stage))
        totals = shards.totals(markers)
        return StageStatus(
            stage,
            state,
            totals["rows"],
            record["rows"],
            "rows",
            set_aside,
            _rate(markers),
            totals["statuses"],
            totals["sums"],
        )
    if "steps" in record:
        steps = [int(path.name) for path in networks.checkpoints(run.began / "checkpoints")]
        done = max(steps, default=0)
        return StageStatus(stage, state, done, record["steps"], "steps")
    return StageStatus(stage, state)


def _rate(markers: list[shards.ShardStats]) -> float | None:
    """Return rows per second over the most recent shards that were done without a pause."""
    recent = sorted(markers, key=lambda marker: marker.written)[-RECENT:]
    if not recent:
        return None
    begun = min(marker.written - marker.seconds for marker in recent)
    seconds = max(recent[-1].written - begun, 1e-3)
    return sum(marker.stop - marker.start for marker in recent) / min(seconds, time.time() - begun)
