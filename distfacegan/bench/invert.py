"""`distfacegan bench invert`: every way of inverting a generator, interleaved, on the same faces.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1]. A generator step is one
evaluation of G and its gradient by z, for one image.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distfacegan.bench import baselines, roofline
from distfacegan.bench.baselines import Steps
from distfacegan.bench.curves import Curve
from distfacegan.bench.plain_began import PlainGenerator
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import AutogradModel, LatentModel, latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.objective import error_at, reconstruction_error
from distfacegan.core.recipes import RECIPES
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate, SurrogateTraining, draw_thumbnails
from distfacegan.sections.invert import SurrogateSettings

log = logging.getLogger(__name__)

PAPER_STEPS = 500  # the other ways are to reach the loss that the paper's recipe then has
CLIP_STEPS = (200, 300, 500)  # the same for the paper's recipe in the box
MARKS = (5, 10, 20, 40)  # steps after which losses are compared
TIMED_STEPS = 20  # of the ways that compute what "paper" does: only their time is of interest
LBFGS_STEPS = 100
STEPS = 40  # of every other way

# The recipe and the radius of each of our ways: the two references, then every other recipe without
# a bound and in the box.
REFERENCES = {"paper": ("paper", None), "clip": ("clip", 1.0)}
OURS = REFERENCES | {
    f"{recipe}, {where}": (recipe, radius)
    for where, radius in (("free", None), ("box", 1.0))
    for recipe in RECIPES
    if recipe not in REFERENCES
}
TIMED = ("loop", "batch")
PLAIN = (*TIMED, "L-BFGS")

Way = Callable[
    [Tensor, range, Tensor], Steps
]  # faces, rows and starts; some ways ignore the starts


def measure(
    generator: Generator,
    faces: Tensor,
    *,
    learns: SurrogateSettings,
    precision: str = "fp32",
    batch: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Invert faces [B, 3, R, R] in every way, and return what was measured, as for `--json`.

    `learns` are the settings of the surrogate, which is trained first. All ways take their turn on
    each `batch` of faces, so that a slow phase of the machine slows all of them. Ours and the plain
    batch compute G in `precision`; losses are of fp32.
    """
    device, dtype = faces.device, torch.bfloat16 if precision == "bf16" else torch.float32
    exact, plain = latent_model(generator), PlainGenerator.copy_of(generator)
    started = time.perf_counter()
    surrogate = _train_surrogate(exact, learns, seed)
    surrogate_s = time.perf_counter() - started
    ways = _ways(exact, plain, surrogate, precision, seed)
    curves = {name: Curve() for name in ways}
    peaks, bandwidths = [], []
    for first in range(0, len(faces), batch):
        chunk, rows = faces[first : first + batch], range(first, min(first + batch, len(faces)))
        drawn = exact.prior.draw(seed, rows, exact.latent_dim, stream="inversion")
        z = torch.from_numpy(drawn).to(device)
        peaks.append(roofline.matrix_peak(device, dtype))
        bandwidths.append(roofline.bandwidth(device))
        for name, way in ways.items():
            if first == 0:  # the first use of a way is slower than all others
                Curve().follow(itertools.islice(way(chunk, rows, z), 2))
            rescored = precision != "fp32" and name not in TIMED
            score = functools.partial(error_at, exact, faces=chunk) if rescored else None
            curves[name].follow(way(chunk, rows, z), score)
        log.info("bench: %d of %d faces", rows.stop, len(faces))
    one, face = torch.zeros(1, exact.latent_dim, device=device), faces[:1]
    flops = roofline.operations(lambda: exact.step(one, face))
    plain_flops = roofline.operations(lambda: plain_step(plain, one, face))
    peak = max(peaks)
    found = _summary(curves, {name: plain_flops if name in PLAIN else flops for name in ways}, peak)
    if precision != "fp32":  # the loop computes in fp32 all the same
        found["ways"]["loop"]["share_of_peak"] = None
    return {
        "device": roofline.device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "resolution": generator.resolution,
        "width": generator.width,
        "faces": len(faces),
        "batch": batch,
        "surrogate_s": surrogate_s,
        **found,
        "roofline": {
            **roofline.floors(flops, roofline.step_bytes(generator, dtype), peak, max(bandwidths)),
            "step_gflop_plain": plain_flops / 1e9,
            "reached_ms": 1000 / found["image_steps_per_s"],
        },
    }


def plain_step(generator: PlainGenerator, z: Tensor, faces: Tensor) -> None:
    """Do a generator step with `backward`: PyTorch's counter cannot follow a module and `grad`."""
    generator.requires_grad_(False)
    reconstruction_error(faces, generator(z.requires_grad_())).sum().backward()


