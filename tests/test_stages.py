"""The stages' workers as plain classes: no Ray, one shard at a time."""

import concurrent.futures
import time
import zipfile

import cv2
import numpy as np
import pytest
import torch

from distfacegan import weights
from distfacegan.core.detectors.annotations import Annotations
from distfacegan.core.detectors.onnx import Onnx
from distfacegan.core.labelling import Labelling
from distfacegan.core.lgen import LandmarkGenerator, Variant
from distfacegan.core.networks import Generator
from distfacegan.core.search import Search
from distfacegan.errors import CheckpointError, SourceError
from distfacegan.samplers.prior import OfPrior
from distfacegan.sections.invert import Retry
from distfacegan.sections.lgen import LGen
from distfacegan.sources.celeba import CelebASource
from distfacegan.sources.folder import FolderSource
from distfacegan.sources.procedural import ProceduralFaces
from distfacegan.stages import invert, landmarks
from distfacegan.stages.ingest import IngestWorker
from distfacegan.stages.invert import InvertWorker
from distfacegan.stages.landmarks import LandmarkWorker
from distfacegan.stages.lgen_variants import draw_groups
from distfacegan.stages.sample_maker import BLOCK, Recipe, SampleMaker
from distfacegan.stages.stage import Job
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from tests.jobs import load_spec
from tests.onnx_file import write_linear_network


def ingest(source, run, rows_of_shard=100, resolution=32):
    """Ingest a whole source, shard by shard; return the photos group."""
    photos = groups.create_group(
        run.latents,
        "photos",
        num_rows=len(source.keys),
        shard_rows=rows_of_shard,
        R=resolution,
    )
    worker = IngestWorker(source, run.latents, run.markers("ingest"), resolution)
    for shard in groups.plan(photos):
        worker.run(shard)
    return photos


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture(scope="module")
def faces():
    """Twelve procedural faces."""
    return ProceduralFaces(12, seed=5)


@pytest.fixture
def generator(tmp_path):
    """The path of a small generator of 16 px faces, with random weights."""
    torch.manual_seed(1)
    network = Generator(resolution=16, latent_dim=6, width=8, levels=2)
    weight_files.save(tmp_path / "g", {"generator": network.state_dict()}, {})
    return tmp_path / "g"


