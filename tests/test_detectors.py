"""The landmark detectors, against the face-alignment library and spots whose place is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from distfacegan.core import landmarks
from distfacegan.core.detectors import fan
from distfacegan.core.detectors.fan import FaceAlignment, FaceAlignmentDetector
from distfacegan.core.detectors.onnx import Onnx, OnnxDetector
from distfacegan.core.labelling import Doubt, Labeller, Labelling, Labels
from distfacegan.errors import CheckpointError

from .onnx_file import write_linear_network

SHARED = Path(__file__).parents[2] / "shared"
needs_pfld = pytest.mark.skipif(
    not (SHARED / "models/pfld68.onnx").exists() or not (SHARED / "data/helen").exists(),
    reason="needs ../shared/models/pfld68.onnx and ../shared/data/helen",
)


def spot(x: float, y: float, resolution: int) -> np.ndarray:
    """Draw a soft white spot at (x, y), in units of the face: u8 [R, R, 3]."""
    centres = (np.arange(resolution) + 0.5) / resolution
    squared = (centres - x) ** 2 + (centres[:, None] - y) ** 2
    grey = 255 * np.exp(-squared / (2 * 0.04**2))
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


SPOTS = np.random.default_rng(0).uniform(0.25, 0.75, (40, 2)).astype(np.float32)


# face_alignment


@pytest.fixture
def fan_weights(tmp_path, monkeypatch):
    """Random weights where the library keeps its own; a FAN of one module instead of four."""
    import face_alignment

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    build = face_alignment.models.FAN
    for module in (face_alignment.models, face_alignment.api):
        monkeypatch.setattr(module, "FAN", lambda num_modules: build(1))
    torch.manual_seed(0)
    path = fan.default_weights()
    path.parent.mkdir(parents=True)
    torch.save(build(1).state_dict(), path)
    return path


class BrightestSpot(torch.nn.Module):
    """Stands in for FAN: every heatmap is the picture itself."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        heatmap = torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4)
        return [heatmap.repeat(1, 68, 1, 1)]


def test_fan_finds_what_the_library_finds(fan_weights, monkeypatch):
    import face_alignment
    from face_alignment import utils

    for name in ("_get_preds_fromhm", "transform_np"):  # numba takes seconds to compile them
        monkeypatch.setattr(utils, name, getattr(utils, name).py_func)
    library = face_alignment.FaceAlignment(
        face_alignment.LandmarksType.TWO_D, device="cpu", face_detector="folder", compile=False
    )
    faces = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    found = FaceAlignmentDetector().detect_twice(faces)
    points, score = found.points, found.score

    # From our points back to the heatmap, and from there on as the library: it takes the frame for
    # unrounded and cuts to whole pixels. Where it cuts a whole number the last bit decides.
    frame = fan.Frame.of_face(128)
    peaks = (points * 128.0 - frame.corner.numpy()) / frame.extent.numpy()
    pixels = frame.centre + 200 * frame.scale * (peaks - 0.5)
    for i, face in enumerate(faces):
        theirs, their_score, _ = library.get_landmarks_from_image(
            face, detected_faces=[[0, 0, 128, 128]], return_landmark_score=True
        )
        theirs_49 = landmarks.points_49(theirs[0])
        cut_low, cut_high = np.trunc(pixels[i] - 1e-3), np.trunc(pixels[i] + 1e-3)
        assert ((theirs_49 == cut_low) | (theirs_49 == cut_high)).all()
        assert len(np.unique(theirs_49, axis=0)) > 10  # not all of them at a corner
        assert np.abs(points[i] * 128 - (theirs_49 + 0.5)).max() < 2
        # Their heatmaps are the sum of the face's and its mirror image's, ours the mean.
        their_49_score = landmarks.points_49(their_score[0][:, None])[:, 0]
        np.testing.assert_allclose(score[i], their_49_score / 2, rtol=1e-4, atol=1e-5)


