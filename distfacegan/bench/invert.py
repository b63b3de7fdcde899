"""`distfacegan bench invert`: every way of inverting a generator, interleaved, on the same faces.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1]. A generator step is one
evaluation of G and its gradient by z, for one image.
"""

from __future__ import annotations

import functools
import itertools
import logging
import resource
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from distfacegan import spec
from distfacegan.bench import baselines, roofline
from distfacegan.bench.baselines import Steps
from distfacegan.bench.curves import Curve
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import LatentModel, latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.objective import error_at
from distfacegan.core.recipes import RECIPES
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate, SurrogateTraining, draw_thumbnails

log = logging.getLogger(__name__)

PAPER_STEPS = 500  # whose loss the others are to reach
CLIP_STEPS = (200, 300, 500)  # the same, in the box
MARKS = (5, 10, 20, 40)  # steps after which losses are compared
TIMED_STEPS = 20  # of the loop and the batch, which find what "paper" does
LBFGS_STEPS = 100
STEPS = 40  # of the other recipes
# Each way with one of our recipes, its recipe and its radius: the references, and all others both
# without a bound and in the box.
REFERENCES = {"paper": ("paper", None), "clip": ("clip", 1.0)}
OURS = REFERENCES | {
    f"{recipe}, {where}": (recipe, radius)
    for where, radius in (("free", None), ("box", 1.0))
    for recipe in RECIPES
    if recipe not in REFERENCES
}
TIMED = ("loop", "batch")
PLAIN = (*TIMED, "L-BFGS")
RECOVERED_RMS = 0.05  # of z, within which a latent counts as found again


