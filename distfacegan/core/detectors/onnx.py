"""A 68-point landmark network in an ONNX file, run by OpenCV or onnxruntime.

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

from distfacegan.core.detectors.detector import Detector, DetectorSettings
from distfacegan.core.landmarks import points_49
from distfacegan.core.onnx_runtimes import OnnxNetwork, has_cuda, open_network
from distfacegan.errors import CheckpointError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Onnx(DetectorSettings):
    """A 68-point ONNX network, run by OpenCV or onnxruntime."""

    kind: Literal["onnx"] = "onnx"
    model: Path
    """The network."""
    runtime: Literal["opencv", "onnxruntime"] = "opencv"
    """What runs it. onnxruntime has to be installed on every node; with CUDA it uses the GPUs."""

    gives_scores: ClassVar[bool] = False
    min_score: ClassVar[float] = 0.5

    def make(self, device: str = "cpu") -> OnnxDetector:
        """Load the network; raises CheckpointError."""
        return OnnxDetector(self.model, runtime=self.runtime, device=device)

    @property
    def needs_gpu(self) -> bool:
        """Whether onnxruntime uses the GPUs."""
        return self.runtime == "onnxruntime" and has_cuda()


class OnnxDetector(Detector):
    """Holds one network. Such networks give no confidence: every score is 1."""

    def __init__(
        self,
        model: str | Path,
        *,
        size: int = 112,
        widen: float = 1.1,
        down: float = 0.05,
        runtime: str = "opencv",
        device: str = "cpu",
    ) -> None:
        """Load a network that sees `size` pixels: the face widened and moved down by so many sides.

        Raises CheckpointError where the file is missing, damaged or of another network.
        """
        self.size, self.widen, self.down = size, widen, down
        self.network, self.output = _load_network(Path(model), size, runtime, device)

    def detect(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points f32 [B, 49, 2] in units of the face and scores f32 [B, 49]."""
        points = np.empty((len(faces), 49, 2), np.float32)
        # One by one: networks are exported for a batch of one, and a core gains nothing by more.
        for i, face in enumerate(faces):
            view, corner, side = frame_face(face, self.size, self.widen, self.down)
            points[i] = corner + self._forward(view) * side
        return points, np.ones((len(faces), 49), np.float32)

    def _forward(self, view: np.ndarray) -> np.ndarray:
        """Return points f32 [49, 2] in units of a view u8 [S, S, 3]."""
        outputs = self.network(cv2.dnn.blobFromImage(view, 1 / 255))
        return points_49(outputs[self.output].reshape(68, 2))


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


def _load_network(path: Path, size: int, runtime: str, device: str) -> tuple[OnnxNetwork, str]:
    """Load the network and find its output of 136 numbers by running it once."""
    expected = f"input 1x3x{size}x{size}, output 136 numbers (68 points)"
    if not path.is_file():
        raise CheckpointError(
            f"no landmark network at {path}\n  Expected an ONNX file: {expected}."
        )
    try:
        network = open_network(path, runtime, device)
        outputs = network(np.zeros((1, 3, size, size), np.float32))
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} does not run as a landmark network\n  expected: {expected}\n  {error}"
        ) from error
    fitting = [name for name, output in outputs.items() if output.size == 136]
    if len(fitting) != 1:
        found = ", ".join(f"{name} {'x'.join(map(str, o.shape))}" for name, o in outputs.items())
        raise CheckpointError(
            f"{path} is not a 68-point landmark network\n"
            f"  expected: {expected}\n  found: output {found}"
        )
    return network, fitting[0]
