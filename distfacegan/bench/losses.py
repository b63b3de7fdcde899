"""Whether ours and the plain training follow the same losses, within what seeds differ by.

Both begin with the same weights and see the same faces in the same order; the plain one draws z_D
beside z_G.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from distfacegan.bench import subjects
from distfacegan.bench.plain_began import PlainBegan
from distfacegan.core.began import BeganTrainer
from distfacegan.core.order import latents_of_step, rows_of_step
from distfacegan.core.seeding import uniform_latents

log = logging.getLogger(__name__)

STEPS, WINDOW, SEEDS = 600, 50, 3
FACES, LATENT_DIM = 400, 64
HYPERPARAMETERS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "gamma": 0.8,
    "lambda_k": 0.02,
}  # began-quick


def measure(
    *, resolution: int, width: int, levels: int, batch: int, loss: str, device: torch.device
) -> dict[str, Any]:
    """Train both ways from every seed on procedural faces, and compare m_global.

    Ours computes in bf16 on a GPU.
    """
    faces = subjects.faces(None, FACES, resolution).to(device)
    curves: dict[str, list[Tensor]] = {"plain": [], "ours": []}
    for seed in range(SEEDS):
        trainer = BeganTrainer(
            resolution=resolution,
            latent_dim=LATENT_DIM,
            width=width,
            levels=levels,
            steps=STEPS,
            seed=seed,
            loss=loss,
            precision="bf16" if device.type == "cuda" else "fp32",
            device=device,
            **HYPERPARAMETERS,
        )
        for name, curve in zip(curves, _follow(trainer, faces, batch, seed), strict=True):
            curves[name].append(curve)
        log.info("bench: losses of seed %d of %d", seed + 1, SEEDS)
    return compare(torch.stack(curves["plain"]), torch.stack(curves["ours"]))


def _follow(trainer: BeganTrainer, faces: Tensor, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return m_global [steps] of the plain training and of ours."""
    plain_training = PlainBegan(trainer)
    plain, ours = [], []
    for step in range(STEPS):
        real = faces[rows_of_step(seed, step, batch, len(faces))]
        z_g = torch.from_numpy(latents_of_step(seed, step, batch, LATENT_DIM)).to(real.device)
        rows = range(step * batch, (step + 1) * batch)
        drawn = uniform_latents(seed, rows, LATENT_DIM, stream="plain")
        plain_training.step(real, torch.from_numpy(drawn).to(real.device), z_g)
        trainer.step(real, z_g)
        plain.append(plain_training.m_global)
        ours.append(trainer.m_global)
    return torch.tensor(plain), torch.stack(ours).float().cpu()


def compare(plain: Tensor, ours: Tensor) -> dict[str, Any]:
    """Hold m_global of two ways, each [seeds, steps], against each other, window by window."""
    ways = {"plain": plain, "ours": ours}
    windows = {name: curves.unfold(1, WINDOW, WINDOW).mean(2) for name, curves in ways.items()}
    difference = (windows["plain"].mean(0) - windows["ours"].mean(0)).abs()
    spread = windows["plain"].amax(0) - windows["plain"].amin(0)
    worst = int(difference.argmax())
    return {
        "window": WINDOW,
        "curves": {name: curves.tolist() for name, curves in windows.items()},
        "largest_difference": difference[worst].item(),
        "in_window": worst,
        "plain_there": windows["plain"].mean(0)[worst].item(),
        "spread_there": spread[worst].item(),
        "spread_median": spread.median().item(),
        "windows_within_spread": int((difference <= spread).sum()),
        "windows": len(difference),
    }


def summary(result: dict[str, Any]) -> str:
    """Return the comparison as a sentence."""
    first = result["in_window"] * result["window"]
    return (
        f"m_global, means of {result['window']} steps and {len(result['curves']['plain'])} seeds: "
        f"ours and plain differ by at most {result['largest_difference']:.4f} (steps {first} to "
        f"{first + result['window']}, plain {result['plain_there']:.4f}); plain's seeds spread by "
        f"{result['spread_there']:.4f} there, {result['spread_median']:.4f} in the median window; "
        f"the difference is within the spread in {result['windows_within_spread']} of "
        f"{result['windows']} windows"
    )
