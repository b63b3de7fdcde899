"""The report as a stage. The report is made again when another stage has changed something."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from distfacegan import report
from distfacegan.stages.stage import Job, Outcome, Plan, Stage
from distfacegan.store.records import StageRecord
from distfacegan.store.run_directory import STAGES, RunDirectory
from distfacegan.store.verification import Finding, check_present, check_sealed


class ReportStage(Stage):
    """The run directory to a page."""

    name = "report"
    reads = STAGES[:-1]
    writes = ("report",)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return nothing: the run directory alone decides the report."""
        return {}

    def inputs(self, job: Job) -> dict[str, Any]:
        """Return nothing: the report needs no particular stage."""
        return {}

    def execute(self, job: Job) -> Outcome:
        """Write the page and its numbers."""
        started = time.time()
        page = report.write(job.run)
        job.run.end(self.name, finished=True, started=started)
        return Outcome(f"{page}")

    def plan(self, job: Job) -> Plan:
        """Return what there is to do."""
        return Plan("a page and its numbers")

    def verify(self, run: RunDirectory, record: StageRecord) -> Iterator[Finding]:
        """Check the page and its numbers."""
        yield from check_sealed(run.report / "summary.json", expected=record.finished)
        if record.finished:
            yield from check_present([run.report / "index.html"])


STAGE = ReportStage()
