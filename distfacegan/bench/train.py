"""`distfacegan bench train`: BEGAN's training step, plain and ours, interleaved.

The faces are noise: a step costs the same whatever it is shown. PyTorch's own settings of TF32 are
left as they are: on a GPU "fp32" convolves in TF32 and multiplies matrices without it.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from distfacegan.bench import roofline
from distfacegan.bench.plain_began import PlainBegan
from distfacegan.core.began import BeganTrainer

log = logging.getLogger(__name__)

# As in configs/began-quick.yaml and began-128.yaml, which an installed package does not have.
QUICK = {"resolution": 32, "width": 16, "levels": 2, "batch": 16, "loss": "l1", "latent_dim": 64}
PAPER = {"resolution": 128, "width": 64, "levels": 4, "batch": 16, "loss": "l2", "latent_dim": 64}
BATCHES = (16, 32, 64, 128, 256)  # of the fastest way, on a GPU
WARM_UP = 8  # steps, in which the trainer compiles and captures its graph
ROUNDS, ROUND_S = 9, 0.5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to train: the plain one, or ours with settings of the trainer."""

    batch: int
    precision: str = "fp32"
    compiled: bool = False
    graph: bool = True
    plain: bool = False


def defaults(device: torch.device) -> dict[str, Any]:
    """Return the sizes, the batch and the loss that are measured unless others are asked for."""
    return PAPER if device.type == "cuda" else QUICK


def measure(shape: dict[str, Any], batch: int, loss: str, device: torch.device) -> dict[str, Any]:
    """Time all ways in turn, for several rounds, and return what was measured, as for `--json`."""
    from torch._dynamo import config  # not at the top: it takes a second

    ways = _ways(batch, device)
    # Compile every way for its own batch. By default dynamo compiles the second batch for all, and
    # gives up after eight.
    with config.patch(recompile_limit=64, automatic_dynamic_shapes=False):
        seconds, peak = _race(ways, shape, loss, device)
    flops = {plain: step_flops(shape, plain=plain) for plain in (True, False)}
    plain_s = statistics.median(seconds[ways["plain"]])
    found = {}
    for name, way in ways.items():
        if way in seconds:
            step_s, floor_s = statistics.median(seconds[way]), way.batch * flops[way.plain] / peak
            known = device.type == "cpu" or way.precision == "bf16"  # fp32 is TF32 in part on a GPU
            found[name] = {
                "batch": way.batch,
                "ms_per_step": 1000 * step_s,
                "ms_fastest": 1000 * min(seconds[way]),
                "ms_slowest": 1000 * max(seconds[way]),
                "images_per_s": way.batch / step_s,
                "times_plain": plain_s / batch * way.batch / step_s,
                "share_of_peak": floor_s / step_s if known else None,
            }
    return {
        "device": roofline.device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **shape,
        "batch": batch,
        "loss": loss,
        "gflop_per_image": flops[False] / 1e9,
        "gflop_per_image_plain": flops[True] / 1e9,
        "peak_tflops": peak / 1e12,
        "times_plain_at_peak": plain_s / (batch * flops[False] / peak),
        "ways": found,
    }


def step_flops(shape: dict[str, Any], *, plain: bool) -> float:
    """Return the operations of one training step of one image."""
    way = Way(batch=1, plain=plain)
    return roofline.operations(_training(way, shape, "l2", torch.device("cpu")))


def _ways(batch: int, device: torch.device) -> dict[str, Way]:
    ways = {
        "plain": Way(batch, plain=True),
        "ours": Way(batch),
        "ours, compiled": Way(batch, compiled=True),
    }
    if device.type == "cuda":
        ways["ours, bf16"] = Way(batch, "bf16")
        ways["ours, bf16, no graph"] = Way(batch, "bf16", graph=False)
        for count in sorted({batch, *BATCHES}):
            ways[f"ours, bf16, compiled, {count}"] = Way(count, "bf16", compiled=True)
    return ways


def _race(
    ways: dict[str, Way], shape: dict[str, Any], loss: str, device: torch.device
) -> tuple[dict[Way, list[float]], float]:
    """Return the seconds of a step of each way in each round, and the median matrix peak.

    A way that does not fit into the device's memory is left out.
    """
    steps: dict[Way, tuple[Callable[[], None], int]] = {}
    for name, way in ways.items():
        log.info("bench: prepares %s", name)
        try:
            step = _training(way, shape, loss, device)
            _step_seconds(step, WARM_UP, device)
            steps[way] = step, max(2, round(ROUND_S / _step_seconds(step, 2, device)))
        except torch.OutOfMemoryError:
            log.warning("bench: %s does not fit into the memory of the device", name)
    seconds: dict[Way, list[float]] = {way: [] for way in steps}
    peaks = []
    for _ in range(ROUNDS):
        fastest = "bf16" if device.type == "cuda" else "fp32"
        peaks.append(roofline.matrix_peak(device, DTYPES[fastest]))
        for way, (step, count) in steps.items():
            seconds[way].append(_step_seconds(step, count, device))
    return seconds, statistics.median(peaks)


def _training(
    way: Way, shape: dict[str, Any], loss: str, device: torch.device
) -> Callable[[], None]:
    """Return a function that does one training step, on data that lies on the device."""
    trainer = BeganTrainer(
        **shape,
        steps=10**9,
        seed=0,
        loss=loss,
        precision=way.precision,
        compiled=way.compiled,
        device=device,
    )
    random = torch.Generator().manual_seed(0)
    face, z = (3, shape["resolution"], shape["resolution"]), (shape["latent_dim"],)
    faces, z_d, z_g = (
        (torch.rand(way.batch, *size, generator=random) * 2 - 1).to(device) for size in (face, z, z)
    )
    if way.plain:
        plain = PlainBegan(trainer)
        return lambda: plain.step(faces, z_d, z_g)
    if not way.graph:
        trainer._backward = trainer._differentiate
    return lambda: trainer.step(faces, z_g)


def _step_seconds(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Return the mean seconds of a step."""
    roofline.wait(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    roofline.wait(device)
    return (time.perf_counter() - started) / count


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    lines = [
        f"{result['device']}, {result['threads']} threads, PyTorch {result['torch']}; "
        f"{result['resolution']} px, width {result['width']}, {result['levels']} levels, "
        f"{result['loss']}; medians of {ROUNDS} rounds",
        "",
        f"{'way':28}{'batch':>6}{'ms/step':>10}{'images/s':>10}{'times plain':>13}{'of peak':>9}",
    ]
    for name, way in result["ways"].items():
        share = "-" if way["share_of_peak"] is None else f"{way['share_of_peak']:.1%}"
        lines.append(
            f"{name:28}{way['batch']:6}{way['ms_per_step']:10.2f}{way['images_per_s']:10.1f}"
            f"{way['times_plain']:13.2f}{share:>9}"
        )
    plain, ours = result["gflop_per_image_plain"], result["gflop_per_image"]
    lines += [
        "",
        f"an image: {plain:.3f} GFLOP plain, {ours:.3f} ours (1 : {plain / ours:.2f}); a matrix "
        f"product runs at {result['peak_tflops']:.3f} TFLOP/s, at which ours would be "
        f"{result['times_plain_at_peak']:.2f} times plain",
    ]
    return "\n".join(lines)
