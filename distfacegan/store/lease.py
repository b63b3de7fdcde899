"""One job at a time on a run directory in an object store: a lease that its holder keeps renewing.

The lease is one object. A job creates it only where there is none, and replaces it only if it has
seen its last version (conditional writes). A job that finds the lease unchanged for EXPIRES_S may
take it over. It measures that time by its own clock: the clocks of two machines are never compared.
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

from obstore.exceptions import AlreadyExistsError, PreconditionError

from distfacegan.errors import RunDirectoryError
from distfacegan.store.location import Location, ObjectStoreError, brief, object_store

log = logging.getLogger(__name__)

RENEW_S = 10.0
EXPIRES_S = 45.0


class HeldError(Exception):
    """The lease is held by a job that lives."""


def hold(path: Location, who: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Hold the lease on the object at `path` for the job that `who` describes.

    Raises HeldError if another job holds it; and RunDirectoryError, in the main thread, when
    another one has taken it over meanwhile.
    """
    return _Lease(path, who).hold()


class _Lease:
    def __init__(self, path: Location, who: Mapping[str, Any]) -> None:
        self._path, self._store = path, object_store(path.parent, give_up_s=RENEW_S)
        self._who = {**who, "lease": uuid.uuid4().hex}
        self._renewals = 0
        self._released = threading.Event()
        self._lost = False
        # A job that a script has started in its background ignores SIGINT.
        self._wake = signal.SIGUSR1

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
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
                    f"{self._path.parent} has been taken over by another job: this one could not "
                    f"reach the store for {EXPIRES_S:.0f} s and was taken for dead"
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
            log.warning("the lease on %s is not given back: %s", self._path.parent, brief(error))

    def _take(self) -> Any:
        with contextlib.suppress(AlreadyExistsError):
            return self._write("create")
        try:
            found = self._store.head(self._path.name)
        except FileNotFoundError:
            return self._take()  # the other job has just ended
        log.info("%s has a lease: waits %.0f s for its renewal", self._path.parent, EXPIRES_S)
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
        self._renewals += 1  # another content has another version in the store
        text = json.dumps({**self._who, "renewals": self._renewals})
        return _version(self._store.put(self._path.name, text.encode(), mode=mode))

    def _renew(self) -> None:
        while not self._released.wait(RENEW_S):
            try:
                self._version = self._renewed()
            except ObjectStoreError as error:
                log.warning("the lease on %s is not renewed: %s", self._path.parent, brief(error))
            if self._version is None:
                self._lost = True
                os.kill(os.getpid(), self._wake)  # wakes the main thread wherever it waits
                return

    def _renewed(self) -> Any:
        """Renew the lease and return its version; None if it is another's now."""
        # A refusal means one of two things: another job took the lease, or this job renewed it
        # before and the answer was lost on the way. The content of the lease tells which.
        with contextlib.suppress(PreconditionError):
            return self._write(self._version)
        try:
            found = self._store.get(self._path.name)
        except FileNotFoundError:
            return None
        ours = json.loads(found.bytes().to_bytes()).get("lease") == self._who["lease"]
        return _version(found.meta) if ours else None


def holder(path: Location) -> dict[str, Any] | None:
    """Return what the holder of a lease says of itself; None where nobody renews it."""
    try:
        found = object_store(path.parent).get(path.name)
    except FileNotFoundError:
        return None
    age = datetime.datetime.now(datetime.UTC) - found.meta["last_modified"]
    return json.loads(found.bytes().to_bytes()) if age.total_seconds() < EXPIRES_S else None


def _version(found: Mapping[str, Any]) -> Any:
    """Return what a conditional write names: S3 and Azure know an e_tag, GCS a version."""
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}
