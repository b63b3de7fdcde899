"""WebDataset: tar files of pairs `000000042.jpg` (the face) and `000000042.json` (its labels)."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distfacegan.store.exports import parts
from distfacegan.store.exports.export import ExportFormat, Sample
from distfacegan.store.location import Location

JPEG_BITS_PER_PIXEL = 3.0  # of a face at quality 95


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
        return resolution**2 * JPEG_BITS_PER_PIXEL / 8 + parts.LABEL_BYTES

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
            f"{name}.jpg": parts.jpeg(sample.face, self.jpeg_quality),
            f"{name}.json": json.dumps(parts.labels_of(sample)).encode(),
        }

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`."""
        path = folder / _name(shard)
        try:
            with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:") as tar:
                members = [member for member, _ in zip(tar, range(2 * count), strict=False)]
                pairs = zip(members[::2], members[1::2], strict=True)  # face, labels
                return [_sample(tar, *pair) for pair in pairs]
        except (tarfile.TarError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from None


def _name(shard: int) -> str:
    return f"{shard:05d}.tar"


def _sample(tar: tarfile.TarFile, face: tarfile.TarInfo, labels: tarfile.TarInfo) -> Sample:
    picture = parts.decode(_content(tar, face), face.name)
    return parts.sample_of(picture, json.loads(_content(tar, labels)))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()
