"""The frozen generator is the same function, exactly, with the same gradient."""

import pytest
import torch
import torch.nn.functional as F

from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.networks import Generator, upsampling_kernel
from distfacegan.core.objective import reconstruction_error


def test_the_kernel_is_the_flipped_one_summed_with_its_shifts():
    weight = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    # Flipped: 9 8 7 / 6 5 4 / 3 2 1. Each number of the result is the sum of up to four of those.
    expected = [[9, 17, 15, 7], [15, 28, 24, 11], [9, 16, 12, 5], [3, 5, 3, 1]]
    assert upsampling_kernel(weight)[0, 0].tolist() == expected


def test_one_transposed_convolution_is_upsampling_and_convolution():
    x, weight = torch.randn(2, 3, 5, 4).double(), torch.randn(6, 3, 3, 3).double()
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    found = F.conv_transpose2d(x, upsampling_kernel(weight), stride=2, padding=1)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("levels", "skips"), [(1, False), (2, False), (4, False), (3, True)])
def test_images_losses_and_gradients_are_the_generators(levels, skips):
    torch.manual_seed(levels)
    shape = {"resolution": 16, "latent_dim": 5, "width": 4, "levels": levels}
    generator = Generator(**shape, skip_connections=skips).double()
    z = torch.randn(3, 5).double().requires_grad_()
    faces = torch.rand(3, 3, 16, 16).double()
    images = generator(z)
    (gradient,) = torch.autograd.grad((faces - images).abs().mean((1, 2, 3)).sum(), z)
    loss, found, again = FrozenGenerator(generator).step(z, faces)
    torch.testing.assert_close(again, images, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss, reconstruction_error(faces, images))
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)
    assert not again.requires_grad


def test_half_precision_differs_by_its_rounding_alone():
    torch.manual_seed(0)
    generator = Generator(resolution=16, latent_dim=5, width=4, levels=2)
    z = torch.rand(8, 5) * 2 - 1
    faces = generator(z).detach().roll(1, 0)
    loss, gradient, _ = FrozenGenerator(generator).step(z, faces)
    half, half_gradient, _ = FrozenGenerator(generator).with_dtype(torch.bfloat16).step(z, faces)
    torch.testing.assert_close(half, loss, rtol=0.02, atol=0.0)
    assert half_gradient.dtype == torch.float32
    assert torch.cosine_similarity(half_gradient, gradient).min() > 0.99
