"""A run directory: it holds everything that a job keeps, and alone says what is done.

job.yaml                 the resolved spec of the last run
latents.zarr/            photos, landmarks, latents, pairs (store/groups.py)
shards/<stage>/          a marker for every finished shard (store/shards.py)
stages/<stage>.json      the settings, inputs and runs of the stage (store/records.py)
began/ lgen/ synthetic/  networks, samples, metrics, generated faces
report/                  index.html and summary.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from distfacegan.errors import MENDED, RunDirectoryError
from distfacegan.store import files, formats, lease, records, shards
from distfacegan.store.location import Location, remove_tree
from distfacegan.store.records import StageRecord

# The stages in the order in which they run.
STAGES = (
    "ingest",
    "landmarks",
    "began",
    "invert",
    "mirror",
    "pairs",
    "lgen",
    "synthesize",
    "study",
    "report",
)


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths inside one run directory, and the records of its stages."""

    root: Location

    @property
    def job(self) -> Location:
        """The resolved spec of the last run."""
        return self.root / "job.yaml"

    @property
    def latents(self) -> Location:
        """The Zarr group of all rows."""
        return self.root / "latents.zarr"

    @property
    def began(self) -> Location:
        """Checkpoints, samples, metrics.jsonl and the finished generator."""
        return self.root / "began"

    @property
    def metrics(self) -> Location:
        """The measurements of BEGAN's training (store/metrics.py)."""
        return self.began / "metrics.jsonl"

    @property
    def surrogate(self) -> Location:
        """The networks that the recipe fast trains on the generator before the first face."""
        return self.root / "invert" / "surrogate"

    @property
    def landmarks(self) -> Location:
        """The calibration of the detector (calibrations.py)."""
        return self.root / "landmarks"

    @property
    def lgen(self) -> Location:
        """The landmark generator, its trials and its evaluation."""
        return self.root / "lgen"

    @property
    def synthetic(self) -> Location:
        """The generated dataset."""
        return self.root / "synthetic"

    @property
    def study(self) -> Location:
        """The errors of networks that have learnt from the generated faces."""
        return self.root / "study"

    @property
    def report(self) -> Location:
        """The report: index.html and summary.json."""
        return self.root / "report"

    def markers(self, stage: str) -> Location:
        """Return the folder of a stage's shard markers."""
        return self.root / "shards" / stage

    def record_path(self, stage: str) -> Location:
        """Return the path of a stage's record."""
        return self.root / "stages" / f"{stage}.json"

    def record(self, stage: str) -> StageRecord | None:
        """Return a stage's record, or None if the stage has not begun.

        Raises RunDirectoryError if the record is damaged, NewerFormatError if a later version wrote
        the record in a newer format.
        """
        found = self._read_record(stage)
        if found is None:
            return None
        path = self.record_path(stage)
        formats.check(path, found)
        try:
            return StageRecord.from_json(found)
        except TypeError as error:
            raise RunDirectoryError(f"{path} is no record of a stage ({error}); {MENDED}") from None

    def written_by(self) -> list[str]:
        """Return the other versions that began stages here: "distfacegan 0.1.0 (format 0)"."""
        origins = set()
        for stage in STAGES:
            with contextlib.suppress(RunDirectoryError):  # the record may be damaged
                found = self._read_record(stage)
                origins |= set() if found is None else {formats.origin(found)}
        return sorted(origins - {formats.origin(formats.stamp())})

    def finished(self, stage: str) -> bool:
        """Tell whether a stage has nothing left to do."""
        record = self.record(stage)
        if record is None or not record.finished:
            return False
        return record.shards is None or len(shards.done(self.markers(stage))) == record.shards

    def exists(self) -> bool:
        """Tell whether a job has ever begun in this folder."""
        return any(path.exists() for path in (self._lock_path, self._holder_path, self.job))

    def identity(self, stage: str) -> str:
        """Return a digest of the settings and the inputs that a stage began with.

        Raises RunDirectoryError if the record is missing, or if they have changed since.
        """
        record = self.record(stage)
        if record is None:
            raise RunDirectoryError(f"{self.root}: the stage {stage} has not run")
        found = _made_of(record.settings, record.inputs)
        if record.made_of not in (None, found):
            raise RunDirectoryError(
                f"{self.record_path(stage)} is damaged: the settings or inputs in it are not those "
                f"that the stage began with (digest {found}, expected {record.made_of}). Nothing "
                "was changed. Put back what `distfacegan run` says is different, or do the stage "
                f"anew: --fresh --only {stage}. `distfacegan verify` checks the other stages"
            )
        return found

    def check(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        unrecorded: Mapping[str, Any] | None = None,
    ) -> None:
        """Check that `settings` and `inputs` are those that the stage began with.

        Without this check a stage could mix the output of two settings. `unrecorded` gives values
        for settings that are missing in the record, because the version that began the stage did
        not have them. Raises RunDirectoryError, which names every field that differs, with its
        value on disk and the value asked for.
        """
        record = self.record(stage)
        if record is None:
            return
        lines = records.differences(record, settings, inputs, unrecorded or {})
        if lines:
            advice = f"Use another run directory, or --fresh --only {stage} to do the stage anew."
            raise RunDirectoryError(
                "\n".join([f"cannot resume {self.root}: stage {stage} differs", *lines, advice])
            )

    def begin(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
    ) -> None:
        """Record the settings and inputs of a stage, or check them against an existing record.

        A stage without a record must have no output on disk: call `clear` first.
        """
        self.check(stage, settings, inputs)
        if self.record(stage) is None:
            record = {"settings": records.plain(settings), "inputs": records.plain(inputs)}
            record |= {"runs": [], "finished": False, **formats.stamp()}
            record["made_of"] = _made_of(record["settings"], record["inputs"])
            files.write_json(self.record_path(stage), record)

    def note(self, stage: str, **facts: Any) -> None:
        """Add facts to a stage's record, such as the number of rows to do."""
        found = self._read_record(stage)
        if found is not None:
            files.write_json(self.record_path(stage), found | facts)

    def end(self, stage: str, *, finished: bool, started: float, **figures: Any) -> None:
        """Add one run to a stage's record: its seconds, and `figures` (fields of StageRun)."""
        found = self._read_record(stage)
        assert found is not None
        run = {"started": started, "seconds": round(time.time() - started, 3), **figures}
        runs = [*found["runs"], run]
        files.write_json(self.record_path(stage), found | {"runs": runs, "finished": finished})

    def clear(self, stage: str, outputs: Iterable[str]) -> None:
        """Delete a stage's markers, its `outputs` (paths below the root) and last its record."""
        with contextlib.suppress(RunDirectoryError):  # the record may be damaged
            self.note(stage, finished=False)
        for path in (self.markers(stage), *(self.root / output for output in outputs)):
            remove_tree(path)
        self.record_path(stage).unlink(missing_ok=True)

    def _read_record(self, stage: str) -> dict[str, Any] | None:
        try:
            return files.read_json(self.record_path(stage))
        except FileNotFoundError:
            return None

    @property
    def _lock_path(self) -> Location:
        return self.root / ".lock"

    @property
    def _holder_path(self) -> Location:
        return self.root / ".holder.json"

    def holder(self) -> dict[str, Any] | None:
        """Return the job that holds the run directory (job, process, host, since), or None."""
        if not isinstance(self.root, Path):
            return lease.holder(self._holder_path)
        lock = filelock.FileLock(str(self._lock_path), timeout=0)
        try:
            with lock:
                return None
        except filelock.Timeout:  # is an OSError too
            path = self._holder_path
            return files.read_json(path) if path.exists() else {"job": "unknown"}
        except OSError:  # a read-only copy, in which no job can run
            return None

    @contextlib.contextmanager
    def lock(self, job: str) -> Iterator[None]:
        """Hold the run directory for one job.

        Raises RunDirectoryError, which names the other job, if another job holds the directory.
        """
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        who = {"job": job, "process": os.getpid(), "host": socket.gethostname(), "since": since}
        local = isinstance(self.root, Path)
        held = self._lock(who) if local else lease.hold(self._holder_path, who)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held)
            except lease.HeldError:
                by = self.holder() or {}
                raise RunDirectoryError(
                    f"{self.root} is in use by job {by.get('job', '?')!r} "
                    f"(process {by.get('process', '?')} on {by.get('host', '?')}, "
                    f"since {by.get('since', '?')}). Wait for it, or use another run directory."
                ) from None
            yield

    @contextlib.contextmanager
    def _lock(self, who: Mapping[str, Any]) -> Iterator[None]:
        """Hold a lock of the operating system, which ends even when the process is killed."""
        assert isinstance(self.root, Path)
        self.root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(str(self._lock_path), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise lease.HeldError from None
        try:
            files.write_json(self._holder_path, who)
            yield
        finally:
            self._holder_path.unlink(missing_ok=True)
            lock.release()


def _made_of(settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    return files.digest(json.dumps([settings, inputs], sort_keys=True).encode())
