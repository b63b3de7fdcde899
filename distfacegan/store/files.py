"""Small files that are either whole or absent.

A local file is written under another name, flushed and renamed. An object store takes a whole
object in one request.

A sealed JSON object holds under `digest` the digest of its other fields, which every reader checks.
It may hold under `digests` those of files beside it, by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distfacegan.errors import MENDED, RunDirectoryError
from distfacegan.store.location import Location, read_all


def write_bytes(path: Location, data: bytes) -> None:
    """Replace the file at `path` by `data`.

    A reader sees the old file or the new file, never a part; a crash leaves one of the two.
    """
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())  # mkstemp's 0600 would hide a run from colleagues
        os.replace(partial, path)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # Python's error for a full disk names no file
        raise


def flush(path: Path) -> None:
    """Wait until a file that another library wrote is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Location, value: Any) -> None:
    """Replace `path` by the JSON text of `value`."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its seal: the digest of its other fields."""
    rest = {key: each for key, each in value.items() if key != "digest"}
    text = json.dumps(json.loads(json.dumps(rest)), sort_keys=True)  # as it is read back
    return {**rest, "digest": digest(text.encode())}


def is_whole(value: Any) -> bool:
    """Tell whether a JSON value is what was written, as far as it is sealed."""
    sealed = isinstance(value, dict) and "digest" in value
    return not sealed or seal(value)["digest"] == value["digest"]


def seal_text(text: str) -> str:
    """Return a text with its seal, a comment in the last line."""
    return f"{text}{_SEAL}{digest(text.encode())}\n"


def is_whole_text(text: str) -> bool:
    """Tell whether a text is what was written, as far as it is sealed."""
    body, sealed, found = text.rpartition(_SEAL)
    return not sealed or digest(body.encode()) == found.strip()


_SEAL = "# Digest of the lines above: "


def read_json(path: Location) -> Any:
    """Return the value in the JSON file at `path`; raises RunDirectoryError for a damaged file."""
    return _parse(path, path.read_bytes())


def read_all_json(paths: Sequence[Location]) -> list[Any]:
    """Return the values in many JSON files, in order, reading many at once."""
    return [_parse(path, data) for path, data in zip(paths, read_all(paths), strict=True)]


def _parse(path: Location, data: bytes) -> Any:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged ({error}); {MENDED}") from None
    if not is_whole(found):
        raise RunDirectoryError(f"{path} is damaged (it fails its digest); {MENDED}")
    return found


def digest(data: bytes | memoryview) -> str:
    """Return the content digest (BLAKE2b, 128 bits) that markers and metadata hold."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Location) -> str:
    """Return `digest` of a file's bytes."""
    return digest(path.read_bytes())


def damaged(folder: Location, digests: Mapping[str, str]) -> list[str]:
    """Return one line for every file, by name in `folder`, that is missing or fails its digest."""
    lines = []
    for name, expected in digests.items():
        path = folder / name
        if not path.exists():
            lines.append(f"{path}: missing")
        elif file_digest(path) != expected:
            lines.append(f"{path}: its content has changed")
    return lines


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
