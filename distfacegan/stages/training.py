"""One rank's part of a BEGAN training: data order, metrics, samples, checkpoints. No Ray.

The run directory holds the only state: rank 0 writes checkpoints there, and a training that starts
again, whatever ended the last one, goes on from the newest. Data order is a function of (seed,
step), so it goes on exactly as it would have.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from distfacegan import weights
from distfacegan.core.began import BeganTrainer, latents_of_step, part_of_batch, rows_of_step
from distfacegan.core.grids import encode, tile
from distfacegan.core.pixels import to_faces, to_images
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import DistfaceganError, RunDirectoryError
from distfacegan.spec import Began
from distfacegan.store import files, latents, metrics, networks
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status

KEEP_CHECKPOINTS = 3
NUM_SAMPLES = 64


class TrainingDivergedError(DistfaceganError, ArithmeticError):
    """The losses are no longer numbers."""


class Training:
    """One rank's part of a training. A plain class: tests use it without Ray."""

    def __init__(
        self,
        run: RunDirectory,
        section: Began,
        *,
        seed: int,
        without_shards: list[int],
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self._run, self._section, self._seed = run, section, seed
        self._rank, self._device = rank, device
        self._mine = part_of_batch(section.batch, rank, world)
        self._share = (self._mine.stop - self._mine.start) / section.batch
        self._faces = load_faces(run, section.resolution, without_shards)
        self.trainer = BeganTrainer(
            resolution=section.resolution,
            latent_dim=section.latent_dim,
            width=section.width,
            levels=section.levels,
            skip_connections=section.skip_connections,
            latent_constraint=section.latent_constraint,
            ema=section.ema,
            loss=section.loss,
            gamma=section.gamma,
            lambda_k=section.lambda_k,
            learning_rate=section.learning_rate,
            learning_rate_decay=section.learning_rate_decay,
            betas=(section.beta1, section.beta2),
            precision=section.precision,
            steps=section.steps,
            seed=seed,
            device=device,
            compiled=section.compile,
        )
        self._resume()

    def run(self) -> None:
        """Train to the last step; rank 0 writes metrics, samples, checkpoints, the generator.

        Raises TrainingDivergedError, on every rank, where the losses are no longer numbers.
        """
        section, trainer = self._section, self.trainer
        started, first = time.time(), trainer.num_steps
        while trainer.num_steps < section.steps:
            trainer.step(*self._batch(trainer.num_steps), self._share)
            step = trainer.num_steps
            last = step == section.steps
            metrics_due = step % section.metrics_every == 0 or last
            checkpoint_due = step % section.checkpoint_every == 0 or last
            if metrics_due or checkpoint_due:
                found = self._finite_metrics()  # on every rank: they stop at the same step
            if self._rank == 0 and metrics_due:
                rate = (step - first) * section.batch / (time.time() - started)
                line = {**found, "images_per_s": round(rate, 2), "time": time.time()}
                metrics.append(self._run.metrics, line)
            if self._rank == 0 and checkpoint_due:
                self._write_checkpoint(found)
        if self._rank == 0:
            self._publish()

    def _batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this rank's faces [b, 3, r, r] and latents [b, Z] of a step."""
        section = self._section
        rows = rows_of_step(self._seed, step, section.batch, len(self._faces))[self._mine]
        z = latents_of_step(self._seed, step, section.batch, section.latent_dim)[self._mine]
        return to_images(self._faces[rows], device=self._device), torch.from_numpy(z)

    def _resume(self) -> None:
        found = networks.checkpoints(self._run.began / "checkpoints")
        if found:
            names = ("generator", "discriminator", "optimizers")
            self.trainer.load_state({name: networks.load(found[-1], name) for name in names})
        if self._rank == 0:
            metrics.truncate(self._run.metrics, self.trainer.num_steps)

    def _finite_metrics(self) -> dict[str, float]:
        found = self.trainer.metrics()
        if not np.isfinite(found["m_global"]):
            raise TrainingDivergedError(
                f"BEGAN diverged: m_global is {found['m_global']} at step {found['step']}; "
                f"lower began.learning_rate (it is {self._section.learning_rate})"
            )
        return found

    def _write_checkpoint(self, found: dict[str, float]) -> None:
        name = f"{self.trainer.num_steps:08d}"
        folder = self._run.began / "checkpoints"
        z = uniform_latents(
            self._seed, range(NUM_SAMPLES), self._section.latent_dim, stream="samples"
        )
        with torch.inference_mode():
            images = self.trainer.generator(torch.from_numpy(z).to(self._device))
        grid = encode(tile(to_faces(images), columns=8))
        files.write_bytes(self._run.began / "samples" / f"{name}.png", grid)
        meta = {
            "stage": "began",
            "seed": self._seed,
            **found,
            "settings": self._section.model_dump(mode="json"),
        }
        networks.save(folder / name, self.trainer.state(), meta)  # goes last
        networks.prune(folder, KEEP_CHECKPOINTS)

    def _publish(self) -> None:
        """Copy the generator of the last checkpoint to where later stages look for it."""
        last = networks.checkpoints(self._run.began / "checkpoints")[-1]
        meta = networks.read_meta(last)
        del meta["digests"]
        state = {weights.GENERATOR: networks.load(last, "generator")}
        networks.save(self._run.began / weights.GENERATOR, state, meta)


def last_step(run: RunDirectory) -> int:
    """Return the step of the newest checkpoint; 0 where there is none."""
    found = networks.checkpoints(run.began / "checkpoints")
    return int(found[-1].name) if found else 0


def load_faces(run: RunDirectory, resolution: int, without_shards: list[int]) -> np.ndarray:
    """Return the faces that training sees, u8 [n, r, r, 3], in the order of their rows."""
    photos = latents.open_group(run.latents, "photos")
    faces = [
        _shrink(latents.read(photos, "image", shard), resolution)[
            latents.read(photos, "status", shard) == Status.OK
        ]
        for shard in latents.plan(photos)
        if shard.index not in without_shards
    ]
    found = np.concatenate(faces) if faces else np.empty((0,))
    if len(found) == 0:
        raise RunDirectoryError(f"{run.latents}/photos holds no face to train on")
    return found


def _shrink(faces: np.ndarray, resolution: int) -> np.ndarray:
    return faces if faces.shape[1] == resolution else to_faces(to_images(faces, resolution))
