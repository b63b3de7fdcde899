"""Locations of files and folders: local paths, or URLs of object stores (s3://, gs://, az://).

Credentials, region and endpoint come from the environment (AWS_*, GOOGLE_*, AZURE_*) or from the
machine's role.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import obstore.fsspec
import obstore.store
from obstore.exceptions import BaseError as ObjectStoreError

from distfacegan import waiting
from distfacegan.errors import DistfaceganError

SCHEMES = ("s3", "gs", "az")
LIKE_A_URL = re.compile(r"\w{2,}:/|(s3|gs|az)//", re.IGNORECASE)
REACH_S = 15.0
_READERS = 32
# A request tries for 5 minutes to reach the store. A longer outage is an error of the shard.
_OPTIONS: Any = {
    "client_options": {"timeout": "60s", "connect_timeout": "10s", "allow_http": True},
    "retry_config": {
        "max_retries": 10_000,  # never reached: retry_timeout ends the tries
        "retry_timeout": datetime.timedelta(minutes=5),
        "backoff": {
            "init_backoff": datetime.timedelta(milliseconds=100),
            "max_backoff": datetime.timedelta(seconds=10),
            "base": 2,
        },
    },
}


class LocationError(DistfaceganError, ValueError):
    """A URL that is malformed, is of an unknown scheme, or cannot be reached."""


@dataclasses.dataclass(frozen=True, order=True)
class ObjectPath:
    """A path in an object store, with pathlib's methods.

    A write or a deletion happens wholly or not at all. A request that fails raises an
    ObjectStoreError: a store that does not answer is never taken for an absent object.
    """

    bucket: str  # with its scheme: s3://faces
    key: PurePosixPath

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, self.key / name)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.key.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.key.stem

    @property
    def suffix(self) -> str:
        """The name's suffix, with its dot."""
        return self.key.suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that the path is in."""
        return ObjectPath(self.bucket, self.key.parent)

    def with_name(self, name: str) -> ObjectPath:
        """Return the path of `name` in the same folder."""
        return self.parent / name

    @property
    def _store(self) -> _SaidStore:
        return _bucket(self.bucket)

    def read_bytes(self) -> bytes:
        """Return the object's content; raises FileNotFoundError."""
        return self._store.get(str(self.key)).bytes().to_bytes()

    def read_text(self) -> str:
        """Return the object's content as text; raises FileNotFoundError."""
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> int:
        """Replace the object."""
        self._store.put(str(self.key), data)
        return len(data)

    def is_file(self) -> bool:
        """Tell whether there is an object of this name."""
        try:
            self._store.head(str(self.key))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether there is an object below this name."""
        return any(self._store.list(str(self.key), chunk_size=1, return_arrow=False))

    def exists(self) -> bool:
        """Tell whether there is an object of this name, or below it."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[ObjectPath]:
        """Yield the objects and folders that are directly below this name."""
        found = self._store.list_with_delimiter(str(self.key), return_arrow=False)
        keys = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return (self / key.rpartition("/")[2] for key in keys)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; raises FileNotFoundError if it is absent, unless missing_ok."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(str(self))
        self._store.delete(str(self.key))


Location = Path | ObjectPath


def locate(text: str | Location) -> Location:
    """Return the location that a URL or a local path names, absolute and normalised.

    Raises LocationError for a malformed URL or an unknown scheme.
    """
    if isinstance(text, ObjectPath):
        return text
    text = os.fspath(text)
    if not LIKE_A_URL.match(text):
        return Path(os.path.abspath(os.path.expanduser(text)))
    match = re.fullmatch(r"(\w+)://([\w.-]+)/([\w./=+,:@()-]+)", text, re.ASCII)
    scheme = re.split("[:/]", text)[0]
    if scheme not in SCHEMES:
        raise LocationError(
            f"{scheme}:// is not known: give a path, or a URL of {', '.join(SCHEMES)}"
        )
    folder = posixpath.normpath(f"/{match[3]}").strip("/") if match else ""
    if match is None or not folder:
        found = "" if re.search("[@?]", text) else f"found {text}; "  # the text may hold a secret
        raise LocationError(
            f"{found}a URL is {scheme}://bucket/folder, in letters, digits and . _ - / = + , : @ ()"
            "; credentials do not belong in a URL: they come from the environment (AWS_*, "
            "GOOGLE_*, AZURE_*) or from the machine's role"
        )
    return ObjectPath(f"{scheme}://{match[2]}", PurePosixPath(folder))