def measure(
    generator: Generator,
    faces: Tensor,
    *,
    learns: spec.SurrogateSettings,
    precision: str = "fp32",
    batch: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Invert faces [B, 3, R, R] in every way, and return what was measured, as for `--json`.

    `learns` says how the surrogate of "fast" is trained, before all else.

    Chunks of `batch` faces are inverted by all ways in turn, so that a slow phase of the machine
    hits all of them. Ours and the plain batch compute G in `precision`; losses are of fp32.
    """
    device, dtype = faces.device, torch.bfloat16 if precision == "bf16" else torch.float32
    exact = latent_model(generator)
    surrogate, seconds = _train_surrogate(exact, learns, seed)
    peaks, bandwidths = [], []
    shared: dict[str, Any] = {"seed": seed, "precision": precision}
    inverters = {}
    for name, (recipe, radius) in OURS.items():
        steps = PAPER_STEPS if name in REFERENCES else STEPS
        search = Search(recipe=recipe, steps=steps, radius=radius, **shared)
        inverters[name] = Inverter(exact, search, surrogate)
    curves = {name: Curve() for name in (*PLAIN, *OURS)}
    for first in range(0, len(faces), batch):
        chunk, rows = faces[first : first + batch], range(first, min(first + batch, len(faces)))
        start = exact.prior.draw(seed, rows, exact.latent_dim, stream="inversion")
        z = torch.from_numpy(start).to(device)
        peaks.append(roofline.matrix_peak(device, dtype))
        bandwidths.append(roofline.bandwidth(device))
        if first == 0:  # what is made on first use is nobody's time
            for name in curves:
                way = _way(name, generator, chunk, z, rows, inverters, dtype)
                Curve().follow(itertools.islice(way, 2))
        for name, curve in curves.items():
            way = _way(name, generator, chunk, z, rows, inverters, dtype)
            rounds = precision != "fp32" and name not in TIMED
            curve.follow(way, functools.partial(error_at, exact, faces=chunk) if rounds else None)
        log.info("bench: %d of %d faces", rows.stop, len(faces))
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "resolution": generator.resolution,
        "width": generator.width,
        "faces": len(faces),
        "batch": batch,
        **_summary(generator, curves, (max(peaks), max(bandwidths)), dtype),
        "recovered": _recovered(exact, inverters["fast, box"], batch, seed),
        "surrogate_s": seconds,
        "memory_gb": _memory(device) / 1e9,
    }


def _way(
    name: str,
    generator: Generator,
    faces: Tensor,
    z: Tensor,
    rows: range,
    inverters: dict[str, Inverter],
    dtype: torch.dtype,
) -> Steps:
    """Return one way over faces that start at z (or where a recipe starts): nothing runs yet."""
    if name == "loop":
        return itertools.islice(baselines.loop(generator, faces[:1], z[:1]), TIMED_STEPS)
    if name == "batch":
        return itertools.islice(baselines.batch(generator, faces, z, dtype), TIMED_STEPS)
    if name == "L-BFGS":
        return itertools.islice(baselines.lbfgs(generator, faces, z, dtype), LBFGS_STEPS)
    return ((best.z, best.loss) for best in inverters[name].iterate(faces, rows))


def _summary(
    generator: Generator,
    curves: dict[str, Curve],
    rates: tuple[float, float],
    dtype: torch.dtype,
) -> dict[str, Any]:
    peak, bandwidth = rates
    paper = curves["paper"].mean[PAPER_STEPS - 1].item()
    clip = {steps: curves["clip"].mean[steps - 1].item() for steps in CLIP_STEPS}
    frozen, plain = (roofline.step_flops(generator, plain=form) for form in (False, True))
    ways: dict[str, dict[str, Any]] = {}
    for name, curve in curves.items():
        rate = 1 / curve.step_seconds()
        losses = [] if name in TIMED else curve.mean.tolist()
        way = {
            "image_steps_per_s": rate,
            "share_of_peak": None
            if name == "loop" and dtype != torch.float32  # it computes in fp32 all the same
            else rate * (plain if name in PLAIN else frozen) / peak,
            "outside": None if name in TIMED else statistics.mean(curve.outside),
            "loss": {str(mark): losses[mark - 1] for mark in MARKS if mark <= len(losses)},
            "curve": losses,
        }
        # The loop and the batch compute what "paper" does: they take its steps, in their own time.
        steps = PAPER_STEPS if name in TIMED else curve.steps_to(paper)
        seconds = steps and (steps / rate if name in TIMED else curve.seconds_to(steps))
        ways[name] = {
            "steps_to_paper_loss": steps,
            "ms_to_paper_loss": seconds and 1000 * seconds,
            "steps_to_clip_loss": None
            if name in TIMED
            else {str(at): curve.steps_to(loss) for at, loss in clip.items()},
            **way,
        }
    fast, boxed = ways["fast, free"], ways["fast, box"]
    own, moved = fast["ms_to_paper_loss"], roofline.step_bytes(generator, dtype)
    return {
        "paper_loss": paper,
        "clip_loss": {str(at): loss for at, loss in clip.items()},
        "steps_to_paper_loss": fast["steps_to_paper_loss"],
        "steps_to_clip_loss": boxed["steps_to_clip_loss"][str(CLIP_STEPS[1])],
        "speedup_over_loop": own and ways["loop"]["ms_to_paper_loss"] / own,
        "speedup_over_batch": own and ways["batch"]["ms_to_paper_loss"] / own,
        "image_steps_per_s": fast["image_steps_per_s"],
        "share_of_peak": fast["share_of_peak"],
        "roofline": {
            "peak_tflops": peak / 1e12,
            "bandwidth_gb_per_s": bandwidth / 1e9,
            "step_gflop": frozen / 1e9,
            "step_gflop_plain": plain / 1e9,
            "step_mb": moved / 1e6,
            "compute_floor_ms": 1000 * frozen / peak,
            "memory_floor_ms": 1000 * moved / bandwidth,
            "reached_ms": 1000 / fast["image_steps_per_s"],
        },
        "ways": ways,
    }


def _recovered(model: LatentModel, inverter: Inverter, batch: int, seed: int) -> float:
    """Return the share of faces of G's own, z from the prior, whose z is found again."""
    rows = range(4 * batch)
    z = torch.from_numpy(model.prior.draw(seed, rows, model.latent_dim, stream="recovered"))
    with torch.no_grad():
        faces = [model(part.to(model.device)) for part in z.split(batch)]
    found = [inverter(faces[i], rows[i * batch : (i + 1) * batch]).z for i in range(len(faces))]
    rms = (torch.cat(found) - z).square().mean(1).sqrt()
    return (rms < RECOVERED_RMS).float().mean().item()


def _train_surrogate(
    model: LatentModel, settings: spec.SurrogateSettings, seed: int
) -> tuple[Surrogate, float]:
    """Return the surrogate of a generator, as a job's settings ask for, and the seconds it took."""
    log.info("bench: learns %d of the generator's pictures", settings.pictures)
    started = time.perf_counter()
    z, drawn = draw_thumbnails(model, seed, settings.pictures)
    training = SurrogateTraining(
        model, z, drawn, seed=seed, steps=settings.steps, width=settings.width
    )
    while training.num_steps < training.steps:
        training.step()
    return training.surrogate, time.perf_counter() - started


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    roof, clip = result["roofline"], result["clip_loss"]
    clip_losses = ", ".join(f"{loss:.4f} after {steps}" for steps, loss in clip.items())
    lines = [
        f"{result['device']}, {result['threads']} threads, {result['precision']}; "
        f"{result['faces']} faces of {result['resolution']} px, {result['batch']} together",
        f"paper's loss {result['paper_loss']:.4f} after {PAPER_STEPS} steps; clip's {clip_losses}",
        "",
        f"{'way':12}{'to paper':>9}{'to clip':>14}{'ms/face':>10}{'steps/s':>9}{'of peak':>9}"
        + "".join(f"{f'at {step}':>8}" for step in MARKS)
        + f"{'end':>8}{'outside':>9}",
    ]
    for name, way in result["ways"].items():
        to_clip = (way["steps_to_clip_loss"] or {}).values()
        lines.append(
            f"{name:12}{_show(way['steps_to_paper_loss'], 9)}"
            f"{'/'.join(_show(steps) for steps in to_clip) or '-':>14}"
            f"{_show(way['ms_to_paper_loss'], 10, '.1f')}{way['image_steps_per_s']:9.1f}"
            f"{_show(way['share_of_peak'], 9, '.1%')}"
            + "".join(_show(way["loss"].get(str(step)), 8, ".4f") for step in MARKS)
            + _show(way["curve"][-1] if way["curve"] else None, 8, ".4f")
            + _show(way["outside"], 9, ".1%")
        )
    lines += [
        "",
        f"fast, free, to the paper's loss: {_show(result['speedup_over_loop'], 0, '.0f')} times "
        f"the loop, {_show(result['speedup_over_batch'], 0, '.0f')} times the batch "
        f"(surrogate made in {result['surrogate_s']:.0f} s; {result['memory_gb']:.1f} GB for all)",
        f"a step: {roof['step_gflop']:.3f} GFLOP ({roof['step_gflop_plain']:.3f} plain) at "
        f"{roof['peak_tflops']:.3f} TFLOP/s of a matrix product is {roof['compute_floor_ms']:.2f} "
        f"ms, {roof['step_mb']:.1f} MB at {roof['bandwidth_gb_per_s']:.1f} GB/s of a copy "
        f"{roof['memory_floor_ms']:.2f} ms; reached {roof['reached_ms']:.2f} ms",
        f"G's own faces in the box: {result['recovered']:.1%} have their z found again, within "
        f"{RECOVERED_RMS} rms",
    ]
    return "\n".join(lines)


def _show(value: float | None, width: int = 0, form: str = "") -> str:
    return ("-" if value is None else format(value, form)).rjust(width)


def _memory(device: torch.device) -> int:
    """Return the largest memory so far, bytes: of the device, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
