"""BEGAN's training as it is usually written, to compare `core.began` with.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distfacegan.core.began import BeganTrainer
from distfacegan.core.networks import (
    Discriminator,
    Encoder,
    Generator,
    UpsamplingConv2d,
    concatenate,
)


class PlainGenerator(Generator):
    """G as the paper writes it: enlarge, then convolve."""

    @classmethod
    def copy_of(cls, generator: Generator) -> "PlainGenerator":
        """Return a plain generator with the same weights, on the same device."""
        plain = cls(
            resolution=generator.resolution,
            latent_dim=generator.latent_dim,
            width=generator.width,
            levels=generator.levels,
            skip_connections=generator.skip_connections,
        )
        plain.to(generator.stem.weight.device, generator.stem.weight.dtype)
        plain.load_state_dict(generator.state_dict())
        return plain

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to images [B, 3, R, R]."""
        stem = x = self.stem(z).unflatten(1, (self.width, self.base, self.base))
        for conv in self.convs:
            if isinstance(conv, UpsamplingConv2d):
                x = concatenate(x, stem) if self.skip_connections else x
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            weight, bias = conv.parameters()
            x = F.elu(F.conv2d(x, weight, bias, padding=1))
        return self.to_rgb(x)


class PlainEncoder(Encoder):
    """The encoder as the paper writes it: widen, then pool."""

    def forward(self, v: Tensor) -> Tensor:
        """Map images [B, 3, R, R] to codes [B, Z]."""
        x = F.elu(self.from_rgb(v))
        for i, conv in enumerate(self.convs):
            if i > 0 and i % 2 == 0:
                x = F.avg_pool2d(self.widen[i // 2 - 1](x), 2)
            x = F.elu(conv(x))
        return self.to_latent(x.flatten(1))


class PlainDiscriminator(Discriminator):
    """D as the paper writes it."""

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.encoder, self.decoder = PlainEncoder(**shape), PlainGenerator(**shape)


class PlainBegan:
    """Plain PyTorch: row-major tensors, a pass for every loss, two default Adams, k on the host."""

    def __init__(self, trainer: BeganTrainer) -> None:
        """Begin with a trainer's weights, k and settings."""
        self.loss, self.equilibrium, self.k = trainer.loss, trainer.equilibrium, trainer.k.item()
        self.generator = PlainGenerator.copy_of(trainer.generator)
        weight, names = self.generator.stem.weight, ("resolution", "latent_dim", "width", "levels")
        shape = {name: getattr(trainer.generator, name) for name in names}
        self.discriminator = PlainDiscriminator(**shape).to(weight.device, weight.dtype)
        self.discriminator.load_state_dict(trainer.discriminator.state_dict())
        settings: dict[str, Any] = {"lr": trainer.learning_rate}
        settings |= {"betas": trainer.adam.defaults["betas"]}
        self.adam_g = torch.optim.Adam(self.generator.parameters(), **settings)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), **settings)
        self.m_global = 0.0

    def step(self, faces: Tensor, z_d: Tensor, z_g: Tensor) -> None:
        """Train on faces [B, 3, R, R] and two sets of latents [B, Z], and update k."""
        self.adam_g.zero_grad()
        loss_g = self._loss_of(self.generator(z_g))
        loss_g.backward()

        self.adam_d.zero_grad()  # L_G's gradient has been added there
        loss_real = self._loss_of(faces)
        loss_d = loss_real - self.k * self._loss_of(self.generator(z_d).detach())
        loss_d.backward()

        self.adam_g.step()
        self.adam_d.step()
        k, self.m_global = self.equilibrium.update(self.k, loss_real.item(), loss_g.item())
        self.k = k

    def _loss_of(self, v: Tensor) -> Tensor:
        return self.loss(v, self.discriminator(v))