def test_bad_photos_among_good_ones_are_statuses(faces, run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    good = cv2.cvtColor(faces.read(1), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / "a.png"), good)
    data = (folder / "a.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    (folder / "c.jpg").write_bytes(b"")
    (folder / "d.jpg").write_bytes(b"not an image")
    cv2.imwrite(str(folder / "e.png"), np.full((100, 100, 3), 128, np.uint8))
    cv2.imwrite(str(folder / "f.png"), cv2.cvtColor(good, cv2.COLOR_BGR2GRAY))
    (folder / "notes.txt").write_text("not a photo")
    photos = ingest(FolderSource(folder), run)
    statuses = dict(
        zip(groups.read(photos, "key"), groups.read(photos, "status").tolist(), strict=True)
    )
    assert statuses == {
        "a.png": Status.OK,
        "b.png": Status.UNREADABLE,
        "c.jpg": Status.UNREADABLE,
        "d.jpg": Status.UNREADABLE,
        "e.png": Status.NO_FACE,
        "f.png": Status.OK,
    }
    image = groups.read(photos, "image")
    assert (image[1:5] == 0).all()
    assert np.abs(image[0].mean(-1) - image[5].mean(-1)).mean() < 12  # the same face, grey


def test_one_bad_image_in_an_archive_is_a_status(faces, run, tmp_path):
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w") as archive:
        for row in range(3):
            _, data = cv2.imencode(".jpg", cv2.cvtColor(faces.read(row), cv2.COLOR_RGB2BGR))
            content = b"rubbish" if row == 1 else data.tobytes()
            archive.writestr(f"img_align_celeba/{row + 1:06d}.jpg", content)
    photos = ingest(CelebASource(tmp_path / "img_align_celeba.zip"), run)
    assert groups.read(photos, "status").tolist() == [Status.OK, Status.UNREADABLE, Status.OK]


def landmark(run, *, detector, source):
    """Find the landmarks of all shards; return the landmarks group."""
    photos = groups.open_group(run.latents, "photos")
    group = groups.create_group(
        run.latents,
        "landmarks",
        num_rows=groups.num_rows(photos),
        shard_rows=groups.shard_rows(photos),
    )
    labelling = Labelling(detector=detector, min_score=detector.min_score)
    worker = LandmarkWorker(
        run.latents, run.markers("landmarks"), labelling=labelling, source=source
    )
    for shard in groups.plan(group):
        worker.run(shard)
    return group


def test_annotations_are_carried_through_the_crop_exactly(faces, run):
    photos = ingest(faces, run)
    group = landmark(run, detector=Annotations(), source=faces)
    status, points = groups.read(group, "status"), groups.read(group, "points")
    [ok] = np.nonzero(status == Status.OK)
    assert len(ok) >= 10
    for row in ok:
        x, y, side, _ = groups.read(photos, "box")[row]
        # The centre of pixel i of the source is at i + 1/2 from its edge.
        expected = (faces.annotation(row) + 0.5 - [x, y]) / side
        np.testing.assert_allclose(points[row], expected.clip(0, 1), atol=1e-5)


def test_a_row_without_a_face_has_nothing_upstream(faces, run):
    photos = ingest(faces, run)
    photos["status"][:] = np.where(np.arange(12) % 2, Status.NO_FACE, Status.OK)
    group = landmark(run, detector=Annotations(), source=faces)
    assert (groups.read(group, "status")[1::2] == Status.NOTHING_UPSTREAM).all()
    assert np.isnan(groups.read(group, "points")[1::2]).all()


def test_a_network_that_sees_no_face_is_not_trusted(faces, run, tmp_path):
    """All 68 points at the centre, whatever the picture: certain, and no face."""
    path = tmp_path / "centre.onnx"
    write_linear_network(path, np.zeros((136, 3 * 112 * 112)), np.full(136, 0.5), 112)
    ingest(faces, run)
    group = landmark(run, detector=Onnx(model=path), source=faces)
    status = groups.read(group, "status")
    assert set(status.tolist()) <= {Status.IMPOSSIBLE_SHAPE, Status.NOTHING_UPSTREAM}
    seen = status == Status.IMPOSSIBLE_SHAPE
    assert (groups.read(group, "deviation")[seen] > 0.2).all()


def test_celebas_five_points_are_no_landmarks(tmp_path):
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    cv2.imwrite(str(folder / "000001.jpg"), np.zeros((40, 40, 3), np.uint8))
    lines = ["1", "lefteye_x lefteye_y ...", "000001.jpg " + " ".join("12345678910"[:10])]
    (tmp_path / "list_landmarks_align_celeba.txt").write_text("\n".join(lines) + "\n")
    source = {"kind": "celeba", "path": str(folder)}
    spec = load_spec(tmp_path, ingest={"source": source})
    with pytest.raises(SourceError, match="5 points of a face, 49 are needed"):
        landmarks.STAGE.settings(Job(spec))


def test_missing_weights_of_the_detector_stop_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    spec = load_spec(tmp_path, landmarks={"detector": "face_alignment"})
    with pytest.raises(CheckpointError, match=r"2DFAN4-.*\.pth\.tar"):
        landmarks.STAGE.settings(Job(spec))


def test_the_record_of_the_landmarks_is_the_one_that_runs_on_disk_have(tmp_path):
    spec = load_spec(tmp_path, landmarks={"detector": "annotations", "min_score": 0.1})
    now = {"flip": True, "calibration": None, "max_disagreement": 0.05}  # 0.1.0 had none of it
    recorded = {"seed": 3, "detector": "annotations", "model": None, "min_score": 0.1, **now}
    assert landmarks.STAGE.settings(Job(spec)) == recorded
    path = tmp_path / "centre.onnx"
    write_linear_network(path, np.zeros((136, 3 * 112 * 112)), np.full(136, 0.5), 112)
    spec = load_spec(tmp_path, landmarks={"detector": "onnx", "model": "centre.onnx"})
    digest = files.digest(path.read_bytes())
    now["runtime"] = "opencv"
    recorded = {"seed": 3, "detector": "onnx", "model": digest, "min_score": None, **now}
    assert landmarks.STAGE.settings(Job(spec)) == recorded


def inverter(run, generator, name="latents.zarr", batch=5, retry=None, **search):
    photos = groups.open_group(run.latents, "photos")
    store = run.root / name
    groups.create_group_of(photos, store, "latents", Z=6)
    markers = run.root / f"{name}-markers"
    worker = InvertWorker(
        run.latents,
        store,
        markers,
        generator,
        search=Search(**{"seed": 2, "recipe": "clip", "steps": 15, **search}),
        batch=batch,
        retry=retry,
    )
    for shard in groups.plan(photos):
        worker.run(shard)
    return groups.open_group(store, "latents")


def test_the_recipes_differ_in_the_box_alone(faces, run, generator):
    ingest(faces, run)
    for recipe, inside in (("clip", True), ("paper", False)):
        group = inverter(run, generator, f"{recipe}.zarr", recipe=recipe, steps=60)
        ok = groups.read(group, "status") == Status.OK
        assert (np.abs(groups.read(group, "z")[ok]).max() <= 1) == inside


def test_shards_and_batches_do_not_change_a_latent(faces, run, generator):
    ingest(faces, run, rows_of_shard=12)
    one = groups.read(inverter(run, generator, "a.zarr", batch=12), "z")
    many = groups.read(inverter(run, generator, "b.zarr", batch=1), "z")
    np.testing.assert_allclose(one, many, atol=1e-4)


def test_the_worst_rows_are_searched_again_and_the_gain_is_counted(faces, run, generator):
    ingest(faces, run, rows_of_shard=12)
    once = groups.read(inverter(run, generator, "a.zarr", recipe="bfgs"), "loss")
    retry = Retry(worst=0.3, starts=2, steps=30)
    group = inverter(run, generator, "b.zarr", recipe="bfgs", retry=retry)
    twice = groups.read(group, "loss")
    sums = shards.totals(shards.read_markers(run.root / "b.zarr-markers"))["sums"]
    better = twice < once
    assert 0 < better.sum() == sums["improved"] <= sums["retried"] < np.isfinite(once).sum() / 2
    assert sums["loss_gained"] == pytest.approx((once - twice)[better].sum(), rel=1e-4)
    assert np.nanmin(once[better]) > np.nanmedian(once)
    np.testing.assert_array_equal(twice[~better], once[~better])


def test_two_threads_invert_what_one_does(faces, run, generator, monkeypatch):
    photos = ingest(faces, run, rows_of_shard=3)
    one = groups.read(inverter(run, generator, "a.zarr", recipe="bfgs"), "z")
    store, markers = run.root / "b.zarr", run.root / "b-markers"
    group = groups.create_group_of(photos, store, "latents", Z=6)
    worker = InvertWorker(
        run.latents,
        store,
        markers,
        generator,
        search=Search(seed=2, recipe="bfgs", steps=15),
        batch=5,
    )
    search, at_once = worker._inverter, []

    def alone(*arguments, **options):
        at_once.append("a search")
        time.sleep(0.05)
        assert len(at_once) == 1
        result = search(*arguments, **options)
        at_once.pop()
        return result

    monkeypatch.setattr(worker, "_inverter", alone)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(worker.run, groups.plan(photos)))
    assert shards.done(markers) == {0, 1, 2, 3}
    np.testing.assert_array_equal(groups.read(group, "z"), one)


