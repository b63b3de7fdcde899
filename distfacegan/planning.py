"""What a job would do and need, before anything runs. Figures marked ~ are estimates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from distfacegan.core.networks import Discriminator, Generator
from distfacegan.errors import DistfaceganError, SourceError
from distfacegan.pipeline import MODULES
from distfacegan.spec import Began, Invert, JobSpec
from distfacegan.stages.feed import memory_bytes
from distfacegan.store.run_directory import RunDirectory

# What one GPU does, for the estimate of GPU hours: a third of the 790 TFLOP/s that an H200's bf16
# matrix product was measured at for the long batches of the inversion, a tenth for training.
INVERSION_FLOPS = 2.6e14
TRAINING_FLOPS = 0.8e14
JPEG_BITS_PER_PIXEL = 3.0  # of a face at quality 95
LEAST_GPU_HOURS = 0.01  # that are worth a line


def describe(spec: JobSpec, path: Path) -> str:
    """Return the plan of a job as a text. Reads only the listing of the photos, if they are here.

    Raises DistfaceganError where the spec cannot work.
    """
    rows, source = _photos(spec)
    lines = [f"{path}: job {spec.name}, run directory {spec.run}"]
    run = RunDirectory(spec.run)
    misfits = {stage: _misfit(spec, stage) for stage in spec.stages}
    for stage in spec.stages:
        state = " (done)" if run.finished(stage) and not misfits[stage] else ""
        work = _WORK[stage](spec, rows) if stage in _WORK else "a page and its numbers"
        lines.append(f"  {stage:<10} {work}{state}")
    lines.append(f"  photos     {source}")
    warnings = [f"{stage}: {misfit}" for stage, misfit in misfits.items() if misfit]
    lines += [f"  warning: `run` would stop here: {warning}" for warning in warnings]
    hours = _gpu_hours(spec, rows)
    if hours > LEAST_GPU_HOURS:
        lines.append(
            f"  GPUs       ~{hours:.2g} GPU hours of an H200 in all (estimated from the number of "
            "operations, not measured)"
        )
    return "\n".join(lines)


def _misfit(spec: JobSpec, stage: str) -> str | None:
    """Return why a stage cannot work, or not in this run directory; None where it can."""
    try:
        RunDirectory(spec.run).check(stage, MODULES[stage].settings(spec))
    except DistfaceganError as error:
        return str(error)
    return None


def generator_flops(section: Began) -> float:
    """Return the floating-point operations of one forward pass of G for one face."""
    return _conv_flops(Generator(**_shape(section)), section)


def _photos(spec: JobSpec) -> tuple[int | None, str]:
    """Return how many photos there are, and a line about the source."""
    if spec.ingest is None:
        return None, "those of the run directory"
    source = spec.ingest.source
    try:
        count = source.num_photos(spec.seed)
    except SourceError:
        if source.is_here():
            raise
        assumed = source.assumed_count
        return assumed, "not known" if assumed is None else f"{assumed:,} are assumed"
    return count, source.describe(count)


def _ingest(spec: JobSpec, rows: int | None) -> str:
    assert spec.ingest is not None
    side = spec.ingest.resolution
    return _rows(rows, spec.ingest.shard_rows, side * side * 3) + f" at {side}x{side}"


def _landmarks(spec: JobSpec, rows: int | None) -> str:
    assert spec.landmarks is not None
    return _rows(rows, _shard_rows(spec), 49 * 12) + f", detector {spec.landmarks.detector.kind}"


def _began(spec: JobSpec, rows: int | None) -> str:
    section = spec.began
    assert section is not None
    shape = _shape(section)
    numbers = sum(
        p.numel() for net in (Generator(**shape), Discriminator(**shape)) for p in net.parameters()
    )
    faces = ""
    if rows is not None:
        held, whole = memory_bytes(section, rows, _shard_rows(spec))
        faces = f", {_bytes(held)} of faces a worker" + ("" if whole else " at a time, streamed")
    least = "" if section.min_workers is None else f"{section.min_workers} to "
    return (
        f"{section.steps:,} steps of {section.batch} faces at {section.resolution}x"
        f"{section.resolution} on {least}{section.workers} workers; {numbers / 1e6:.2f} M weights"
        f"{faces}"
    )


def _invert(spec: JobSpec, rows: int | None) -> str:
    section = spec.invert
    assert section is not None
    dim = spec.began.latent_dim if spec.began else 64
    retry = section.retry
    again = f", the worst {retry.worst:.3%} from {retry.starts} starts" if retry else ""
    work = f"{section.recipe}, {section.steps} steps{again}"
    return f"{_rows(rows, _shard_rows(spec), dim * 4)}, {work}"


def _lgen(spec: JobSpec, rows: int | None) -> str:
    assert spec.lgen is not None
    return f"{spec.lgen.trials} trials of {spec.lgen.epochs} epochs, then two trainings of the best"


def _synthesize(spec: JobSpec, rows: int | None) -> str:
    section = spec.synthesize
    assert section is not None
    side = spec.began.resolution if spec.began else 128
    return _rows(section.count, section.shard_rows, side * side * JPEG_BITS_PER_PIXEL / 8 + 2000)


_WORK = {
    "ingest": _ingest,
    "landmarks": _landmarks,
    "began": _began,
    "invert": _invert,
    "lgen": _lgen,
    "synthesize": _synthesize,
}


def _gpu_hours(spec: JobSpec, rows: int | None) -> float:
    section = spec.began
    if section is None:
        return 0.0
    g = generator_flops(section)
    # A training step is G, and D over real and generated faces, forward and twice that back.
    d = _conv_flops(Discriminator(**_shape(section)), section)
    seconds = section.steps * section.batch * 3 * (g + 2 * d) / TRAINING_FLOPS
    if spec.invert is not None and rows:
        seconds += rows * _inversion_steps(spec.invert) * 2 * g / INVERSION_FLOPS
    return seconds / 3600


def _inversion_steps(section: Invert) -> float:
    """Return the generator steps of one row, in the mean."""
    assert section.steps is not None  # a spec fills them in
    retry = section.retry
    if retry is None:
        return section.steps
    assert retry.steps is not None
    return section.steps + retry.worst * retry.starts * retry.steps


def _conv_flops(network: Generator | Discriminator, section: Began) -> float:
    """Count multiplications and additions of the convolutions, by the size of their output."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    shape = (1, 3, section.resolution, section.resolution)
    example = torch.zeros(1, section.latent_dim) if isinstance(network, Generator) else None
    with counter, torch.no_grad():
        network(torch.zeros(shape) if example is None else example)
    return float(counter.get_total_flops())


def _shape(section: Began) -> dict[str, Any]:
    names = ("resolution", "latent_dim", "width", "levels", "skip_connections")
    return {name: getattr(section, name) for name in names}


def _shard_rows(spec: JobSpec) -> int:
    return spec.ingest.shard_rows if spec.ingest else 512


def _rows(rows: int | None, shard_rows: int, row_bytes: float) -> str:
    if rows is None:
        return "the rows of the store"
    count = math.ceil(rows / shard_rows)
    return f"{rows:,} rows in {count:,} shards of {shard_rows}, at most {_bytes(rows * row_bytes)}"


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
