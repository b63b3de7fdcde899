"""`distfacegan bench lgen`: the training of L-Gen against the usual loop over a DataLoader."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from distfacegan.bench import roofline
from distfacegan.core import lgen, lgen_training
from distfacegan.core.lgen import LandmarkGenerator, Variant
from distfacegan.stages import lgen_variants

ROUNDS = 5
LATENT_DIM = 64
TOGETHER = (1, lgen_variants.TOGETHER, 8, 16)  # variants that are trained at once
TRIAL_EPOCHS = 100
PLAIN = "plain: DataLoader, zero_grad, backward, Adam"


def measure(num_rows: int, device: torch.device) -> dict[str, Any]:
    """Train Table I's network for an epoch in every way, in turn; medians.

    Returns the steps a second of each way: those of all its networks, of 16 rows each.
    """
    random = torch.Generator().manual_seed(0)
    z = torch.rand(num_rows, LATENT_DIM, generator=random)
    points = torch.rand(num_rows, 49, 2, generator=random)
    variant = Variant()
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        PLAIN: (1, functools.partial(_plain, z, points, device))
    }
    for count in TOGETHER:
        together = functools.partial(
            lgen_training.train_together,
            z,
            points,
            [variant] * count,
            seeds=range(count),
            epochs=1,
            device=device,
        )
        ways[f"ours: {count} at once"] = count, together
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, (_, train) in ways.items():
            started = time.perf_counter()
            train()
            roofline.wait(device)
            if round_:  # the first round is slower than all others
                seconds[name].append(time.perf_counter() - started)
    steps = -(-num_rows // variant.batch)
    return {
        "device": roofline.device_name(device),
        "threads": torch.get_num_threads(),
        "rows": num_rows,
        "steps_per_s": {
            name: count * steps / statistics.median(seconds[name])
            for name, (count, _) in ways.items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text: each way against the plain loop."""
    lines = [
        f"Table I's network, batches of 16 of {result['rows']} rows, on {result['device']}, "
        f"{result['threads']} threads"
    ]
    plain = result["steps_per_s"][PLAIN]
    for name, rate in result["steps_per_s"].items():
        lines.append(f"  {name:<45} {rate:8.0f} steps/s  {rate / plain:5.2f} times")
    steps = -(-result["rows"] // Variant().batch) * TRIAL_EPOCHS
    a_minute = [f"{60 * rate / steps:.1f}" for rate in result["steps_per_s"].values()]
    lines.append(f"trials of {TRIAL_EPOCHS} epochs a minute, in this order: {', '.join(a_minute)}")
    return "\n".join(lines)


def _plain(z: Tensor, points: Tensor, device: torch.device) -> None:
    """Train for one epoch as it is usually written."""
    network = LandmarkGenerator(latent_dim=LATENT_DIM).to(device)
    adam = torch.optim.Adam(network.parameters(), lr=Variant().learning_rate)
    for z_batch, points_batch in DataLoader(TensorDataset(z, points), batch_size=16, shuffle=True):
        adam.zero_grad()
        loss = lgen.landmark_loss(network(z_batch.to(device)), points_batch.to(device))
        loss.backward()
        adam.step()
