"""Whom a dataset loses: shares and errors by brightness, turn of the head, and attributes."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from distfacegan.errors import RunDirectoryError
from distfacegan.report.contents import Contents
from distfacegan.report.coverage import coverage, head_turn, read_attributes
from distfacegan.stages.ingest import brightness
from distfacegan.store import files, groups
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from tests.test_landmarks import upright_face

KEYS = [f"{i:06d}.jpg" for i in range(1, 21)]


@pytest.fixture
def run(tmp_path):
    """Twenty photos, from dark to light: no face is found in the dark five, the last is broken."""
    run = RunDirectory(tmp_path / "run")
    photos = tmp_path / "photos"
    photos.mkdir()
    files.write_bytes(run.job, f"ingest: {{source: {{path: {photos}}}}}".encode())
    rows = {"num_rows": 20, "shard_rows": 20}
    group = groups.create_group(run.latents, "photos", **rows, R=16)
    shard = groups.plan(group)[0]
    arrays = groups.blank(group, 20)
    arrays["key"][:] = KEYS
    arrays["brightness"][:19] = np.linspace(0.1, 0.9, 19)
    arrays["status"][:] = Status.OK
    arrays["status"][:5], arrays["status"][19] = Status.NO_FACE, Status.UNREADABLE
    run.begin("ingest", {}, {})
    groups.commit(group, run.markers("ingest"), shard, arrays, 0.0)

    group = groups.create_group(run.latents, "landmarks", **rows)
    arrays = groups.blank(group, 20)
    arrays["status"][:] = np.where(np.arange(20) < 5, Status.NOTHING_UPSTREAM, Status.OK)
    arrays["status"][6] = Status.LOW_SCORE
    arrays["points"][5:] = upright_face()
    arrays["points"][10, 13, 0] += 0.1  # the tip of the nose
    arrays["deviation"][5:] = 0.03
    run.begin("landmarks", {}, {})
    groups.commit(group, run.markers("landmarks"), shard, arrays, 0.0)
    return run


def test_dark_faces_that_are_lost_are_seen(run):
    bands = coverage(Contents(run))["brightness"]
    assert sum(band["photos"] for band in bands) == 19  # without the one that cannot be read
    assert bands[0]["found"] == 0
    assert bands[1]["found"] < 1
    assert [band["found"] for band in bands[2:]] == [1, 1, 1]
    assert bands[1]["trusted"] < 1
    assert bands[4]["deviation"] == pytest.approx(0.03)
    assert bands[0]["deviation"] is None


def test_turned_heads_are_told_from_frontal_ones(run):
    frontal, little, turned = coverage(Contents(run))["turn"]
    assert (frontal["photos"], little["photos"], turned["photos"]) == (12, 0, 1)
    points = np.stack([upright_face(), upright_face() + np.array([0.2, 0])])
    np.testing.assert_allclose(head_turn(points), 0, atol=1e-6)


CELEBA = "20\nBlack_Hair Smiling\n" + "".join(
    f"{key} {1 if i % 2 else -1:2d} -1\n" for i, key in enumerate(KEYS)
)


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "attributes.csv", "attributes.parquet"])
def test_attributes_are_read_from_a_table_beside_the_photos(run, name):
    path = run.root.parent / "photos" / name
    columns = {"photo": KEYS, "Black_Hair": [i % 2 for i in range(20)], "Smiling": [0] * 20}
    if name.endswith(".txt"):
        path.write_text(CELEBA)
    elif name.endswith(".csv"):
        lines = [",".join(map(str, line)) for line in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    hair, smiling = coverage(Contents(run))["attributes"]
    assert (hair["group"], hair["photos"], hair["found"]) == ("Black_Hair", 9, pytest.approx(7 / 9))
    assert (smiling["group"], smiling["photos"], smiling["found"]) == ("Smiling", 0, None)


def test_words_are_attributes_and_too_many_of_them_none(tmp_path):
    path = tmp_path / "table.csv"
    lines = [f"{key},{'a' if i < 5 else 'b'},name{i}" for i, key in enumerate(KEYS)]
    path.write_text("photo,camera,person\n" + "\n".join(lines[:15]))
    found = read_attributes(path, KEYS)
    assert {name: has.sum() for name, has in found.items()} == {"camera: a": 5, "camera: b": 10}


def test_a_table_of_other_photos_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("photo,smiling\nother.jpg,1\n")
    with pytest.raises(RunDirectoryError, match=r"none of its 1 lines begins.*like '000001.jpg'"):
        read_attributes(path, KEYS)


def test_brightness_is_of_the_middle_of_the_photo():
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[10:30, 20:60] = 255
    assert brightness(photo) == pytest.approx(1)
    photo[10:30, 20:60] = (255, 0, 0)
    assert brightness(photo) == pytest.approx(0.299)
    assert brightness(np.full((1, 1, 3), 51, np.uint8)) == pytest.approx(0.2)
