"""The report of a run, from directories made here through the store: no Ray, no training."""

import base64
import html.parser
import io
import json
import shutil
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import PIL.Image
import pytest
import torch

from distfacegan import report
from distfacegan.cli import main
from distfacegan.core.grids import encode, tile
from distfacegan.core.lgen import LandmarkGenerator
from distfacegan.core.networks import Generator
from distfacegan.errors import CheckpointError, DistfaceganError, RunDirectoryError
from distfacegan.report import figures, mirror, page, plots
from distfacegan.report.contents import STAGES, Contents
from distfacegan.report.summary import spread
from distfacegan.report.verdicts import _of_lgen
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.exports import Sample
from distfacegan.store.exports.webdataset import WebDataset
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Shard, Status

NUM_ROWS, SHARD_ROWS, SIDE = 60, 16, 32
NO_FACE, NOT_TRUSTED = 3, 7  # rows
SHAPE = {"resolution": 16, "latent_dim": 8, "width": 4, "levels": 2}
VARIANT = {
    "depth": 1,
    "width": 8,
    "activation": "relu",
    "learning_rate": 3e-4,
    "learning_rate_decay": "constant",
    "weight_decay": 0.0,
    "batch": 16,
}
LOSSES = np.linspace(0.6, 0.01, NUM_ROWS).astype(np.float32)  # falling with the row, by 0.01
POINTS = np.random.default_rng(1).uniform(0.2, 0.8, (NUM_ROWS, 49, 2)).astype(np.float32)


