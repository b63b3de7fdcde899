"""`distfacegan bench invert`: every way of inverting a generator, interleaved, on the same faces.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1]. A generator step is one
evaluation of G and its gradient by z, for one image.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import resource
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from distfacegan import spec
from distfacegan.bench import baselines
from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.inversion import Inverter
from distfacegan.core.networks import Generator
from distfacegan.core.seeding import uniform_latents
from distfacegan.core.surrogate import Surrogate, SurrogateTraining, draw_pictures

log = logging.getLogger(__name__)

PAPER_STEPS, CLIP_STEPS = 500, 300  # whose losses the others are to reach
MARKS = (5, 10, 20, 40)  # steps after which losses are compared
TIMED_STEPS = 20  # of the loop, which makes the same losses as the batch
LBFGS_STEPS = 100
STEPS = {"paper": PAPER_STEPS, "clip": PAPER_STEPS, "bfgs": 40, "fast": 40}
RECIPES = {
    "paper": ("paper", None),
    "clip": ("clip", 1.0),
    "bfgs, free": ("bfgs", None),
    "fast, free": ("fast", None),
    "bfgs, box": ("bfgs", 1.0),
    "fast, box": ("fast", 1.0),
}

Steps = Iterator[tuple[Tensor, Tensor]]


@dataclasses.dataclass
class Curve:
    """What one way did: over faces the best loss after each step, and the time it took."""

    losses: list[Tensor] = dataclasses.field(default_factory=list)  # of a chunk: [steps, faces]
    seconds: list[list[float]] = dataclasses.field(default_factory=list)  # a face, cumulated
    outside: list[float] = dataclasses.field(default_factory=list)  # share of |z| > 1 at the end

    @property
    def mean(self) -> Tensor:
        """The mean loss over all faces, after each step."""
        return torch.cat(self.losses, dim=1).mean(1)

    def steps_to(self, loss: float) -> int | None:
        """Return the steps after which the mean loss is at most `loss`; None if it never is."""
        reached = (self.mean <= loss).nonzero()
        return int(reached[0]) + 1 if len(reached) else None

    def seconds_to(self, step: int) -> float:
        """Return the seconds of one face up to a step: the median over chunks."""
        return statistics.median(times[step - 1] for times in self.seconds)

    def step_seconds(self) -> float:
        """Return the seconds of one generator step, without the start: the median over chunks."""
        per_step = [(times[-1] - times[0]) / (len(times) - 1) for times in self.seconds]
        return statistics.median(per_step)


def measure(
    generator: Generator,
    faces: Tensor,
    *,
    surrogate: Surrogate,
    dtype: torch.dtype = torch.float32,
    batch: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Invert faces [B, 3, R, R] in every way, and return what was measured, as for `--json`.

    Chunks of `batch` faces are inverted by all ways in turn, so that a slow phase of the machine
    hits all of them. Ours compute G in `dtype`, as the plain batch does.
    """
    peak = matrix_peak(faces.device, dtype)
    inverters = {
        name: Inverter(
            generator,
            recipe=recipe,
            seed=seed,
            steps=STEPS[recipe],
            radius=radius,
            precision="bf16" if dtype == torch.bfloat16 else "fp32",
            surrogate=surrogate,
        )
        for name, (recipe, radius) in RECIPES.items()
    }
    curves = {name: Curve() for name in ("loop", "batch", "L-BFGS", *RECIPES)}
    for first in range(0, len(faces), batch):
        chunk, rows = faces[first : first + batch], range(first, min(first + batch, len(faces)))
        start = uniform_latents(seed, rows, generator.latent_dim, stream="inversion")
        z = torch.from_numpy(start).to(faces.device)

        def ways() -> Iterator[tuple[str, Steps]]:  # none of them begins before it is followed
            loop = baselines.loop(generator, chunk[:1], z[:1])  # noqa: B023
            plain = baselines.batch(generator, chunk, z, dtype)  # noqa: B023
            lbfgs = baselines.lbfgs(generator, chunk, z, dtype)  # noqa: B023
            yield "loop", itertools.islice(loop, TIMED_STEPS)
            yield "batch", itertools.islice(plain, TIMED_STEPS)
            yield "L-BFGS", itertools.islice(lbfgs, LBFGS_STEPS)
            for name, inverter in inverters.items():
                found = inverter.iterate(chunk, rows)  # noqa: B023
                yield name, ((best.z, best.loss) for best in found)

        if first == 0:  # what is made on first use is nobody's time
            for _, way in ways():
                _follow(Curve(), itertools.islice(way, 2))
        for name, way in ways():
            _follow(curves[name], way)
        log.info("bench: %d of %d faces", rows.stop, len(faces))
    return _summary(generator, curves, peak, dtype, faces.device)


def _follow(curve: Curve, way: Steps) -> None:
    """Run one way on one chunk."""
    losses, seconds = [], []
    started = time.perf_counter()
    for z, loss in way:
        losses.append(loss)
        if loss.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        last = z
    best = torch.stack(losses).float().cpu().cummin(0).values
    curve.losses.append(best)
    curve.seconds.append([second / best.shape[1] for second in seconds])
    curve.outside.append((last.abs() > 1).float().mean().item())


