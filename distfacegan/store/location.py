"""Where things are kept: a local path, or a URL of an object store (s3://, gs://, az://).

A URL becomes a path of universal_pathlib over obstore, and has pathlib's methods. Credentials,
region and endpoint come from the environment (AWS_*, GOOGLE_*, AZURE_*) or from the machine's role.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import posixpath
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore.fsspec
import obstore.store
from obstore.exceptions import BaseError as ObjectStoreError
from upath import UPath

from distfacegan.errors import DistfaceganError

Location = Path | UPath
SCHEMES = ("s3", "gs", "az")
_READERS = 32
# An outage of minutes is waited for; what lasts longer is an error, and the shard is tried again.
_OPTIONS: Any = {
    "client_options": {"timeout": "60s", "connect_timeout": "10s", "allow_http": True},
    "retry_config": {
        "max_retries": 100,
        "retry_timeout": datetime.timedelta(minutes=5),
        "backoff": {
            "init_backoff": datetime.timedelta(milliseconds=100),
            "max_backoff": datetime.timedelta(seconds=10),
            "base": 2,
        },
    },
}

obstore.fsspec.register(SCHEMES)  # in every process that may be handed such a path


class LocationError(DistfaceganError, ValueError):
    """A URL that cannot be a place of ours."""


def locate(text: str | Location) -> Location:
    """Return the path of a text: a URL's, or a local one, absolute and normalised.

    Raises LocationError for a URL that cannot be a place of ours.
    """
    if not isinstance(text, str | os.PathLike):
        return text
    text = os.fspath(text)
    if "://" not in text:
        return Path(os.path.abspath(os.path.expanduser(text)))
    url = urlsplit(text, allow_fragments=False)
    if url.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise LocationError(
            f"{text.partition('://')[0]}:// is not known; a path, or one of {known}"
        )
    if "@" in url.netloc or url.query:
        raise LocationError(
            f"{url.scheme}://...: credentials do not belong into a URL; they come from the "
            "environment (AWS_*, GOOGLE_*, AZURE_*) or from the machine's role"
        )
    folder = posixpath.normpath(f"/{url.path}").strip("/")
    if not url.netloc or not folder:
        raise LocationError(f"{text}: a bucket and a folder in it are needed: s3://bucket/folder")
    if not re.fullmatch(r"[\w./=+,:@()-]+", folder, re.ASCII):
        raise LocationError(
            f"{text}: a folder's name holds letters, digits and . _ - = + , : @ ( ) here: "
            "libraries differ in what they make of other characters"
        )
    return UPath(f"{url.scheme}://{url.netloc}/{folder}", **_OPTIONS)


def object_store(location: Location) -> obstore.store.ObjectStore:
    """Return obstore's own store of the objects below a URL."""
    return obstore.store.from_url(str(location), **_OPTIONS)


class ArrowFileSystem(obstore.fsspec.FsspecStore):
    """obstore's file system for pyarrow, which hands a file more than bytes (obstore 0.12)."""

    def _open(self, path: str, mode: Any = "rb", **options: Any) -> Any:  # type: ignore[override]
        file: Any = super()._open(path, mode, **options)
        write = file.write
        file.write = lambda data: write(bytes(data))
        return file


def file_system(location: UPath) -> ArrowFileSystem:
    """Return the fsspec file system of a URL, in a form that can be pickled."""
    protocol: Any = location.protocol
    return ArrowFileSystem(protocol, **_OPTIONS)


def brief(error: ObjectStoreError) -> str:
    """Return what an error of an object store says, without its internals."""
    return str(error).partition("\n")[0]


def remove_tree(location: Location) -> None:
    """Delete a folder with all that is below it, if it is there."""
    if isinstance(location, Path):
        shutil.rmtree(location, ignore_errors=True)
        return
    store = object_store(location)
    for batch in store.list(chunk_size=1000, return_arrow=False):
        store.delete([found["path"] for found in batch])


def numbered(folder: Location, suffix: str = "") -> list[Location]:
    """Return what in a folder is named by a number, in order; nothing if it is not there."""
    if isinstance(folder, Path):
        names = os.listdir(folder) if folder.is_dir() else []
    else:
        found = object_store(folder).list_with_delimiter(return_arrow=False)
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
    return [folder / name for name in sorted(names) if name[0].isdigit() and name.endswith(suffix)]


def read_all(locations: Sequence[Location]) -> list[bytes]:
    """Return the content of many small files, in their order, many at once."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_read, locations))


def _read(location: Location) -> bytes:
    return location.read_bytes()
