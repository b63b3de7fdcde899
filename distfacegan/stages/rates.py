"""The speed of one worker, timed on this machine for `plan --measure`."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

TIMED_S = 4.0  # a stage is timed for this many seconds at least


def rate(work: Callable[[], int]) -> float:
    """Return the units a second that `work` does. A call of `work` returns its number of units.

    The first call warms up and is not counted. The result is the median over the other calls.
    """
    work()
    started = time.perf_counter()
    rates: list[float] = []
    while not rates or time.perf_counter() - started < TIMED_S:
        before = time.perf_counter()
        units = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rates.append(units / (time.perf_counter() - before))
    return statistics.median(rates)


def measured_device(asked: str) -> str:
    """Return the device that a worker would use on this machine: "cuda" or "cpu"."""
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """Return the name of this machine's GPU or processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"one core of {names[0] if names else platform.processor() or platform.machine()}"
