"""The `face-alignment` library's 2D FAN (Bulat and Tzimiropoulos, ICCV 2017) on known crops.

The library loops over images and looks for a face in each; here the network is batched over
images, the box is the crop itself and the heatmaps are decoded on the device. Framing, cropping
and flipping are the library's own functions, so that its weights see what they were trained on.

B batch, R side of a face, S side of a heatmap (64).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from distfacegan.core.detectors.detector import Detector, DetectorSettings, TwoViews
from distfacegan.core.landmarks import IBUG_49, points_49
from distfacegan.errors import CheckpointError

WEIGHTS_NAME = "2DFAN4-11f355bf06.pth.tar"
NETWORK_INPUT_PX = 256  # the side of the picture that the network sees


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceAlignment(DetectorSettings):
    """The face-alignment library's 2D FAN."""

    kind: Literal["face_alignment"] = "face_alignment"
    model: Path | None = None
    """The weights, if not where the library keeps them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which the network computes."""

    flops: ClassVar[float] = 1.0e11  # the face and its mirror image, counted on the network
    # A heatmap is trained to peak at 1. Chosen on that ground alone, not measured.
    min_score: ClassVar[float] = 0.2

    @property
    def needs_gpu(self) -> bool:
        """The network is large."""
        return True

    def make(self, device: str = "cpu") -> FaceAlignmentDetector:
        """Load the weights; raises CheckpointError."""
        return FaceAlignmentDetector(self.model, device=device, precision=self.precision)


class FaceAlignmentDetector(Detector):
    """Holds one FAN on one device. Scores are the peaks of the heatmaps, about 0 to 1."""

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        device: str = "cpu",
        batch_size: int = 16,
        precision: str = "fp32",
    ) -> None:
        """Load the weights from a file or from torch hub's cache; nothing is downloaded.

        Raises CheckpointError where they are missing, damaged or of another network.
        """
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.network = _load_network(Path(weights) if weights else default_weights())
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.network.to(self.device, self.dtype).eval()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def detect(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points f32 [B, 49, 2] in units of the face and scores f32 [B, 49]."""
        frame = Frame.of_face(faces.shape[1])
        heatmaps = (self._heatmaps(x) for x in self._batches(frame, faces))
        return _decoded(frame, heatmaps)

    @torch.inference_mode()
    def detect_twice(self, faces: np.ndarray) -> TwoViews:
        """Return the landmarks where the mean of both views' heatmaps peaks (the library's way)."""
        from face_alignment.utils import flip

        frame = Frame.of_face(faces.shape[1])
        both, direct, mirrored = [], [], []
        for x in self._batches(frame, faces):
            direct.append(self._heatmaps(x))
            mirrored.append(flip(self._heatmaps(flip(x)), is_label=True))
            both.append((direct[-1] + mirrored[-1]) / 2)
        points, score = _decoded(frame, both)
        return TwoViews(points, score, _decoded(frame, direct)[0], _decoded(frame, mirrored)[0])

    def _batches(self, frame: Frame, faces: np.ndarray) -> Iterator[Tensor]:
        """Yield what the network sees of some faces at a time: [b, 3, 256, 256] in [0, 1]."""
        for start in range(0, len(faces), self.batch_size):
            some = [frame.cut(face) for face in faces[start : start + self.batch_size]]
            pictures = torch.from_numpy(np.stack(some)).to(self.device)
            yield (pictures.permute(0, 3, 1, 2).float() / 255).to(self.dtype)

    def _heatmaps(self, x: Tensor) -> Tensor:
        """Return the heatmaps f32 [b, 68, S, S] of what the network sees."""
        return self.network(x)[-1].float()


@dataclasses.dataclass(frozen=True)
class Frame:
    """The rectangle round a face that the network sees, as the library chooses it."""

    resolution: int  # R
    centre: np.ndarray  # f64 [2], pixels
    scale: float  # the library's: the side of the rectangle in units of 200 pixels
    corner: Tensor  # i32 [2], the pixels where the rectangle begins
    extent: Tensor  # i32 [2], its width and height in whole pixels

    @classmethod
    def of_face(cls, resolution: int) -> Frame:
        """Frame a face whose box, for the library, is all of its R x R pixels."""
        from face_alignment.utils import CENTER_Y_OFFSET, REFERENCE_SCALE, transform

        centre = np.array([0.5, 0.5 - CENTER_Y_OFFSET]) * resolution
        scale = (resolution + resolution) / REFERENCE_SCALE
        size = NETWORK_INPUT_PX
        corner = transform([1, 1], centre, scale, size, invert=True)
        end = transform([size, size], centre, scale, size, invert=True)
        return cls(resolution, centre, scale, corner, end - corner)

    def cut(self, face: np.ndarray) -> np.ndarray:
        """Return what the network sees of a face u8 [R, R, 3]: u8 [256, 256, 3], black outside."""
        from face_alignment.utils import crop

        return crop(face, self.centre, self.scale)

    def to_face_units(self, peaks: Tensor) -> Tensor:
        """Map points from units of the rectangle, [0, 1], to units of the face.

        These are the very pixels that the network saw. The library itself forgets that it rounded
        the rectangle, and cuts the points to whole pixels: `transform_np` in 1.5.0.
        """
        return (self.corner + peaks * self.extent) / self.resolution


def _decoded(frame: Frame, heatmaps: Iterable[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return points f32 [B, 49, 2] in units of the face and scores f32 [B, 49]."""
    points, score = [torch.empty(0, 68, 2)], [torch.empty(0, 68)]
    for some in heatmaps:
        peaks, values = decode_heatmaps(some)
        points.append(frame.to_face_units(peaks.cpu()))
        score.append(values.cpu())
    return points_49(torch.cat(points)).numpy(), torch.cat(score)[:, IBUG_49].numpy()


