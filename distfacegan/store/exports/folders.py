"""The base class of formats that write a folder of pictures for each shard.

00004/000000042.png   a face
00004/000000042...    its landmarks, in the form of the format
00004/labels.jsonl    everything else that is known of the samples, a line each
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from distfacegan.store.exports import parts
from distfacegan.store.exports.export import ExportFormat, Sample
from distfacegan.store.location import Location


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders(ExportFormat):
    """Folders of pictures, with a text file of landmarks beside each."""

    def text_of(self, sample: Sample) -> tuple[str, str]:
        """Return the ending of the name, and the content, of the file of a sample's landmarks."""
        raise NotImplementedError

    def sample_bytes(self, resolution: int) -> float:
        """Return the approximate size of a sample in bytes."""
        return resolution**2 * parts.PNG_BITS_PER_PIXEL / 8 + 2 * parts.LABEL_BYTES

    def files_of(self, sample: Sample) -> dict[str, bytes]:
        """Return the two files of one sample."""
        name = f"{sample.index:09d}"
        ending, text = self.text_of(sample)
        return {f"{name}.png": parts.png(sample.face), f"{name}{ending}": text.encode()}

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        """Yield the files of a shard."""
        all_of_it = list(samples)
        for sample in all_of_it:
            for name, data in self.files_of(sample).items():
                yield f"{shard:05d}/{name}", data
        yield f"{shard:05d}/{parts.LABELS}", parts.write_lines(all_of_it)

    def read_first(self, folder: Location, shard: int, count: int) -> list[Sample]:
        """Return the first samples of a shard, at most `count`."""
        own = folder / f"{shard:05d}"
        found = []
        for labels in parts.read_lines(own / parts.LABELS, count):
            path = own / f"{labels['index']:09d}.png"
            found.append(parts.sample_of(parts.decode(path.read_bytes(), str(path)), labels))
        return found
