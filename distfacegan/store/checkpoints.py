"""A training's checkpoints, and how far it went back: began/checkpoints, began/rollbacks.json.

A rollback returns to an earlier checkpoint and abandons the later ones. It is written to
rollbacks.json before anything is deleted. The meta.json of a checkpoint says how many rollbacks
there were before it: a checkpoint that a later rollback abandoned is known by that, and ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distfacegan.store import files, formats, metrics, weight_files
from distfacegan.store.location import Location, numbered
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.weight_files import State

KEEP = 3


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One return of a training to an earlier checkpoint."""

    step: int  # at which it was decided
    to: int  # the step of the checkpoint
    reason: str
    learning_rate_scale: float  # from there on


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a training goes on."""

    checkpoint: Location | None  # None: at the beginning
    meta: Mapping[str, Any]  # the checkpoint's
    num_rollbacks: int  # until now
    learning_rate_scale: float | None  # of a rollback to here; None: the checkpoint's own


class Checkpoints:
    """The checkpoints of one training, its lines of metrics and its sample grids."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder, self._samples = run.began / "checkpoints", run.began / "samples"
        self._rollbacks, self._metrics = run.began / "rollbacks.json", run.metrics

    def rollbacks(self) -> list[Rollback]:
        """Return every rollback, oldest first."""
        found = files.read_json(self._rollbacks) if self._rollbacks.exists() else []
        return [Rollback(**formats.known_fields(Rollback, each)) for each in found]

    def kept(self) -> list[Location]:
        """Return the checkpoints to go on from, oldest first; each is named by its step."""
        rollbacks = self.rollbacks()
        return [
            path
            for path in weight_files.checkpoints(self._folder)
            if all(
                int(path.name) <= rollback.to
                for rollback in rollbacks[weight_files.read_meta(path)["rollbacks"] :]
            )
        ]

    def resume(self) -> Point:
        """Return the newest checkpoint, after deleting what is later than it. For rank 0 alone."""
        kept = self.kept()
        step = int(kept[-1].name) if kept else 0
        for path in weight_files.checkpoints(self._folder):
            if path not in kept:
                weight_files.remove(path)
        for path in numbered(self._samples, ".png"):
            if int(path.stem) > step:
                path.unlink(missing_ok=True)
        metrics.truncate(self._metrics, step)
        meta = weight_files.read_meta(kept[-1]) if kept else {}
        rollbacks = self.rollbacks()
        later = rollbacks[meta.get("rollbacks", 0) :]
        scale = later[-1].learning_rate_scale if later else None
        return Point(kept[-1] if kept else None, meta, len(rollbacks), scale)

    def write(self, step: int, states: Mapping[str, State], meta: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step; the newest three are kept."""
        meta = {**meta, "rollbacks": len(self.rollbacks())}
        weight_files.save(self._folder / f"{step:08d}", states, meta)  # goes last
        weight_files.prune(self._folder, KEEP)

    def write_samples(self, step: int, grid: bytes) -> None:
        """Write a picture of what the generator makes at a step."""
        files.write_bytes(self._samples / f"{step:08d}.png", grid)

    def roll_back(self, step: int, reason: str, learning_rate_scale: float) -> Point | None:
        """Go back to the most varied checkpoint; None where there is none. For rank 0 alone."""
        kept = self.kept()
        if not kept:
            return None
        to = max(kept, key=lambda path: weight_files.read_meta(path).get("diversity_ratio", 0.0))
        rollback = Rollback(step, int(to.name), reason, learning_rate_scale)
        every = [*self.rollbacks(), rollback]
        files.write_json(self._rollbacks, list(map(dataclasses.asdict, every)))
        return self.resume()
