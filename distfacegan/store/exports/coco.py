"""COCO keypoints: a JSON file for each shard, and a folder of pictures beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from distfacegan.store.exports import parts
from distfacegan.store.exports.export import ExportFormat, Sample
from distfacegan.store.location import Location

POINTS = [point for point in range(17, 68) if point not in (60, 64)]  # of iBUG's 68
CATEGORY = {
    "id": 1,
    "name": "face",
    "supercategory": "person",
    "keypoints": [f"ibug_{point}" for point in POINTS],
    "skeleton": [],
}
VISIBLE = 2  # COCO's flag of a keypoint that is labelled and visible


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coco(ExportFormat):
    """COCO keypoint files with .png pictures, as pycocotools reads them."""

    kind: Literal["coco"] = "coco"

    files: ClassVar[str] = "COCO keypoint files (`00000.json` and on) with folders of pictures"
    how_to_read: ClassVar[str] = """\
    from pycocotools.coco import COCO
    coco = COCO("00000.json")
    for annotation in coco.loadAnns(coco.getAnnIds()):
        picture = coco.loadImgs(annotation["image_id"])[0]["file_name"]
        keypoints = annotation["keypoints"]  # 49 times x, y, 2: pixels from the top left edge
"""

    def sample_bytes(self, resolution: int) -> float:
        """Return the approximate size of a sample in bytes."""
        return resolution**2 * parts.PNG_BITS_PER_PIXEL / 8 + 2 * parts.LABEL_BYTES

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the pictures of a shard, then its JSON file."""
        images, annotations = [], []
        for sample in samples:
            name = f"{shard:05d}/{sample.index:09d}.png"
            yield name, parts.png(sample.face)
            images.append(_image(sample, name))
            annotations.append(_annotation(sample))
        document = {
            "info": {"description": "faces with 49 landmarks"},
            "images": images,
            "annotations": annotations,
            "categories": [CATEGORY],
        }
        yield f"{shard:05d}.json", json.dumps(document).encode()

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`."""
        document = json.loads((folder / f"{shard:05d}.json").read_bytes())
        found = []
        for image in document["images"][:count]:
            data = (folder / image["file_name"]).read_bytes()
            found.append(parts.sample_of(parts.decode(data, image["file_name"]), image["labels"]))
        return found


def _image(sample: Sample, name: str) -> dict[str, Any]:
    height, width = sample.face.shape[:2]
    labels = parts.labels_of(sample)  # COCO's readers pass over keys that they do not know
    size = {"height": height, "width": width}
    return {"id": sample.index, "file_name": name, **size, "labels": labels}


def _annotation(sample: Sample) -> dict[str, Any]:
    """Return the keypoints of a face, and the box round them."""
    points = np.round(sample.landmarks * sample.face.shape[0], 3).astype(float)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return {
        "id": sample.index,
        "image_id": sample.index,
        "category_id": CATEGORY["id"],
        "keypoints": [value for x, y in points.tolist() for value in (x, y, VISIBLE)],
        "num_keypoints": len(points),
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }
