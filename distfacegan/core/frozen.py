"""BEGAN's G with fixed weights, in the form that is fastest to evaluate and differentiate by z.

The result differs from that of `core.networks` by rounding only. Upsampling and the convolution
after it are one transposed convolution, whose kernel is computed once. Tensors are channels-last:
the rows of the first layer are sorted so that its output already is.

Legend: B batch, R resolution, Z latent dimension, W width, b base side; images are in [-1, 1].
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.core.networks import (
    Generator,
    UpsamplingConv2d,
    concatenate,
    upsampling_kernel,
)
from distfacegan.core.objective import error_and_gradient
from distfacegan.core.priors import UNIFORM, Prior

Weights = tuple[Tensor, Tensor]  # and bias


class FrozenGenerator:
    """A copy of G, on its device: the LatentModel of a BEGAN."""

    prior: Prior = UNIFORM

    def __init__(self, generator: Generator) -> None:
        """Copy the weights of G."""
        self.resolution, self.latent_dim = generator.resolution, generator.latent_dim
        self.device, self.dtype = generator.stem.weight.device, generator.stem.weight.dtype
        self._stem_shape = -1, generator.base, generator.base, generator.width
        self._skips = generator.skip_connections
        convs = [conv for conv in generator.convs if isinstance(conv, nn.Conv2d)]
        self._upsamples = [isinstance(conv, UpsamplingConv2d) for conv in convs]
        self._stem = self._freeze(
            channels_last_rows(generator, generator.stem.weight),
            channels_last_rows(generator, generator.stem.bias),
        )
        self._layers = [
            self._freeze(upsampling_kernel(conv.weight) if upsamples else conv.weight, conv.bias)
            for conv, upsamples in zip(convs, self._upsamples, strict=True)
        ]
        self._to_rgb = self._freeze(generator.to_rgb.weight, generator.to_rgb.bias)

    def __call__(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to images [B, 3, R, R]."""
        x = F.linear(z.to(self.dtype), *self._stem)  # [B, b * b * W]
        stem = x = x.view(self._stem_shape).permute(0, 3, 1, 2)  # [B, W, b, b]
        for upsamples, (kernel, bias) in zip(self._upsamples, self._layers, strict=True):
            if upsamples:
                x = concatenate(x, stem) if self._skips else x
                x = F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)  # [B, W, 2b, 2b] ...
            else:
                x = F.conv2d(x, kernel, bias, padding=1)
            x = F.elu_(x)
        return F.conv2d(x, *self._to_rgb, padding=1)

    def step(self, z: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do one generator step: evaluate equation 3 and its gradient by z for faces [B, 3, R, R].

        Returns the error [B], in the type of the faces, its gradient [B, Z], and G(z).
        """
        return error_and_gradient(self, z, faces)

    def with_dtype(self, dtype: torch.dtype) -> "FrozenGenerator":
        """Return the same generator, computing in another type."""
        other = copy.copy(self)
        other.dtype = dtype
        other._stem, other._to_rgb = other._freeze(*self._stem), other._freeze(*self._to_rgb)
        other._layers = [other._freeze(*layer) for layer in self._layers]
        return other

    def _freeze(self, weight: Tensor, bias: Tensor | None) -> Weights:
        assert bias is not None
        weight = weight.detach().to(self.dtype, copy=True)
        if weight.ndim == 4:
            weight = weight.to(memory_format=torch.channels_last)
        return weight, bias.detach().to(self.dtype, copy=True)


def channels_last_rows(generator: Generator, stem: Tensor) -> Tensor:
    """Sort the rows of the stem's weight or bias [W * b * b, ...] so that channels come last."""
    by_channel = stem.unflatten(0, (generator.width, generator.base**2))
    return by_channel.transpose(0, 1).flatten(0, 1).contiguous()
