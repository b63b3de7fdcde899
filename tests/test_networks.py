"""The networks are those of Figs. 1 and 2, and come back from their weights alone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from distfacegan.core.networks import Discriminator, Encoder, Generator, base_resolution
from distfacegan.errors import CheckpointError

REAL_GENERATOR = Path(__file__).parents[2] / "shared/models/began64_generator.safetensors"
SMALL = {"resolution": 16, "latent_dim": 5, "width": 4, "levels": 2}


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def shapes_of_convs(network, x):
    """Run on the meta device and return the output shape of every 3x3 convolution."""
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape[1:])))
    network(x)
    return shapes


def test_small_networks_have_the_parameters_worked_out_by_hand():
    # stem 5*256+256, four convolutions 4*4*9+4, to RGB 4*3*9+3
    assert num_parameters(Generator(**SMALL)) == 1536 + 4 * 148 + 111
    # from RGB 3*4*9+4, two 148, widening 4*8+8, two 8*8*9+8, to the code 8*64*5+5
    assert num_parameters(Encoder(**SMALL)) == 112 + 2 * 148 + 40 + 2 * 584 + 2565
    assert num_parameters(Discriminator(**SMALL)) == 2239 + 4181


def test_the_paper_s_networks_have_the_parameters_of_figures_1_and_2():
    with torch.device("meta"):
        d = Discriminator(resolution=128)
    conv = 64 * 64 * 9 + 64
    decoder = (64 * 16384 + 16384) + 8 * conv + (64 * 3 * 9 + 3)  # 64 channels of 16 x 16
    assert num_parameters(d.decoder) == decoder
    levels = [2 * (w * w * 9 + w) for w in (64, 128, 192, 256)]
    widening = [a * b + b for a, b in ((64, 128), (128, 192), (192, 256))]
    encoder = (3 * 64 * 9 + 64) + sum(levels) + sum(widening) + (256 * 256 * 64 + 64)
    assert num_parameters(d.encoder) == encoder


def test_skip_connections_double_what_an_upsampling_sees():
    generator = Generator(**SMALL | {"levels": 3}, skip_connections=True)
    w = generator.state_dict()
    assert [tuple(w[f"convs.{i}.weight"].shape[:2]) for i in range(6)] == [
        (4, 4), (4, 4), (4, 8), (4, 4), (4, 8), (4, 4),
    ]  # fmt: skip
    z = torch.randn(3, 5)
    stem = x = (z @ w["stem.weight"].T + w["stem.bias"]).reshape(3, 4, 4, 4)
    for i in range(6):
        if i in (2, 4):
            enlarged = stem.repeat_interleave(i // 2, 2).repeat_interleave(i // 2, 3)
            x = torch.cat([x, enlarged], 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.elu(F.conv2d(x, w[f"convs.{i}.weight"], w[f"convs.{i}.bias"], padding=1))
    x = F.conv2d(x, w["to_rgb.weight"], w["to_rgb.bias"], padding=1)
    torch.testing.assert_close(generator(z), x)
    assert Generator.from_state_dict(w).skip_connections


def test_the_paper_s_generator_has_64_channels_on_every_level():
    with torch.device("meta"):
        shapes = shapes_of_convs(Generator(resolution=128), torch.empty(2, 64))
    sides = [16, 16, 32, 32, 64, 64, 128, 128]
    assert shapes == [(64, side, side) for side in sides] + [(3, 128, 128)]


def test_the_paper_s_encoder_widens_by_64_after_each_pooling():
    with torch.device("meta"):
        encoder, v = Encoder(resolution=128), torch.empty(2, 3, 128, 128)
        assert encoder(v).shape == (2, 64)
        shapes = shapes_of_convs(encoder, v)
    levels = [(64, 128, 128), (128, 64, 64), (192, 32, 32), (256, 16, 16)]
    assert shapes == [levels[0]] + [level for level in levels for _ in range(2)]


def test_the_generator_is_figure_2_written_out():
    generator = Generator(**SMALL)
    w = generator.state_dict()
    z = torch.randn(3, 5)
    x = (z @ w["stem.weight"].T + w["stem.bias"]).reshape(3, 4, 8, 8)
    for i in (0, 1):
        x = F.elu(F.conv2d(x, w[f"convs.{i}.weight"], w[f"convs.{i}.bias"], padding=1))
    x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for i in (2, 3):
        x = F.elu(F.conv2d(x, w[f"convs.{i}.weight"], w[f"convs.{i}.bias"], padding=1))
    x = F.conv2d(x, w["to_rgb.weight"], w["to_rgb.bias"], padding=1)
    torch.testing.assert_close(generator(z), x)


def test_the_encoder_is_figure_1_written_out_widening_before_pooling():
    encoder = Encoder(**SMALL)
    w = encoder.state_dict()
    v = torch.randn(3, 3, 16, 16)
    x = F.elu(F.conv2d(v, w["from_rgb.weight"], w["from_rgb.bias"], padding=1))
    for i in (0, 1):
        x = F.elu(F.conv2d(x, w[f"convs.{i}.weight"], w[f"convs.{i}.bias"], padding=1))
    x = F.conv2d(x, w["widen.0.weight"], w["widen.0.bias"])
    x = x.reshape(3, 8, 8, 2, 8, 2).mean(dim=(3, 5))
    for i in (2, 3):
        x = F.elu(F.conv2d(x, w[f"convs.{i}.weight"], w[f"convs.{i}.bias"], padding=1))
    x = x.reshape(3, -1) @ w["to_latent.weight"].T + w["to_latent.bias"]
    torch.testing.assert_close(encoder(v), x)


def test_the_discriminator_decodes_what_it_encodes():
    discriminator = Discriminator(**SMALL)
    v = torch.randn(2, 3, 16, 16)
    expected = discriminator.decoder(discriminator.encoder(v))
    torch.testing.assert_close(discriminator(v), expected)
    assert isinstance(discriminator.decoder, Generator)


@pytest.mark.parametrize(
    ("resolution", "levels", "message"),
    [
        (100, 4, "resolution 100 cannot be halved 3 times"),
        (4, 4, "resolution 4 cannot be halved 3 times"),
        (0, 1, "resolution 0"),
        (16, 0, "levels must be at least 1, found 0"),
    ],
)
def test_a_resolution_that_cannot_be_halved_is_refused(resolution, levels, message):
    with pytest.raises(ValueError, match=message):
        Generator(resolution=resolution, levels=levels)
    assert base_resolution(128, 4) == 16


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        {"resolution": 8, "latent_dim": 3, "width": 2, "levels": 4},
        {"resolution": 7, "latent_dim": 2, "width": 5, "levels": 1},
    ],
)
def test_a_generator_is_rebuilt_from_its_weights_alone(shape):
    generator = Generator(**shape)
    state = generator.state_dict()
    rebuilt = Generator.from_state_dict(state)
    assert {name: getattr(rebuilt, name) for name in shape} == shape
    z = torch.randn(2, shape["latent_dim"])
    torch.testing.assert_close(rebuilt(z), generator(z), rtol=0, atol=0)
    state["to_rgb.bias"] += 1  # a copy: the rebuilt one does not see it
    assert not torch.equal(rebuilt.to_rgb.bias, generator.to_rgb.bias)
    assert all(parameter.requires_grad for parameter in rebuilt.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("to_rgb.weight", None, r"to_rgb.weight is missing, expected \[3, any, 3, 3\]"),
        ("to_rgb.weight", (3, 4, 1, 1), r"to_rgb.weight is \[3, 4, 1, 1\], expected \[3, any"),
        ("to_rgb.bias", (4,), r"to_rgb.bias is \[4\], expected \[3\]"),
        ("stem.weight", (255, 5), r"stem.weight is \[255, 5\], expected \[196, 5\]"),
        ("stem.bias", (9,), r"stem.bias is \[9\], expected \[256\]"),
        ("convs.2.weight", (8, 4, 3, 3), r"convs.2.weight is \[8, 4, 3, 3\], expected \[4, 4"),
        ("convs.3.weight", None, "convs.3.weight is missing"),
        ("convs.1.bias", None, "convs.1.bias is missing"),
        ("encoder.stem", (1,), "unknown tensor 'encoder.stem'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(name, shape, message):
    state = Generator(**SMALL).state_dict()
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=message):
        Generator.from_state_dict(state)


def test_rebuilding_leaves_the_random_state_alone():
    state = Generator(**SMALL).state_dict()
    before = torch.get_rng_state()
    Generator.from_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_real_generator_makes_faces():
    if not REAL_GENERATOR.exists():
        pytest.skip("../shared/models/began64_generator.safetensors is absent")
    generator = Generator.from_state_dict(load_file(REAL_GENERATOR))
    assert (generator.resolution, generator.latent_dim) == (64, 64)
    assert (generator.width, generator.levels) == (64, 4)
    with torch.no_grad():
        face = generator(torch.zeros(1, 64))
    # A frontal face resembles its mirror image, and its upside-down one less.
    assert (face - face.flip(3)).abs().mean() < 0.5 * (face - face.flip(2)).abs().mean()


def test_weights_start_as_glorot_s_with_zero_biases():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(resolution=8, latent_dim=40, width=24, levels=2)
    # Uniform of variance 2 / (fan in + fan out): 9 * 24 of each, and 40 with 24 * 4 * 4.
    conv, stem = generator.convs[1].weight, generator.stem.weight
    assert conv.std().item() == pytest.approx((2 / (2 * 9 * 24)) ** 0.5, rel=0.05)
    assert stem.std().item() == pytest.approx((2 / (40 + 24 * 16)) ** 0.5, rel=0.05)
    assert conv.abs().max() <= (6 / (2 * 9 * 24)) ** 0.5
    assert not any(p.any() for name, p in generator.named_parameters() if name.endswith("bias"))
