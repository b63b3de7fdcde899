"""One way of inverting faces, followed step by step: its losses, its time, where it ends."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from distfacegan.bench.baselines import Steps
from distfacegan.bench.roofline import wait


@dataclasses.dataclass
class Curve:
    """What one way did, chunk of faces by chunk: the best loss after each step, and the time."""

    losses: list[Tensor] = dataclasses.field(default_factory=list)  # of a chunk: [steps, faces]
    seconds: list[list[float]] = dataclasses.field(default_factory=list)  # a face, cumulated
    outside: list[float] = dataclasses.field(default_factory=list)  # share of |z| > 1 at the end

    def follow(self, way: Steps, exact: Callable[[Tensor], Tensor] | None = None) -> None:
        """Run a way on one chunk; `exact` scores its latents where its own losses are rounded."""
        latents, losses, seconds = [], [], []
        started = time.perf_counter()
        for z, loss in way:
            latents.append(z)
            losses.append(loss)
            wait(loss.device)
            seconds.append(time.perf_counter() - started)
        found = torch.stack(losses if exact is None else [exact(z) for z in latents])
        best = found.argmin(0)
        ends = torch.stack(latents)[best, torch.arange(len(best))]
        self.losses.append(found.float().cpu().cummin(0).values)
        self.seconds.append([second / found.shape[1] for second in seconds])
        self.outside.append((ends.abs() > 1).float().mean().item())

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
