"""What a step must cost on a machine: its operations and bytes, and the machine's rates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from distfacegan.core.networks import Generator

REPEATS = 10
# How often an activation is read or written. Forward: the convolution writes it, ELU reads and
# writes it, the next convolution reads it. Backward: its gradient is written, is read and written
# by ELU's derivative, which also reads ELU's result, and is read.
PASSES = 9


def operations(work: Callable[[], object]) -> float:
    """Return the operations of some work, as PyTorch counts them: of matrices and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def step_bytes(generator: Generator, dtype: torch.dtype) -> float:
    """Return the bytes that one generator step of one image moves, if no activation is cached."""
    pixels = sum((generator.base * 2 ** (i // 2)) ** 2 for i in range(2 * generator.levels))
    return PASSES * pixels * generator.width * dtype.itemsize


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product: the median of ten."""
    side = 8192 if device.type == "cuda" else 2048  # so large that a launch takes no time
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ a, device)


def bandwidth(device: torch.device, count: int = 2**26) -> float:
    """Return the bytes a second, read and written, of a large copy: the median of ten."""
    a = torch.zeros(count, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _median_seconds(lambda: b.copy_(a), device)


def floors(flops: float, moved: float, peak: float, rate: float) -> dict[str, float]:
    """Return the roofline of a step: `flops` operations at `peak`/s, `moved` bytes at `rate`/s."""
    return {
        "peak_tflops": peak / 1e12,
        "bandwidth_gb_per_s": rate / 1e9,
        "step_gflop": flops / 1e9,
        "step_mb": moved / 1e6,
        "compute_floor_ms": 1000 * flops / peak,
        "memory_floor_ms": 1000 * moved / rate,
    }


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return the name of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])
