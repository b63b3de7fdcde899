"""The browser of the generated faces, and the thumbnails that it shows."""

import base64
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from distfacegan.report import browser
from distfacegan.store import thumbnails
from distfacegan.store.exports import Sample
from distfacegan.store.run_directory import RunDirectory


def samples(count):
    random = np.random.default_rng(0)
    return [
        Sample(
            3 * i,
            0,
            np.zeros(4, np.float32),
            np.full((16, 16, 3), (200, 30, 5 * i), np.uint8),
            random.uniform(0.3, 0.7, (49, 2)).astype(np.float32),
            np.full(49, 0.01 * i, np.float32),
        )
        for i in range(count)
    ]


def test_every_face_has_its_place_with_its_landmarks(monkeypatch):
    monkeypatch.setattr(thumbnails, "SHEET", 30)
    made = samples(40)
    found = dict(thumbnails.pack(4, made))
    names = ["00004-0.webp", "00004-1.webp", "00004.npy"]
    assert list(found) == [f"thumbnails/{name}" for name in names]
    sheet = cv2.imdecode(
        np.frombuffer(found["thumbnails/00004-0.webp"], np.uint8), cv2.IMREAD_COLOR_RGB
    )
    assert sheet.shape == (2 * thumbnails.SIDE, 25 * thumbnails.SIDE, 3)
    corner = sheet[thumbnails.SIDE + 3, 2 * thumbnails.SIDE + 3]  # of the face 27
    np.testing.assert_allclose(corner.astype(int), made[27].face[0, 0], atol=12)
    x, y = (made[27].landmarks[0] * thumbnails.SIDE).astype(int)
    dot = sheet[thumbnails.SIDE + y, 2 * thumbnails.SIDE + x]
    assert dot[1] > 90  # of green, which the face has none of


def test_a_face_without_a_known_error_has_none(tmp_path):
    bare = [Sample(5, 0, None, np.zeros((80, 80, 3), np.uint8), np.zeros((49, 2), np.float32))]
    for name, data in thumbnails.pack(0, bare):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    [row] = thumbnails.read_table(tmp_path, 0)
    assert row["index"] == 5
    assert np.isnan(row["error"])
    assert thumbnails.read_table(tmp_path, 1) is None


@pytest.mark.ray
def test_the_browser_has_every_face_of_a_run(finished, tmp_path):
    text = (finished.report / browser.NAME).read_text()
    found = re.search(r'indices = new Uint32Array\(bytes\("(.*?)"\)\)', text)[1]
    assert np.frombuffer(base64.b64decode(found), "<u4").tolist() == list(range(200))
    assert 'href="browser.html"' in (finished.report / "index.html").read_text()
    assert "http" not in text
    assert browser.write(RunDirectory(tmp_path / "nothing")) is None


@pytest.mark.ray
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_a_browser_shows_the_first_page(finished):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    address = (finished.report / browser.NAME).as_uri()
    shown = subprocess.run(
        [*command, address], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert shown.count('class="tile"') == 200
    assert "thumbnails/00009-0.webp" in shown
