"""What runs the network of an ONNX file: OpenCV, or onnxruntime, which is often faster."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from distfacegan.errors import CheckpointError

CUDA = "CUDAExecutionProvider"


class OnnxNetwork(Protocol):
    """A network of one input."""

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs, by name, of an input f32 [B, ...]."""
        ...


class OpenCvNetwork:
    """Runs the network on the processor by OpenCV."""

    def __init__(self, path: Path) -> None:
        """Load the network; raises CheckpointError if OpenCV cannot read it."""
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise CheckpointError(f"{path}: OpenCV cannot read it: {error.err.strip()}") from error

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs; raises CheckpointError if the network does not take this input."""
        try:
            self._network.setInput(x)
            names = self._network.getUnconnectedOutLayersNames()
            return dict(zip(names, self._network.forward(names), strict=True))
        except cv2.error as error:
            raise CheckpointError(f"OpenCV: {error.err.strip()}") from error


class OnnxRuntimeNetwork:
    """Runs the network by onnxruntime, on one thread or on a CUDA device."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Load the network; raises CheckpointError if onnxruntime is absent or cannot read it."""
        if not has_onnxruntime():
            raise CheckpointError(
                "the runtime onnxruntime is not installed: pip install 'distfacegan[onnxruntime]' "
                "on every node (for CUDA: onnxruntime-gpu), or set `runtime: opencv`"
            )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers share the cores
        options.log_severity_level = 3  # errors alone
        providers = [CUDA] if device.startswith("cuda") and has_cuda() else []
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common type
            raise CheckpointError(f"{path}: onnxruntime cannot read it: {error}") from error

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs; raises CheckpointError if the network does not take this input."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            [taken] = self._session.get_inputs()
            found = self._session.run(names, {taken.name: x})
        except Exception as error:  # its errors have no common type
            raise CheckpointError(f"onnxruntime: {error}") from error
        return dict(zip(names, found, strict=True))


def has_onnxruntime() -> bool:
    """Tell whether onnxruntime is installed here."""
    return importlib.util.find_spec("onnxruntime") is not None


def has_cuda() -> bool:
    """Tell whether an onnxruntime with CUDA is installed here."""
    if not has_onnxruntime():
        return False
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def open_network(path: Path, runtime: str, device: str) -> OnnxNetwork:
    """Load a network for the runtime `opencv` or `onnxruntime`; raises CheckpointError."""
    return OpenCvNetwork(path) if runtime == "opencv" else OnnxRuntimeNetwork(path, device)