# What a record says there is to do.
ALL_ROWS = {"rows": NUM_ROWS, "shards": -(-NUM_ROWS // SHARD_ROWS)}
TO_DO = {
    "ingest": ALL_ROWS,
    "landmarks": ALL_ROWS,
    "invert": ALL_ROWS,
    "mirror": ALL_ROWS,
    "pairs": ALL_ROWS,
    "study": {"rows": 6, "shards": 6},
    "began": {"steps": 20},
    "synthesize": {"rows": 20, "shards": 1},
}


def make_run(root, stages=STAGES) -> RunDirectory:
    """Make a run directory in which some stages have run."""
    run = RunDirectory(root)
    files.write_bytes(run.job, b"name: little\nseed: 5\n")
    for stage in stages:
        globals()[f"make_{stage}"](run)
    return run


def record(run, stage, settings, inputs=None, *, seconds=(2.0,), **figures_of_run) -> None:
    """Write the record of a stage that ran as often as `seconds` says."""
    begun = {"settings": {"seed": 5, **settings}, "inputs": inputs or {}, **TO_DO.get(stage, {})}
    files.write_json(run.record_path(stage), begun | {"runs": [], "finished": False})
    for duration in seconds:
        run.end(stage, finished=True, started=time.time() - duration, **figures_of_run)
    text = files.read_json(run.record_path(stage))
    for of_run, duration in zip(text["runs"], seconds, strict=True):
        of_run["seconds"] = duration
    files.write_json(run.record_path(stage), text)


def fill(run, stage, group, arrays, **lengths) -> None:
    """Write the arrays of a group and its markers."""
    made = groups.create_group(
        run.latents, group, num_rows=NUM_ROWS, shard_rows=SHARD_ROWS, **lengths
    )
    for shard in groups.plan(made):
        rows = {name: values[shard.start : shard.stop] for name, values in arrays.items()}
        groups.commit(made, run.markers(stage), shard, rows, time.time())


def statuses(*, without=(), status=Status.OK) -> np.ndarray:
    found = np.full(NUM_ROWS, Status.OK, np.uint8)
    found[list(without)] = status
    return found


def make_ingest(run) -> None:
    image = np.random.default_rng(0).integers(0, 255, (NUM_ROWS, SIDE, SIDE, 3), np.uint8)
    arrays = {
        "image": image,
        "box": np.full((NUM_ROWS, 4), 1, np.float32),
        "key": np.array([f"{row}.jpg" for row in range(NUM_ROWS)], object),
        "brightness": np.linspace(0.2, 0.8, NUM_ROWS).astype(np.float32),
        "status": statuses(without=[NO_FACE], status=Status.NO_FACE),
    }
    fill(run, "ingest", "photos", arrays, R=SIDE)
    record(run, "ingest", {}, seconds=(3.0, 5.0), set_aside={})


def make_landmarks(run) -> None:
    status = statuses(without=[NOT_TRUSTED], status=Status.LANDMARKS_NOT_TRUSTED)
    status[NO_FACE] = Status.NOTHING_UPSTREAM
    deviation = np.full(NUM_ROWS, np.nan, np.float32)
    deviation[:2] = 0.02, 0.04
    arrays = {
        "points": POINTS,
        "score": np.ones((NUM_ROWS, 49), np.float32),
        "deviation": deviation,
        "disagreement": np.full(NUM_ROWS, 0.01, np.float32),
        "status": status,
    }
    fill(run, "landmarks", "landmarks", arrays)
    record(run, "landmarks", {})


def make_began(run, *, finished=True) -> None:
    torch.manual_seed(0)
    state = {"generator": Generator(**SHAPE).state_dict()}
    meta = {"step": 20}
    weight_files.save(run.began / "checkpoints" / "00000020", state, meta)
    if finished:
        weight_files.save(run.began / "generator", state, meta)
    lines = [
        {
            "step": step,
            "loss_real": 0.2,
            "loss_fake": 0.1,
            "m_global": 0.25,
            "k": 0.03,
            "learning_rate": 1e-3,
            "images_per_s": 80.0,
        }
        for step in (10, 20)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3'  # being written
    files.write_bytes(run.began / "metrics.jsonl", text.encode())
    grid = tile(np.zeros((64, 16, 16, 3), np.uint8), columns=8)
    for step in (10, 20):
        files.write_bytes(run.began / "samples" / f"{step:08d}.png", encode(grid))
    record(run, "began", {"steps": 20, "gamma": 0.5})


def generator_digest(run) -> str:
    return files.file_digest(run.began / "generator" / "generator.safetensors")


def make_invert(run) -> None:
    loss = LOSSES.copy()
    loss[NO_FACE] = np.nan
    arrays = {
        "z": np.random.default_rng(2).uniform(-1, 1, (NUM_ROWS, 8)).astype(np.float32),
        "loss": loss,
        "steps": np.ones(NUM_ROWS, np.int32),
        "status": statuses(without=[NO_FACE], status=Status.NOTHING_UPSTREAM),
    }
    fill(run, "invert", "latents", arrays, Z=8)
    inputs = {"photos": run.identity("ingest"), "generator": generator_digest(run)}
    settings = {"recipe": "clip", "steps": 2, "radius": 1.0, "learning_rate": 0.1}
    record(run, "invert", settings, inputs)


def make_mirror(run) -> None:
    group = groups.open_group(run.latents, "latents")
    arrays = {name: groups.read(group, name) for name in ("z", "loss", "steps", "status")}
    fill(run, "mirror", "mirrored", arrays, Z=8)
    record(run, "mirror", {}, {"generator": generator_digest(run)})


def make_study(run) -> None:
    errors = {"nme": [0.05, 0.06], "nme_mean": 0.055, "nme_std": 0.005}
    networks = [
        {"way": "synthetic", "real_faces": 0, **errors},
        *({"way": "real", "real_faces": amount, **errors} for amount in (20, 50)),
    ]
    found = {"labels": "onnx", "faces_test": 30, "faces_generated": 20, "networks": networks}
    files.write_json(run.study / "results.json", found)
    record(run, "study", {"amounts": [20, 50], "seeds": 2})


def make_pairs(run) -> None:
    arrays = {
        "z": np.zeros((NUM_ROWS, 8), np.float32),
        "points": POINTS,
        "score": np.ones((NUM_ROWS, 49), np.float32),
        "disagreement": np.full(NUM_ROWS, 0.01, np.float32),
        "shift": np.full(NUM_ROWS, np.nan, np.float32),
        "judged": np.full((NUM_ROWS, 49, 2), np.nan, np.float32),
        "status": statuses(),
    }
    fill(run, "pairs", "pairs", arrays, Z=8)
    settings = {"pairs": "photos", "num_pairs": 0, "num_fresh": NUM_ROWS}
    record(run, "pairs", settings, {"generator": generator_digest(run), "latents": None})


def make_lgen(run) -> None:
    torch.manual_seed(0)
    shape = {name: VARIANT[name] for name in ("depth", "width", "activation")}
    state = {"lgen": LandmarkGenerator(latent_dim=8, **shape).state_dict()}
    evaluation = {
        "nme": 0.03,
        "nme_mean_shape": 0.09,
        "nme_validation": 0.028,
        "nme_validation_table_one": 0.028,
        "rows_train": 46,
        "rows_validation": 6,
        "rows_test": 6,
        "fresh": {
            "count": NUM_ROWS,
            "trusted": NUM_ROWS,
            "nme": 0.05,
            "nme_linear": 0.04,
            "nme_mean_shape": 0.08,
            "noise": 0.007,
        },
    }
    for name in ("held_out", "final"):
        weight_files.save(run.lgen / name, state, {"variant": VARIANT, "evaluation": evaluation})
    trial = {**VARIANT, "nme": 0.028, "epochs": 3, "seconds": 1.5, "table_one": True}
    files.write_json(run.lgen / "trials.json", [trial])
    files.write_json(run.lgen / "evaluation.json", evaluation)
    record(run, "lgen", {"test_share": 0.1, "validation_share": 0.1}, rows=58)


def make_synthesize(run) -> None:
    started, shard = time.time(), Shard(0, 0, 20)
    face = np.full((16, 16, 3), 128, np.uint8)
    samples = (Sample(i, 5, np.zeros(6, np.float32), face, POINTS[i]) for i in range(20))
    [(name, data)] = WebDataset().pack(0, samples)
    files.write_bytes(run.synthetic / name, data)
    digests = {name: files.digest(data)}
    shards.mark_done(
        run.markers("synthesize"), shard, statuses={"ok": 20}, digests=digests, started=started
    )
    record(
        run,
        "synthesize",
        {"count": 20, "format": "webdataset", "jpeg_quality": 95},
        {"generator": generator_digest(run), "lgen": "any"},
    )


class Page(html.parser.HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data

    def of(self, tag) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def read_summary(run) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((run.report / "summary.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in which every stage has run, and its report. Not to be changed."""
    run = make_run(tmp_path_factory.mktemp("report") / "run")
    return run, Page(report.write(run)), read_summary(run)


@pytest.fixture
def no_plots(monkeypatch):
    """Leave out the plots, which take half of the time."""
    monkeypatch.setattr(plots, "curves", lambda *arguments: "data:,")
    monkeypatch.setattr(plots, "histogram", lambda *arguments: "data:,")


@pytest.fixture
def own(finished, tmp_path, no_plots):
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished[0].root, tmp_path / "copy")
    return RunDirectory(tmp_path / "copy")


def test_the_page_is_one_file_that_loads_nothing(finished):
    _, shown, _ = finished
    addresses = [
        value
        for _, attributes in shown.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "xlink:href")
    ]
    assert len(addresses) > 100
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in shown.source
    assert "@import" not in shown.source
    assert not shown.of("script")
    assert all(link["href"].startswith("data:") for link in shown.of("link"))


def test_every_picture_has_an_alternative_text_and_can_be_decoded(finished):
    _, shown, _ = finished
    for picture in shown.of("img"):
        assert len(picture["alt"]) > 5
        kind, _, data = picture["src"].partition(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            PIL.Image.open(io.BytesIO(content)).load()


def test_every_link_of_the_contents_leads_somewhere(finished):
    _, shown, _ = finished
    ids = {attributes["id"] for attributes in shown.of("section")}
    assert {link["href"].removeprefix("#") for link in shown.of("a")} == ids


def test_the_summary_has_the_numbers_of_every_stage(finished):
    _, _, summary = finished
    assert list(summary["stages"]) == list(STAGES)
    ingest = summary["stages"]["ingest"]
    assert ingest["statuses"] == {"ok": 59, "no face": 1}
    assert (ingest["rows"], ingest["done"], ingest["set_aside"]) == (60, 60, 0)
    assert (ingest["seconds"], ingest["rows_per_s"]) == (8.0, 7.5)  # 3 s + 5 s; 60 / 8
    steps = summary["stages"]["began"]
    assert (steps["rows"], steps["done"], steps["rows_per_s"]) == (20, 20, 10.0)
    assert summary["stages"]["lgen"]["rows"] == 58
    assert summary["stages"]["landmarks"]["statuses"] == {
        "ok": 58,
        "landmarks not trusted": 1,
        "nothing upstream": 1,
    }


def test_the_summary_has_the_numbers_of_the_figures(finished):
    _, _, summary = finished
    assert (summary["name"], summary["resolution"], summary["rows"]) == ("little", SIDE, NUM_ROWS)
    # 0.60, 0.59 ... 0.01 without row 3's 0.57: 59 losses, the 30th of them 0.30
    assert summary["invert"]["loss"]["mean"] == pytest.approx((60 * 0.305 - 0.57) / 59)
    assert summary["invert"]["loss"]["median"] == pytest.approx(0.30)
    assert summary["landmarks"]["deviation"] == {
        "rows": 2,
        "mean": pytest.approx(0.03),
        "median": pytest.approx(0.03),
        "p90": pytest.approx(0.038),
    }
    assert (summary["lgen"]["nme"], summary["lgen"]["nme_mean_shape"]) == (0.03, 0.09)
    assert summary["began"] == {
        "steps": 20,
        "m_global": 0.25,
        "k": 0.03,
        "loss_real": 0.2,
        "loss_fake": 0.1,
        "images_per_s": 80.0,
        "diversity_ratio": None,  # no look at generated faces
        "encoder_distance": None,
        "nearest_ratio": None,
        "rollbacks": [],
    }
    assert summary["synthesize"]["count"] == 20
    # Means of 2 x 2 uniform pixels are nearly normal, of deviation 255 / 12**0.5 / 2 = 36.8; the
    # mean difference of two is 2 / pi**0.5 as much.
    assert summary["diversity_real"] == pytest.approx(41.5, abs=1)
    ratio = summary["diversity_generated"] / summary["diversity_real"]
    assert summary["diversity_ratio"] == pytest.approx(ratio)


def test_lgen_that_is_of_no_use_is_warned_of_before_anything_else(finished):
    _, shown, summary = finished
    assert summary["lgen"]["fresh"]["nme_linear"] == 0.04
    first_screen = shown.text.partition("What each stage did")[0]
    assert "no better than linear regression: 5.00% and 4.00%" in first_screen
    assert "not twice as good as the mean shape: 5.00% and 8.00%" in first_screen


def test_the_page_says_the_numbers_of_the_summary(finished):
    _, shown, summary = finished
    for text in (
        "little",
        "3.0%",  # NME
        "9.0%",  # of the mean shape
        f"{summary['diversity_ratio']:#.2g}",
        "landmarks not trusted",
        "seed: 5",  # the spec
        *(f"Fig. {number} of the paper" for number in (3, 4, 5, 8, 9)),
    ):
        assert text in shown.text
    assert "Not run" not in shown.text


def test_the_study_has_its_table_and_says_whose_labels_it_is_judged_by(finished):
    _, shown, summary = finished
    assert "What the synthetic faces are worth" in shown.text
    assert "5.50%" in shown.text
    assert "whose landmarks the detector onnx has set" in shown.text
    assert len(summary["study"]["networks"]) == 3


@pytest.mark.parametrize("num_stages", range(len(STAGES) - 1))
def test_a_run_of_the_first_stages_only_has_a_report(tmp_path, num_stages, no_plots):
    run = make_run(tmp_path, STAGES[:num_stages])
    shown = Page(report.write(run))
    assert list(read_summary(run)["stages"]) == list(STAGES[:num_stages])
    assert "Not run" in shown.text


def test_an_empty_directory_has_a_report(tmp_path):
    run = RunDirectory(tmp_path / "nothing")
    shown = Page(report.write(run))
    assert "nothing" in shown.text
    assert read_summary(run)["diversity_ratio"] is None


def test_a_training_under_way_is_shown_by_its_newest_checkpoint(tmp_path, no_plots):
    run = make_run(tmp_path, ["ingest"])
    make_began(run, finished=False)
    report.write(run)
    assert read_summary(run)["generator"]["latent_dim"] == 8
    assert read_summary(run)["diversity_ratio"] > 0


def test_faces_that_are_all_alike_have_no_ratio(tmp_path, no_plots):
    run = make_run(tmp_path, ["ingest", "began"])
    photos = groups.open_group(run.latents, "photos")
    photos["image"][:] = np.full((NUM_ROWS, SIDE, SIDE, 3), 7, np.uint8)
    report.write(run)
    summary = read_summary(run)
    assert (summary["diversity_real"], summary["diversity_ratio"]) == (0.0, None)


def test_a_copy_on_another_machine_has_the_same_report(finished, own):
    _, _, summary = finished
    report.write(own)
    mine = read_summary(own)
    for differs in ("run", "written", "digest", "digests"):
        del mine[differs]
    assert mine.items() <= summary.items()


def test_the_inverted_photos_may_be_another_run_and_may_be_gone(tmp_path, no_plots):
    photos_run = make_run(tmp_path / "photos", ["ingest"])
    run = make_run(tmp_path / "run", ["began"])
    shutil.copytree(photos_run.root / "stages", run.root / "stages", dirs_exist_ok=True)
    make_invert(run)
    run.record_path("ingest").unlink()
    files.write_bytes(run.job, f"invert: {{photos: {photos_run.root}}}\n".encode())
    assert set(figures.reconstructions(Contents(run))) == {"random", "best", "worst"}

    shutil.rmtree(photos_run.root)
    shown = Page(report.write(run))
    assert "not on this machine" in shown.text
    assert read_summary(run)["invert"]["loss"]["rows"] == 59


def test_a_generator_that_is_not_the_inverted_one_draws_nothing(own):
    generator = Generator(**SHAPE)
    weight_files.save(own.began / "generator", {"generator": generator.state_dict()}, {})
    shutil.rmtree(own.began / "checkpoints")
    report.write(own)
    assert read_summary(own)["generator"]["digest"] is None


def test_shards_set_aside_are_named_with_their_reasons(own):
    (own.markers("ingest") / "00001.json").unlink()
    reasons = {"1": "died <of cold>", "2": "done since"}
    own.end("ingest", finished=False, started=time.time(), set_aside=reasons)
    shown = Page(report.write(own))
    ingest = read_summary(own)["stages"]["ingest"]
    assert (ingest["rows"], ingest["done"], ingest["set_aside"]) == (60, 44, 1)
    assert "shard 1: died <of cold>" in shown.text  # and so escaped in the source
    assert "done since" not in shown.text
    assert "pending" in shown.text


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("job.yaml", RunDirectoryError),
        ("began/metrics.jsonl", RunDirectoryError),
        ("began/generator/generator.safetensors", CheckpointError),
        ("began/samples/00000020.png", RunDirectoryError),
        ("lgen/final/lgen.safetensors", CheckpointError),
        ("lgen/evaluation.json", RunDirectoryError),
        ("stages/ingest.json", RunDirectoryError),
        ("shards/invert/00001.json", RunDirectoryError),
        ("latents.zarr/latents/loss/c/1", RunDirectoryError),
        ("latents.zarr/photos/image/c/0/0/0/0", RunDirectoryError),
        ("synthetic/00000.tar", RunDirectoryError),
        ("report/mirror.json", RunDirectoryError),
    ],
)
def test_damage_is_named(own, path, error):
    damaged = own.root / path
    content = bytearray(damaged.read_bytes())
    content[: len(content) // 2] = b"{" * (len(content) // 2)
    damaged.write_bytes(content)
    before = (own.report / "index.html").read_bytes()
    with pytest.raises(error) as caught:
        report.write(own)
    assert isinstance(caught.value, DistfaceganError)
    assert path.split("/c/")[0] in str(caught.value)
    assert (own.report / "index.html").read_bytes() == before


def test_the_best_and_the_worst_reconstructions_are_those_by_loss(finished):
    run, _, _ = finished
    pairs = figures.reconstructions(Contents(run))
    labels = {name: [photo.label for photo, _ in some] for name, some in pairs.items()}
    assert labels["best"] == ["row 59", "row 58", "row 57", "row 56"]
    assert labels["worst"] == ["row 0", "row 1", "row 2", "row 4"]  # row 3 has no face
    assert [made.label for _, made in pairs["best"]] == ["0.010", "0.020", "0.030", "0.040"]
    assert len(labels["random"]) == 12


def test_the_numbers_below_the_pictures_are_in_the_summary(finished):
    _, shown, summary = finished
    of = summary["figures"]
    assert of["reconstructions"]["best"][0] == {"row": 59, "loss": pytest.approx(0.01)}
    assert len(of["test_examples"]) == summary["lgen"]["rows_test"]
    assert len(of["mirror"]) == 3
    assert all(1 <= way["largest_step"] < 15 for way in of["mirror"])
    assert all(1 <= way["largest_landmark_step"] < 15 for way in of["mirror"])
    assert all(way["mirror_nme"] > 0 for way in of["mirror"])
    assert all(f"row {way['row']} · {way['loss']:.3f}" in shown.text for way in of["mirror"])
    assert all(f"mirror · {way['mirror_loss']:.3f}" in shown.text for way in of["mirror"])


def test_only_trusted_landmarks_are_shown(finished):
    run, _, _ = finished
    table = Contents(run).landmarks
    assert sorted(table.sample(100)) == sorted(set(range(NUM_ROWS)) - {NO_FACE, NOT_TRUSTED})


def test_landmarks_that_are_not_trusted_come_first_among_the_doubtful(finished):
    run, shown, _ = finished
    pictures = figures.doubtful(Contents(run))
    assert len(pictures) == figures.NUM_LABELLED
    assert f"row {NOT_TRUSTED} · landmarks not trusted" in [each.label for each in pictures]
    assert not any(each.label.startswith(f"row {NO_FACE} ") for each in pictures)
    assert "most in doubt" in shown.text


def test_a_landmark_is_a_dot_at_its_place_in_the_face():
    points = np.array([[0.5, 0.25], [np.nan, 0.1], [1.0, 0.0]])
    face = np.zeros((300, 300, 3), np.uint8)
    shown = figures.picture(face, "a face", detected=points)
    assert shown.marks == [("detected", "M50.0 25.0h.01M100.0 0.0h.01")]
    content = base64.b64decode(shown.uri.partition(",")[2])
    assert PIL.Image.open(io.BytesIO(content)).size == (figures.MAX_SIDE, figures.MAX_SIDE)


def test_the_test_examples_are_rows_that_the_stage_held_out(finished):
    from distfacegan.sections.lgen import LGen
    from distfacegan.stages.lgen import load_rows
    from distfacegan.stages.lgen_search import Rows

    run, _, _ = finished
    contents = Contents(run)
    rows = Rows(*load_rows(run), LGen(), seed=5)
    np.testing.assert_array_equal(contents.latents.read("z", contents.test_rows), rows.z[rows.test])


def test_no_test_examples_are_shown_where_the_rows_are_no_longer_those_of_the_training(own):
    evaluation = files.read_json(own.lgen / "evaluation.json")
    files.write_json(own.lgen / "evaluation.json", evaluation | {"rows_train": 45})
    assert len(Contents(own).test_rows) == 0


def test_the_way_to_the_mirror_image_is_straight_with_14_steps_between():
    way = mirror.way(np.array([0.0, -1.0], np.float32), np.array([1.5, 0.5], np.float32))
    assert way.shape == (16, 2)
    np.testing.assert_allclose(way[:, 0], np.arange(16) / 10, atol=1e-6)
    np.testing.assert_allclose(way[:, 1], np.arange(16) / 10 - 1, atol=1e-6)


def test_the_largest_step_is_told_from_the_mean_one():
    assert figures.largest_step(np.arange(5)[:, None] * np.ones((5, 3))) == pytest.approx(1)
    assert figures.largest_step(np.array([[0], [1], [2], [5]], np.uint8)) == pytest.approx(
        3 / (5 / 3)
    )
    assert figures.largest_step(np.zeros((4, 2))) == 1  # nothing moves


def test_the_mirrored_photos_are_inverted_once(own, monkeypatch):
    def refuse(*arguments, **settings):
        raise RuntimeError("inverts again")

    monkeypatch.setattr(mirror, "Inverter", refuse)
    report.write(own)
    (own.report / "mirror.json").unlink()
    with pytest.raises(RuntimeError, match="inverts again"):
        figures.ways_to_mirror(Contents(own))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (3.42, "3.4 s"), (59.99, "60.0 s"), (125, "2 min 5 s"), (7265, "2 h 1 min")],
)
def test_durations_are_written_in_their_two_largest_units(seconds, text):
    assert page.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.19, "0.190"), (118.58, "119"), (20_123.0, "20,123"), (0.00123, "0.00123")],
)
def test_numbers_are_written_with_three_digits(value, text):
    assert page.decimal(value) == text


