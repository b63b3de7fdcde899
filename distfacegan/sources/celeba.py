"""CelebA's aligned photos, from the published archive or from its unpacked folder."""

import logging
import math
import os
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from distfacegan.errors import SourceError
from distfacegan.settings import SpecPath
from distfacegan.sources import images
from distfacegan.sources.archive import Archive
from distfacegan.sources.folder import Listing, is_hidden, list_photos
from distfacegan.sources.source import PathSection, listing_fingerprint

logger = logging.getLogger(__name__)

FOLDER = "img_align_celeba"
LANDMARKS = "list_landmarks_align_celeba.txt"


class CelebASection(PathSection):
    """The CelebA archive img_align_celeba.zip, or the folder that it unpacks to."""

    kind: Literal["celeba"]
    path: SpecPath
    """The archive or the folder; list_landmarks_align_celeba.txt beside it is used if present."""

    assumed_count: ClassVar[int | None] = 202_599

    def open(self, seed: int) -> "CelebASource":
        """Open the archive or the folder."""
        return CelebASource(self.path)


class CelebASource:
    """The photos of CelebA.

    `path` is `img_align_celeba.zip`, its unpacked folder, or the parent of the unpacked folder.
    The archive and the folder give the same keys (file names such as `000001.jpg`) and the same
    fingerprint. The hand-made points are read from `list_landmarks_align_celeba.txt`, if the file
    is beside the archive or the folder.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path).absolute()
        self._photos: Archive | Listing
        if path.is_dir():
            folder = path / FOLDER if (path / FOLDER).is_dir() else path
            self._photos = list_photos(folder, recursive=False)
            entries = dict(zip(self._photos.keys, self._photos.sizes, strict=True))
            beside = [folder.parent, folder]
        elif path.is_file():
            self._photos = Archive(path)
            entries = {n: size for n, size in self._photos.sizes.items() if _is_photo(n)}
            beside = [path.parent]
        else:
            raise SourceError(
                f"{path}: nothing there; expected {FOLDER}.zip, or the folder it unpacks to"
            )
        if not entries:
            raise SourceError(
                f"{path}: no photos among {len(self._photos.sizes)} entries; "
                f"expected {FOLDER}/000001.jpg and so on"
            )
        self._entries = sorted(entries, key=_file_name)
        self._sizes = [entries[name] for name in self._entries]
        self.keys = [_file_name(name) for name in self._entries]
        for first, second in zip(self._entries, self._entries[1:], strict=False):
            if _file_name(first) == _file_name(second):
                raise SourceError(f"{path}: {first!r} and {second!r} are photos of the same name")
        files = [folder / LANDMARKS for folder in beside if (folder / LANDMARKS).is_file()]
        self._points = read_landmarks(files[0], self.keys) if files else None
        points_of = str(files[0]) if files else "none"
        logger.info("%s: %d photos, points: %s", path, len(self.keys), points_of)

    def read(self, row: int) -> np.ndarray:
        """Return the photo, u8 [H, W, 3], RGB, upright; raises UnreadablePhotoError."""
        return images.decode(self._photos.read(self._entries[row]))

    def annotation(self, row: int) -> np.ndarray | None:
        """Return the 5 points, f32 [5, 2], pixels: eyes, nose, corners of the mouth, left first."""
        if self._points is None or np.isnan(self._points[row, 0, 0]):
            return None
        return self._points[row]

    def fingerprint(self) -> str:
        """Return a digest of the keys and sizes."""
        return listing_fingerprint("celeba", self.keys, self._sizes)


def read_landmarks(path: Path, keys: list[str]) -> np.ndarray:
    """Return the 5 points of every key, f32 [N, 5, 2], pixels; NaN for keys not in the file.

    The file holds the number of photos, a header, then per photo its name and x1 y1 ... x5 y5.
    Raises SourceError, naming the line, for anything else.
    """
    lines = path.read_text("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != str(len(lines) - 2):
        raise SourceError(
            f"{path}, line 1: says {lines[0].strip() if lines else ''!r} photos, "
            f"the file has {max(0, len(lines) - 2)}; it may be an unfinished download"
        )
    points = np.full((len(keys), 10), np.nan, np.float32)
    row_of = {key: row for row, key in enumerate(keys)}
    for number, line in enumerate(lines[2:], start=3):
        name, *numbers = line.split() or [""]
        try:
            values = [float(text) for text in numbers]
        except ValueError:
            values = []
        if len(values) != 10 or not all(map(math.isfinite, values)):
            raise SourceError(
                f"{path}, line {number}: expected a name and 10 numbers, found {line!r}"
            )
        if name in row_of:
            points[row_of[name]] = values
    return points.reshape(-1, 5, 2)


def _file_name(entry: str) -> str:
    return entry.rpartition("/")[2]


def _is_photo(entry: str) -> bool:
    suffix = os.path.splitext(entry)[1].lower()
    return suffix in images.SUFFIXES and not any(map(is_hidden, entry.split("/")))
