"""The parts that several formats are put together from: pictures, and the labels of a sample."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from distfacegan.store.exports.export import Origin, Sample
from distfacegan.store.location import Location

PNG_BITS_PER_PIXEL = 14.0  # of a face
LABEL_BYTES = 2000  # of a sample's labels
LABELS = "labels.jsonl"  # beside the pictures of a shard: the labels of a sample in each line


def labels_of(sample: Sample) -> dict[str, Any]:
    """Return all that is known of a sample but its face, as JSON can hold it."""
    side = sample.face.shape[0]
    points = sample.landmarks.astype(np.float64)
    labels: dict[str, Any] = {"index": sample.index}
    if sample.key is not None:
        labels["key"] = sample.key
    if sample.seed is not None:
        labels["seed"] = sample.seed
    labels["landmarks"] = points.round(6).tolist()
    labels["landmarks_px"] = (side * points).round(3).tolist()
    if sample.z is not None:
        labels["z"] = sample.z.astype(np.float64).tolist()
    if sample.uncertainty is not None:
        labels["uncertainty"] = sample.uncertainty.astype(np.float64).round(6).tolist()
    if sample.origin is not None:
        labels["origin"] = dataclasses.asdict(sample.origin)
    if sample.photo_distance is not None:
        labels["photo_distance"] = round(sample.photo_distance, 3)
    return labels


def sample_of(face: np.ndarray, labels: Mapping[str, Any]) -> Sample:
    """Return the sample whose labels `labels_of` gave."""

    def array(name: str) -> np.ndarray | None:
        return np.array(labels[name], np.float32) if labels.get(name) is not None else None

    landmarks, origin = array("landmarks"), labels.get("origin")
    assert landmarks is not None
    return Sample(
        index=labels["index"],
        seed=labels.get("seed"),
        z=array("z"),
        face=face,
        landmarks=landmarks,
        uncertainty=array("uncertainty"),
        origin=Origin.of(origin) if origin else None,
        photo_distance=labels.get("photo_distance"),
        key=labels.get("key"),
    )


def write_lines(samples: Iterable[Sample]) -> bytes:
    """Return labels.jsonl: the labels of each sample in a line."""
    return b"".join(json.dumps(labels_of(sample)).encode() + b"\n" for sample in samples)


def read_lines(path: Location, count: int) -> list[dict[str, Any]]:
    """Return the first labels of labels.jsonl; raises ValueError if it is damaged."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()[:count]]
    if not all(isinstance(each, dict) and "landmarks" in each for each in found):
        raise ValueError(f"{path} is damaged: a line has no landmarks")
    return found


def jpeg(face: np.ndarray, quality: int) -> bytes:
    """Encode a face u8 [r, r, 3] RGB."""
    return _encode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])


def png(face: np.ndarray) -> bytes:
    """Encode a face u8 [r, r, 3] RGB without loss."""
    return _encode(".png", face, [])


def _encode(suffix: str, face: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(face, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode a picture to u8 [r, r, 3] RGB; raises ValueError, naming it, if it is none."""
    face = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if face is None:
        raise ValueError(f"{name} is no picture")
    return face
