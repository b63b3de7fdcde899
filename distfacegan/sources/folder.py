"""A folder of photos, at any depth, with optional 300-W `.pts` files beside the photos."""

import collections
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from distfacegan.errors import SourceError, UnreadablePhotoError
from distfacegan.settings import SpecPath
from distfacegan.sources import images
from distfacegan.sources.pts import read_pts
from distfacegan.sources.source import PathSection, listing_fingerprint

logger = logging.getLogger(__name__)


class FolderSection(PathSection):
    """Every image below a folder, with 300-W .pts annotations beside them where present."""

    kind: Literal["folder"]
    path: SpecPath
    """The folder."""

    def open(self, seed: int) -> "FolderSource":
        """List the folder."""
        return FolderSource(self.path)


class FolderSource:
    """Every image below a folder; keys are the paths below the folder, with `/`.

    Images are known by their suffix. Hidden files, other kinds of files and links that leave the
    folder are passed over. Links to folders are never followed. A `.pts` file of the same name
    annotates a photo. All `.pts` files are checked here, so that a wrong file does not stop a run
    halfway.
    """

    def __init__(self, path: str | Path) -> None:
        self._listing = list_photos(Path(path))
        self.keys = self._listing.keys
        points = hashlib.sha256()
        for key in sorted(self._listing.annotated):
            points.update(key.encode() + b"\0" + read_pts(self._pts(key)).tobytes())
        self._points_digest = points.hexdigest()
        logger.info("%s: %s", path, self._listing.summary())

    def read(self, row: int) -> np.ndarray:
        """Return the photo, u8 [H, W, 3], RGB, upright; raises UnreadablePhotoError."""
        return images.decode(self._listing.read(self.keys[row]))

    def annotation(self, row: int) -> np.ndarray | None:
        """Return the 49 points of the `.pts` file, f32 [49, 2], in pixels of `read(row)`.

        The file refers to the pixels as stored. If `read` turns the photo (EXIF) or scales it down
        (a large JPEG), the points are turned and scaled in the same way.
        """
        key = self.keys[row]
        if key not in self._listing.annotated:
            return None
        return images.upright_points(self._listing.read(key), read_pts(self._pts(key)))

    def fingerprint(self) -> str:
        """Return a digest of the keys, the sizes and the points."""
        kind = f"folder, points {self._points_digest}"
        return listing_fingerprint(kind, self.keys, self._listing.sizes)

    def _pts(self, key: str) -> Path:
        return (self._listing.root / key).with_suffix(".pts")


@dataclasses.dataclass
class Listing:
    """The photos below a folder, and counts of the files that were passed over."""

    root: Path
    keys: list[str]  # sorted
    sizes: list[int]  # bytes
    annotated: frozenset[str]  # the keys with a .pts file
    ignored: collections.Counter[str]  # other files by suffix
    outside: int  # links that leave the folder

    def read(self, key: str) -> bytes:
        """Return the bytes of a photo; raises UnreadablePhotoError without permission to read.

        Other errors of the file system (a lost mount, a deleted file) are raised as they are: they
        do not come from the photo.
        """
        try:
            return (self.root / key).read_bytes()
        except PermissionError as error:
            raise UnreadablePhotoError("no permission to read the file") from error

    def summary(self) -> str:
        """Return one line that says what was found."""
        suffixes = ", ".join(f"{s or 'no suffix'} {n}" for s, n in self.ignored.most_common(6))
        return (
            f"{len(self.keys)} photos, {len(self.annotated)} with points; passed over "
            f"{self.ignored.total()} other files{f' ({suffixes})' if suffixes else ''}"
            f" and {self.outside} links that leave the folder"
        )


def list_photos(path: Path, *, recursive: bool = True) -> Listing:
    """List the images of a folder; raises SourceError if the folder has no images."""
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise SourceError(f"{path}: expected a folder of photos, found {found}; check the path")
    root = path.resolve()
    sizes: dict[str, int] = {}
    others: list[str] = []
    outside = 0
    prefix = os.path.join(root, "")
    for entry in _walk(root, recursive):
        key = entry.path[len(prefix) :].replace(os.sep, "/")
        if is_hidden(entry.name) or _suffix(key) not in images.SUFFIXES or not _is_file(entry):
            others.append(key)
        elif entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            outside += 1
        else:
            sizes[_storable(key)] = entry.stat().st_size
    keys = sorted(sizes)
    stems = {other.removesuffix(".pts") for other in others if other.endswith(".pts")}
    annotated = frozenset(key for key in keys if os.path.splitext(key)[0] in stems)
    ignored = collections.Counter(map(_suffix, others))
    ignored[".pts"] -= len({os.path.splitext(key)[0] for key in annotated})
    listing = Listing(root, keys, [sizes[key] for key in keys], annotated, +ignored, outside)
    if not keys:
        suffixes = " ".join(sorted(images.SUFFIXES))
        raise SourceError(f"{path}: {listing.summary()}; expected files of {suffixes}")
    return listing


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link to itself
        return False


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden or belongs to macOS, by its name."""
    return name.startswith(".") or name == "__MACOSX"


def _walk(folder: str | Path, recursive: bool) -> Iterator[os.DirEntry[str]]:
    """Yield every entry that is no folder. A link to a folder is yielded and not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}") from error
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield entry
        elif recursive and not is_hidden(entry.name):
            yield from _walk(entry.path, recursive)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _storable(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise SourceError(f"file name {key!r} is not UTF-8 and cannot be kept; rename it") from None
    return key
