"""The benchmark counts what it says, and runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from distfacegan import cli
from distfacegan.bench import command, figure, invert, losses, roofline, storage, subjects, train
from distfacegan.bench import landmarks as bench_landmarks
from distfacegan.bench import lgen as bench_lgen
from distfacegan.bench import synthesize as bench_synthesize
from distfacegan.bench.curves import Curve
from distfacegan.bench.plain_began import PlainBegan, PlainGenerator
from distfacegan.bench.roofline import operations, step_bytes
from distfacegan.core.began import BeganTrainer
from distfacegan.core.latent_model import latent_model
from distfacegan.core.networks import Generator
from distfacegan.errors import DistfaceganError
from distfacegan.sections.invert import SurrogateSettings
from distfacegan.store import weight_files
from tests.onnx_file import write_linear_network


def shorten(monkeypatch):
    """Let every way take a few steps only."""
    lengths = {
        "STEPS": 4,
        "PAPER_STEPS": 6,
        "CLIP_STEPS": (2, 4, 6),
        "LBFGS_STEPS": 5,
        "TIMED_STEPS": 3,
    }
    for name, value in lengths.items():
        monkeypatch.setattr(invert, name, value)


def test_operations_are_counted_by_hand():
    generator = Generator(resolution=8, latent_dim=5, width=2, levels=2)
    z, face = torch.zeros(1, 5), torch.zeros(1, 3, 8, 8)
    # Convolutions 2 -> 2 of 9 numbers: two at 4 x 4, two at 8 x 8; to RGB 2 -> 3 at 8 x 8.
    plain = 9 * 2 * 2 * (2 * 16 + 2 * 64) + 9 * 2 * 3 * 64 + 5 * 2 * 16
    network = PlainGenerator.copy_of(generator)
    assert operations(lambda: invert.plain_step(network, z, face)) == 4 * plain
    # The transposed convolution has 16 numbers at each of the 4 x 4 pixels that go in.
    frozen = plain - 9 * 2 * 2 * 64 + 16 * 2 * 2 * 16
    assert operations(lambda: latent_model(generator).step(z, face)) == 4 * frozen


@pytest.mark.parametrize("skips", [False, True])
def test_the_plain_generator_makes_the_same_images(skips):
    shape = {"resolution": 16, "latent_dim": 5, "width": 4, "levels": 3}
    generator = Generator(**shape, skip_connections=skips).double()
    z = torch.rand(3, 5).double()
    torch.testing.assert_close(PlainGenerator.copy_of(generator)(z), generator(z))


def test_bytes_are_counted_by_hand():
    generator = Generator(resolution=8, latent_dim=5, width=2, levels=2)
    numbers = 2 * (2 * 16 + 2 * 64)
    assert step_bytes(generator, torch.float32) == 9 * 4 * numbers
    assert step_bytes(generator, torch.bfloat16) == 9 * 2 * numbers


def test_a_way_is_followed_to_its_best_latent():
    latents = [torch.tensor([[0.5], [2.0]]), torch.tensor([[3.0], [0.1]])]
    losses = [torch.tensor([0.2, 0.4]), torch.tensor([0.3, 0.1])]
    curve = Curve()
    curve.follow(zip(latents, losses, strict=True))
    torch.testing.assert_close(curve.losses[0], torch.tensor([[0.2, 0.4], [0.2, 0.1]]))
    assert curve.outside == [0.0]  # the second face's first latent was outside
    curve.follow(zip(latents, losses, strict=True), exact=lambda z: z[:, 0])
    torch.testing.assert_close(curve.losses[1], torch.tensor([[0.5, 2.0], [0.5, 0.1]]))


def test_a_curve_is_the_mean_of_unequal_chunks():
    curve = Curve()
    curve.losses = [torch.tensor([[4.0, 2.0], [1.0, 1.0]]), torch.tensor([[3.0], [1.0]])]
    curve.seconds = [[1.0, 3.0], [1.0, 5.0], [1.0, 4.0]]
    assert curve.mean.tolist() == [3.0, 1.0]
    assert (curve.steps_to(3.0), curve.steps_to(2.9), curve.steps_to(0.5)) == (1, 2, None)
    assert (curve.seconds_to(2), curve.step_seconds()) == (4.0, 3.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_way_is_measured(monkeypatch, tmp_path, precision):
    shorten(monkeypatch)
    torch.manual_seed(0)
    generator = Generator(resolution=16, latent_dim=5, width=4, levels=2)
    settings = SurrogateSettings(pictures=1000, steps=20, width=16)
    faces = torch.rand(3, 3, 16, 16) * 2 - 1
    result = invert.measure(generator, faces, learns=settings, batch=2, precision=precision)
    assert len(result["ways"]) == 9
    assert result["faces"] == 3
    shares = [way["share_of_peak"] for name, way in result["ways"].items() if name != "loop"]
    assert all(0 < share < 1 for share in shares)
    assert (result["ways"]["loop"]["share_of_peak"] is None) == (precision == "bf16")
    assert len(result["ways"]["fast, free"]["curve"]) == 4
    assert result["ways"]["clip"]["outside"] == result["ways"]["fast, box"]["outside"] == 0
    assert result["steps_to_clip_loss"] == result["ways"]["fast, box"]["steps_to_clip_loss"]["4"]
    assert result["roofline"]["compute_floor_ms"] < result["roofline"]["reached_ms"]
    assert "L-BFGS" in invert.table(result)
    figure.draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--figure", "a.xyz"], "a.xyz: a figure is one of"),
        (["--json", "nowhere/a.json"], "there is no folder nowhere"),
        (["--generator", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--faces", "0"], "'0' is not a positive whole number"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["bench", "invert", *options])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_comparison_is_printed_and_written(monkeypatch, capsys, tmp_path):
    path = tmp_path / "generator.safetensors"
    generator = Generator(resolution=16, latent_dim=5, width=4, levels=2)
    weight_files.save(tmp_path / "generator", {"generator": generator.state_dict()}, {})
    (tmp_path / "generator" / "generator.safetensors").rename(path)
    shorten(monkeypatch)
    monkeypatch.setattr(
        command, "SurrogateSettings", lambda **_: SurrogateSettings(pictures=1000, steps=5)
    )
    options = ["--generator", str(path), "--faces", "2", "--json", str(tmp_path / "a.json")]
    assert cli.main(["bench", "invert", *options]) == 0
    assert "times the loop" in capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert {"steps_to_paper_loss", "steps_to_clip_loss", "speedup_over_loop"} <= set(written)
    assert {"speedup_over_batch", "image_steps_per_s", "share_of_peak"} <= set(written)


@pytest.mark.ray
def test_the_stage_is_held_against_its_core(ray_cluster, capsys, tmp_path):
    file = tmp_path / "a.json"
    assert cli.main(["bench", "stage", "--rows", "600", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["rows"] == 600
    share = found["stage_faces_per_s"] / found["core_faces_per_s"]
    assert share > 0
    assert found["share_of_core"] == pytest.approx(share)
    assert f"{share:.1%} of as many bare cores" in capsys.readouterr().out


def test_a_place_for_runs_is_measured_and_left_as_it_was(tmp_path, monkeypatch, capsys):
    for name, value in {"SHARD_ROWS": 8, "RESOLUTION": 16, "REPEATS": 2}.items():
        monkeypatch.setattr(storage, name, value)
    (tmp_path / "place").mkdir()
    found = tmp_path / "found.json"
    assert cli.main(["bench", "store", str(tmp_path / "place"), "--json", str(found)]) == 0
    result = json.loads(found.read_text())
    assert result["shard_mb"] == 8 * 16 * 16 * 3 / 1e6
    for name in ("write_mb_per_s", "read_mb_per_s"):
        assert min(result[name].values()) > 0
    assert "8 shards of 0.0 MB" in capsys.readouterr().out
    assert list((tmp_path / "place").iterdir()) == []


def test_detectors_are_measured_beside_the_library(tmp_path, monkeypatch, capsys):
    """A FAN of one module instead of four, and a network that says the same of all faces."""
    import face_alignment

    build = face_alignment.models.FAN
    for module in (face_alignment.models, face_alignment.api):
        monkeypatch.setattr(module, "FAN", lambda num_modules: build(1))
    monkeypatch.setattr(bench_landmarks, "ROUNDS", 1)
    size = 112
    onnx = write_linear_network(
        tmp_path / "m.onnx", np.zeros((136, 3 * size**2)), np.full(136, 0.5), size
    )
    file = tmp_path / "figures.json"
    options = ["--faces", "2", "--onnx", str(onnx), "--json", str(file)]
    assert cli.main(["bench", "landmarks", *options]) == 0
    rates = json.loads(file.read_text())["faces_per_s"]
    assert list(rates) == [
        "face_alignment: the library, image by image",
        "face_alignment: ours, fp32",
        "onnx: opencv",
        "onnx: onnxruntime",
    ]
    assert all(rate > 0 for rate in rates.values())
    said = capsys.readouterr().out
    assert "2 faces of 128 px, each with its mirror image, on CPU" in said
    assert "1.00 times" in said


def test_samples_are_counted_to_disk_and_beside_each_part_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_synthesize, "ROUNDS", 1)
    small = {"resolution": 16, "latent_dim": 8, "width": 8, "levels": 2}
    monkeypatch.setattr(bench_synthesize, "SHAPE", small)
    file = tmp_path / "s.json"
    options = ["--samples", "60", "--shard-rows", "20", "--format", "pts", "--json", str(file)]
    assert cli.main(["bench", "synthesize", *options]) == 0
    found = json.loads(file.read_text())
    assert len(found["samples_per_s"]) == 4
    assert all(rate > 0 for rate in found["samples_per_s"].values())
    assert "of the slower of the two alone" in capsys.readouterr().out


def test_the_training_of_lgen_is_measured_beside_the_usual_loop(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_lgen, "ROUNDS", 1)
    monkeypatch.setattr(bench_lgen, "TOGETHER", (1, 2))
    file = tmp_path / "figures.json"
    assert cli.main(["bench", "lgen", "--rows", "40", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert list(found["steps_per_s"]) == [bench_lgen.PLAIN, "ours: 1 at once", "ours: 2 at once"]
    assert all(rate > 0 for rate in found["steps_per_s"].values())
    assert "batches of 16 of 40 rows, on CPU" in capsys.readouterr().out


def test_a_place_that_gives_back_other_rows_is_no_place_for_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_ROWS", 8)
    monkeypatch.setattr(storage, "RESOLUTION", 16)
    monkeypatch.setattr(storage.groups, "read", lambda group, array, rows: np.zeros(1))
    with pytest.raises(DistfaceganError, match="does not give back what was written"):
        storage.measure(tmp_path, 1)


TINY = {"resolution": 8, "latent_dim": 5, "width": 2, "levels": 2}


def test_the_plain_step_is_ours_when_both_draw_one_z():
    torch.set_default_dtype(torch.float64)
    try:
        settings = {"learning_rate": 0.003, "lambda_k": 0.5, "gamma": 0.7, "loss": "l1"}
        ours = BeganTrainer(**TINY, steps=9, seed=0, **settings)
        plain = PlainBegan(ours)
        random = torch.Generator().manual_seed(0)
        for _ in range(4):
            faces = torch.rand(3, 3, 8, 8, generator=random) * 2 - 1
            z = torch.rand(3, 5, generator=random) * 2 - 1
            ours.step(faces, z)
            plain.step(faces, z, z)
            assert plain.k == pytest.approx(ours.k.item(), rel=1e-9)
            assert plain.m_global == pytest.approx(ours.m_global.item(), rel=1e-9)
        assert plain.k > 0.01  # so that the fake half of L_D was there
        for name in ("generator", "discriminator"):
            found, expected = (getattr(way, name).state_dict() for way in (plain, ours))
            torch.testing.assert_close(found, expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_operations_of_a_training_step_are_counted_by_hand():
    # G: fully connected 5 -> 32; 2 -> 2 channels, of 9 numbers, at 4, 4, 8 and 8 pixels; to RGB.
    stem, to_rgb = 5 * 32, 9 * 2 * 3 * 64
    plain_g = stem + 36 * (2 * 16 + 2 * 64) + to_rgb
    our_g = stem + 36 * (2 * 16 + (4 / 9 + 1) * 64) + to_rgb
    # The encoder: from RGB; twice 2 -> 2 at 8; 2 -> 4 of one number, after the pooling or before
    # it; twice 4 -> 4 at 4; fully connected 64 -> 5.
    from_rgb = 9 * 3 * 2 * 64
    encoder = from_rgb + 2 * 36 * 64 + 2 * 9 * 16 * 16 + 64 * 5
    plain_d, our_d = encoder + 8 * 64 + plain_g, encoder + 8 * 16 + our_g
    # Back costs forward again for the gradient of the weights, and again for that of the input,
    # which the first layer of a network that is fed with numbers (z, or faces) does not need.
    # Ours: G, D over its faces for both losses, and D over real ones.
    ours = 2 * (3 * our_g - stem + 6 * our_d - from_rgb)
    assert train.step_flops(TINY, plain=False) == pytest.approx(ours)
    # Plain: D over generated faces for L_G, over others for L_D, for which G runs forward again.
    plain = 2 * (4 * plain_g - stem + 9 * plain_d - 2 * from_rgb)
    assert train.step_flops(TINY, plain=True) == pytest.approx(plain)


@pytest.mark.parametrize(("name", "found"), [("quick", train.QUICK), ("128", train.PAPER)])
def test_the_training_that_is_measured_is_that_of_the_configs(name, found):
    file = Path(__file__).parents[1] / "configs" / f"began-{name}.yaml"
    config = yaml.safe_load(file.read_text())
    assert found.items() <= config.items()
    if name == "quick":
        assert subjects.HYPERPARAMETERS.items() <= config.items()


def test_ways_of_training_are_compared_printed_written_and_drawn(monkeypatch, capsys, tmp_path):
    for name, value in {"WARM_UP": 1, "ROUNDS": 2, "ROUND_S": 0.001}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(roofline, "REPEATS", 1)
    for name, value in {"STEPS": 6, "WINDOW": 2, "SEEDS": 2}.items():
        monkeypatch.setattr(losses, name, value)
    noise = torch.rand(20, 3, 16, 16) * 2 - 1
    monkeypatch.setattr(subjects, "faces", lambda photos, count, resolution: noise)
    monkeypatch.setattr(torch, "compile", lambda function: function)  # which takes a minute
    options = ["--resolution", "16", "--width", "4", "--batch", "3", "--loss", "l2"]
    files = ["--json", str(tmp_path / "a.json"), "--figure", str(tmp_path / "a.png")]
    assert cli.main(["bench", "train", *options, *files]) == 0
    printed = capsys.readouterr().out
    assert "16 px, width 4, 2 levels, l2" in printed
    assert "ours and plain differ by at most" in printed
    written = json.loads((tmp_path / "a.json").read_text())
    ways = written["ways"]
    assert list(ways)[:3] == ["plain", "ours", "ours, compiled"]
    assert ways["plain"]["times_plain"] == 1.0
    for way in ways.values():
        ratio = way["images_per_s"] / ways["plain"]["images_per_s"]
        assert way["times_plain"] == pytest.approx(ratio)
        assert way["ms_fastest"] <= way["ms_per_step"] <= way["ms_slowest"]
        assert way["share_of_peak"] is None or 0 < way["share_of_peak"] < 1
    assert len(written["losses"]["curves"]["ours"]) == 2
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_losses_are_compared_in_windows():
    plain = torch.tensor([[1.0, 3.0, 1.0, 1.0], [2.0, 4.0, 1.0, 2.0]])
    ours = torch.tensor([[2.0, 3.0, 1.0, 1.0], [2.0, 3.0, 2.0, 2.0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "WINDOW", 2)
        found = losses.compare(plain, ours)
    # Means of windows: plain 2, 3 and 1, 1.5; ours 2.5, 2.5 and 1, 2.
    assert found["curves"]["plain"] == [[2.0, 1.0], [3.0, 1.5]]
    assert found["largest_difference"] == 0.25  # in the second window
    assert (found["plain_there"], found["spread_there"], found["spread_median"]) == (1.25, 0.5, 0.5)
    assert (found["windows_within_spread"], found["windows"]) == (2, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resolution", "30", "--levels", "3"], "resolution 30 cannot be halved 2 times"),
        (["--figure", "a.xyz"], "a.xyz: a figure is one of"),
        (["--loss", "l3"], "--loss must be one of l2, l1, found 'l3'"),
    ],
)
def test_a_training_that_cannot_be_is_refused(options, words, capsys):
    assert cli.main(["bench", "train", *options]) == 2
    assert words in capsys.readouterr().err


def test_the_benchmarks_are_imported_where_there_is_no_ray():
    code = "import sys; sys.modules['ray'] = None; import distfacegan.bench.command"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100)
    assert found.returncode == 0, found.stderr
