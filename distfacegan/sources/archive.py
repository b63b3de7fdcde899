"""Photos in a zip archive that nobody vouches for: checked when it is listed, read in place."""

import os
import stat
import zipfile
import zlib
from pathlib import Path

from distfacegan.errors import SourceError, UnreadablePhotoError

# Photos are compressed already: CelebA's archive gains 1%. Deflate can gain at most a thousandfold.
MAX_RATIO = 100
MAX_ENTRY_BYTES = 256 * 2**20  # a photo of images.MAX_PIXELS, were it not compressed at all
_SMALL_BYTES = 2**20  # an entry that expands to less than this harms nobody, whatever its ratio
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A zip archive, read entry by entry; nothing is ever unpacked to disk.

    It can be pickled, and each process opens it for itself, at the first read.
    Raises SourceError for what is no zip, or holds an entry that is unsafe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._process: int | None = None
        with self._open() as archive:
            entries = archive.infolist()
        seen: set[str] = set()
        for entry in entries:
            if reason := _danger(entry) or ("is there twice" if entry.filename in seen else ""):
                raise SourceError(
                    f"{path}: entry {entry.filename!r} {reason}; "
                    "make a new archive, of the photos alone"
                )
            seen.add(entry.filename)
        self.sizes = {e.filename: e.file_size for e in entries if not e.is_dir()}

    def read(self, name: str) -> bytes:
        """Return the bytes of an entry; raises UnreadablePhotoError where they are damaged."""
        if self._process != os.getpid():  # a forked process must not share the file's position
            self._archive, self._process = self._open(), os.getpid()
        try:
            with self._archive.open(name) as entry:
                # Asked for its declared size alone, an entry that lies about it cannot fill memory.
                return entry.read(self.sizes[name] + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UnreadablePhotoError(f"damaged in the archive: {error}") from error

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise SourceError(
                f"{self.path}: not a zip archive ({error}); it may be an unfinished download"
            ) from error

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "sizes": self.sizes, "_process": None}


def _danger(entry: zipfile.ZipInfo) -> str:
    """Say why an entry must not be read, or nothing."""
    name = entry.filename
    if name.startswith("/") or "\\" in name or name[1:2] == ":":
        return "has an absolute or a Windows path"
    if ".." in name.split("/"):
        return "climbs out of the archive"
    if entry.flag_bits & 0x61:  # encrypted, patched data, strong encryption
        return "is encrypted"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    if entry.compress_type not in _METHODS:
        return f"is compressed by method {entry.compress_type}, not stored or deflated"
    if entry.file_size > MAX_ENTRY_BYTES:
        return f"expands to {entry.file_size:,} bytes, more than {MAX_ENTRY_BYTES:,}"
    if entry.file_size > max(_SMALL_BYTES, MAX_RATIO * entry.compress_size):
        return f"expands {entry.file_size / max(1, entry.compress_size):,.0f}-fold"
    return ""
