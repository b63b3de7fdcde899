"""G as the inversion sees it: weights fixed, the same function of z, at less cost.

The kernels of its transposed convolutions are made once, and activations are channels-last, from a
stem whose rows are sorted so: exact but for rounding.

Legend: B batch, R resolution, Z latent dimension, W width, b base side; images are in [-1, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.core.networks import (
    Generator,
    UpsamplingConv2d,
    concatenate,
    upsampling_kernel,
)


class FrozenGenerator:
    """A copy of G, on its device, that computes images and the gradient of equation 3 by z."""

    def __init__(self, generator: Generator, dtype: torch.dtype | None = None) -> None:
        """Copy G, to compute in `dtype` (default: that of G's weights)."""
        self.resolution, self.latent_dim = generator.resolution, generator.latent_dim
        self.device = generator.stem.weight.device
        self.dtype = dtype or generator.stem.weight.dtype
        self._stem_shape = -1, generator.base, generator.base, generator.width
        self._stem_weight = self._freeze(channels_last_rows(generator, generator.stem.weight))
        self._stem_bias = self._freeze(channels_last_rows(generator, generator.stem.bias))
        self._layers = []
        self._skips = generator.skip_connections
        for conv in generator.convs:
            assert isinstance(conv, nn.Conv2d)
            upsamples = isinstance(conv, UpsamplingConv2d)
            kernel = upsampling_kernel(conv.weight) if upsamples else conv.weight
            self._layers.append((upsamples, self._freeze(kernel), self._freeze(conv.bias)))
        self._to_rgb = self._freeze(generator.to_rgb.weight), self._freeze(generator.to_rgb.bias)

    def __call__(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to images [B, 3, R, R]."""
        x = F.linear(z.to(self.dtype), self._stem_weight, self._stem_bias)  # [B, b * b * W]
        stem = x = x.view(self._stem_shape).permute(0, 3, 1, 2)  # [B, W, b, b]
        for upsamples, kernel, bias in self._layers:
            if upsamples:
                x = concatenate(x, stem) if self._skips else x
                x = F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)  # [B, W, 2b, 2b] ...
            else:
                x = F.conv2d(x, kernel, bias, padding=1)
            x = F.elu_(x)
        return F.conv2d(x, *self._to_rgb, padding=1)

    def step(self, z: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do one generator step: evaluate equation 3 and its gradient by z for faces [B, 3, R, R].

        Returns the loss [B], in the type of the faces, its gradient [B, Z], and G(z).
        """
        z = z.detach().requires_grad_()
        images = self(z)
        loss = reconstruction_error(faces, images.to(faces.dtype))
        # Sum, not mean: each z then gets the gradient it would get alone.
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        return loss.detach(), gradient, images.detach()

    @torch.no_grad()
    def loss(self, z: Tensor, faces: Tensor) -> Tensor:
        """Evaluate equation 3 alone, [B], for faces [B, 3, R, R]."""
        return reconstruction_error(faces, self(z).to(faces.dtype))

    def _freeze(self, tensor: Tensor | None) -> Tensor:
        assert tensor is not None
        tensor = tensor.detach().to(self.dtype, copy=True)
        return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def reconstruction_error(faces: Tensor, generated: Tensor) -> Tensor:
    """err = |x_s - G(z_r)| (equation 3): the mean over each image, [B, 3, R, R] -> [B]."""
    return (faces - generated).abs().mean((1, 2, 3))


def channels_last_rows(generator: Generator, stem: Tensor) -> Tensor:
    """Sort the rows of the stem's weight or bias [W * b * b, ...] so that channels come last."""
    by_channel = stem.unflatten(0, (generator.width, generator.base**2))
    return by_channel.transpose(0, 1).flatten(0, 1).contiguous()