def test_heatmaps_are_decoded_as_the_library_does(monkeypatch):
    from face_alignment import utils

    monkeypatch.setattr(utils, "_get_preds_fromhm", utils._get_preds_fromhm.py_func)
    heatmaps = torch.rand(5, 68, 64, 64, generator=torch.Generator().manual_seed(0))
    heatmaps[0, 0, 0, 5] = heatmaps[0, 1, 63, 63] = 2  # on the border
    points, score = fan.decode_heatmaps(heatmaps)
    theirs, _, their_score = utils.get_preds_fromhm(heatmaps.numpy())
    np.testing.assert_array_equal(points * 64, theirs)
    np.testing.assert_array_equal(score, their_score)


def test_a_heatmap_peak_leans_towards_the_higher_neighbour():
    heatmap = torch.zeros(1, 1, 8, 8)
    heatmap[0, 0, 3, 5] = 0.9
    heatmap[0, 0, 3, 6] = heatmap[0, 0, 2, 5] = 0.5  # right and above
    points, score = fan.decode_heatmaps(heatmap)
    np.testing.assert_allclose(points[0, 0], [(5.5 + 0.25) / 8, (3.5 - 0.25) / 8])
    np.testing.assert_allclose(score, [[0.9]])


@pytest.mark.parametrize("resolution", [64, 100, 128, 256])
def test_fan_points_lie_where_the_network_looked(fan_weights, resolution):
    detector = FaceAlignmentDetector()
    detector.network = BrightestSpot()
    faces = np.stack([spot(x, y, resolution) for x, y in SPOTS])
    points, score = detector.detect(faces)
    error = points - SPOTS[:, None]
    # A quarter of a heatmap pixel is 0.008 of the side; half a pixel of a 64 px face also is.
    assert np.abs(error).max() < 0.02
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.003
    assert score.min() > 0.8


