"""The actors of a Ray cluster: the keeper of its workers, a worker, and a job. With `on_ray` the only file that knows Ray.

    cluster       one, named, detached: `Leases`; begins jobs, ends what is not used, and itself when nothing is left
    worker N      named, detached: `WorkerServer` on an event loop of its own thread
    job NAME ID   named, detached: what a command gave it; Ray starts it again when its process is lost

Always true: no actor owns another one, so none is lost with another. The keeper that Ray starts again finds the workers by
their names, and hears from the jobs which of them they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.autoscaler.sdk import request_resources

from dataflare.cluster.leases import Leases, Seat
from dataflare.cluster.orders import Address
from dataflare.cluster.place import Place
from dataflare.errors import DataFlareError

NAMESPACE = "dataflare"
KEEPER = "cluster"
_WORKER, _JOB = "worker ", "job "
_GRACE_S = 3.0
_TICK_S = 1.0
_ANSWERS_S = 2.0
_JOB_CALLS = 16


class Hosted(Protocol):
    """What lives in the actor of a job. Its methods are called on threads of their own."""

    def since(self, number: int) -> bytes: ...
    def stop(self) -> None: ...
    def scale(self, workers: int | None, parallelism: int | None) -> bytes: ...
    def told(self) -> None: ...


Entry = Callable[[bytes, str, Place, bool], Hosted]
"""Begins a job: from the bytes of its order, its name, the place of its workers, and whether its process was lost before."""


def job_actor(job: str) -> str:
    """The name of a job's actor."""
    return f"{_JOB}{job}"


def worker_options(place: Place) -> dict[str, Any]:
    """What is asked of Ray for one worker."""
    return {
        "num_cpus": place.worker_cpu,
        "memory": place.memory,
        "resources": {place.label: 0.001} if place.label else None,
        "scheduling_strategy": "SPREAD" if place.spread else "DEFAULT",
        "max_concurrency": 4,
    }


class WorkerActor:
    """A worker on an event loop of its own thread. It answers two questions; everything else goes over links."""

    def __init__(self, token: bytes, name: str, place: Place | None = None) -> None:
        from dataflare.cluster.worker import WorkerServer

        self._place = place
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="dataflare-worker", daemon=True).start()
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]

        async def start() -> Address:
            self._server = WorkerServer(token, name, tls=place.tls if place is not None else None)
            return await self._server.start(host)

        # An actor that fails to begin tells only that. One that has begun tells why.
        self._started = asyncio.run_coroutine_threadsafe(start(), loop)
        self._started.exception()

    def address(self) -> Address:
        """Where it listens. Raises ConfigError (E0439) where it cannot."""
        return self._started.result()

    def about(self) -> tuple[Address, str, Place | None]:
        """Its address, its node, and what it was placed for."""
        return self.address(), ray.get_runtime_context().get_node_id(), self._place


class JobActor:
    """A job in a process of its own."""

    def __init__(self, entry: Entry, order: bytes, job: str, place: Place) -> None:
        again = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._job = entry(order, job, place, again)

    def since(self, number: int) -> bytes:
        return self._job.since(number)

    def stop(self) -> None:
        self._job.stop()

    def scale(self, workers: int | None, parallelism: int | None) -> bytes:
        return self._job.scale(workers, parallelism)

    def told(self) -> None:
        self._job.told()


