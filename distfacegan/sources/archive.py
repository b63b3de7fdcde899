"""Photos in a zip archive. An archive is not trusted: every entry is checked before it is read."""

import os
import stat
import zipfile
import zlib
from pathlib import Path

from distfacegan.errors import SourceError, UnreadablePhotoError

# Photos hardly shrink in an archive: CelebA's by 1%. Deflate shrinks at most a thousandfold.
MAX_RATIO = 100
MAX_ENTRY_BYTES = 256 * 2**20  # about the size of images.MAX_PIXELS without any compression
_SMALL_BYTES = 2**20  # an entry that expands to less than this is harmless at any ratio
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A zip archive, read entry by entry; nothing is ever unpacked to disk.

    An archive can be pickled: each process opens the file anew at its first read. Raises
    SourceError if the file is no zip archive or has an unsafe entry.
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
        """Return the bytes of an entry; raises UnreadablePhotoError if the entry is damaged."""
        if self._process != os.getpid():  # a forked process must not share the file's position
            self._archive, self._process = self._open(), os.getpid()
        try:
            with self._archive.open(name) as entry:
                # Read no more than the declared size, so that a false size cannot fill the memory.
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
    """Return why an entry must not be read; an empty text if the entry is safe."""
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
