"""Workers that fail on demand. In a module of their own, so that Ray's workers can import it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from distfacegan.errors import CheckpointError
from distfacegan.store import shards
from distfacegan.store.shards import Shard, ShardStats


class FaultyWorker:
    """Marks shards done, but for those whose number has a fault in `faults`.

    A fault is (kind, times): kind `raise`, `die`, `slow` or `hang`, and how often it strikes.
    """

    def __init__(self, folder: Path, faults: dict[int, tuple[str, int]] | None = None) -> None:
        self._folder, self._faults = folder, faults or {}

    def run(self, shard: Shard) -> ShardStats:
        started = time.time()
        kind, times = self._faults.get(shard.index, ("", 0))
        if self._attempt(shard) <= times:
            if kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "raise":
                raise OSError(f"fault in shard {shard.index}")
            time.sleep({"slow": 1, "hang": 600}[kind])
        return shards.mark_done(
            self._folder / "markers",
            shard,
            statuses={"ok": len(shard)},
            digests={},
            started=started,
        )

    def _attempt(self, shard: Shard) -> int:
        """Count the attempts at a shard in files: processes die here."""
        attempts = self._folder / "attempts" / str(shard.index)
        attempts.mkdir(parents=True, exist_ok=True)
        (attempts / f"{time.time_ns()}-{os.getpid()}").touch()
        return len(list(attempts.iterdir()))


class OneAtATimeWorker(FaultyWorker):
    """Computes one shard at a time, as a GPU does."""

    def __init__(self, folder: Path, faults: dict[int, tuple[str, int]]) -> None:
        super().__init__(folder, faults)
        self._computing = threading.Lock()

    def run(self, shard: Shard) -> ShardStats:
        with self._computing:
            return super().run(shard)


class MeetingWorker:
    """Marks a shard done when another is at work beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._both = folder, threading.Barrier(2, timeout=20)

    def run(self, shard: Shard) -> ShardStats:
        self._both.wait()
        return shards.mark_done(self._folder, shard, statuses={}, digests={}, started=time.time())


class WaitsForAnotherWorker(FaultyWorker):
    """Marks shards done from when another process is at work too."""

    def run(self, shard: Shard) -> ShardStats:
        (self._folder / f"here-{os.getpid()}").touch()
        deadline = time.monotonic() + 120
        while len(list(self._folder.glob("here-*"))) < 2:
            assert time.monotonic() < deadline, "no other worker came"
            time.sleep(0.05)
        return super().run(shard)


class BadSettingWorker:
    """Cannot be constructed."""

    def __init__(self) -> None:
        raise CheckpointError("these weights are of another architecture")


class BadPlaceWorker(FaultyWorker):
    """Cannot be constructed in the second place where it is tried: a node without the mount."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not _claims(folder / "first") and _claims(folder / "second"):
            raise CheckpointError("the mount is not here")

    def run(self, shard: Shard) -> ShardStats:
        time.sleep(0.3)
        return super().run(shard)


class DyingWorker:
    """Dies while it is constructed."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _claims(path: Path) -> bool:
    """Tell whether this process, and no other before it, creates a file."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
