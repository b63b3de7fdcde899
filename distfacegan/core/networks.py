"""BEGAN's networks (section II, Figs. 1 and 2; Berthelot et al., arXiv:1703.10717).

Legend: B batch, R resolution, Z latent dimension, W width, L levels, b = R / 2^(L-1) base side.
Every convolution is 3x3 with ELU, except the 1x1 ones that widen the encoder and the one to RGB:
they are linear, as the fully connected layers are. ELU works in place, because its gradient can be
computed from its result.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfacegan.errors import CheckpointError


class Generator(nn.Module):
    """The decoder of Fig. 2: W channels throughout, nearest upsampling by 2 between levels.

    It is both G and the second half of D (the paper's text says G is D's encoder; its Fig. 2 and
    BEGAN say decoder). The output is linear: it may overshoot the images' [-1, 1].
    """

    def __init__(
        self,
        *,
        resolution: int,
        latent_dim: int = 64,
        width: int = 64,
        levels: int = 4,
        skip_connections: bool = False,
    ) -> None:
        """Draw the weights.

        `skip_connections` are BEGAN's (arXiv:1703.10717, section 3.4; the paper has none): every
        upsampling also takes the stem's output, enlarged, beside the output of the layer before.
        """
        super().__init__()
        self.resolution, self.latent_dim = resolution, latent_dim
        self.width, self.levels = width, levels
        self.skip_connections = skip_connections
        self.base = base_resolution(resolution, levels)
        self.stem = nn.Linear(latent_dim, width * self.base**2)
        self.convs = nn.ModuleList()
        for level in range(levels):
            if level == 0:
                self.convs.append(_conv3x3(width, width))
            else:
                self.convs.append(UpsamplingConv2d((1 + skip_connections) * width, width))
            self.convs.append(_conv3x3(width, width))
        self.to_rgb = _conv3x3(width, 3)
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, Z] to images [B, 3, R, R]."""
        stem = x = self.stem(z).unflatten(1, (self.width, self.base, self.base))  # [B, W, b, b]
        for conv in self.convs:
            if self.skip_connections and isinstance(conv, UpsamplingConv2d):
                x = concatenate(x, stem)  # [B, 2W, b, b] ...
            x = F.elu_(conv(x))  # [B, W, b, b], [B, W, 2b, 2b] ...
        return self.to_rgb(x)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "Generator":
        """Build the generator whose weights these are, its architecture read off their shapes.

        Weights are copied, as float32. Raises CheckpointError naming the tensor that does not fit.
        """
        with torch.device("meta"):
            generator = cls(**_architecture(state))
        for name, expected in generator.state_dict().items():
            _check_shape(state, name, tuple(expected.shape))
        if unknown := sorted(set(state) - set(generator.state_dict())):
            raise CheckpointError(f"not a generator's weights: unknown tensor {unknown[0]!r}")
        weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}
        generator.load_state_dict(weights, assign=True)
        return generator


class UpsamplingConv2d(nn.Conv2d):
    """Nearest upsampling by 2, then a 3x3 convolution, with 4/9 of the multiplications."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, I, r, r] to [B, O, 2r, 2r]."""
        return F.conv_transpose2d(x, upsampling_kernel(self.weight), self.bias, 2, padding=1)


def upsampling_kernel(weight: Tensor) -> Tensor:
    """Return the kernel [I, O, 4, 4] of a transposed convolution, with stride 2 and padding 1.

    It equals nearest upsampling by 2 and then a convolution with `weight` [O, I, 3, 3], padding 1.
    It is the sum of the flipped kernel and its shifts by one pixel.
    """
    flipped = F.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))  # [I, O, 5, 5]
    rows = flipped[:, :, 1:] + flipped[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]


def concatenate(x: Tensor, stem: Tensor) -> Tensor:
    """Join [B, W, r, r] and the stem's output [B, W, b, b], enlarged, to [B, 2W, r, r]."""
    return torch.cat([x, F.interpolate(stem, x.shape[2:], mode="nearest")], dim=1)