class ClusterActor:
    """The keeper. token: that all workers know."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        again = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._actors: dict[str, Any] = {}
        self._wanted: dict[str, list[dict[str, float]]] = {}
        self._leases = Leases(self, _GRACE_S if again else 0.0)
        self._found = not again
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=_ticking, args=(me,), name="dataflare-ticks", daemon=True).start()

    # -- of `Placer` -------------------------------------------------------------------------------

    async def place(self, name: str, place: Place) -> tuple[Address, str]:
        options = worker_options(place) | {"name": name, "namespace": NAMESPACE}
        made: Any = ray.remote(WorkerActor).options(lifetime="detached", **options)
        actor = self._actors[name] = made.remote(self._token, name, place)
        try:
            address, node, _ = await actor.about.remote()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DataFlareError):
                raise error.cause from None
            raise
        return address, node

    def end(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        if actor is not None:
            ray.kill(actor, no_restart=True)

    async def answers(self, name: str) -> bool:
        return await self._about(name) is not None

    async def free_cpu(self) -> float:
        free = await asyncio.to_thread(ray.available_resources)
        return float(free.get("CPU", 0.0))

    # -- what jobs and commands ask ----------------------------------------------------------------

    async def token(self) -> bytes:
        return self._token

    async def seats(
        self, job: str, place: Place, lost: Collection[str], count: int | None
    ) -> list[Seat]:
        await self._find()
        return await self._leases.seats(job, place, lost, count)

    async def give_back(self, job: str, count: int) -> None:
        self._leases.give_back(job, count)

    async def want(self, job: str, place: Place, count: int) -> None:
        """What an autoscaler of Ray makes nodes for, with what other jobs want. It stays asked for until the next call."""
        each = {"CPU": place.worker_cpu}
        if place.memory is not None:
            each["memory"] = place.memory
        if place.label is not None:
            each[place.label] = 0.001
        self._wanted[job] = [each] * count
        await self._ask_for_nodes()

    async def _ask_for_nodes(self) -> None:
        bundles = [each for wanted in self._wanted.values() for each in wanted]
        await asyncio.to_thread(request_resources, bundles=bundles)

    async def possible(self, place: Place) -> int:
        await self._find()
        return await self._leases.possible(place)

    async def renew(
        self, job: str, seats: Sequence[Seat], place: Place, facts: Mapping[str, Any]
    ) -> None:
        await self._find()
        self._leases.renew(job, seats, place, facts)

    async def ended(self, job: str) -> None:
        """A job is over: its workers are free, and its actor ends."""
        self._leases.ended(job)
        self._kill(job)
        if self._wanted.pop(job, None):
            await self._ask_for_nodes()

    async def begin(
        self, entry: Entry, order: bytes, job: str, place: Place, node: str | None
    ) -> None:
        """Begin a job. node: where its process must be, in hexadecimal; "~" before it: where it should be; None: anywhere."""
        strategy: Any = "DEFAULT"
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            strategy = NodeAffinitySchedulingStrategy(node.lstrip("~"), soft=node.startswith("~"))
        self._leases.renew(job, (), place, {"status": "starting"})
        ray.remote(JobActor).options(
            name=job_actor(job),
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=0,
            max_concurrency=_JOB_CALLS,
            scheduling_strategy=strategy,
        ).remote(entry, order, job, place)

    async def view(self) -> dict[str, Any]:
        """The nodes, the workers and the jobs, as plain data."""
        await self._find()
        nodes = await asyncio.to_thread(ray.nodes)
        return {
            "nodes": [
                {
                    "node": node["NodeID"],
                    "address": node["NodeManagerAddress"],
                    "alive": bool(node["Alive"]),
                    "cpu": float(node["Resources"].get("CPU", 0.0)),
                    "memory": int(node["Resources"].get("memory", 0)),
                }
                for node in nodes
            ],
            **self._leases.view(),
        }

    async def tick(self) -> None:
        """Take back what is not used; end where nothing is left."""
        await self._find()
        gone = self._wanted.keys() & {*self._leases.silent()}
        for job in gone:
            del self._wanted[job]
        if gone:
            await self._ask_for_nodes()
        if self._leases.tick():
            # Not `exit_actor`: it waits for the calls that this process has made, also for ticks of its own, and never ends.
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _kill(self, job: str) -> None:
        with contextlib.suppress(ValueError):
            actor = ray.get_actor(job_actor(job), NAMESPACE)
            ray.kill(actor, no_restart=True)

    async def _find(self) -> None:
        """Find the workers that an earlier process of this actor placed."""
        if self._found:
            return
        self._found = True
        for name in await asyncio.to_thread(ray.util.list_named_actors):
            if not name.startswith(_WORKER):
                continue
            about = await self._about(name)
            if about is None:
                self.end(name)
            else:
                address, node, place = about
                self._leases.adopt(Seat(name, address, node), place, None)

    async def _about(self, name: str) -> tuple[Address, str, Place] | None:
        """What a worker says of itself."""
        try:
            if name not in self._actors:
                self._actors[name] = ray.get_actor(name, NAMESPACE)
            about = self._actors[name].about.remote()
            found: tuple[Address, str, Place] = await asyncio.wait_for(about, _ANSWERS_S)
        except (ValueError, TimeoutError, ray.exceptions.RayError):
            return None
        return found


def _ticking(keeper: Any) -> None:
    while True:
        time.sleep(_TICK_S)
        with contextlib.suppress(ray.exceptions.RayError):
            keeper.tick.remote()
