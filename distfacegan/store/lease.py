"""A lease, which admits one job at a time to a run directory in an object store.

The lease is one object, which its holder keeps renewing. All writes are conditional: a job creates
the lease only if there is no lease, and replaces only the version of the lease that it read last.
A job that finds the lease unchanged for EXPIRES_S may take the lease over. The job measures this
time with its own clock: the clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from obstore.exceptions import (
    AlreadyExistsError,
    NotSupportedError,
    PreconditionError,
)

from distfacegan import waiting
from distfacegan.errors import RunDirectoryError
from distfacegan.store.location import Location, ObjectStoreError, brief, object_store

log = logging.getLogger(__name__)

RENEW_S = 10.0
EXPIRES_S = 45.0


class HeldError(Exception):
    """Another job holds the lease and keeps renewing it."""


def hold(path: Location, who: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Hold the lease on the object at `path` for the job that `who` describes.

    Raises HeldError if another job holds the lease, RunDirectoryError if the store cannot keep
    other jobs out. Raises RunDirectoryError, in the main thread, when another job has taken the
    lease over.
    """
    return _Lease(path, who).hold()


class _Lease:
    def __init__(self, path: Location, who: Mapping[str, Any]) -> None:
        self._path, self._store = path, object_store(path.parent, give_up_s=RENEW_S)
        self._who = {**who, "lease": uuid.uuid4().hex}
        self._renewals = 0
        self._released = threading.Event()
        self._lost = False
        # Not SIGINT: a job that a shell script started in the background ignores SIGINT.
        self._wake = signal.SIGUSR1

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        self._check_conditions()
        self._version = self._take()
        before = None
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(self._wake, signal.default_int_handler)
        else:
            self._wake = signal.SIGINT
        thread = threading.Thread(target=self._renew, daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            if self._lost:
                raise RunDirectoryError(
                    f"{self._path.parent} has been taken over by another job: this job did not "
                    f"reach the store for {EXPIRES_S:.0f} s and seemed to be dead"
                ) from None
            raise
        finally:
            self._released.set()
            thread.join()
            if before is not None:
                signal.signal(self._wake, before)
            self._release()

    def _release(self) -> None:
        try:
            if not self._lost and self._renewed() is not None:
                self._store.delete(self._path.name)
        except ObjectStoreError as error:  # the lease expires by itself
            log.warning("cannot give back the lease on %s: %s", self._path.parent, brief(error))

    def _check_conditions(self) -> None:
        """Raise RunDirectoryError if the store does not honour the conditions of a write."""
        name = f".probe-{self._who['lease']}"
        try:
            first = _version(self._store.put(name, b"1", mode="create"))
            self._store.put(name, b"2", mode=first)
            for condition in ("create", first):  # neither holds any more
                with contextlib.suppress(AlreadyExistsError, PreconditionError):
                    self._store.put(name, b"3", mode=condition)
                    raise NotSupportedError
        except (NotSupportedError, NotImplementedError):
            raise RunDirectoryError(
                f"{self._path.parent}: the store ignores the conditions of a write (If-None-Match, "
                "If-Match). It cannot keep a second job out of the run directory, and rows of two "
                "jobs could mix. Nothing was changed. Use a store that honours the conditions, or "
                "copy the run directory to a local folder"
            ) from None
        finally:
            self._store.delete(name)

    def _take(self) -> Any:
        with contextlib.suppress(AlreadyExistsError):
            return self._write("create")
        try:
            found = self._store.head(self._path.name)
        except FileNotFoundError:
            return self._take()  # the other job has just ended
        log.info(
            "%s has a lease: waiting %.0f s to see if its job still runs",
            self._path.parent,
            EXPIRES_S,
        )
        deadline = time.monotonic() + EXPIRES_S
        while time.monotonic() < deadline:
            time.sleep(1)
            try:
                if self._store.head(self._path.name)["e_tag"] != found["e_tag"]:
                    raise HeldError
            except FileNotFoundError:
                return self._take()  # the other job has just ended
        try:
            return self._write(_version(found))
        except PreconditionError:
            raise HeldError from None  # a third job was quicker

    def _write(self, mode: Any) -> Any:
        self._renewals += 1  # new content, so that the store gives the object a new version
        text = json.dumps({**self._who, "renewals": self._renewals})
        return _version(self._store.put(self._path.name, text.encode(), mode=mode))

    def _renew(self) -> None:
        while not self._released.wait(RENEW_S):
            try:
                self._version = self._renewed()
            except ObjectStoreError as error:
                log.warning("cannot renew the lease on %s: %s", self._path.parent, brief(error))
            if self._version is None:
                self._lost = True
                os.kill(os.getpid(), self._wake)  # wakes the main thread wherever it waits
                return

    def _renewed(self) -> Any:
        """Renew the lease and return its new version; None if another job has the lease now."""
        # The store refuses for one of two reasons: another job took the lease, or this job renewed
        # the lease before and the store's answer got lost. The content of the lease tells which.
        with contextlib.suppress(PreconditionError):
            return self._write(self._version)
        try:
            found = self._store.get(self._path.name)
        except FileNotFoundError:
            return None
        ours = json.loads(found.bytes().to_bytes()).get("lease") == self._who["lease"]
        return _version(found.meta) if ours else None


def holder(path: Location) -> dict[str, Any] | None:
    """Return the description of the job that holds a lease; None if no job renews the lease."""
    try:
        with waiting.said(f"the object store of {path}"):
            found = object_store(path.parent).get(path.name)
    except FileNotFoundError:
        return None
    age = datetime.datetime.now(datetime.UTC) - found.meta["last_modified"]
    return json.loads(found.bytes().to_bytes()) if age.total_seconds() < EXPIRES_S else None


def _version(found: Mapping[str, Any]) -> Any:
    """Return the version that a conditional write names: an e_tag (S3, Azure) or a number (GCS)."""
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}
