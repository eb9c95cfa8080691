"""Workers that Ray places. The only file that knows Ray.

A worker is an actor: a process of its own, on the node that Ray chose for it. It answers one question, its address; everything
else goes over links.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.cluster.orders import Address
from dataflare.errors import ConfigError, Retry, SystemError_
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from types import ModuleType

    from dataflare.workflow.settings import Cluster

_LOCAL = re.compile(r"local:([1-9][0-9]{0,2})", re.ASCII)
_PLACED_S = 30.0


class Place(Struct, frozen=True):
    """Where workers run. address: of a Ray cluster, `auto` for the one that this machine belongs to, or None for a small one
    of this machine that begins now. workers: how many; None: one for each processor that is free. cpu and memory: of each, as
    it is asked of Ray; label: a resource of Ray that its node must have."""

    address: str | None
    workers: int | None = None
    spread: bool = True
    cpu: float = 1.0
    memory: int | None = None
    label: str | None = None

    @classmethod
    def of(cls, text: str, settings: Cluster) -> Place:
        """From `auto`, `ray://HOST:PORT` or `local:N`, and the workflow's settings. Raises ConfigError (E0432)."""
        match = _LOCAL.fullmatch(text)
        if match:
            return cls(None, int(match[1]))
        if text == "auto" or text.startswith("ray://"):
            asked = settings.resources
            spread = settings.placement == "spread"
            workers = settings.workers
            if workers is None and settings.autoscale is not None:
                workers = settings.autoscale.min
            return cls(text, workers, spread, asked.cpu, asked.memory, asked.label)
        raise ConfigError(
            f"'{text}' is not a cluster",
            code="E0432",
            help="use auto, ray://HOST:PORT, or local:N for N workers on this machine",
        )


class RayWorkers:
    """The workers of a run. It is a `cluster.crew.Workers`. Raises ConfigError (E0404) where Ray is not installed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.token = secrets.token_bytes(32)
        self._ray = _ray()
        self._actors: list[Any] = []
        self._addresses: list[Address | None] = []
        self._began = self._has_asked = False
        self._placing = threading.Lock()
        self.count = 0

    def possible(self) -> int:
        """How many workers the free processors are enough for. Blocking."""
        self._connect()
        free = float(self._ray.available_resources().get("CPU", 1.0))
        return max(1, int(free / self.place.cpu))

    @property
    def host(self) -> str:
        return str(self._ray.util.get_node_ip_address())

    def start(self) -> int:
        """Place the workers. Returns how many there are. Blocking."""
        self.count = self.place.workers or self.possible()
        return len(self._ready(self.count))

    async def ready(self) -> Sequence[Address]:
        return (await in_thread(self._ready, self.count))[: self.count]

    async def want(self, count: int) -> None:
        if self.place.address is not None:
            await in_thread(self._want, count)

    def _want(self, count: int) -> None:
        """What an autoscaler of Ray makes nodes for. It stays asked for until the next call."""
        from ray.autoscaler.sdk import request_resources

        place = self.place
        each = {"CPU": place.cpu}
        if place.memory is not None:
            each["memory"] = place.memory
        if place.label is not None:
            each[place.label] = 0.001
        self._has_asked = count > 0
        request_resources(bundles=[each] * count)

    async def hold(self, count: int) -> None:
        await in_thread(self._hold, count)

    def _hold(self, count: int) -> None:
        before = len(self._actors)
        try:
            self._ready(count)
        except SystemError_:
            self._end(before)
            raise

    def use(self, count: int) -> None:
        self.count = count

    async def release(self) -> None:
        await in_thread(self._end, self.count)

    def _end(self, first: int) -> None:
        """End the workers from this number on."""
        with self._placing:
            for actor in self._actors[first:]:
                if actor is not None:
                    self._ray.kill(actor)
            del self._actors[first:], self._addresses[first:]

    def lost(self, number: int) -> None:
        actor, self._actors[number] = self._actors[number], None
        if actor is not None:
            # One that hangs has processors that its successor needs.
            self._ray.kill(actor)

    def close(self) -> None:
        """End the workers, and the cluster if it began here. Blocking."""
        if self._has_asked:
            self._want(0)
        for actor in self._actors:
            if actor is not None:
                self._ray.kill(actor)
        if self._began:
            self._ray.shutdown()

    def _ready(self, count: int) -> Sequence[Address]:
        """The addresses of at least so many workers, placed where they are not there."""
        with self._placing:
            return self._placed_all(count)

    def _placed_all(self, count: int) -> Sequence[Address]:
        self._connect()
        more = [None] * (count - len(self._actors))
        self._actors += more
        self._addresses += more
        for number, actor in enumerate(self._actors):
            if actor is None:
                self._actors[number] = self._placed(number)
                self._addresses[number] = None
        asked = {
            number: actor.address.remote()
            for number, actor in enumerate(self._actors)
            if self._addresses[number] is None
        }
        try:
            told = self._ray.get(list(asked.values()), timeout=_PLACED_S)
        except Exception as error:
            raise SystemError_(
                f"Ray has not placed {len(asked)} workers within {_PLACED_S:g} s: {_first_line(error)}",
                code="E0617",
                help="see `ray status`: the cluster needs free processors and memory for them; or ask for fewer workers",
                retry=Retry.LATER,
            ) from error
        for number, address in zip(asked, told, strict=True):
            self._addresses[number] = (address[0], address[1])
        return [address for address in self._addresses if address is not None]

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.place.address is None:
            self._began = True
            self._ray.init(
                num_cpus=self.place.workers, include_dashboard=False, namespace="dataflare", **quiet
            )
            return
        try:
            self._ray.init(address=self.place.address, namespace="dataflare", **quiet)
        except Exception as error:
            raise SystemError_(
                f"no Ray cluster at {self.place.address}: {_first_line(error)}",
                code="E0617",
                help="start one with `ray start --head`, or use --cluster local:N",
                retry=Retry.LATER,
            ) from error

    def _placed(self, number: int) -> Any:
        place = self.place
        actor = self._ray.remote(_WorkerActor).options(
            # On this machine there are as many as are asked for, whatever its processors.
            num_cpus=place.cpu if place.address is not None else 0,
            memory=place.memory,
            resources={place.label: 0.001} if place.label else None,
            scheduling_strategy="SPREAD" if place.spread else "DEFAULT",
            max_concurrency=2,
        )
        return actor.remote(self.token, f"worker {number}")


class _WorkerActor:
    """The actor: a worker on an event loop of its own thread."""

    def __init__(self, token: bytes, name: str) -> None:
        import ray

        from dataflare.cluster.worker import WorkerServer

        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="dataflare-worker", daemon=True).start()
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]

        async def start() -> Address:
            self._server = WorkerServer(token, name)
            return await self._server.start(host)

        self._address = asyncio.run_coroutine_threadsafe(start(), loop).result()

    def address(self) -> Address:
        return self._address


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "a cluster needs the library ray",
            code="E0404",
            help="pip install 'dataflare[ray]'",
        ) from error
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
