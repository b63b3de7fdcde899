"""The benchmark counts what it says, and runs."""

import json

import numpy as np
import pytest
import torch

from distfacegan import cli, spec
from distfacegan.bench import command, figure, invert, storage
from distfacegan.bench.curves import Curve
from distfacegan.bench.roofline import step_bytes, step_flops
from distfacegan.core.networks import Generator
from distfacegan.errors import DistfaceganError
from distfacegan.store import networks


def shorten(monkeypatch):
    """Let every way take a few steps only."""
    steps = {"paper": 6, "clip": 6, "bfgs": 4, "fast": 4}
    lengths = {"PAPER_STEPS": 6, "CLIP_STEPS": (2, 4, 6), "LBFGS_STEPS": 5, "TIMED_STEPS": 3}
    for name, value in {"STEPS": steps, **lengths}.items():
        monkeypatch.setattr(invert, name, value)


def test_operations_are_counted_by_hand():
    generator = Generator(resolution=8, latent_dim=5, width=2, levels=2)
    # Convolutions 2 -> 2 of 9 numbers: two at 4 x 4, two at 8 x 8; to RGB 2 -> 3 at 8 x 8.
    plain = 9 * 2 * 2 * (2 * 16 + 2 * 64) + 9 * 2 * 3 * 64 + 5 * 2 * 16
    assert step_flops(generator, plain=True) == pytest.approx(4 * plain)
    # The transposed convolution has 16 numbers at each of the 4 x 4 pixels that go in.
    frozen = plain - 9 * 2 * 2 * 64 + 16 * 2 * 2 * 16
    assert step_flops(generator) == pytest.approx(4 * frozen)


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
    settings = spec.Surrogate(pictures=1000, steps=20, width=16)
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
    assert 0 <= result["recovered"] <= 1
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
    networks.save(tmp_path / "generator", {"generator": generator.state_dict()}, {})
    (tmp_path / "generator" / "generator.safetensors").rename(path)
    shorten(monkeypatch)
    monkeypatch.setattr(command, "Surrogate", lambda: spec.Surrogate(pictures=1000, steps=5))
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


def test_a_place_that_gives_back_other_rows_is_no_place_for_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_ROWS", 8)
    monkeypatch.setattr(storage, "RESOLUTION", 16)
    monkeypatch.setattr(storage.latents, "read", lambda group, array, rows: np.zeros(1))
    with pytest.raises(DistfaceganError, match="does not give back what was written"):
        storage.measure(tmp_path, 1)