def test_a_run_keeps_the_precision_that_auto_meant_when_it_began(run):
    run.begin("invert", {}, {})
    for device in ("cuda", "cpu"):
        assert invert._precision("auto", device, run) == "bf16"
    assert invert._precision("fp32", "cuda", run) == "fp32"
    assert run.record("invert").precision == "fp32"


def test_rows_at_the_target_are_not_searched_again(faces, run, generator):
    ingest(faces, run, rows_of_shard=12)
    retry = Retry(worst=1.0, starts=1, steps=3)
    for target, retried in ((1e-9, True), (10.0, False)):
        inverter(run, generator, f"{retried}.zarr", retry=retry, target_loss=target)
        [marker] = shards.read_markers(run.root / f"{retried}.zarr-markers")
        assert (marker.sums["retried"] > 0) == retried


def test_a_shard_without_a_face_has_nothing_to_search_for(run, generator, tmp_path):
    black = tmp_path / "black"
    black.mkdir()
    for i in range(3):
        cv2.imwrite(str(black / f"{i}.png"), np.zeros((64, 64, 3), np.uint8))
    ingest(FolderSource(black), run)
    retry = Retry(worst=0.5, starts=2, steps=3)
    group = inverter(run, generator, retry=retry)
    assert (groups.read(group, "status") == Status.NOTHING_UPSTREAM).all()
    [marker] = shards.read_markers(run.root / "latents.zarr-markers")
    assert marker.sums == {"retried": 0, "improved": 0, "loss_gained": 0.0}


