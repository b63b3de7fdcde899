"""The driver loop of every stage that works shard by shard.

There is one actor per worker. An actor is given one shard at a time, or two, so that it can read
one shard while it computes the other. The driver gives a failed shard out again, and counts the
attempts. A shard that keeps failing is set aside and named, and all other shards are finished. When
no shard waits, an idle actor also does a shard at which another actor is slow. Two actors at one
shard do no harm: each writes the shard as a whole, and only the first marks the shard as done.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from distfacegan.stages import cluster
from distfacegan.stages.actors import MAX_ATTEMPTS, NODE_LOSS, Actors, NodeLostError, Worker
from distfacegan.store.shards import Shard, ShardStats

log = logging.getLogger(__name__)

GRACE_S = 15.0  # seconds that the shards in flight get when the job is interrupted
LOOK_EVERY_S = 2.0  # seconds between two looks at the size of the cluster
TICK_S = 0.25
TAKE_OVER_S = 1.0  # least number of seconds before a second actor is given the same shard
SAY_FIRST_S, SAY_EVERY_S = 10.0, 60.0  # seconds to the first and to further log lines about a wait


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A shard that failed MAX_ATTEMPTS times, and the reason of the last failure."""

    shard: Shard
    reason: str


def run_shards(
    worker: Callable[[], Worker],
    todo: Sequence[Shard],
    *,
    num_workers: int | None,
    resources: Mapping[str, float],
    on_done: Callable[[ShardStats], None],
    on_failed: Callable[[Exception], None] = lambda error: None,
    on_size: Callable[[int], None] = lambda num_workers: None,
    in_flight: int = 1,
) -> list[SetAside]:
    """Run ``worker().run(shard)`` for every shard in actors, and return the failures.

    `resources` are those of one actor (num_cpus, num_gpus). There are `num_workers` actors, some
    of which may wait for a place in the cluster. None means as many actors as fit the cluster,
    also when the cluster grows or shrinks. An actor is given up to `in_flight` shards at once, and
    its worker's `run` is called from as many threads. A shard that failed before runs alone, so
    that a crash can be blamed on it. `on_done` is called for every shard that is done, `on_failed`
    for every attempt that failed, and `on_size` from time to time with the number of workers.

    Raises the DistfaceganError of a worker's constructor if no worker has started: then the
    settings are the cause, and not a node. After a KeyboardInterrupt no more shards are given out;
    KeyboardInterrupt is raised again when the shards in flight have ended, or after GRACE_S.
    """
    if not todo:
        return []
    shards, actors = _Shards(todo), Actors(worker, resources, in_flight)
    look_at, say_at = 0.0, time.monotonic() + SAY_FIRST_S

    def record_ended() -> None:
        for index, outcome in actors.wait(TICK_S):
            if isinstance(outcome, Exception):
                on_failed(outcome)
            stats = shards.end(index, outcome)
            if stats is not None:
                on_done(stats)

    try:
        while shards.left:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_EVERY_S
                actors.keep(min(num_workers or cluster.room(resources), shards.left))
                on_size(len(actors) - actors.num_pending)
                if time.monotonic() >= say_at:
                    say_at = time.monotonic() + SAY_EVERY_S
                    _say_what_is_waited_for(actors, resources)
                    shards.say_what_is_slow()
            _give(shards, actors)
            record_ended()
    except KeyboardInterrupt:
        actors.start_no_more()
        _drain(shards, record_ended)
        raise
    finally:
        actors.close()
    return shards.set_aside


def _give(shards: _Shards, actors: Actors) -> None:
    """Give shards to the free actors, as long as there are shards and free actors."""
    starting = actors.num_starting
    free = collections.deque(actors.free())
    while free:  # idle actors come first: if an idle actor gets no shard, no other actor does
        actor = free.popleft()
        shard = shards.next(idle=not actor.shards, num_starting=starting)
        if shard is None:
            return
        actors.give(actor, shard, alone=shards.has_failed(shard))
        if actors.can_take(actor):
            free.append(actor)


def _drain(shards: _Shards, record_ended: Callable[[], None]) -> None:
    """Wait until the shards in flight have ended, for GRACE_S at most."""
    log.warning(
        "interrupted: the %d shards in flight have %.0f s to end; interrupt again to stop at once",
        shards.num_in_flight,
        GRACE_S,
    )
    until = time.monotonic() + GRACE_S
    while shards.num_in_flight and time.monotonic() < until:
        record_ended()


def _say_what_is_waited_for(actors: Actors, resources: Mapping[str, float]) -> None:
    if actors.num_pending:
        log.info(
            "%d of %d workers are waiting for a place: %s",
            actors.num_pending,
            len(actors),
            cluster.describe(resources),
        )