def test_fan_results_do_not_depend_on_the_batch(fan_weights):
    faces = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    together, score_together = FaceAlignmentDetector(batch_size=2).detect(faces)
    alone, score_alone = FaceAlignmentDetector().detect(faces[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-6)
    np.testing.assert_allclose(score_together[2:], score_alone, rtol=1e-4, atol=1e-5)


def test_missing_fan_weights_are_named_with_the_place_the_address_and_the_alternatives(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        FaceAlignment().make()
    message = str(caught.value)
    assert str(tmp_path / "hub/checkpoints/2DFAN4-11f355bf06.pth.tar") in message
    assert "https://" in message
    assert "onnx" in message
    assert "annotations" in message


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["", "text", "tensor", "other network", "code"])
def test_fan_weights_that_are_none_are_refused(tmp_path, fan_weights, content):
    path = tmp_path / "weights.pth.tar"
    if content in ("", "text"):
        path.write_text(content)
    elif content == "tensor":
        torch.save(torch.zeros(3), path)
    elif content == "other network":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    else:
        torch.save(RunsCode(tmp_path / "ran"), path)
    with pytest.raises(CheckpointError, match="does not hold the weights of 2DFAN-4"):
        FaceAlignmentDetector(path)
    assert not (tmp_path / "ran").exists()


# onnx


def symmetrical_68() -> np.ndarray:
    """Return 68 points whose 49 are their own mirror image, but no face."""
    points = np.random.default_rng(0).uniform(0.3, 0.7, (68, 2)).astype(np.float32)
    points_49 = landmarks.points_49(points)
    points[landmarks.IBUG_49] = (points_49 + landmarks.mirror(points_49)) / 2
    return points


def constant_network(path: Path, points_68: np.ndarray, size: int = 8) -> Path:
    return write_linear_network(path, np.zeros((136, 3 * size**2)), points_68.ravel(), size)


def centroid_network(path: Path, mass: float, size: int) -> Path:
    """Write a network that puts all points at the centre of a picture whose values sum to mass."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    weights = np.tile(np.stack([x.ravel(), y.ravel()]), (68, 3)) / mass
    return write_linear_network(path, weights, np.zeros(136), size)


@pytest.mark.parametrize(("resolution", "widen", "down"), [(128, 1.1, 0.05), (100, 1.3, -0.1)])
def test_onnx_points_lie_where_the_network_looked(tmp_path, resolution, widen, down):
    faces = np.stack([spot(x, y, resolution) for x, y in SPOTS])
    side = resolution + 2 * round(resolution * (widen - 1) / 2)
    mass = faces[0].sum() / 255 * (28 / side) ** 2
    model = centroid_network(tmp_path / "centroid.onnx", mass, size=28)
    points, score = OnnxDetector(model, size=28, widen=widen, down=down).detect(faces)
    np.testing.assert_allclose(points, np.repeat(SPOTS[:, None], 49, axis=1), atol=0.01)
    assert np.abs((points - SPOTS[:, None]).mean(axis=(0, 1))).max() < 0.002
    assert (score == 1).all()
    assert points.dtype == score.dtype == np.float32


def test_onnx_points_are_carried_from_the_widened_view_to_the_face(tmp_path):
    expected = landmarks.points_49(symmetrical_68())
    model = constant_network(tmp_path / "constant.onnx", symmetrical_68())
    points, score = OnnxDetector(model, size=8).detect(np.zeros((1, 100, 100, 3), np.uint8))
    # 100 px widened to 110 and moved down by 5: from (-5, 0), 110 px wide
    np.testing.assert_allclose(points[0], expected * 1.1 - (0.05, 0), atol=1e-6)
    assert (score == 1).all()


@pytest.mark.parametrize("settings", [{}, {"size": 8, "widen": 1, "down": 0}])
def test_onnxruntime_finds_the_same_points(tmp_path, settings):
    random = np.random.default_rng(2)
    size = settings.get("size", 112)
    weights = random.normal(0, 1e-4, (136, 3 * size**2))
    model = write_linear_network(tmp_path / "m.onnx", weights, random.uniform(0, 1, 136), size)
    faces = random.integers(0, 256, (3, 64, 64, 3), np.uint8)
    points, _ = OnnxDetector(model, **settings).detect(faces)
    others, _ = OnnxDetector(model, **settings, runtime="onnxruntime").detect(faces)
    assert np.abs(points - others).max() * 64 < 0.01  # pixels


def test_a_missing_onnxruntime_is_named_with_what_to_do(tmp_path, monkeypatch):
    model = constant_network(tmp_path / "constant.onnx", symmetrical_68())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'distfacegan\[onnxruntime\]'"):
        OnnxDetector(model, size=8, runtime="onnxruntime")


def label(detector: OnnxDetector, faces: np.ndarray, **settings) -> Labels:
    """Return what a detector finds, with settings of the labelling."""
    kind = Onnx(model=Path("m.onnx"))
    return Labeller(Labelling(detector=kind, **settings), detector)(faces)


def test_onnx_score_falls_with_the_disagreement_between_a_face_and_its_mirror_image(tmp_path):
    points_68 = symmetrical_68()
    points_68[30] += (0, 0.049)  # does not mirror: same place in both
    points_68[37] += (0, 0.049)  # an upper lid: its partner 44 stays
    model = constant_network(tmp_path / "constant.onnx", points_68)
    detector = OnnxDetector(model, size=8, widen=1, down=0)
    score = label(detector, np.zeros((1, 64, 64, 3), np.uint8)).score
    distances = np.zeros(49)
    distances[[landmarks.IBUG_49.index(37), landmarks.IBUG_49.index(44)]] = 0.049
    np.testing.assert_allclose(score[0], np.exp(-distances / 0.025), atol=1e-4)


def test_onnx_cancels_a_network_that_leans_sideways_and_does_not_call_it_doubt(tmp_path):
    leaning = symmetrical_68() + np.float32((0.02, 0))
    model = constant_network(tmp_path / "constant.onnx", leaning)
    detector = OnnxDetector(model, size=8, widen=1, down=0)
    found = label(detector, np.zeros((1, 64, 64, 3), np.uint8))
    np.testing.assert_allclose(found.points[0], landmarks.points_49(symmetrical_68()), atol=1e-6)
    np.testing.assert_allclose(found.score, 1, atol=1e-5)
    assert found.disagreement[0] < 1e-5
    single = label(detector, np.zeros((1, 64, 64, 3), np.uint8), flip=False)
    np.testing.assert_allclose(single.points[0], landmarks.points_49(leaning), atol=1e-6)
    assert np.isnan(single.disagreement[0])


def test_onnx_of_another_output_is_refused_with_both_shapes(tmp_path):
    model = write_linear_network(tmp_path / "m.onnx", np.zeros((10, 192)), np.zeros(10), 8)
    with pytest.raises(CheckpointError, match=r"136 numbers(.|\n)*found: output output 1x10"):
        OnnxDetector(model, size=8)


def test_onnx_of_another_input_is_refused(tmp_path):
    model = constant_network(tmp_path / "constant.onnx", symmetrical_68(), size=8)
    with pytest.raises(CheckpointError, match="1x3x112x112"):
        Onnx(model=model).make()


def test_what_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_text("no network")
    with pytest.raises(CheckpointError, match="does not run as a landmark network"):
        OnnxDetector(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="no landmark network at"):
        OnnxDetector(tmp_path / "absent.onnx")


def test_no_faces_give_no_landmarks(tmp_path, fan_weights):
    model = constant_network(tmp_path / "constant.onnx", symmetrical_68())
    for detector in (OnnxDetector(model, size=8), FaceAlignmentDetector()):
        points, score = detector.detect(np.empty((0, 64, 64, 3), np.uint8))
        assert points.shape == (0, 49, 2)
        assert score.shape == (0, 49)


def test_what_is_doubtful_of_landmarks_is_said():
    face = np.array([(0.5, 0.5)] * 49, np.float32)
    face[landmarks.LEFT_EYE] = (0.3, 0.4)
    face[landmarks.RIGHT_EYE] = (0.7, 0.4)
    face[landmarks.MOUTH] = (0.5, 0.8)
    points = np.stack([face, face, 1 - face, face + 2, face, np.full_like(face, np.nan)])
    score = np.repeat([[0.6], [0.4], [0.4], [0.4], [0.6], [0.6]], 49, axis=1)
    disagreement = np.array([np.nan, 0.5, 0.01, 0.01, 0.06, 0.01])
    kind = Onnx(model=Path("m.onnx"))
    found = Labelling(detector=kind, min_score=0.5, max_disagreement=0.05).doubts(
        points, score, disagreement
    )
    assert found.tolist() == [
        Doubt.NONE,
        Doubt.LOW_SCORE,
        Doubt.IMPOSSIBLE_SHAPE,
        Doubt.POINTS_OUTSIDE,
        Doubt.VIEWS_DISAGREE,
        Doubt.POINTS_OUTSIDE,
    ]


def helen_faces(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cascade's faces u8 [count, 128, 128, 3] of HELEN and their true landmarks."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    faces, truth = [], []
    for path in sorted((SHARED / "data/helen").glob("*.jpg"))[:count]:
        photo = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        numbers = path.with_suffix(".pts").read_text().split("{")[1].split("}")[0].split()
        points = landmarks.points_49(np.array(numbers, np.float32).reshape(68, 2))
        for x, y, side, _ in cascade.detectMultiScale(photo, 1.1, 5):
            if np.abs((points.mean(axis=0) - (x, y)) / side - 0.5).max() < 0.2:
                crop = photo[y : y + side, x : x + side]
                faces.append(cv2.resize(crop, (128, 128), interpolation=cv2.INTER_AREA))
                truth.append((points - (x, y)) / side)
                break
    return np.stack(faces), np.stack(truth)


@needs_pfld
def test_a_real_network_finds_real_landmarks_and_doubts_noise():
    faces, truth = helen_faces(16)
    assert len(faces) >= 14
    settings = Onnx(model=SHARED / "models/pfld68.onnx")
    labeller = Labelling(
        detector=settings, min_score=settings.min_score, max_disagreement=0.05
    ).make()
    found = labeller(faces)
    assert landmarks.nme(found.points, truth).mean() < 0.035
    assert found.trusted.all()

    mirrored = labeller(np.ascontiguousarray(faces[:4, :, ::-1])).points
    np.testing.assert_allclose(mirrored, landmarks.mirror(found.points[:4]), atol=1e-6)
    alone = labeller(faces[3:4])
    np.testing.assert_array_equal(alone.points, found.points[3:4])
    np.testing.assert_array_equal(alone.score, found.score[3:4])

    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), np.uint8)
    assert not labeller(noise).trusted.any()