def test_an_exploding_generator_is_a_status_of_its_rows(faces, run, tmp_path):
    network = Generator(resolution=16, latent_dim=6, width=8, levels=2)
    network.to_rgb.bias.data[0] = float("inf")
    weight_files.save(tmp_path / "bad", {"generator": network.state_dict()}, {})
    photos = ingest(faces, run)
    status = groups.read(inverter(run, tmp_path / "bad"), "status")
    assert (status[groups.read(photos, "status") == Status.OK] == Status.FAILED).all()


def test_faces_that_the_generator_cannot_make_are_refused_before_the_run(generator, tmp_path):
    spec = load_spec(
        tmp_path,
        ingest={"source": {"kind": "procedural", "count": 3}, "resolution": 24},
        began=None,
        invert={"generator": str(generator)},
        synthesize=None,
    )
    with pytest.raises(CheckpointError, match="makes faces of 16 pixels"):
        invert.STAGE.settings(Job(spec))


def test_the_generator_comes_from_a_folder_or_a_file(generator):
    file = generator / "generator.safetensors"
    assert weights.load_generator(generator).resolution == 16
    assert weights.load_generator(file).latent_dim == 6
    assert weights.digest(generator, "generator") == weights.digest(file, "generator")


class DependsOnTheBatch(torch.nn.Module):
    """A generator whose faces, and so the samples, show how many latents it was given at once."""

    latent_dim = 6

    def forward(self, z):
        return torch.full((len(z), 3, 16, 16), len(z) / 300) + z.mean(1)[:, None, None, None]


def test_the_same_index_gives_the_same_sample_whatever_the_shards(generator, tmp_path):
    network = LandmarkGenerator(latent_dim=6, depth=1, width=4)
    meta = {"variant": {"depth": 1, "width": 4, "activation": "relu"}, "evaluation": {}}
    weight_files.save(tmp_path / "l", {"lgen": network.state_dict()}, meta)
    found = []
    for shard_rows in (7, BLOCK, 150):
        recipe = Recipe(
            generator=generator, lgen=tmp_path / "l", seed=4, count=220, sampler=OfPrior()
        )
        maker = SampleMaker(recipe)
        maker._generator = DependsOnTheBatch()
        plan = shards.split(220, shard_rows)
        found.append([sample for shard in plan for sample, _ in maker.samples(shard)])
    for samples in zip(*found, strict=True):
        for name, value in vars(samples[0]).items():
            for other in samples[1:]:
                np.testing.assert_array_equal(getattr(other, name), value)
    assert [sample.index for sample in found[0]] == list(range(220))


