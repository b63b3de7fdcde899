"""`distfacegan bench landmarks`: detectors against the library's own call, image by image."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distfacegan.bench import roofline
from distfacegan.core.detectors import fan
from distfacegan.core.detectors.fan import FaceAlignmentDetector
from distfacegan.core.detectors.onnx import OnnxDetector
from distfacegan.core.onnx_runtimes import has_onnxruntime

ROUNDS = 5
LIBRARY = "face_alignment: the library, image by image"

Detect = Callable[[np.ndarray], object]


def measure(
    faces: np.ndarray,
    device: torch.device,
    *,
    weights: Path | None,
    onnx: Path | None,
    precisions: Sequence[str] = ("fp32",),
) -> dict[str, Any]:
    """Find the landmarks of faces u8 [B, R, R, 3] in every way, in turn: faces a second, medians.

    Without `weights` the FAN has random ones, which take as long.
    """
    with _weights(weights):
        ways: dict[str, Detect] = {LIBRARY: _library(device)}
        for precision in precisions:
            detector = FaceAlignmentDetector(weights, device=str(device), precision=precision)
            ways[f"face_alignment: ours, {precision}"] = detector.detect_twice
    if onnx is not None:
        runtimes = ["opencv", *(["onnxruntime"] if has_onnxruntime() else [])]
        for runtime in runtimes:
            network = OnnxDetector(onnx, runtime=runtime, device=str(device))
            ways[f"onnx: {runtime}"] = network.detect_twice
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, detect in ways.items():
            started = time.perf_counter()
            detect(faces)
            roofline.wait(device)
            if round_:  # the first round is slower than all others
                seconds[name].append(time.perf_counter() - started)
    return {
        "device": roofline.device_name(device),
        "threads": torch.get_num_threads(),
        "faces": len(faces),
        "resolution": faces.shape[1],
        "faces_per_s": {name: len(faces) / statistics.median(s) for name, s in seconds.items()},
    }


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text: each way against the first of its detector."""
    lines = [
        f"{result['faces']} faces of {result['resolution']} px, each with its mirror image, on "
        f"{result['device']}, {result['threads']} threads"
    ]
    first: dict[str, float] = {}
    for name, rate in result["faces_per_s"].items():
        base = first.setdefault(name.partition(":")[0], rate)
        lines.append(f"  {name:<45} {rate:8.2f} faces/s  {rate / base:5.2f} times")
    return "\n".join(lines)


def _library(device: torch.device) -> Detect:
    """Return the library's own call for each face, whose box is the face itself."""
    import face_alignment

    aligner = face_alignment.FaceAlignment(
        face_alignment.LandmarksType.TWO_D,
        device=device.type,
        face_detector="folder",
        compile=device.type == "cuda",  # its default; on a processor it takes minutes
    )

    def detect(faces: np.ndarray) -> None:
        side = faces.shape[1]
        for face in faces:
            aligner.get_landmarks_from_image(face, detected_faces=[[0, 0, side, side]])

    return detect


@contextlib.contextmanager
def _weights(given: Path | None) -> Iterator[None]:
    """Put weights where the library looks for them, as long as the networks are being loaded."""
    before = os.environ.get("TORCH_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCH_HOME"] = folder
        path = fan.default_weights()
        path.parent.mkdir(parents=True)
        if given is not None:
            path.symlink_to(given.absolute())
        else:
            from face_alignment.models import FAN

            torch.manual_seed(0)
            torch.save(FAN(4).state_dict(), path)
        try:
            yield
        finally:
            del os.environ["TORCH_HOME"]
            if before is not None:
                os.environ["TORCH_HOME"] = before
