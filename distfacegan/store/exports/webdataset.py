"""WebDataset: tar files of pairs `000000042.jpg` (the face) and `000000042.json` (its labels)."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from distfacegan.store.exports.export import ExportFormat, Origin, Sample
from distfacegan.store.location import Location

JPEG_BITS_PER_PIXEL = 3.0  # of a face at quality 95
LABEL_BYTES = 2000  # of a sample's labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDataset(ExportFormat):
    """Tar files of .jpg and .json pairs, as the webdataset library reads them."""

    kind: Literal["webdataset"] = "webdataset"
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Quality of the .jpg files."""

    files: ClassVar[str] = "WebDataset shards (`00000.tar` and on)"
    data_files: ClassVar[str | None] = "*.tar"
    how_to_read: ClassVar[str] = """\
    import webdataset as wds
    samples = wds.WebDataset("00000.tar", shardshuffle=False).decode("rgb8")
    for face, labels in samples.to_tuple("jpg", "json"):
        landmarks = labels["landmarks"]  # 49 pairs (x, y) in units of the face's side
"""

    def sample_bytes(self, resolution: int) -> float:
        """Return the approximate size of a sample in bytes."""
        return resolution**2 * JPEG_BITS_PER_PIXEL / 8 + LABEL_BYTES

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the tar file of a shard."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                for name, data in self.files_of(sample).items():
                    _add(tar, name, data)
        yield _name(shard), buffer.getvalue()

    def files_of(self, sample: Sample) -> dict[str, bytes]:
        """Return the two files of one sample."""
        name = f"{sample.index:09d}"
        return {
            f"{name}.jpg": _jpeg(sample.face, self.jpeg_quality),
            f"{name}.json": json.dumps(_labels(sample)).encode(),
        }

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`."""
        path = folder / _name(shard)
        try:
            with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:") as tar:
                members = [member for member, _ in zip(tar, range(2 * count), strict=False)]
                pairs = zip(members[::2], members[1::2], strict=True)  # face, labels
                return [_sample(_content(tar, face), _content(tar, of)) for face, of in pairs]
        except (tarfile.TarError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from None


def _name(shard: int) -> str:
    return f"{shard:05d}.tar"


def _labels(sample: Sample) -> dict[str, Any]:
    side = sample.face.shape[0]
    points = [[float(v) for v in point] for point in sample.landmarks]
    labels = {
        "index": sample.index,
        "seed": sample.seed,
        "landmarks": [[round(v, 6) for v in point] for point in points],
        "landmarks_px": [[round(v * side, 3) for v in point] for point in points],
        "z": [float(v) for v in sample.z],
    }
    if sample.uncertainty is not None:
        labels["uncertainty"] = [round(float(v), 6) for v in sample.uncertainty]
    if sample.origin is not None:
        labels["origin"] = dataclasses.asdict(sample.origin)
    if sample.photo_distance is not None:
        labels["photo_distance"] = round(sample.photo_distance, 3)
    return labels


def _sample(jpeg: bytes, labels: bytes) -> Sample:
    found = json.loads(labels)
    face = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if face is None:
        raise ValueError(f"sample {found['index']}: its face is no picture")
    return Sample(
        index=found["index"],
        seed=found["seed"],
        z=np.array(found["z"], np.float32),
        face=face,
        landmarks=np.array(found["landmarks"], np.float32),
        uncertainty=np.array(known, np.float32) if (known := found.get("uncertainty")) else None,
        origin=Origin.of(known) if (known := found.get("origin")) else None,
        photo_distance=found.get("photo_distance"),
    )


def _jpeg(face: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    assert done
    return data.tobytes()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()
