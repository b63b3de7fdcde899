"""Drivers of a job that stand still in the middle of a stage: there they are killed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distfacegan import cli
from distfacegan.stages import began
from distfacegan.stages.telemetry import Telemetry
from tests import training_loops

STANDS_STILL = "the driver stands still"


def run_to_the_middle(spec: Path, stage: str) -> int:
    """Run a job, but stand still after the first shard or trials of a stage, or at a step of it."""
    if stage == "began":
        began._train_loop = training_loops.stands_still  # type: ignore[assignment]
    for name in ("shard", "trials"):
        counted = _then_stand_still(getattr(Telemetry, name), stage)
        setattr(Telemetry, name, counted)
    return cli.main(["run", str(spec)])


def _then_stand_still(count: Callable[..., None], stage: str) -> Callable[..., None]:
    stood = False

    @functools.wraps(count)
    def counted(telemetry: Telemetry, *arguments: Any) -> None:
        nonlocal stood
        count(telemetry, *arguments)
        if telemetry._tags["stage"] == stage and not stood:
            stood = True
            print(STANDS_STILL, flush=True)
            time.sleep(600)

    return counted