def _summary(
    generator: Generator,
    curves: dict[str, Curve],
    peak: float,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    paper = curves["paper"].mean[-1].item()
    clip = curves["clip"].mean[CLIP_STEPS - 1].item()
    frozen, plain = step_flops(generator), step_flops(generator, plain=True)
    ways: dict[str, dict[str, Any]] = {}
    for name, curve in curves.items():
        curve_flops = plain if name in ("loop", "batch", "L-BFGS") else frozen
        rate = 1 / curve.step_seconds()
        reached = curve.steps_to(paper)
        ways[name] = {
            "image_steps_per_s": rate,
            "share_of_peak": rate * curve_flops / peak,
            "steps_to_paper_loss": reached,
            "steps_to_clip_loss": curve.steps_to(clip),
            "ms_to_paper_loss": reached and 1000 * curve.seconds_to(reached),
            "loss": {
                str(step): curve.mean[step - 1].item()
                for step in (*MARKS, len(curve.mean))
                if step <= len(curve.mean) and name not in ("loop", "batch")
            },
            "outside": statistics.mean(curve.outside),
            "curve": curve.mean.tolist() if name not in ("loop", "batch") else [],
        }
    # The loop and the batch compute what "paper" does: they take its steps, in their own time.
    for name in ("loop", "batch"):
        ways[name]["steps_to_paper_loss"] = PAPER_STEPS
        ways[name]["ms_to_paper_loss"] = 1000 * PAPER_STEPS / ways[name]["image_steps_per_s"]
    fast, boxed = ways["fast, free"], ways["fast, box"]
    own = fast["ms_to_paper_loss"]
    return {
        "device": _describe(device),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "resolution": generator.resolution,
        "width": generator.width,
        "faces": sum(losses.shape[1] for losses in curves["paper"].losses),
        "paper_loss": paper,
        "clip_loss": clip,
        "peak_tflops": peak / 1e12,
        "step_gflop": frozen / 1e9,
        "step_gflop_plain": plain / 1e9,
        "steps_to_paper_loss": fast["steps_to_paper_loss"],
        "steps_to_clip_loss": boxed["steps_to_clip_loss"],
        "speedup_over_loop": own and ways["loop"]["ms_to_paper_loss"] / own,
        "speedup_over_batch": own and ways["batch"]["ms_to_paper_loss"] / own,
        "image_steps_per_s": fast["image_steps_per_s"],
        "share_of_peak": fast["share_of_peak"],
        "memory_gb": _memory(device) / 1e9,
        "ways": ways,
    }


def step_flops(generator: Generator, *, plain: bool = False) -> float:
    """Return the operations of one generator step of one image: G, and its gradient by z.

    As the frozen form does them, or the plain one.
    """
    pixels, side = 0.0, generator.base
    for i in range(2 * generator.levels):
        upsamples = i > 0 and i % 2 == 0
        side *= 2 if upsamples else 1
        pixels += side**2 * (4 / 9 if upsamples and not plain else 1.0)
    convolutions = 9 * generator.width * (generator.width * pixels + 3 * side**2)
    stem = generator.latent_dim * generator.width * generator.base**2
    return 2 * 2 * (convolutions + stem)


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Return the operations a second of a large matrix product: the median of ten."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(times[2:])


def train_surrogate(
    generator: Generator, settings: spec.Surrogate, seed: int = 0
) -> tuple[Surrogate, float]:
    """Return the surrogate of a generator, as a job's settings ask for, and the seconds it took."""
    started = time.perf_counter()
    frozen = FrozenGenerator(generator)
    z, drawn = draw_pictures(frozen, seed, settings.pictures)
    training = SurrogateTraining(
        frozen, z, drawn, seed=seed, steps=settings.steps, width=settings.width
    )
    while training.num_steps < training.steps:
        training.step()
    return training.surrogate, time.perf_counter() - started


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    lines = [
        f"{result['device']}, {result['threads']} threads, {result['dtype']}; matrix product "
        f"{result['peak_tflops']:.3f} TFLOP/s; {result['faces']} faces of {result['resolution']} "
        f"px; a step {result['step_gflop']:.3f} GFLOP ({result['step_gflop_plain']:.3f} plain)",
        f"paper's loss after {PAPER_STEPS} steps {result['paper_loss']:.4f}; "
        f"clip's after {CLIP_STEPS} {result['clip_loss']:.4f}",
        "",
        f"{'way':12} {'to paper':>9} {'to clip':>8} {'ms/face':>9} {'steps/s':>9} {'of peak':>8}"
        + "".join(f"{f'at {step}':>8}" for step in MARKS)
        + f"{'end':>8} {'outside':>8}",
    ]
    for name, way in result["ways"].items():
        end = way["curve"][-1] if way["curve"] else None
        lines.append(
            f"{name:12} {_show(way['steps_to_paper_loss'], '9')} "
            f"{_show(way['steps_to_clip_loss'], '8')} {_show(way['ms_to_paper_loss'], '9.1f')} "
            f"{way['image_steps_per_s']:9.1f} {way['share_of_peak']:8.1%}"
            + "".join(_show(way["loss"].get(str(step)), "8.4f") for step in MARKS)
            + f"{_show(end, '8.4f')} {way['outside']:8.1%}"
        )
    lines += [
        "",
        f"fast, free, to the paper's loss: {_show(result['speedup_over_loop'], '.0f')} times the "
        f"loop, {_show(result['speedup_over_batch'], '.0f')} times the batch "
        f"(surrogate made in {result['surrogate_s']:.0f} s; {result['memory_gb']:.1f} GB for all)",
    ]
    return "\n".join(lines)


def _show(value: float | None, form: str) -> str:
    return "-".rjust(int(form.partition(".")[0] or 1)) if value is None else format(value, form)


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _memory(device: torch.device) -> int:
    """Return the largest memory so far, bytes: of the device, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
