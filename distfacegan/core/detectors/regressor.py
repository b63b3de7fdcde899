"""A detector that was trained here, on labelled faces like those that it is to look at.

`distfacegan train-detector` trains one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch

from distfacegan.core import regressor
from distfacegan.core.detectors.detector import Detector, DetectorSettings
from distfacegan.errors import CheckpointError

BATCH = 64  # faces at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regressor(DetectorSettings):
    """A small network that `distfacegan train-detector` trained on labelled faces."""

    kind: Literal["regressor"] = "regressor"
    model: Path
    """The network, a .safetensors file."""

    gives_scores: ClassVar[bool] = False
    min_score: ClassVar[float] = 0.5

    def make(self, device: str = "cpu") -> RegressorDetector:
        """Load the network; raises CheckpointError."""
        return RegressorDetector(_load_network(self.model), device=device)


class RegressorDetector(Detector):
    """Holds one network. It gives no confidence: every score is 1."""

    def __init__(self, network: regressor.Regressor, *, device: str = "cpu") -> None:
        self._network, self._device = network.eval().to(device), device

    @torch.inference_mode()
    def detect(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points f32 [B, 49, 2] in units of the face and scores f32 [B, 49]."""
        points = np.empty((len(faces), regressor.NUM_POINTS, 2), np.float32)
        for start in range(0, len(faces), BATCH):
            some = slice(start, start + BATCH)
            x = regressor.to_input(faces[some]).to(self._device)
            points[some] = self._network(x).cpu().numpy()
        return points, np.ones(points.shape[:2], np.float32)


def _load_network(path: Path) -> regressor.Regressor:
    network = regressor.Regressor()
    try:
        network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is not the network of a trained detector: {reason}\n"
            "  expected: a regressor.safetensors that `distfacegan train-detector` wrote"
        ) from None
    return network
