"""A fleet of many pods in front of one database, from the costs that `measure.py` measured.

Simulated are the two things that pods wait for: the database's cores, which do one statement after
the other, and the lock that commits with NOTIFY take one after the other. The queue is never empty,
so that each pod begins its next job when it has stored the last one.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

WARM_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Load:
    """What pods ask of the database.

    Attributes:
        job_seconds: Time in statements for one job, half before its run and half after it.
        idle_seconds: Time in statements of a pod in a second, whatever it does.
        lock_seconds: Time that the commits of one job hold NOTIFY's lock.
        run_seconds: Mean of what a job takes on the card; a fifth more or less.
    """

    job_seconds: float
    idle_seconds: float
    lock_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a fleet did.

    Attributes:
        jobs_a_second: Jobs that were stored.
        of_ideal: The same as a share of what the pods' cards alone would do.
        claims: Seconds from a pod's wish for a job to its claim, in order.
        cores_busy: Share of the database's cores.
        lock_busy: Share of the time in which the lock was held.
    """

    jobs_a_second: float
    of_ideal: float
    claims: list[float]
    cores_busy: float
    lock_busy: float

    def line(self, pods: int) -> str:
        """A row of the table."""
        late = self.claims[int(len(self.claims) * 0.95)]
        return (
            f"| {pods:,} | {self.jobs_a_second:.1f} | {self.of_ideal:.0%} "
            f"| {statistics.median(self.claims):.3g} / {late:.3g} s "
            f"| {self.cores_busy:.0%} | {self.lock_busy:.0%} | {11 * pods:,} |"
        )


@dataclass
class _Servers:
    """So many servers with one line before them, first come first served."""

    count: int
    busy: float = 0.0
    _free_at: list[float] = field(default_factory=list)

    def serve(self, now: float, seconds: float) -> float:
        """When work that comes now is done."""
        waits = len(self._free_at) == self.count
        begun = max(now, heapq.heappop(self._free_at)) if waits else now
        heapq.heappush(self._free_at, begun + seconds)
        self.busy += seconds
        return begun + seconds


class _Fleet:
    """The pods' wishes in the order of time."""

    def __init__(self, load: Load, *, cores: int) -> None:
        self.cores, self.lock = _Servers(cores), _Servers(1)
        self.claims: list[float] = []
        self.done = 0
        self._load = load
        self._random = random.Random(1)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()

    def join(self) -> None:
        """Add a pod, at some moment of the first seconds."""
        self._at(self._random.random() * self._load.run_seconds, self._wish)
        self._at(self._random.random(), self._idle)

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events[0][0] < until:
            now, _, happen = heapq.heappop(self._events)
            happen(now)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def _idle(self, now: float) -> None:
        self._at(max(self.cores.serve(now, self._load.idle_seconds), now + 1), self._idle)

    def _wish(self, now: float) -> None:
        self._write(now, lambda claimed: self._claimed(now, claimed))

    def _write(self, now: float, then: Callable[[float], None]) -> None:
        """Half of a job's statements, then half of its commits."""
        answered = self.cores.serve(now, self._load.job_seconds / 2)
        held = self._load.lock_seconds / 2
        self._at(answered, lambda at: self._at(self.lock.serve(at, held), then))

    def _claimed(self, wished: float, now: float) -> None:
        self.claims.append(now - wished)
        run = self._load.run_seconds * self._random.uniform(0.8, 1.2)
        self._at(now + run, lambda over: self._write(over, self._stored))

    def _stored(self, now: float) -> None:
        self.done += 1
        self._wish(now)


def simulate(load: Load, *, pods: int, cores: int, seconds: float = 600.0) -> Outcome:
    """Run a fleet for so long, after a minute or two runs of warming up that do not count."""
    fleet = _Fleet(load, cores=cores)
    for _ in range(pods):
        fleet.join()
    begin = max(WARM_UP_SECONDS, 2 * load.run_seconds)
    fleet.run(begin)
    done, busy, held, claims = fleet.done, fleet.cores.busy, fleet.lock.busy, len(fleet.claims)
    fleet.run(begin + seconds)
    a_second = (fleet.done - done) / seconds
    return Outcome(
        jobs_a_second=a_second,
        of_ideal=a_second * load.run_seconds / pods,
        claims=sorted(fleet.claims[claims:]),
        cores_busy=min((fleet.cores.busy - busy) / seconds / cores, 1.0),
        lock_busy=min((fleet.lock.busy - held) / seconds, 1.0),
    )
