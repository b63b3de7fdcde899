"""What the report shows of a training that watches itself: curves, a film, copied faces."""

import base64
import io
import json

import numpy as np
import PIL.Image
import pytest

from distfacegan import report
from distfacegan.core.grids import encode, tile
from distfacegan.core.seeding import uniform_latents
from distfacegan.errors import RunDirectoryError
from distfacegan.report import page, plots, training_samples
from distfacegan.report.contents import Contents
from distfacegan.store import files, groups
from tests.test_report import NO_FACE, NUM_ROWS, SHAPE, SIDE, Page, make_run, read_summary

WATCHED = {"diversity_ratio": 0.5, "encoder_distance": 0.25, "nearest_ratio": 1.25}
ROLLBACK = {"step": 40, "to": 1020, "reason": "ratio <0.1", "learning_rate_scale": 0.5}
SEED = 5  # of the runs made here


@pytest.fixture
def run(tmp_path):
    """A run whose training has not watched itself: two lines of metrics, two grids."""
    return make_run(tmp_path / "run", ["ingest", "began"])


@pytest.fixture
def drawn(monkeypatch):
    """The curves that were drawn: {title: (steps, values, level)}."""
    found = {}

    def curves(steps, values, title, level=None):
        found[title] = (steps, values, level)
        return "data:,"

    monkeypatch.setattr(plots, "curves", curves)
    return found


def write_lines(run, *changes) -> None:
    """Write a line of metrics for each change of it, every 10 steps."""
    line = json.loads(run.metrics.read_text().splitlines()[0])
    lines = [line | {"step": 10 * i} | change for i, change in enumerate(changes, 1)]
    files.write_bytes(run.metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())