def object_store(location: Location, give_up_s: float | None = None) -> obstore.store.ObjectStore:
    """Return obstore's store of the objects below a URL.

    `give_up_s` limits how long, roughly, a request keeps trying to reach the store.
    """
    options = _OPTIONS
    if give_up_s is not None:
        limit = datetime.timedelta(seconds=give_up_s)
        retry = {**_OPTIONS["retry_config"], "retry_timeout": limit}
        options = {"client_options": {**_OPTIONS["client_options"], "timeout": limit}}
        options["retry_config"] = retry
    return obstore.store.from_url(str(location), **options)


class _SaidStore:
    """obstore's store of a bucket, which says what it waits for."""

    def __init__(self, url: str) -> None:
        limit = _OPTIONS["retry_config"]["retry_timeout"].total_seconds()
        self._what = f"the object store {url} (gives up after {limit:.0f} s)"
        self._store: Any = obstore.store.from_url(url, **_OPTIONS)

    def __getattr__(self, name: str) -> Any:
        request = getattr(self._store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with waiting.said(self._what):
                return request(*arguments, **options)

        return call


@functools.cache  # keeps the connections open
def _bucket(url: str) -> _SaidStore:
    return _SaidStore(url)


class ArrowFileSystem(obstore.fsspec.FsspecStore):
    """obstore's file system, whose files also take pyarrow's buffers (obstore 0.12 wants bytes)."""

    def _open(self, path: str, mode: Any = "rb", **options: Any) -> Any:  # type: ignore[override]
        file: Any = super()._open(path, mode, **options)
        write = file.write
        file.write = lambda data: write(bytes(data))
        return file


def file_system(location: ObjectPath) -> ArrowFileSystem:
    """Return the fsspec file system of a URL, in a form that can be pickled."""
    scheme: Any = location.bucket.partition("://")[0]
    return ArrowFileSystem(scheme, **_OPTIONS)


def brief(error: Exception) -> str:
    """Return the first line of an object store's error; the rest describes its internals."""
    return str(error).partition("\n")[0]


def reach(location: Location) -> None:
    """Check that the store of a URL answers; raises LocationError after about REACH_S seconds."""
    if isinstance(location, Path):
        return
    store = object_store(location, give_up_s=REACH_S)
    try:
        with waiting.said(f"the object store of {location} (gives up after {REACH_S:.0f} s)"):
            next(iter(store.list(chunk_size=1, return_arrow=False)), None)
    except (ObjectStoreError, OSError) as error:
        code = re.search(r"<Code>(\w+)</Code>", str(error))
        raise LocationError(
            f"{location} cannot be reached: {code[1] if code else brief(error)}. Check the "
            "bucket's name, the endpoint (AWS_ENDPOINT_URL), the region and the credentials"
        ) from None


def remove_tree(location: Location) -> None:
    """Delete a folder and all that is in it. A missing folder is no error."""
    if isinstance(location, Path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(location)
        return
    store = object_store(location)
    for batch in store.list(chunk_size=1000, return_arrow=False):
        store.delete([found["path"] for found in batch])


def numbered(folder: Location, suffix: str = "") -> list[Location]:
    """Return the entries of a folder whose names begin with a digit and end in `suffix`, sorted.

    A missing folder has no entries.
    """
    try:
        found: list[Any] = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in found if path.name[0].isdigit() and path.name.endswith(suffix)]


def read_all(locations: Sequence[Location]) -> list[bytes]:
    """Return the content of many small files, in their order, many at once."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_read, locations))


def _read(location: Location) -> bytes:
    return location.read_bytes()