def decode_heatmaps(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return where heatmaps [B, P, S, S] peak, [B, P, 2] in (0, 1), and how high, [B, P].

    A peak is the centre of the highest pixel, moved by a quarter of a pixel along each axis
    towards the higher neighbour; pixels on the border stay where they are.
    """
    size = heatmaps.shape[-1]
    flat = heatmaps.flatten(2)
    value, index = flat.max(-1)
    x, y = index % size, index // size

    def neighbour(dx: int, dy: int) -> Tensor:
        place = (y + dy).clamp(0, size - 1) * size + (x + dx).clamp(0, size - 1)
        return flat.gather(-1, place[..., None])[..., 0]

    slope = torch.stack(
        [neighbour(1, 0) - neighbour(-1, 0), neighbour(0, 1) - neighbour(0, -1)], dim=-1
    )
    inside = (x > 0) & (x < size - 1) & (y > 0) & (y < size - 1)
    peak = torch.stack([x, y], dim=-1) + 0.5 + 0.25 * slope.sign() * inside[..., None]
    return peak / size, value


def default_weights() -> Path:
    """Return the path where the face-alignment library itself keeps the weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME


def _load_network(path: Path) -> torch.nn.Module:
    # Imported here: the library takes seconds to import, and most workers never need it.
    from face_alignment.api import models_urls
    from face_alignment.models import FAN

    if not path.is_file():
        raise CheckpointError(
            f"no weights of the face_alignment detector at {path}\n"
            f"  Download {models_urls['2DFAN-4']} (95 MB) and save it there, "
            "or name the file: landmarks: {detector: face_alignment, model: FILE}.\n"
            "  Without it: {detector: onnx, model: FILE} runs a 68-point ONNX network, "
            "{detector: annotations} carries the source's own points."
        )
    network = FAN(4)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} does not hold the weights of 2DFAN-4: {reason}\n"
            f"  Download {models_urls['2DFAN-4']} again."
        ) from error
    return network