def write_grids(run, steps, side=16) -> None:
    """Write a grid for each step in which row r has the grey r + step, column c 8 c brighter."""
    for path in Contents(run).samples:
        path.unlink()
    for step in steps:
        greys = [i // 8 + step + 8 * (i % 8) for i in range(64)]
        faces = np.stack([np.full((side, side, 3), grey, np.uint8) for grey in greys])
        files.write_bytes(run.began / "samples" / f"{step:08d}.png", encode(tile(faces, 8)))


def decode(uri) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_the_curves_of_the_watches_have_the_points_of_their_lines(run, drawn):
    write_lines(run, {}, WATCHED, {}, WATCHED | {"diversity_ratio": 0.75})
    report.write(run)
    real_faces = ("real faces", 1.0)
    assert drawn["Diversity ratio"] == ([20, 40], {"Diversity ratio": [0.5, 0.75]}, real_faces)
    assert drawn["Encoder distance"] == ([20, 40], {"Encoder distance": [0.25, 0.25]}, None)
    assert drawn["Nearest ratio"] == ([20, 40], {"Nearest ratio": [1.25, 1.25]}, real_faces)
    assert drawn["Learning rate"][:2] == ([10, 20, 30, 40], {"Learning rate": [1e-3] * 4})


def test_the_summary_has_the_newest_watch(run, drawn):
    write_lines(run, WATCHED, WATCHED | {"diversity_ratio": 0.75}, {})
    shown = Page(report.write(run))
    began = read_summary(run)["began"]
    assert began["steps"] == 30
    assert began.items() >= (WATCHED | {"diversity_ratio": 0.75}).items()
    assert "Last: 0.750." in shown.text
    assert "Last: 0.250." in shown.text


def test_a_run_that_never_watched_itself_is_shown_without(run, drawn):
    shown = Page(report.write(run))
    assert len(drawn) == 2 + len(page.CURVES)
    assert "varied, real and new" not in shown.text
    assert "went back" not in shown.text
    assert read_summary(run)["began"].items() >= dict.fromkeys(WATCHED).items()


def test_values_that_are_no_numbers_are_left_out(run):
    unknown = WATCHED | {"nearest_ratio": float("nan")}
    write_lines(run, unknown, WATCHED, unknown)
    report.write(run)
    began = read_summary(run)["began"]
    assert (began["diversity_ratio"], began["nearest_ratio"]) == (0.5, None)


def test_a_training_that_went_back_says_so_in_words(run, drawn):
    files.write_json(run.began / "rollbacks.json", [ROLLBACK, ROLLBACK | {"step": 1400}])
    shown = Page(report.write(run))
    assert read_summary(run)["began"]["rollbacks"] == [ROLLBACK, ROLLBACK | {"step": 1400}]
    for text in ("At step 40 ", "At step 1,400 ", "ratio <0.1", "to step 1,020", "0.50 of the"):
        assert text in shown.text


def test_a_damaged_list_of_rollbacks_is_named(run):
    files.write_bytes(run.began / "rollbacks.json", b"[{")
    with pytest.raises(RunDirectoryError, match=r"rollbacks\.json is damaged"):
        report.write(run)


@pytest.mark.parametrize("side", [16, 64, 96])
def test_the_film_shows_the_first_row_of_the_grids_one_after_the_other(run, side):
    write_grids(run, [0, 50, 100], side)
    film, still = training_samples.film(Contents(run))
    shown = decode(film.uri)
    assert shown.size == (8 * 64 + 7 * 2, 64 + training_samples.STEP_HEIGHT)
    assert (shown.n_frames, shown.info["loop"]) == (3, 0)  # 0: for ever
    durations, texts = [], []
    for frame, step in enumerate((0, 50, 100)):
        shown.seek(frame)
        pixels = np.asarray(shown.convert("L")).astype(int)
        durations.append(shown.info["duration"])
        texts.append(pixels[64:] < 128)
        centres = pixels[32, 32::66]
        np.testing.assert_allclose(centres, step + 8 * np.arange(8), atol=4)  # it is lossy
    assert durations == [200, 200, 2000]
    assert all(text.sum() > 30 for text in texts)
    assert (texts[0] != texts[1]).any()
    assert (texts[1] != texts[2]).any()
    np.testing.assert_allclose(np.asarray(decode(still.uri).convert("L")), pixels, atol=40)
    assert film.alt == "Faces of 8 fixed latents from step 0 to step 100"


def test_a_long_training_has_a_film_of_48_frames_that_follows_slow_changes(run):
    write_grids(run, range(1, 130))  # 2 or 3 greys from frame to frame
    shown = decode(training_samples.film(Contents(run))[0].uri)
    assert shown.n_frames == 48
    for frame, grey in ((0, 1), (47, 129)):
        shown.seek(frame)
        assert shown.convert("L").getpixel((32, 32)) == pytest.approx(grey, abs=4)


def test_the_film_stands_still_for_those_who_ask_for_less_motion(run, drawn):
    shown = Page(report.write(run))
    [still] = shown.of("source")
    assert still["media"] == "(prefers-reduced-motion: reduce)"
    assert getattr(decode(still["srcset"]), "n_frames", 1) == 1


def test_a_training_with_one_grid_has_no_film(run, drawn):
    write_grids(run, [10])
    shown = Page(report.write(run))
    assert not shown.of("source")
    assert "step 10" in shown.text


def test_a_copied_face_is_found_at_no_distance(run, drawn):
    z = uniform_latents(SEED, range(8), SHAPE["latent_dim"], stream="samples")
    made = Contents(run).generate(z)
    rows = [59, 0, 17, 33, 4, 58, 16, 31]
    photos = groups.open_group(run.latents, "photos")
    for row, face in zip(rows, made, strict=True):
        photos["image"][row] = face.repeat(SIDE // 16, axis=0).repeat(SIDE // 16, axis=1)
    shown = Page(report.write(run))
    assert read_summary(run)["figures"]["neighbours"] == [
        {"row": row, "distance": 0.0} for row in rows
    ]
    assert "row 17 · 0.0" in shown.text
    assert f"nearest of {NUM_ROWS - 1} real faces" in shown.text


@pytest.mark.parametrize("stages", [["ingest"], ["began"]])
def test_without_photos_or_generator_nothing_is_looked_for(tmp_path, stages):
    assert training_samples.neighbours(Contents(make_run(tmp_path, stages))) == []


def test_faces_to_look_among_are_stretches_of_good_rows(run):
    photos = Contents(run).photos
    stretches = [0, 1, 2, 4, 16, 17, 18, 19, 32, 33, 34, 35, 48, 49, 50, 51]  # NO_FACE is 3
    assert photos.stretches(16).tolist() == stretches
    assert len(photos.stretches(15)) == 15
    assert photos.stretches(1000).tolist() == [i for i in range(NUM_ROWS) if i != NO_FACE]
