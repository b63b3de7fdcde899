"""What a step must cost on a machine: its operations and bytes, and the machine's rates.

A generator step is one evaluation of G and its gradient by z, for one image; a training step is
one of BEGAN's, for one image of a batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from distfacegan.core.networks import Discriminator, Encoder, Generator

REPEATS = 10
# Passes over an activation: written by the convolution, read and written by ELU, read by the next;
# its gradient is written, read and written by ELU's, which reads ELU's result too, and read.
PASSES = 9


def step_flops(generator: Generator, *, plain: bool = False) -> float:
    """Return the operations of one generator step of one image: G, and its gradient by z.

    As the frozen form does them, or the plain one.
    """
    return 2 * 2 * sum(_decoder(generator, plain))


def training_flops(discriminator: Discriminator, *, plain: bool = False) -> float:
    """Return the operations of one training step of one image; G is as D's decoder is.

    As `core.began` does them, or `bench.plain_began`.
    """
    g = _decoder(discriminator.decoder, plain)
    d = [*_encoder(discriminator.encoder, discriminator.decoder.resolution, plain), *g]
    # Back costs forward again for the weights' gradient, and again for the input's, where one is
    # asked for: the first layer of a network that is fed with numbers (z, or faces) has none.
    train_g, train_d, through_d = 3 * sum(g) - g[0], 3 * sum(d) - d[0], 3 * sum(d)
    # Ours: D once over generated faces, for both losses, and once over real ones. Plain: D over
    # generated faces for L_G, over others for L_D, for which G runs forward again.
    work = train_g + through_d + train_d
    return 2 * (work + sum(g) + train_d if plain else work)


def step_bytes(generator: Generator, dtype: torch.dtype) -> float:
    """Return the bytes that one generator step of one image moves, if no activation is cached."""
    activations = sum(side**2 for side, _ in _convolutions(generator)) * generator.width
    return PASSES * activations * dtype.itemsize


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product: the median of ten."""
    side = 8192 if device.type == "cuda" else 2048  # milliseconds, not the time of a launch
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ a, device)


def bandwidth(device: torch.device, count: int = 2**26) -> float:
    """Return the bytes a second of a large copy, read and written: the median of ten."""
    a = torch.zeros(count, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _median_seconds(lambda: b.copy_(a), device)


def _convolutions(generator: Generator) -> list[tuple[int, bool]]:
    """Return the side of the output of every hidden convolution, and whether it upsamples."""
    return [
        (generator.base * 2 ** (i // 2), i > 0 and i % 2 == 0) for i in range(2 * generator.levels)
    ]


def _decoder(generator: Generator, plain: bool) -> list[float]:
    """Return the multiplications of every layer, forward, for one image."""
    hidden = [
        _size(conv) * side**2 * (4 / 9 if upsamples and not plain else 1.0)
        for conv, (side, upsamples) in zip(generator.convs, _convolutions(generator), strict=True)
    ]
    return [_size(generator.stem), *hidden, _size(generator.to_rgb) * generator.resolution**2]


def _encoder(encoder: Encoder, resolution: int, plain: bool) -> list[float]:
    """Return the multiplications of every layer, forward, for one image."""
    side = resolution
    layers: list[float] = [_size(encoder.from_rgb) * side**2]
    for i, conv in enumerate(encoder.convs):
        if i > 0 and i % 2 == 0:
            widen = _size(encoder.widen[i // 2 - 1])
            layers.append(widen * (side if plain else side // 2) ** 2)
            side //= 2
        layers.append(_size(conv) * side**2)
    return [*layers, _size(encoder.to_latent)]


def _size(layer: nn.Module) -> int:
    """Return how many numbers its kernel has: the multiplications for one pixel that comes out."""
    weight, _bias = layer.parameters()
    return weight.numel()


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])