def test_the_spread_of_nothing_is_null():
    nothing = {"rows": 0, "mean": None, "median": None, "p90": None}
    assert spread(np.array([np.nan, np.inf], np.float32)) == nothing


def test_the_first_screen_has_a_verdict_on_every_stage(finished):
    _, shown, summary = finished
    for stage in ("ingest", "landmarks", "began", "invert", "lgen", "synthesize"):
        assert stage in shown.text
    levels = [a["class"].split()[1] for a in shown.of("li") if "verdict" in a.get("class", "")]
    assert len(levels) == 6
    assert set(levels) <= {"good", "fair", "poor"}
    assert summary["synthesize"]["count"] == 20


@pytest.mark.parametrize(
    ("error", "linear", "level"),
    [(0.01, 0.02, "good"), (0.01, 0.009, "poor"), (0.03, 0.04, "fair"), (0.05, 0.06, "poor")],
)
def test_lgen_is_good_if_it_beats_linear_regression_and_the_mean_shape_by_far(error, linear, level):
    fresh = {"nme": error, "nme_linear": linear, "nme_mean_shape": 0.06}
    summary = {"lgen": {"fresh": fresh, "nme": 0.01, "nme_mean_shape": 0.1}}
    assert _of_lgen(summary, {"labelled_faces": []}).level == level


def test_two_runs_are_compared_by_their_numbers_and_settings(finished, own, capsys):
    run, _, _ = finished
    evaluation = files.read_json(own.lgen / "evaluation.json")
    files.write_json(own.lgen / "evaluation.json", evaluation | {"nme": 0.5})
    path = own.record_path("invert")
    found = files.read_json(path)
    found["settings"]["steps"] = 99
    files.write_json(path, found)
    shutil.copytree(run.root, own.root.parent / "first")
    first = RunDirectory(own.root.parent / "first")
    assert main(["report", str(first.root), str(own.root)]) == 0
    shown = Page(first.report / "comparison.html")
    assert str(first.report / "comparison.html") in capsys.readouterr().out
    best = [a for a in shown.of("td") if a.get("class") == "best"]
    assert len(best) == 1  # only L-Gen's error differs
    assert "50.0%" in shown.text
    assert "invert.steps" in shown.text
    assert not [a for a in shown.of("link") if not a["href"].startswith("data:")]
