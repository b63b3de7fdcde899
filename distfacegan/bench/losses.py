"""`distfacegan bench train --curves`: do ours and the plain training follow the same losses?

Both begin with the same weights and see the same faces in the same order. The plain one alone draws
z_D apart from z_G. What seeds differ by is the yardstick.
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

STEPS, WINDOW, SEEDS, FACES = 600, 50, 3, 400


def measure(shape: dict[str, Any], batch: int, loss: str, device: torch.device) -> dict[str, Any]:
    """Train both ways from every seed on procedural faces, and compare m_global.

    Ours computes in bf16 on a GPU.
    """
    faces = subjects.faces(None, FACES, shape["resolution"]).to(device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    settings: dict[str, Any] = {"steps": STEPS, "loss": loss, "precision": precision}
    settings |= {"device": device, **shape, **subjects.HYPERPARAMETERS}
    found = []
    for seed in range(SEEDS):
        found.append(_follow(BeganTrainer(**settings, seed=seed), faces, batch, seed))
        log.info("bench: losses of seed %d of %d", seed + 1, SEEDS)
    plain, ours = zip(*found, strict=True)
    return compare(torch.stack(plain), torch.stack(ours))


def _follow(ours: BeganTrainer, faces: Tensor, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return m_global [steps] of the plain training and of ours."""
    plain, dim = PlainBegan(ours), ours.generator.latent_dim
    found = []
    for step in range(STEPS):
        real = faces[rows_of_step(seed, step, batch, len(faces))]
        z_g = torch.from_numpy(latents_of_step(seed, step, batch, dim)).to(real.device)
        rows = range(step * batch, (step + 1) * batch)
        z_d = torch.from_numpy(uniform_latents(seed, rows, dim, stream="plain")).to(real.device)
        plain.step(real, z_d, z_g)
        ours.step(real, z_g)
        found.append([plain.m_global, ours.m_global.item()])
    of_plain, of_ours = torch.tensor(found).T
    return of_plain, of_ours


def compare(plain: Tensor, ours: Tensor) -> dict[str, Any]:
    """Compare m_global of two ways, each [seeds, steps], window by window."""
    plain, ours = (way.unfold(1, WINDOW, WINDOW).mean(2) for way in (plain, ours))
    difference, spread = (plain.mean(0) - ours.mean(0)).abs(), plain.amax(0) - plain.amin(0)
    worst = int(difference.argmax())
    return {
        "window": WINDOW,
        "curves": {"plain": plain.tolist(), "ours": ours.tolist()},
        "largest_difference": difference[worst].item(),
        "plain_there": plain.mean(0)[worst].item(),
        "spread_there": spread[worst].item(),
        "spread_median": spread.median().item(),
        "windows_within_spread": int((difference <= spread).sum()),
        "windows": len(difference),
    }


def summary(result: dict[str, Any]) -> str:
    """Return the comparison as a sentence."""
    return (
        f"m_global, means of {result['window']} steps and {len(result['curves']['plain'])} seeds: "
        f"ours and plain differ by at most {result['largest_difference']:.4f} (plain has "
        f"{result['plain_there']:.4f}, its seeds spread by {result['spread_there']:.4f} there, by "
        f"{result['spread_median']:.4f} in the median window); the difference is within the spread "
        f"in {result['windows_within_spread']} of {result['windows']} windows"
    )
