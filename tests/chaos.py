"""A job that faults strike in its inversion, run by real processes, and what each fault costs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from distfacegan.core.lgen import LandmarkGenerator
from distfacegan.core.networks import Generator
from distfacegan.store import shards, weight_files
from distfacegan.store.location import locate
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import ShardStats
from tests.jobs import arrays, write_spec

SHARD_ROWS, NUM_SHARDS = 10, 24
Markers = dict[int, ShardStats]


def write_job(folder: Path, run: str = "run", **changes: Any) -> Path:
    """Write the spec of the job: ingest, then an inversion of some 1 s a shard."""
    torch.manual_seed(0)
    shape = {"resolution": 16, "latent_dim": 8, "width": 16, "levels": 2}
    generator = Generator(**shape).state_dict()
    lgen = LandmarkGenerator(latent_dim=8, depth=1, width=8, activation="relu")
    variant = {"depth": 1, "width": 8, "activation": "relu"}
    weight_files.save(folder / "generator", {"generator": generator}, {})
    weight_files.save(folder / "lgen", {"lgen": lgen.state_dict()}, {"variant": variant})
    source = {"kind": "procedural", "count": SHARD_ROWS * NUM_SHARDS}
    sections: dict[str, Any] = {
        "ingest": {"source": source, "resolution": 32, "shard_rows": SHARD_ROWS},
        "invert": {"recipe": "bfgs", "steps": 100, "generator": str(folder / "generator")},
        **dict.fromkeys(("landmarks", "began", "lgen", "synthesize", "report")),
    }
    return write_spec(folder, name="chaos", run=run, **{**sections, **changes})


@contextlib.contextmanager
def short_folder() -> Iterator[str]:
    """Make a folder for a Ray: its sockets have 107 characters."""
    folder = tempfile.mkdtemp(prefix="dfg", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Command:
    """`distfacegan` in a process of its own; its lines are kept with the time they came at."""

    started: ClassVar[list[Command]] = []

    def __init__(
        self, *arguments: object, environment: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "distfacegan", "-v", *map(str, arguments)],
            env=kept | {"RAY_AUTH_MODE": "disabled"} | dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(self)
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.time(), line))

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return "".join(line for _, line in self.lines)

    def until(self, happened: Callable[[], bool], timeout: float = 400) -> None:
        """Wait for something to happen while the process lives."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def end(self, code: int = 0, timeout: float = 400) -> str:
        """Wait for its end with an exit code; return what it printed."""
        try:
            self._process.wait(timeout)
        finally:
            if self._process.poll() is None:
                self._process.kill()
        self._reader.join(10)  # Ray's processes may hold the pipe a little longer
        assert self._process.returncode == code, self.log
        return self.log

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def given_again(self, since: float) -> dict[int, float]:
        """Return the shards that had to be given to a second worker, and when that was seen."""
        words = re.compile(r"shard (\d+) \(rows [^)]*\)(?: failed, attempt|: a second worker)")
        found = ((at, words.search(line)) for at, line in reversed(self.lines) if at >= since)
        return {int(match[1]): at for at, match in found if match}


def markers(run: RunDirectory) -> Markers:
    """Return what is done of the inversion, by shard."""
    return {marker.shard: marker for marker in shards.read_markers(run.markers("invert"))}


def in_the_middle(run: RunDirectory, num_shards: int = 6) -> Callable[[], bool]:
    """Return a question: are some shards of the inversion done?"""
    return lambda: len(shards.done(run.markers("invert"))) >= num_shards


def run_of(spec: Path) -> RunDirectory:
    """Return the run directory `run` beside a spec."""
    return RunDirectory(locate(spec.parent / "run"))


def process(marker: ShardStats) -> int:
    """Return the process of the worker that did a shard."""
    return int(marker.worker.rpartition(":")[2])


def span_s(found: Markers) -> float:
    """Return the seconds from the first face of an inversion to its last marker."""
    begun = min(marker.written - marker.seconds for marker in found.values())
    return max(marker.written for marker in found.values()) - begun


def assert_whole(run: RunDirectory, undisturbed: RunDirectory, before: Markers) -> None:
    """Hold a run to an undisturbed one, bit for bit, and to what was done before a fault."""
    found, expected = arrays(run), arrays(undisturbed)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    after = markers(run)
    assert sorted(after) == list(range(NUM_SHARDS))
    digests = {index: marker.digests for index, marker in after.items()}
    assert digests == {index: marker.digests for index, marker in markers(undisturbed).items()}
    for index, marker in before.items():
        assert after[index] == marker, f"shard {index} was done before the fault, and again after"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a fault cost a job."""

    fault: str
    rows_again: int  # given to a worker a second time; of two shards a worker, one was begun
    goes_on_s: float  # from the fault to the first of these rows in work again
    added_s: float  # of the inversion, against the undisturbed run

    @classmethod
    def measure(
        cls,
        fault: str,
        run: RunDirectory,
        undisturbed: RunDirectory,
        *,
        struck: float,
        again: Collection[int],
        num_again: int | None = None,
        went_on: float | None = None,
    ) -> Cost:
        """Compare a run with the undisturbed one; `again` are shards that were given twice."""
        found = markers(run)
        if went_on is None:
            went_on = min(found[index].written - found[index].seconds for index in again)
        goes_on, added = went_on - struck, span_s(found) - span_s(markers(undisturbed))
        rows = SHARD_ROWS * (len(again) if num_again is None else num_again)
        return cls(fault, rows, goes_on, added)

    def __str__(self) -> str:
        return (
            f"{self.fault}: {self.rows_again} rows again, goes on after {self.goes_on_s:.1f} s, "
            f"{self.added_s:+.1f} s in all"
        )
