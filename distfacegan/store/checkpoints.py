"""The checkpoints of a training and its rollbacks: began/checkpoints, began/rollbacks.json.

A rollback returns to an earlier checkpoint and abandons the later ones. The rollback is written
to rollbacks.json before anything is deleted. The meta.json of a checkpoint holds the number of
rollbacks before the checkpoint. From this number a reader knows which checkpoints a later rollback
abandoned, and ignores them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from distfacegan.errors import RunDirectoryError
from distfacegan.store import files, formats, metrics, weight_files
from distfacegan.store.location import Location, numbered
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.verification import Finding, check_networks
from distfacegan.store.weight_files import State

log = logging.getLogger(__name__)

KEEP = 3


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One return of a training to an earlier checkpoint."""

    step: int  # the step at which the rollback was decided
    to: int  # the step of the checkpoint that the training returned to
    reason: str
    learning_rate_scale: float  # factor of the learning rate after the rollback


@dataclasses.dataclass(frozen=True)
class Point:
    """The point from which a training continues."""

    checkpoint: Location | None  # None: the training starts at step 0
    meta: Mapping[str, Any]  # the meta.json of the checkpoint
    num_rollbacks: int  # so far
    learning_rate_scale: float | None  # of the rollback to this point; None: as in the checkpoint


class Checkpoints:
    """The checkpoints of one training, its lines of metrics and its sample grids."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder, self._samples = run.began / "checkpoints", run.began / "samples"
        self._rollbacks, self._metrics = run.began / "rollbacks.json", run.metrics

    def rollbacks(self) -> list[Rollback]:
        """Return every rollback, oldest first; raises RunDirectoryError for damage."""
        found = files.read_json(self._rollbacks) if self._rollbacks.exists() else []
        if not all(map(files.is_whole, found)):
            raise RunDirectoryError(
                f"{self._rollbacks} is damaged (it fails its digest), so it is not known which "
                "checkpoints count. Nothing was changed. Restore the file from a copy, or train "
                "anew: --fresh --only began. `distfacegan verify` checks everything else"
            )
        return [Rollback(**formats.known_fields(Rollback, each)) for each in found]

    def kept(self) -> list[Location]:
        """Return the checkpoints that no rollback abandoned, oldest first, named by their steps."""
        rollbacks = self.rollbacks()
        return [
            path
            for path in weight_files.checkpoints(self._folder)
            if all(
                int(path.name) <= rollback.to
                for rollback in rollbacks[weight_files.read_meta(path)["rollbacks"] :]
            )
        ]

    def verify(self) -> Iterator[Finding]:
        """Check the metrics, the rollbacks and the checkpoints; discard what is damaged."""
        lost = metrics.mend(self._metrics)
        if lost:
            yield Finding(f"{self._metrics}: {lost} damaged lines, which are left out from now on")
        try:
            self.rollbacks()
        except RunDirectoryError as error:
            yield Finding(str(error), "unreadable")
        yield from check_networks(numbered(self._folder))

    def discard_damaged(self) -> None:
        """Delete the newest checkpoints if they are damaged, with a warning for each."""
        for path in reversed(weight_files.checkpoints(self._folder)):
            damage = weight_files.damaged(path)
            if not damage:
                return
            weight_files.remove(path)
            log.warning(
                "began: the checkpoint of step %d is damaged (%s): the training goes on from the "
                "one before. `distfacegan verify` checks everything else",
                int(path.name),
                ", ".join(damage),
            )

    def resume(self) -> Point:
        """Return the newest whole checkpoint, after deleting all that is later.

        Later checkpoints, sample grids and lines of metrics are deleted. Only rank 0 calls this.
        """
        self.discard_damaged()
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
        """Write the checkpoint of a step, and delete all but the newest three checkpoints."""
        meta = {**meta, "rollbacks": len(self.rollbacks())}
        weight_files.save(self._folder / f"{step:08d}", states, meta)
        weight_files.prune(self._folder, KEEP)

    def write_samples(self, step: int, grid: bytes) -> None:
        """Write a picture of the faces that the generator makes at a step."""
        files.write_bytes(self._samples / f"{step:08d}.png", grid)

    def roll_back(self, step: int, reason: str, learning_rate_scale: float) -> Point | None:
        """Return to the checkpoint of the most varied faces. Only rank 0 calls this.

        Returns None if there is no checkpoint.
        """
        kept = self.kept()
        if not kept:
            return None
        to = max(kept, key=lambda path: weight_files.read_meta(path).get("diversity_ratio", 0.0))
        rollback = Rollback(step, int(to.name), reason, learning_rate_scale)
        every = [*self.rollbacks(), rollback]
        files.write_json(self._rollbacks, [files.seal(dataclasses.asdict(r)) for r in every])
        return self.resume()
