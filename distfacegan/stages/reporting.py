"""The report as a stage: made again whenever another stage has changed something."""

from __future__ import annotations

import time
from typing import Any

from distfacegan import report
from distfacegan.spec import JobSpec
from distfacegan.stages.outcome import Outcome
from distfacegan.store.run_directory import RunDirectory


def settings(spec: JobSpec) -> dict[str, Any]:
    """Return what decides the report: the run directory alone."""
    return {}


def inputs(spec: JobSpec, run: RunDirectory) -> dict[str, str]:
    """Return the identities of what the stage reads: any part of a run directory will do."""
    return {}


def execute(spec: JobSpec, run: RunDirectory) -> Outcome:
    """Write the page and its numbers."""
    started = time.time()
    page = report.write(run)
    run.end("report", finished=True, started=started)
    return Outcome(f"{page}")
