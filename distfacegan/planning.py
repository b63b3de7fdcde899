"""What a job would do and need, before anything runs."""

from __future__ import annotations

from pathlib import Path

from distfacegan import pipeline
from distfacegan.errors import DistfaceganError
from distfacegan.report.page import duration
from distfacegan.spec import JobSpec
from distfacegan.stages import rates
from distfacegan.stages.stage import Job, Stage

LEAST_GPU_HOURS = 0.01  # that are worth a line


def describe(spec: JobSpec, path: Path, *, measure: bool = False) -> str:
    """Return the plan of a job as a text.

    Reads the listing of the photos and the networks, where they are here. `measure` times every
    stage on this machine, for some seconds each. Raises DistfaceganError where the spec cannot
    work.
    """
    pipeline.reach_stores(spec)
    job = pipeline.begun_job(spec)
    lines = [f"{path}: job {spec.name}, run directory {spec.run}"]
    hours: dict[str, float] = {}
    warnings, todo = [], []
    for stage in pipeline.stages_of(spec):
        plan, misfit = stage.plan(job), _misfit(job, stage)
        done = job.run.finished(stage.name) and misfit is None
        lines.append(f"  {stage.name:<10} {plan.work}{' (done)' if done else ''}")
        if misfit is not None:
            warnings.append(f"  warning: `run` would stop here: {stage.name}: {misfit}")
        if done:
            continue
        if plan.gpu_seconds is not None:
            hours[stage.name] = plan.gpu_seconds / 3600
        if misfit is None:
            todo.append((stage, plan.amount))
    lines.append(f"  photos     {job.photos.source}")
    lines += warnings
    if sum(hours.values()) > LEAST_GPU_HOURS:
        each = ", ".join(f"{name} {number:.2g}" for name, number in hours.items())
        lines.append(
            f"  GPUs       ~{sum(hours.values()):.2g} GPU hours of an H200 in all ({each}): a "
            "guess from the number of operations, not measured"
        )
    if measure:
        lines += _measured(job, todo)
    return "\n".join(lines)


def _measured(job: Job, todo: list[tuple[Stage, int | None]]) -> list[str]:
    """Return a line for every stage with the rate of one worker on this machine."""
    device = rates.measured_device(job.spec.device)
    lines = [f"  measured   one worker on {rates.device_name(device)}:"]
    for stage, amount in todo:
        rate = stage.measure(job, device)
        if rate is None:
            continue
        line = f"    {stage.name:<10} {rate:.3g} {stage.unit}/s"
        if amount is not None:
            line += f": {duration(amount / rate)} of one worker"
        lines.append(line)
    return lines


def _misfit(job: Job, stage: Stage) -> str | None:
    """Return why a stage cannot work, or not in this run directory; None where it can."""
    try:
        job.check(stage)
    except DistfaceganError as error:
        return str(error)
    return None
