"""The driver loop of every stage that works shard by shard.

One actor per worker, and one shard in flight per actor, or two: it then reads one while it computes
the other. The driver owns the retries: Ray restarts nothing, so that an attempt is counted where it
failed. A shard that keeps failing is set aside and named, and the rest is finished.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from distfacegan.errors import DistfaceganError
from distfacegan.store.shards import Shard, ShardStats

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A shard that failed MAX_ATTEMPTS times, and how it failed last."""

    shard: Shard
    reason: str


class WorkerError(DistfaceganError, RuntimeError):
    """The workers of a stage cannot work at all."""


class _Host:
    """The actor round a plain worker class, which knows nothing of Ray."""

    def prepare(self, worker: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.worker = worker(**arguments)

    def run(self, shard: Shard) -> ShardStats:
        return self.worker.run(shard)


def run_shards(
    worker: Callable[..., Any],
    arguments: Mapping[str, Any],
    todo: Sequence[Shard],
    *,
    num_workers: int,
    resources: Mapping[str, float],
    on_done: Callable[[ShardStats], None],
    in_flight: int = 1,
) -> list[SetAside]:
    """Run ``worker(**arguments).run(shard)`` for every shard in actors, and return the failures.

    `resources` is what one actor takes (num_cpus, num_gpus). An actor is given up to
    `in_flight` shards at once, and its worker's `run` is called from as many threads; a shard that
    has failed before has its actor to itself, so that what kills actors is found out. A worker that
    cannot be constructed stops everything at once with the error its constructor raised: it is the
    setting that is bad.
    """
    pool = _Pool(worker, arguments, resources, in_flight)
    waiting = collections.deque(todo)
    attempts: collections.Counter[int] = collections.Counter()
    set_aside: list[SetAside] = []
    try:
        for _ in range(min(num_workers, len(todo))):
            pool.add()
        while waiting or pool.shards_in_flight:
            while waiting:
                alone = attempts[waiting[0].index] > 0
                if not pool.can_take(len(waiting), alone=alone):
                    break
                pool.start(waiting.popleft(), alone=alone)
            shard, outcome = pool.wait()
            if shard is None:
                continue  # one more worker stands
            if isinstance(outcome, ShardStats):
                on_done(outcome)
                continue
            attempts[shard.index] += 1
            reason = f"{type(outcome).__name__}: {outcome}"
            log.warning("%s failed, attempt %d: %s", shard, attempts[shard.index], reason)
            if attempts[shard.index] < MAX_ATTEMPTS:
                waiting.append(shard)
            else:
                set_aside.append(SetAside(shard, reason))
    finally:
        pool.close()
    return set_aside


class _Pool:
    """Actors, and the shards that each of them is at."""

    def __init__(
        self,
        worker: Callable[..., Any],
        arguments: Mapping[str, Any],
        resources: Mapping[str, float],
        slots: int,
    ) -> None:
        self._worker, self._arguments, self._slots = worker, arguments, slots
        self._options = {
            **resources,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,
            "max_concurrency": slots,
        }
        self._failed_starts = 0
        self._calls: dict[ray.ObjectRef, tuple[ActorHandle, Shard | None, int]] = {}
        self._free: dict[ActorHandle, int] = {}  # slots of every living actor; a call takes some

    @property
    def shards_in_flight(self) -> bool:
        """Whether any actor is at a shard."""
        return any(shard is not None for _, shard, _ in self._calls.values())

    def add(self) -> None:
        """Start an actor; it takes shards when its worker is constructed."""
        actor: Any = ray.remote(_Host).options(**self._options).remote()
        self._free[actor] = 0
        call = actor.prepare.remote(self._worker, self._arguments)
        self._calls[call] = actor, None, self._slots

    def can_take(self, waiting: int, *, alone: bool) -> bool:
        """Say whether an actor is free for the next of the waiting shards.

        A second shard is given to an actor only while there are enough for those that start.
        """
        free = max(self._free.values())
        starting = sum(shard is None for _, shard, _ in self._calls.values())
        return free == self._slots or (free > 0 and not alone and waiting > starting)

    def start(self, shard: Shard, *, alone: bool) -> None:
        """Give a shard to the least busy actor, with nothing beside it if it is to be alone."""
        actor: Any = max(self._free, key=self._free.__getitem__)
        slots = self._slots if alone else 1
        self._free[actor] -= slots
        self._calls[actor.run.remote(shard)] = actor, shard, slots

    def wait(self) -> tuple[Shard | None, Any]:
        """Wait for a call to end; return its shard and its result, or the error it ended with.

        The shard is None where a worker was constructed. A dead actor is replaced.
        """
        [call], _ = ray.wait(list(self._calls), num_returns=1)
        actor, shard, slots = self._calls.pop(call)
        try:
            result = ray.get(call)
        except RayTaskError as error:
            if shard is None:
                raise error.cause from error
            result = error.cause
        except RayError as error:  # the actor, its memory or its node is lost
            if actor in self._free:  # else one of its other calls has said so
                self._replace(actor, error, started=shard is not None)
            return shard, error
        if actor in self._free:
            self._free[actor] += slots
        return shard, result

    def close(self) -> None:
        """Kill every actor."""
        for actor in self._free:
            ray.kill(actor)

    def _replace(self, actor: ActorHandle, error: RayError, *, started: bool) -> None:
        # A lost node can leave the process alive: it must not write beside its successor.
        ray.kill(actor)
        del self._free[actor]
        self._failed_starts = 0 if started else self._failed_starts + 1
        if self._failed_starts == MAX_ATTEMPTS:
            raise WorkerError(
                f"{self._worker.__name__} died {MAX_ATTEMPTS} times while starting: {error}"
            ) from error
        self.add()
