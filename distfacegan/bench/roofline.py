"""What a generator step must cost on a machine: its operations and bytes, and the machine's rates.

A generator step is one evaluation of G and its gradient by z, for one image.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from distfacegan.core.networks import Generator

REPEATS = 10
# Passes over an activation: written by the convolution, read and written by ELU, read by the next;
# its gradient is written, read and written by ELU's, which reads ELU's result too, and read.
PASSES = 9


def step_flops(generator: Generator, *, plain: bool = False) -> float:
    """Return the operations of one generator step of one image: G, and its gradient by z.

    As the frozen form does them, or the plain one.
    """
    pixels = sum(
        side**2 * (4 / 9 if upsamples and not plain else 1.0)
        for side, upsamples in _convolutions(generator)
    )
    side = generator.resolution
    convolutions = 9 * generator.width * (generator.width * pixels + 3 * side**2)
    stem = generator.latent_dim * generator.width * generator.base**2
    return 2 * 2 * (convolutions + stem)


def step_bytes(generator: Generator, dtype: torch.dtype) -> float:
    """Return the bytes that one generator step of one image moves, if no activation is cached."""
    activations = sum(side**2 for side, _ in _convolutions(generator)) * generator.width
    return PASSES * activations * dtype.itemsize


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Return the operations a second of a large matrix product: the median of ten."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ a, device)


def bandwidth(device: torch.device, count: int = 2**26) -> float:
    """Return the bytes a second of a large copy, read and written: the median of ten."""
    a = torch.zeros(count, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _median_seconds(lambda: b.copy_(a), device)


def _convolutions(generator: Generator) -> list[tuple[int, bool]]:
    """Return the side of the output of every hidden convolution, and whether it upsamples."""
    return [
        (generator.base * 2 ** (i // 2), i > 0 and i % 2 == 0) for i in range(2 * generator.levels)
    ]


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])