@dataclasses.dataclass
class _Flight:
    """A shard that one or two actors work at."""

    shard: Shard
    behind: bool  # the actor was still busy with another shard when it got this shard
    started: float
    actors: int = 1


class _Shards:
    """The shards that wait, the shards in flight, and the shards that failed."""

    def __init__(self, todo: Sequence[Shard]) -> None:
        self._fresh, self._num_fresh = iter(todo), len(todo)  # never given to an actor yet
        self._again: collections.deque[Shard] = collections.deque()  # wait a second time
        self._failed: collections.deque[Shard] = collections.deque()  # wait for idle actors
        self._flights: dict[int, _Flight] = {}
        self._attempts: collections.defaultdict[int, float] = collections.defaultdict(float)
        self._took_s: collections.deque[float] = collections.deque(maxlen=101)
        self.set_aside: list[SetAside] = []

    @property
    def num_in_flight(self) -> int:
        return len(self._flights)

    @property
    def left(self) -> int:
        """The number of shards that are neither done nor set aside."""
        return self._num_waiting + len(self._failed) + len(self._flights)

    @property
    def _num_waiting(self) -> int:
        return self._num_fresh + len(self._again)

    def _next_waiting(self) -> Shard:
        if self._again:
            return self._again.popleft()
        self._num_fresh -= 1
        return next(self._fresh)

    def has_failed(self, shard: Shard) -> bool:
        """Tell whether a shard has failed, apart from a few losses of nodes."""
        return self._attempts.get(shard.index, 0) >= 1

    def next(self, *, idle: bool, num_starting: int) -> Shard | None:
        """Return the next shard for an actor; None if the actor is to get no shard now.

        `idle` says whether the actor has no other shard. A second shard is given only if enough
        shards are left for the actors that are starting, and if no failed shard waits for an idle
        actor.
        """
        if idle and self._failed:
            shard = self._failed.popleft()
        elif self._num_waiting and (
            idle or (self._num_waiting > num_starting and not self._failed)
        ):
            shard = self._next_waiting()
        else:
            return self._take_over() if idle else None
        self._flights[shard.index] = _Flight(shard, not idle, time.monotonic())
        return shard

    def _take_over(self) -> Shard | None:
        """Return a shard in flight that a second actor may finish sooner; None without one.

        The first choice is the newest shard that was given to a busy actor. The second choice is
        the oldest shard that already takes longer than shards usually take.
        """
        now = time.monotonic()
        slow_s = max(TAKE_OVER_S, statistics.median(self._took_s or [math.inf]))
        slow = [
            flight
            for index, flight in self._flights.items()
            if flight.actors == 1
            and self._attempts.get(index, 0) < MAX_ATTEMPTS
            and now - flight.started > (TAKE_OVER_S if flight.behind else slow_s)
        ]
        if not slow:
            return None
        behind = [flight for flight in slow if flight.behind]
        flight = behind[-1] if behind else slow[0]  # in the order of their starts
        flight.actors += 1
        log.debug("%s: a second worker starts on it", flight.shard)
        return flight.shard

    def say_what_is_slow(self) -> None:
        """Log the shards that take 10 times longer than others do, and at least a minute."""
        now = time.monotonic()
        slow_s = max(SAY_EVERY_S, 10 * statistics.median(self._took_s or [0.0]))
        for flight in self._flights.values():
            if now - flight.started > slow_s:
                log.warning("%s has been worked at for %.0f s", flight.shard, now - flight.started)

    def end(self, index: int, outcome: ShardStats | Exception) -> ShardStats | None:
        """Record the end of one attempt at a shard; return the shard's stats if it is done now."""
        flight = self._flights.get(index)
        if flight is None:
            return None  # another actor finished the shard first
        if isinstance(outcome, ShardStats):
            del self._flights[index]
            self._took_s.append(time.monotonic() - flight.started)
            return outcome
        flight.actors -= 1
        self._attempts[index] += NODE_LOSS if isinstance(outcome, NodeLostError) else 1
        reason = f"{type(outcome).__name__}: {outcome}".partition("\n")[0]
        log.warning("%s failed, attempt %.3g: %s", flight.shard, self._attempts[index], reason)
        if not flight.actors:  # else another actor still works at it
            del self._flights[index]
            if self._attempts[index] >= MAX_ATTEMPTS:
                self.set_aside.append(SetAside(flight.shard, reason))
            elif self.has_failed(flight.shard):
                self._failed.append(flight.shard)
            else:
                self._again.appendleft(flight.shard)
        return None