def _ways(
    exact: LatentModel, plain: PlainGenerator, surrogate: Surrogate, precision: str, seed: int
) -> dict[str, Way]:
    """Return all ways by name; none runs before it is iterated."""
    well_written = copy.deepcopy(plain)
    well_written.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shared: dict[str, Any] = {"seed": seed, "precision": precision}
    batched = Inverter(
        AutogradModel(well_written, latent_dim=exact.latent_dim),
        Search(recipe="paper", steps=TIMED_STEPS, **shared),
    )
    ways: dict[str, Way] = {
        "loop": lambda faces, rows, z: itertools.islice(
            baselines.loop(plain, faces[:1], z[:1]), TIMED_STEPS
        ),
        "batch": functools.partial(_invert, batched),
        "L-BFGS": lambda faces, rows, z: itertools.islice(
            baselines.lbfgs(batched.model, faces, z), LBFGS_STEPS
        ),
    }
    for name, (recipe, radius) in OURS.items():
        steps = PAPER_STEPS if name in REFERENCES else STEPS
        search = Search(recipe=recipe, steps=steps, radius=radius, **shared)
        ways[name] = functools.partial(_invert, Inverter(exact, search, surrogate))
    return ways


def _invert(inverter: Inverter, faces: Tensor, rows: range, z: Tensor) -> Steps:
    """Yield the best latents and their losses; the recipe itself says where it starts."""
    return ((best.z, best.loss) for best in inverter.iterate(faces, rows))


def _summary(curves: dict[str, Curve], flops: dict[str, float], peak: float) -> dict[str, Any]:
    """Compare the ways, whose steps do these operations on a machine of this peak."""
    paper = curves["paper"].mean[PAPER_STEPS - 1].item()
    clip = {steps: curves["clip"].mean[steps - 1].item() for steps in CLIP_STEPS}
    ways: dict[str, dict[str, Any]] = {}
    for name, curve in curves.items():
        rate, timed = 1 / curve.step_seconds(), name in TIMED
        losses = [] if timed else curve.mean.tolist()
        # The timed ways compute what "paper" does, so they need as many steps, in their own time.
        steps = PAPER_STEPS if timed else curve.steps_to(paper)
        seconds = steps and (steps / rate if timed else curve.seconds_to(steps))
        to_clip = {str(at): curve.steps_to(loss) for at, loss in clip.items()}
        ways[name] = {
            "steps_to_paper_loss": steps,
            "ms_to_paper_loss": seconds and 1000 * seconds,
            "steps_to_clip_loss": None if timed else to_clip,
            "image_steps_per_s": rate,
            "share_of_peak": rate * flops[name] / peak,
            "outside": None if timed else statistics.mean(curve.outside),
            "loss": {str(mark): losses[mark - 1] for mark in MARKS if mark <= len(losses)},
            "curve": losses,
        }
    fast = ways["fast, free"]
    own = fast["ms_to_paper_loss"]
    return {
        "paper_loss": paper,
        "clip_loss": {str(at): loss for at, loss in clip.items()},
        "steps_to_paper_loss": fast["steps_to_paper_loss"],
        "steps_to_clip_loss": ways["fast, box"]["steps_to_clip_loss"][str(CLIP_STEPS[1])],
        "speedup_over_loop": own and ways["loop"]["ms_to_paper_loss"] / own,
        "speedup_over_batch": own and ways["batch"]["ms_to_paper_loss"] / own,
        "image_steps_per_s": fast["image_steps_per_s"],
        "share_of_peak": fast["share_of_peak"],
        "ways": ways,
    }


def _train_surrogate(model: LatentModel, settings: SurrogateSettings, seed: int) -> Surrogate:
    log.info("bench: trains the surrogate on %d images", settings.pictures)
    drawn = draw_thumbnails(model, seed, settings.pictures)
    training = SurrogateTraining(
        model, *drawn, seed=seed, steps=settings.steps, width=settings.width
    )
    while training.num_steps < training.steps:
        training.step()
    return training.surrogate


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
        f"(surrogate made in {result['surrogate_s']:.0f} s)",
        f"a step: {roof['step_gflop']:.3f} GFLOP ({roof['step_gflop_plain']:.3f} plain) at "
        f"{roof['peak_tflops']:.3f} TFLOP/s of a matrix product is {roof['compute_floor_ms']:.2f} "
        f"ms, {roof['step_mb']:.1f} MB at {roof['bandwidth_gb_per_s']:.1f} GB/s of a copy "
        f"{roof['memory_floor_ms']:.2f} ms; reached {roof['reached_ms']:.2f} ms",
    ]
    return "\n".join(lines)


def _show(value: float | None, width: int = 0, form: str = "") -> str:
    return ("-" if value is None else format(value, form)).rjust(width)