def test_the_landmark_generator_must_take_the_generators_latents(generator, tmp_path):
    network = LandmarkGenerator(latent_dim=9, depth=1, width=4)
    meta = {"variant": {"depth": 1, "width": 4, "activation": "relu"}}
    weight_files.save(tmp_path / "l", {"lgen": network.state_dict()}, meta)
    with pytest.raises(CheckpointError, match="takes z of 9 dimensions, the generator of 6"):
        weights.load_lgen(tmp_path / "l", 6, "any")


@pytest.fixture
def small_lgen():
    """A landmark generator for z of 6 dimensions, and what describes it."""
    network = LandmarkGenerator(latent_dim=6, depth=1, width=4)
    return network.state_dict(), {"variant": {"depth": 1, "width": 4, "activation": "relu"}}


def test_the_landmark_generator_of_another_generator_is_refused_by_both_digests(
    small_lgen, tmp_path
):
    state, meta = small_lgen
    weight_files.save(tmp_path / "l", {"lgen": state}, {**meta, "generator": "of-g-1"})
    weights.load_lgen(tmp_path / "l", 6, "of-g-1")
    with pytest.raises(CheckpointError, match="of-g-1 it was trained for, of-g-2 is used here"):
        weights.load_lgen(tmp_path / "l", 6, "of-g-2")


def test_the_run_of_an_old_landmark_generator_says_whose_it_is(small_lgen, tmp_path, caplog):
    state, meta = small_lgen
    run = RunDirectory(tmp_path)
    weight_files.save(run.lgen / "final", {"lgen": state}, meta)
    run.begin("invert", {}, {"generator": "of-g-1"})
    run.begin("lgen", {}, {"latents": run.identity("invert")})
    assert weights.lgen_owner(run.lgen / "final") == "of-g-1"
    with pytest.raises(CheckpointError, match="another generator"):
        weights.load_lgen(run.lgen / "final", 6, "of-g-2")

    run.clear("invert", ["invert"])  # inverted anew: the record is of other latents now
    run.begin("invert", {}, {"generator": "of-g-2"})
    assert weights.lgen_owner(run.lgen / "final") is None
    weights.load_lgen(run.lgen / "final", 6, "of-g-2")
    weights.warn_if_unowned(run.lgen / "final", "of-g-2")
    assert "does not say whose latents it learnt" in caplog.text


def test_variants_are_distinct_and_begin_with_table_one():
    search = {"depth": [2, 3], "width": [128], "activation": ["relu"], "batch": [16]}
    search |= {"learning_rate": [3e-4], "learning_rate_decay": ["constant"], "weight_decay": [0.0]}
    [[table_one], [other]] = draw_groups(LGen(trials=5, search=search), seed=0)
    assert (table_one.depth, other.depth) == (3, 2)
    groups = draw_groups(LGen(trials=200), seed=1)
    many = [variant for group in groups for variant in group]
    assert len(set(many)) == 200
    assert groups[0][0] == Variant()
    assert groups != draw_groups(LGen(trials=200), seed=2)


def test_variants_of_a_group_have_one_shape():
    groups = draw_groups(LGen(trials=17), seed=0)
    assert [len(group) for group in groups] == [4, 4, 4, 4, 1]
    assert all(len({variant.shape for variant in group}) == 1 for group in groups)
    assert len({group[0].shape for group in groups}) == 5


def test_a_variant_outside_the_search_space_is_tried_alone():
    groups = draw_groups(LGen(trials=9, width=7), seed=0)
    assert [len(group) for group in groups] == [1, 4, 4]
    assert groups[0][0] == Variant(width=7)


def test_a_search_space_of_one_shape_is_tried_in_several_groups():
    search = {"depth": [3], "width": [128], "activation": ["relu"], "batch": [16]}
    groups = draw_groups(LGen(trials=100, search=search), seed=0)
    assert [len(group) for group in groups] == [4] * 6  # all 24 variants
