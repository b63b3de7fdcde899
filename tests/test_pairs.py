"""Generated faces with landmarks, which L-Gen learns from and is judged by."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from distfacegan import pipeline, specfile
from distfacegan.cli import main
from distfacegan.core.detectors.onnx import Onnx, OnnxDetector
from distfacegan.core.labelling import Labelling
from distfacegan.core.landmarks import distance, eye_distance
from distfacegan.core.lgen import LandmarkGenerator
from distfacegan.core.networks import Generator
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import RunDirectoryError, SpecError
from distfacegan.samplers.prior import OfPrior
from distfacegan.stages import pair_rows, pairs
from distfacegan.stages.pair_rows import Layout
from distfacegan.stages.pairs import PairWorker
from distfacegan.stages.sample_maker import Recipe
from distfacegan.stages.synthesize import SynthesizeWorker
from distfacegan.store import groups, shards, weight_files
from distfacegan.store.exports.webdataset import WebDataset
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from tests.jobs import findings, load_spec, write_spec
from tests.onnx_file import write_linear_network
from tests.test_landmarks import upright_face

DIM = 6
LAYOUT = Layout(num_pairs=120, num_fresh=60, num_photos=20)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """The path of a small generator of 16 px faces, with random weights."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("g") / "g"
    network = Generator(resolution=16, latent_dim=DIM, width=8, levels=2)
    with torch.no_grad():
        network.to_rgb.weight.mul_(40)  # so that faces differ in their light
    weight_files.save(folder, {"generator": network.state_dict()}, {})
    return folder


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def face_68() -> np.ndarray:
    """Return the 68 points of an upright face, as a network that looks at nothing gives them."""
    points = np.full((68, 2), 0.5, np.float32)
    points[[i for i in range(17, 68) if i not in (60, 64)]] = upright_face()
    return points


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Onnx:
    """A network whose points move up and down with the light of the picture's upper part."""
    weights = np.zeros((136, 3, 112, 112))
    weights[1::2, :, :56] = 1 / (3 * 112 * 56)
    bias = face_68().ravel() - np.tile([0, 0.5], 68)
    path = tmp_path_factory.mktemp("d") / "light.onnx"
    return Onnx(model=write_linear_network(path, weights.reshape(136, -1), bias, 112))


def label(run, generator, detector, *, shard_rows=pairs.SHARD_ROWS, order=1, judge=None):
    """Label all shards; return the group."""
    inverted = groups.create_group(run.latents, "latents", num_rows=40, shard_rows=40, Z=DIM)
    inverted["z"][:] = uniform_latents(9, range(40), DIM, stream="photos")
    inverted["z"][38] = np.nan  # a photo without a face
    rows = {"num_rows": LAYOUT.num_rows, "shard_rows": shard_rows}
    group = groups.create_group(run.latents, "pairs", **rows, Z=DIM)
    worker = PairWorker(
        run.latents,
        run.markers("pairs"),
        generator,
        seed=4,
        layout=LAYOUT,
        labelling=Labelling(detector=detector, min_score=0.5),
        judge=judge,
    )
    for shard in groups.plan(group)[::order]:
        worker.run(shard)
    return group


def test_every_row_has_the_latent_of_its_part(run, generator, detector):
    group = label(run, generator, detector)
    z, status = groups.read(group, "z"), groups.read(group, "status")
    np.testing.assert_array_equal(z[:120], uniform_latents(4, range(120), DIM, stream="pairs"))
    np.testing.assert_array_equal(z[120:180], uniform_latents(4, range(60), DIM, stream="audit"))
    photos = uniform_latents(9, range(40), DIM, stream="photos")
    np.testing.assert_array_equal(z[180:199], photos[:38:2])  # every second of them
    assert (status[:199] == Status.OK).all()
    assert status[199] == Status.NOTHING_UPSTREAM  # photo 38
    assert np.isnan(groups.read(group, "points")[199]).all()


def test_the_labels_are_of_the_generated_faces(run, generator, detector):
    group = label(run, generator, detector)
    points = groups.read(group, "points")[:199]
    assert np.ptp(points[..., 1], axis=0).min() > 1e-4  # they follow the light of each face
    assert np.ptp(points[..., 0], axis=0).max() < 1e-5
    assert (groups.read(group, "disagreement")[:199] < 1e-4).all()  # the mirror image is as light


