"""The Ray actors of a stage. Their number is kept as wanted, and actors that die are replaced.

An actor first waits for a place in the cluster; waiting actors make an autoscaling cluster grow.
The actor then constructs its worker. After that the actor is ready and is given shards. Ray does
not restart actors: an actor that dies is replaced here.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from distfacegan.errors import DistfaceganError
from distfacegan.store.shards import Shard, ShardStats

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # at a shard, and at the start of the first worker
# The loss of a node counts as an eighth of an attempt: the shard is not to blame, but no shard may
# be tried for ever.
NODE_LOSS = 1 / 8
START_AGAIN_S = 30.0  # seconds from a failed start to the next, while other workers are ready


class WorkerError(DistfaceganError, RuntimeError):
    """The workers of a stage cannot start, or are lost for good."""


class NodeLostError(DistfaceganError, RuntimeError):
    """An actor was lost with its node."""


class Worker(Protocol):
    """Does the work of a stage, shard by shard. A worker does not use Ray."""

    def run(self, shard: Shard) -> ShardStats:
        """Compute one shard, write the shard's data, then its marker."""


class _Host:
    """The actor around a plain worker object, which does not use Ray."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def prepare(self, worker: Callable[[], Worker]) -> None:
        self.worker = worker()

    def run(self, shard: Shard) -> ShardStats:
        return self.worker.run(shard)


@dataclasses.dataclass(eq=False)
class Actor:
    """One actor and the numbers of its shards."""

    handle: Any
    node: str | None = None  # None while the actor waits for a place in the cluster
    ready: bool = False  # the worker is constructed
    shards: set[int] = dataclasses.field(default_factory=set)
    alone: bool = False  # the actor's shard failed before, so the actor gets no second shard


class Actors:
    """Actors with one worker each. An actor works on up to `slots` shards at once."""

    def __init__(
        self,
        worker: Callable[[], Worker],
        resources: Mapping[str, float],
        slots: int,
    ) -> None:
        self._name, self._slots = getattr(worker, "func", worker).__name__, slots
        self._worker = ray.put(worker)  # pickled once for all actors
        self._class: Any = ray.remote(_Host).options(
            **resources,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            max_concurrency=slots,
        )
        self._actors: set[Actor] = set()
        self._ended: queue.SimpleQueue[tuple[Actor, str, int, Future]] = queue.SimpleQueue()
        self._wanted, self._failed_starts, self._start_again = 0, 0.0, 0.0

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def num_pending(self) -> int:
        """The number of actors that wait for a place in the cluster."""
        return sum(actor.node is None for actor in self._actors)

    @property
    def num_starting(self) -> int:
        """The number of actors that are constructing their worker."""
        return sum(not actor.ready and actor.node is not None for actor in self._actors)

    def keep(self, wanted: int) -> None:
        """Start actors until there are `wanted`; remove surplus actors that have no place yet."""
        self._wanted = wanted
        pending = [actor for actor in self._actors if actor.node is None]
        for actor in pending[: max(0, len(self) - wanted)]:
            self._remove(actor)
        if time.monotonic() >= self._start_again:
            for _ in range(wanted - len(self)):
                actor = Actor(self._class.remote())
                self._actors.add(actor)
                self._call(actor, "node")

    def free(self) -> list[Actor]:
        """Return the actors that can take a shard, idle actors first."""
        return sorted(filter(self.can_take, self._actors), key=lambda actor: len(actor.shards))

    def can_take(self, actor: Actor) -> bool:
        """Tell whether an actor can take a shard, perhaps in addition to another one."""
        return actor.ready and not actor.alone and len(actor.shards) < self._slots

    def give(self, actor: Actor, shard: Shard, *, alone: bool) -> None:
        """Give a shard to an actor; with `alone` the actor gets no other shard meanwhile."""
        actor.shards.add(shard.index)
        actor.alone = alone
        self._call(actor, "run", shard, index=shard.index)

    def wait(self, timeout: float) -> list[tuple[int, ShardStats | Exception]]:
        """Wait for one call to end; return the shards that ended, each with its stats or its error.

        The death of an actor ends all of its shards. Raises if no worker can be constructed.
        """
        try:
            actor, method, index, future = self._ended.get(timeout=timeout)
        except queue.Empty:
            return []
        if actor not in self._actors:
            return []  # the actor was lost or withdrawn
        try:
            result = future.result()
        except RayTaskError as error:
            if method != "run":
                self._start_failed(actor, error.cause)
                return []
            result = error.cause
        except RayError as error:  # the process, its memory or its node is lost
            return self._lost(actor, error)
        if method == "node":
            actor.node = result
            self._call(actor, "prepare", self._worker)
        elif method == "prepare":
            actor.ready, self._failed_starts = True, 0.0
        else:
            actor.shards.discard(index)
            actor.alone = False
            return [(index, result)]
        return []

    def start_no_more(self) -> None:
        """Start no more actors, and remove the actors that are not ready."""
        self._wanted = 0
        for actor in [actor for actor in self._actors if not actor.ready]:
            self._remove(actor)

    def close(self) -> None:
        """Kill every actor."""
        for actor in list(self._actors):
            self._remove(actor)

    def _call(self, actor: Actor, method: str, *arguments: Any, index: int = -1) -> None:
        # ray.wait is not used: its cost grows with the number of calls that it waits for.
        future = getattr(actor.handle, method).remote(*arguments).future()
        future.add_done_callback(
            functools.partial(lambda *ended: self._ended.put(ended), actor, method, index)
        )

    def _remove(self, actor: Actor) -> None:
        # The process may still run after its node is lost. It must not write at the same time as
        # the actor that replaces it.
        ray.kill(actor.handle)
        self._actors.discard(actor)

    def _lost(self, actor: Actor, error: RayError) -> list[tuple[int, ShardStats | Exception]]:
        cause: Exception = NodeLostError(str(error)) if _is_node_lost(actor, error) else error
        if not actor.ready:
            self._start_failed(actor, cause)
            return []
        self._remove(actor)
        self.keep(self._wanted)
        return [(index, cause) for index in actor.shards]

    def _start_failed(self, actor: Actor, cause: Exception) -> None:
        """Remove an actor whose start failed; raise if the settings are the cause."""
        self._remove(actor)
        node_lost = isinstance(cause, NodeLostError)
        log.warning("%s could not start: %s", self._name, cause)
        if any(other.ready for other in self._actors):  # others started: the node is the cause
            self._start_again = 0.0 if node_lost else time.monotonic() + START_AGAIN_S
        elif isinstance(cause, DistfaceganError) and not node_lost:
            raise cause
        else:
            self._failed_starts += NODE_LOSS if node_lost else 1
        if self._failed_starts >= max(MAX_ATTEMPTS, self._wanted // 2):
            raise WorkerError(
                f"{self._name} could not start on any node; the last error: {cause}"
            ) from cause
        self.keep(self._wanted)


def _is_node_lost(actor: Actor, error: RayError) -> bool:
    """Tell whether an actor was lost because its node was lost."""
    if isinstance(error, ActorUnavailableError):
        return True  # a node that answers would have reported the death of the process
    if not isinstance(error, ActorDiedError):
        return False  # the process was killed because the memory ran out
    if actor.node is None:
        return not error._actor_init_failed  # its constructor never ran
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return error.preempted or actor.node not in alive
