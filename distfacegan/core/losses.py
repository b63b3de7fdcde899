"""What BEGAN minimises: the reconstruction losses to choose from, and BEGAN-CS's constraint.

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def l2(v: Tensor, reconstruction: Tensor) -> Tensor:
    """The paper's L(v) = |v - D(v)|^2 (equation 1).

    The mean over images [B, 3, R, R], channels and pixels.

    >>> import torch
    >>> l2(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])).item()  # (0.5^2 + 2^2) / 2
    2.125
    """
    return (v - reconstruction).square().mean()


def l1(v: Tensor, reconstruction: Tensor) -> Tensor:
    """BEGAN's own L(v) = |v - D(v)| (arXiv:1703.10717).

    The mean over images [B, 3, R, R], channels and pixels.

    >>> import torch
    >>> l1(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])).item()  # (0.5 + 2) / 2
    1.25
    """
    return (v - reconstruction).abs().mean()


LOSSES: dict[str, Loss] = {loss.__name__: loss for loss in (l2, l1)}


def code_error(code: Tensor, z: Tensor) -> Tensor:
    """L_c = |Enc(G(z)) - z|, BEGAN-CS's constraint (Chang et al., arXiv:1803.07417).

    The mean over latents [B, Z] and their dimensions.
    """
    return (code - z).abs().mean()