class Encoder(nn.Module):
    """The encoder of Fig. 1: widths W, 2W, ..., L*W, one more after each 2x2 average pooling."""

    def __init__(
        self, *, resolution: int, latent_dim: int = 64, width: int = 64, levels: int = 4
    ) -> None:
        super().__init__()
        base = base_resolution(resolution, levels)
        widths = [width * (level + 1) for level in range(levels)]
        self.from_rgb = _conv3x3(3, width)
        self.convs = nn.ModuleList(_conv3x3(w, w) for w in widths for _ in range(2))
        self.widen = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1) for narrow, wide in itertools.pairwise(widths)
        )
        self.to_latent = nn.Linear(widths[-1] * base**2, latent_dim)
        self.apply(_initialise)

    def forward(self, v: Tensor) -> Tensor:
        """Map images [B, 3, R, R] to codes [B, Z]."""
        x = F.elu_(self.from_rgb(v))  # [B, W, R, R]
        for i, conv in enumerate(self.convs):
            if i > 0 and i % 2 == 0:
                # The paper widens, then pools. The result is the same; this costs a quarter.
                x = self.widen[i // 2 - 1](F.avg_pool2d(x, 2))  # [B, 2W, R/2, R/2] ...
            x = F.elu_(conv(x))
        return self.to_latent(x.flatten(1))


class Discriminator(nn.Module):
    """BEGAN's discriminator D: an autoencoder, judged by how well it reconstructs."""

    def __init__(self, *, skip_connections: bool = False, **shape: Any) -> None:
        """Draw the weights; `shape` is what `Encoder` takes, and `Generator`."""
        super().__init__()
        self.encoder = Encoder(**shape)
        self.decoder = Generator(**shape, skip_connections=skip_connections)

    def forward(self, v: Tensor) -> Tensor:
        """Return the reconstruction D(v) of images [B, 3, R, R]."""
        return self.decoder(self.encoder(v))


def base_resolution(resolution: int, levels: int) -> int:
    """Return R / 2^(L-1), the side of the smallest activations; raises ValueError if not whole.

    >>> base_resolution(resolution=128, levels=4)
    16
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, found {levels}")
    factor = 2 ** (levels - 1)
    if resolution < factor or resolution % factor:
        raise ValueError(
            f"resolution {resolution} cannot be halved {levels - 1} times (levels {levels}): "
            f"it must be a multiple of {factor}"
        )
    return resolution // factor


def _conv3x3(narrow: int, wide: int) -> nn.Conv2d:
    return nn.Conv2d(narrow, wide, 3, padding=1)


def _initialise(layer: nn.Module) -> None:
    """Draw weights as Glorot and Bengio do, the default of Lasagne, which the paper used.

    PyTorch's default has a third of the variance: after nine layers almost nothing would be left.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the generator's arguments from the shapes of its weights."""
    _, width, *_ = _check_shape(state, "to_rgb.weight", (3, None, 3, 3))
    stem_rows, latent_dim = _check_shape(state, "stem.weight", (None, None))
    base = math.isqrt(stem_rows // width)
    _check_shape(state, "stem.weight", (width * max(base, 1) ** 2, latent_dim))
    num_convs = sum(name.startswith("convs.") and name.endswith(".weight") for name in state)
    levels = max((num_convs + 1) // 2, 1)  # of an odd number one is then said to be missing
    resolution = base * 2 ** (levels - 1)
    skips = "convs.2.weight" in state and state["convs.2.weight"].shape[1:2] == (2 * width,)
    return {
        "resolution": resolution,
        "latent_dim": latent_dim,
        "width": width,
        "levels": levels,
        "skip_connections": skips,
    }


def _check_shape(
    state: Mapping[str, Tensor], name: str, expected: tuple[int | None, ...]
) -> tuple[int, ...]:
    """Return the shape of a tensor after holding it against the expected one, None being any."""
    shown = "[" + ", ".join("any" if size is None else str(size) for size in expected) + "]"
    if name not in state:
        raise CheckpointError(f"not a generator's weights: {name} is missing, expected {shown}")
    found = tuple(state[name].shape)
    if len(found) != len(expected) or any(
        size not in (None, side) for size, side in zip(expected, found, strict=True)
    ):
        raise CheckpointError(
            f"not a generator's weights: {name} is {list(found)}, expected {shown}"
        )
    return found
