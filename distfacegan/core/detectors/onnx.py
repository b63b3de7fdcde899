"""A 68-point landmark network in an ONNX file, run by OpenCV on the processor.

The network takes one RGB picture f32 [1, 3, S, S] in [0, 1] and gives 136 numbers: x and y of
iBUG's 68 points in units of the picture (PFLD, Guo et al. 2019, and its descendants).

B batch, R side of a face, S side of what the network sees.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np

from distfacegan.core.detectors.detector import DetectorSettings
from distfacegan.core.landmarks import distance, mirror, points_49
from distfacegan.errors import CheckpointError

# Disagreement between a face and its mirror image, in sides of the face, that brings the score
# of a point down to 1/e. Real faces have about 0.006, pictures of no face 0.04.
SCORE_SCALE = 0.025


@dataclasses.dataclass(frozen=True, kw_only=True)
class Onnx(DetectorSettings):
    """A 68-point ONNX network, run by OpenCV on the processor."""

    kind: Literal["onnx"] = "onnx"
    model: Path
    """The network."""

    min_score: ClassVar[float] = 0.5

    def make(self, device: str = "cpu") -> OnnxDetector:
        """Load the network; raises CheckpointError."""
        return OnnxDetector(self.model)


class OnnxDetector:
    """Holds one network. Such networks give no confidence, so a point's score is how well the
    detections on the face and on its mirror image agree; the points are the mean of the two.

    The mean also cancels the sideways bias that small networks have on blurred faces.
    """

    def __init__(
        self, model: str | Path, *, size: int = 112, widen: float = 1.1, down: float = 0.05
    ) -> None:
        """Load a network that sees `size` pixels: the face widened and moved down by so many sides.

        Raises CheckpointError where the file is missing, damaged or of another network.
        """
        self.size, self.widen, self.down = size, widen, down
        self.network, self.output = _load_network(Path(model), size)

    def detect(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points f32 [B, 49, 2] in units of the face and scores f32 [B, 49]."""
        points = np.empty((len(faces), 49, 2), np.float32)
        score = np.empty((len(faces), 49), np.float32)
        # One by one: networks are exported for a batch of one, and a core gains nothing by more.
        for i, face in enumerate(faces):
            points[i], score[i] = self._detect_one(face)
        return points, score

    def _detect_one(self, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        view, corner, side = frame_face(face, self.size, self.widen, self.down)
        direct = self._forward(view) * side  # in sides of the face, from the view's corner
        mirrored = mirror(self._forward(cv2.flip(view, 1))) * side
        # A shift of all points alike is the network's bias, which the mean cancels: no doubt of it.
        shift = (direct - mirrored).mean(axis=0)
        score = np.exp(-distance(direct, mirrored + shift) / SCORE_SCALE)
        return corner + (direct + mirrored) / 2, score

    def _forward(self, view: np.ndarray) -> np.ndarray:
        """Return points f32 [49, 2] in units of a view u8 [S, S, 3]."""
        self.network.setInput(cv2.dnn.blobFromImage(view, 1 / 255))
        return points_49(self.network.forward(self.output).reshape(68, 2))


def frame_face(
    face: np.ndarray, size: int, widen: float, down: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cut the square `widen` times the face's side, moved `down` by that part of it: u8 [S, S, 3].

    Its edges lie on whole pixels of the face; beyond the face its border is repeated. Also returns
    the square's top left corner [2] and its side, both in sides of the face.
    """
    resolution = len(face)
    pad = round(resolution * (widen - 1) / 2)
    left, top, side = -pad, round(resolution * down) - pad, resolution + 2 * pad
    border = max(0, -left, -top, left + side - resolution, top + side - resolution)
    padded = cv2.copyMakeBorder(face, border, border, border, border, cv2.BORDER_REPLICATE)
    cut = padded[border + top : border + top + side, border + left : border + left + side]
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    view = cv2.resize(cut, (size, size), interpolation=interpolation)
    return view, np.array([left, top], np.float32) / resolution, side / resolution


def _load_network(path: Path, size: int) -> tuple[cv2.dnn.Net, str]:
    """Load the network and find its output of 136 numbers by running it once."""
    expected = f"input 1x3x{size}x{size}, output 136 numbers (68 points)"
    if not path.is_file():
        raise CheckpointError(
            f"no landmark network at {path}\n  Expected an ONNX file: {expected}."
        )
    try:
        network = cv2.dnn.readNetFromONNX(str(path))
        network.setInput(np.zeros((1, 3, size, size), np.float32))
        names = network.getUnconnectedOutLayersNames()
        outputs = dict(zip(names, network.forward(names), strict=True))
    except cv2.error as error:
        raise CheckpointError(
            f"{path} does not run as a landmark network\n  expected: {expected}\n"
            f"  OpenCV: {error.err.strip()}"
        ) from error
    fitting = [name for name, output in outputs.items() if output.size == 136]
    if len(fitting) != 1:
        found = ", ".join(f"{name} {'x'.join(map(str, o.shape))}" for name, o in outputs.items())
        raise CheckpointError(
            f"{path} is not a 68-point landmark network\n"
            f"  expected: {expected}\n  found: output {found}"
        )
    return network, fitting[0]