def test_only_fresh_faces_are_shifted_and_judged(run, generator, detector):
    judge = Labelling(detector=detector, offset=np.full((49, 2), 0.1, np.float32))
    group = label(run, generator, detector, judge=judge)
    fresh = np.zeros(LAYOUT.num_rows, bool)
    fresh[LAYOUT.fresh] = True
    assert (np.isfinite(groups.read(group, "shift")) == fresh).all()
    judged = groups.read(group, "judged")
    assert (np.isfinite(judged).all(axis=(1, 2)) == fresh).all()
    assert (judged[fresh] < groups.read(group, "points")[fresh]).all()


def test_the_order_of_the_shards_makes_no_difference(tmp_path, generator, detector):
    one, other = (RunDirectory(tmp_path / name) for name in "ab")
    groups_made = label(one, generator, detector), label(other, generator, detector, order=-1)
    for name in ("z", "points", "score", "disagreement", "status"):
        found, expected = (groups.read(group, name) for group in groups_made)
        np.testing.assert_array_equal(found, expected, err_msg=name)


def begin(run, kind: str) -> None:
    """Record that the stage was begun, with latents of photos."""
    run.clear("pairs", [])
    run.begin("pairs", {**dataclasses.asdict(LAYOUT), "pairs": kind}, {"latents": "of photos"})


def test_lgen_learns_from_trusted_rows(run, generator, detector):
    group = label(run, generator, detector)
    group["status"][3] = Status.LOW_SCORE
    begin(run, "prior")
    z, points = pair_rows.load_pairs(run)
    assert len(z) == len(points) == 119
    begin(run, "both")
    assert len(pair_rows.load_pairs(run)[0]) == 119 + 19
    begin(run, "prior")
    group["status"][: 120 - 49] = Status.LOW_SCORE
    with pytest.raises(RunDirectoryError, match="trusts its landmarks on 49 of 120 generated"):
        pair_rows.load_pairs(run)


@pytest.mark.parametrize(
    ("landmarks", "given", "expected"),
    [
        ({"detector": "annotations"}, None, "photos"),
        ({"detector": "onnx", "model": "d.onnx"}, None, "prior"),
        ({"detector": "onnx", "model": "d.onnx"}, "photos", "photos"),
        (None, None, "photos"),
    ],
)
def test_pairs_are_of_the_prior_where_there_is_a_detector(tmp_path, landmarks, given, expected):
    lgen = {"pairs": given, "num_fresh": 0}
    spec = load_spec(tmp_path, landmarks=landmarks, lgen=lgen, synthesize=None)
    assert spec.pairs == expected
    assert pairs.STAGE.wanted(spec) == (expected == "prior")


def test_pairs_of_the_prior_need_a_detector(tmp_path):
    spec = write_spec(tmp_path, landmarks={"detector": "annotations"}, lgen={"pairs": "prior"})
    with pytest.raises(SpecError, match=r"(?s)lgen.pairs is prior.*the section landmarks has none"):
        specfile.load(spec)


@pytest.mark.ray
def test_a_job_learns_from_generated_faces_and_is_held_against_fresh_ones(
    ray_cluster, tmp_path, generator, detector, capsys
):
    """The detector's points follow the light of the face."""
    own = {"detector": "onnx", "model": str(detector.model), "workers": 1}
    lgen = {"num_pairs": 150, "num_fresh": 40, "workers": 1, "trials": 1, "judge": own}
    spec = load_spec(
        tmp_path,
        ingest={"source": {"kind": "procedural", "count": 60}, "resolution": 32, "shard_rows": 30},
        landmarks=own,
        began=None,
        invert={"generator": str(generator), "recipe": "bfgs", "steps": 2, "workers": 1},
        lgen=lgen | {"epochs": 150, "learning_rate": 3e-3, "early_stopping": False},
        synthesize={"count": 20, "shard_rows": 20, "generator": str(generator), "workers": 1},
    )
    assert pipeline.run(spec) == pipeline.DONE
    run = RunDirectory(spec.run)
    fresh = json.loads((run.report / "summary.json").read_text())["lgen"]["fresh"]
    assert (fresh["count"], fresh["trusted"]) == (40, 40)
    assert 0 < fresh["nme_linear"] < fresh["nme_mean_shape"] < 0.1
    assert 0.5 < fresh["nme"] / fresh["nme_mean_shape"] < 2  # a light that is hard to learn
    assert fresh["noise"] < 1e-3
    assert len(fresh["nme_points"]) == 49
    assert fresh["reconstructions"] >= 50  # the photos with a face
    assert fresh["judged"]["lgen"] == pytest.approx(fresh["nme"], rel=1e-4)  # it is the same one
    record = run.record("lgen")
    assert record.inputs == {"pairs": run.identity("pairs")}
    assert "On new faces" in (run.report / "index.html").read_text()
    capsys.readouterr()
    assert main(["status", str(run.root)]) == 0
    said = capsys.readouterr().out
    assert "pairs      done" in said
    assert "warning: L-Gen is not twice as good as the mean shape" in said
    assert pipeline.run(spec) == pipeline.DONE

    shard = run.latents / "pairs" / "points" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    [finding] = findings(run)
    assert "pairs: shard 0" in finding
    before = shards.done(run.markers("pairs"))
    assert pipeline.run(spec) == pipeline.DONE
    assert shards.done(run.markers("pairs")) == before | {0}
    assert findings(run) == []


