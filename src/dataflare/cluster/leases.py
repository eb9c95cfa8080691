"""Which job has which workers of a cluster. It knows nothing of Ray.

Always true:
- a worker that a job has is given to another job only where both asked for a part of a processor, and both parts fit on one;
- a job that has not renewed its lease for LEASE_S has no workers;
- asks wait in one line. The first one has the highest priority, then replaces workers that were lost, then belongs to the job
  that has fewest workers, then is the oldest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from msgspec import Struct, field

from dataflare.cluster.orders import Address
from dataflare.cluster.place import Place
from dataflare.cluster.tls import Tls
from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_

LEASE_S = 30.0
"""So long a job that says nothing keeps its workers: long enough for another process of it to begin."""
IDLE_S = 60.0
"""So long a worker without a job is kept."""
PLACED_S = 30.0
"""So long a job waits for room."""
_NEVER_AGAIN_S = 10.0
"""So long a cluster is kept that has nothing."""


class Placer(Protocol):
    """What starts and ends workers."""

    async def place(self, name: str, place: Place) -> tuple[Address, str]:
        """Start a worker. Gives its address and its node, as soon as it listens. It may wait for room, and may be
        cancelled."""

    def end(self, name: str) -> None:
        """End a worker, or one that is still to be placed."""

    async def answers(self, name: str) -> bool:
        """Whether a worker is there, and answers soon."""

    async def free_cpu(self) -> float:
        """How many processors of the cluster are free."""


class Seat(Struct, frozen=True):
    """A worker that a job has."""

    worker: str
    address: Address
    node: str


class _Worker(Struct):
    """cpu: that it has; users: by job, how much of it. own: it ends with its job. idle_since: None while it has a job."""

    name: str
    address: Address
    node: str
    cpu: float
    memory: int | None
    label: str | None
    shared: bool
    tls: Tls | None = None
    own: bool = False
    users: dict[str, float] = field(default_factory=dict)
    idle_since: float | None = None


class _Job(Struct):
    """seats: in the order in which the job numbers them; None: lost, and not replaced yet. facts: what it said of itself."""

    name: str
    seen: float
    place: Place | None = None
    seats: list[Seat | None] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)


class _Ask(Struct, eq=False):
    job: str
    place: Place
    count: int | None
    number: int
    answer: asyncio.Future[list[Seat]]


class Leases:
    """Of one event loop. grace_s: how long jobs that have workers already may take to say so. clock: seconds."""

    def __init__(
        self, placer: Placer, grace_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._placer, self._grace_s, self._clock = placer, grace_s, clock
        self._workers: dict[str, _Worker] = {}
        self._jobs: dict[str, _Job] = {}
        self._asks: list[_Ask] = []
        self._numbers, self._names = count(), count()
        self._granting: asyncio.Task[None] | None = None
        self._empty_since = clock()

    # -- what jobs ask -----------------------------------------------------------------------------

    async def seats(
        self, name: str, place: Place, lost: Collection[str] = (), count: int | None = None
    ) -> list[Seat]:
        """The workers of a job: those that it has, and others in place of those that were lost. count: at least so many; None: as
        `place` says. Raises SystemError_ (E0617) where there is no room; the job has those that it had then."""
        for worker in lost:
            self._end(worker)
        job = self._job(name)
        job.place = place
        answer: asyncio.Future[list[Seat]] = asyncio.get_running_loop().create_future()
        self._asks.append(_Ask(name, place, count, next(self._numbers), answer))
        if self._granting is None:
            self._granting = asyncio.ensure_future(self._grant_all())
        return await answer

    def renew(
        self, name: str, seats: Sequence[Seat], place: Place, facts: Mapping[str, Any]
    ) -> None:
        """A job lives, and says which workers it has. They are believed to be there: the one who keeps the leases may be new."""
        job = self._job(name)
        job.facts, job.place = facts, place
        for seat in seats:
            self.adopt(seat, place, name)
        if not job.seats and seats:
            job.seats = list(seats)

    def ended(self, name: str) -> None:
        """A job has no need for its workers any more."""
        job = self._jobs.pop(name, None)
        if job is None:
            return
        self._free(name, job.seats)

    def give_back(self, name: str, count: int) -> None:
        """A job has no need for its workers from this number on."""
        job = self._job(name)
        self._free(name, job.seats[count:])
        del job.seats[count:]

    def _free(self, job: str, seats: Sequence[Seat | None]) -> None:
        for seat in seats:
            worker = self._workers.get(seat.worker) if seat is not None else None
            if worker is not None and worker.users.pop(job, None) is not None and not worker.users:
                worker.idle_since = self._clock()
                if worker.own or self._asks or self._granting is not None:
                    self._end(worker.name)

    def adopt(self, seat: Seat, place: Place, job: str | None) -> None:
        """A worker that an earlier keeper of leases placed."""
        worker = self._workers.get(seat.worker)
        if worker is None:
            worker = self._add(seat, place)
        if job is not None:
            worker.users.setdefault(job, place.cpu)
            worker.own = worker.own or place.own
            worker.idle_since = None

    def _job(self, name: str) -> _Job:
        job = self._jobs.setdefault(name, _Job(name, self._clock()))
        job.seen = self._clock()
        return job

    # -- time --------------------------------------------------------------------------------------

    def silent(self) -> list[str]:
        """The jobs that have not renewed their leases."""
        now, waiting = self._clock(), {ask.job for ask in self._asks}
        return [
            job.name
            for job in self._jobs.values()
            if now - job.seen > LEASE_S and job.name not in waiting
        ]

    def tick(self) -> bool:
        """Take back what is not used. Call it about once a second. Returns whether nothing was left for a while."""
        now = self._clock()
        if self._jobs or self._workers or self._asks or self._granting is not None:
            self._empty_since = now
        for job in self.silent():
            self.ended(job)
        for worker in [*self._workers.values()]:
            if worker.idle_since is not None and now - worker.idle_since > IDLE_S:
                self._end(worker.name)
        return now - self._empty_since > _NEVER_AGAIN_S

    # -- granting ----------------------------------------------------------------------------------

    async def _grant_all(self) -> None:
        try:
            grace_s, self._grace_s = self._grace_s, 0.0
            await asyncio.sleep(grace_s)
            while self._asks:
                ask = min(self._asks, key=self._rank)
                self._asks.remove(ask)
                try:
                    seats = await self._grant(ask)
                except Exception as error:
                    if not ask.answer.done():
                        ask.answer.set_exception(error)
                else:
                    if not ask.answer.done():
                        ask.answer.set_result(seats)
        finally:
            self._granting = None

    def _rank(self, ask: _Ask) -> tuple[int, bool, int, int]:
        job = self._job(ask.job)  # it waits, and is not silent
        has = sum(seat is not None for seat in job.seats)
        return -ask.place.priority, not job.seats, has, ask.number

    async def _grant(self, ask: _Ask) -> list[Seat]:
        """Give a job all the workers that it lacks."""
        job, place = self._job(ask.job), ask.place
        await self._end_silent({seat.worker for seat in job.seats if seat is not None})
        had = len(job.seats)
        wanted = ask.count or had or place.workers
        is_elastic = wanted is None
        if wanted is None:
            wanted = await self.possible(place)
        seats = [*job.seats, *[None] * (wanted - had)]
        lacking = [number for number, seat in enumerate(seats) if seat is None]
        for number in [*lacking]:
            worker = await self._fitting(job.name, place)
            if worker is not None:
                seats[number] = self._seated(worker, job.name, place)
                lacking.remove(number)
        job.seats = seats
        if lacking:
            try:
                await self._fill(job, place, lacking, some=is_elastic)
            except BaseException:
                self.give_back(job.name, had)
                raise
        job.seats = [seat for seat in job.seats if seat is not None]
        job.seen = self._clock()
        return [seat for seat in job.seats if seat is not None]

    async def _fill(self, job: _Job, place: Place, lacking: Sequence[int], *, some: bool) -> None:
        """Place new workers. some: fewer are enough, but one. Raises the error of a node that is not set up as the job asks."""
        if await self._placer.free_cpu() < place.worker_cpu * len(lacking):
            for worker in [*self._workers.values()]:
                if worker.idle_since is not None:
                    self._end(worker.name)
        placing = {
            number: (name, asyncio.ensure_future(self._placer.place(name, place)))
            for number in lacking
            for name in [f"worker {next(self._names)}"]
        }
        await asyncio.wait([task for _, task in placing.values()], timeout=PLACED_S)
        reason = f"there was no room within {PLACED_S:g} s"
        refused: ConfigError | None = None
        for number, (name, task) in placing.items():
            if task.done() and not task.cancelled() and task.exception() is None:
                address, node = task.result()
                worker = self._add(Seat(name, address, node), place)
                job.seats[number] = self._seated(worker, job.name, place)
                continue
            if task.done() and not task.cancelled():
                error = task.exception()
                if isinstance(error, ConfigError):
                    refused = error
                reason = error.message if isinstance(error, DataFlareError) else str(error)
            task.cancel()
            self._placer.end(name)
        if refused is not None:
            raise refused
        missing = sum(seat is None for seat in job.seats)
        if missing and not (some and missing < len(job.seats)):
            raise SystemError_(
                f"the cluster has not placed {missing} of {len(job.seats)} workers: {reason}",
                code="E0617",
                help="see `dataflare nodes`: the cluster needs free processors and memory for them; or ask for fewer workers",
                retry=Retry.LATER,
            )

    async def possible(self, place: Place) -> int:
        """How many workers a job gets that does not say how many."""
        idle = sum(w.cpu for w in self._workers.values() if w.idle_since is not None)
        free = await self._placer.free_cpu() + idle
        return max(1, int(free / place.cpu))

    async def _fitting(self, job: str, place: Place) -> _Worker | None:
        """A worker that is there and has room. One that has a job already before one that has none."""
        shape = place.worker_cpu, place.memory, place.label, place.shared, place.tls
        while True:
            found = [
                worker
                for worker in self._workers.values()
                if job not in worker.users
                and (worker.cpu, worker.memory, worker.label, worker.shared, worker.tls) == shape
                and not worker.own
                and not (worker.users and (place.own or not place.shared))
                and sum(worker.users.values()) + place.cpu <= worker.cpu + 1e-9
            ]
            best = max(found, key=lambda worker: sum(worker.users.values()), default=None)
            if best is None or not await self._end_silent({best.name}):
                return best

    async def _end_silent(self, names: Collection[str]) -> bool:
        """End those of the workers that do not answer. Returns whether there were some."""
        answers = await asyncio.gather(*(self._placer.answers(name) for name in names))
        silent = [name for name, answered in zip(names, answers, strict=True) if not answered]
        for name in silent:
            self._end(name)
        return bool(silent)

    def _seated(self, worker: _Worker, job: str, place: Place) -> Seat:
        worker.users[job] = place.cpu
        worker.own, worker.idle_since = place.own, None
        return Seat(worker.name, worker.address, worker.node)

    def _add(self, seat: Seat, place: Place) -> _Worker:
        worker = _Worker(
            seat.worker, seat.address, seat.node, place.worker_cpu, place.memory, place.label,
            place.shared, place.tls, idle_since=self._clock(),
        )  # fmt: skip
        self._workers[seat.worker] = worker
        number = seat.worker.rpartition(" ")[2]
        if number.isdigit():
            self._names = count(max(int(number) + 1, next(self._names)))
        return worker

    def _end(self, name: str) -> None:
        self._workers.pop(name, None)
        for job in self._jobs.values():
            job.seats = [
                None if seat is not None and seat.worker == name else seat for seat in job.seats
            ]
        self._placer.end(name)

    # -- the view ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """The workers, and the jobs, as plain data."""
        now = self._clock()
        return {
            "workers": [
                {
                    "worker": worker.name,
                    "node": worker.node,
                    "address": f"{worker.address[0]}:{worker.address[1]}",
                    "cpu": worker.cpu,
                    "jobs": sorted(worker.users),
                    "idle_s": None
                    if worker.idle_since is None
                    else round(now - worker.idle_since, 1),
                }
                for worker in self._workers.values()
            ],
            "jobs": [
                {
                    "job": job.name,
                    "priority": job.place.priority if job.place is not None else 0,
                    "workers": [seat.worker for seat in job.seats if seat is not None],
                    "waits": any(ask.job == job.name for ask in self._asks),
                    "silent_s": round(now - job.seen, 1),
                    **job.facts,
                }
                for job in self._jobs.values()
            ],
        }