def test_a_detector_that_trusts_no_generated_face_stops_the_job(
    run, generator, detector, monkeypatch
):
    def nowhere(self, faces):
        return np.full((len(faces), 49, 2), 0.5, np.float32), np.ones((len(faces), 49), np.float32)

    monkeypatch.setattr(OnnxDetector, "detect", nowhere)
    group = label(run, generator, detector)
    assert set(groups.read(group, "status").tolist()) == {
        Status.IMPOSSIBLE_SHAPE,
        Status.NOTHING_UPSTREAM,
    }
    begin(run, "prior")
    with pytest.raises(RunDirectoryError, match="on 0 of 120 generated faces"):
        pair_rows.load_pairs(run)


@pytest.fixture
def lgen(tmp_path):
    """The folder of a landmark generator that says the same of all faces, and one that differs."""
    state = LandmarkGenerator(latent_dim=DIM, depth=1, width=4).state_dict()
    state["output.weight"].zero_()
    state["output.bias"] = torch.logit(torch.from_numpy(upright_face()).flatten())
    other = {name: tensor.clone() for name, tensor in state.items()}
    other["output.bias"] += 0.1
    variant = {"depth": 1, "width": 4, "activation": "relu"}
    line = {"judge": "a judge", "offset": [0.01] * 49, "expected": [], "found": []}
    line["correlation"] = 1.0
    meta = {
        "variant": variant,
        "members": [variant],
        "reliability": {
            "lgen": line | {"signs": ["spread"], "slope": [0.0]},
            "mean": line | {"signs": ["spread", "disagreement"], "slope": [0.0, 0.5]},
        },
    }
    weight_files.save(tmp_path / "l", {"lgen": state, "member1": other}, meta)
    return tmp_path / "l"


@pytest.mark.parametrize("labels", ["lgen", "detector", "mean"])
def test_the_label_of_a_sample_is_the_one_that_is_asked_for(
    tmp_path, generator, detector, lgen, labels
):
    labelling = None if labels == "lgen" else Labelling(detector=detector, min_score=0.5)
    worker = SynthesizeWorker(
        tmp_path,
        tmp_path / "markers",
        Recipe(
            generator=generator,
            lgen=lgen,
            seed=4,
            count=40,
            sampler=OfPrior(),
            labels=labels,
            labelling=labelling,
        ),
        export=WebDataset(),
    )
    worker.run(shards.split(20, 20)[0])
    samples = WebDataset().read_first(tmp_path, 0, 20)
    faces = np.stack([sample.face for sample in samples])
    detected = Labelling(detector=detector).make()(faces).points  # JPEG changes the light
    expected = {"lgen": upright_face() + 0 * detected, "detector": detected}
    expected["mean"] = (expected["lgen"] + detected) / 2
    points = np.stack([sample.landmarks for sample in samples])
    np.testing.assert_allclose(points, expected[labels], atol=1e-2)

    eyes = eye_distance(upright_face())
    uncertain = np.array([sample.uncertainty for sample in samples])
    if labels == "lgen":
        np.testing.assert_allclose(uncertain.astype(float), 0.01 * eyes, rtol=1e-3)
    elif labels == "mean":  # half of the way from one to the other on top
        apart = distance(expected["lgen"], detected) * eyes / eye_distance(detected)[:, None]
        np.testing.assert_allclose(uncertain.astype(float), 0.01 * eyes + apart / 2, atol=1e-2)
    else:
        assert all(sample.uncertainty is None for sample in samples)  # it was not measured


def test_labels_of_a_detector_need_one(tmp_path):
    spec = write_spec(tmp_path, synthesize={"count": 5, "labels": "mean"})
    with pytest.raises(SpecError, match="labels is mean, and the section landmarks has no"):
        specfile.load(spec)
