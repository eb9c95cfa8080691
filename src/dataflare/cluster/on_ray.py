"""Workers and jobs that Ray places, as a command or a job sees them. With `ray_actors` the only file that knows Ray.

A small cluster of this machine (`local:N`) belongs to the command: its workers are the command's, and end with it. On a cluster
that was there before, an actor keeps the workers (see `ray_actors`), and jobs ask it for them.
"""

from __future__ import annotations

import contextlib
import pickle
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dataflare.cluster.leases import PLACED_S, Seat
from dataflare.cluster.orders import Address
from dataflare.cluster.place import Place, address_of
from dataflare.cluster.tls import Tls
from dataflare.cluster.workers import Workers
from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from types import ModuleType

    from dataflare.cluster.ray_actors import Entry

_PATIENCE_S = 60.0
"""So long an actor is called again whose process was lost: Ray starts another one."""
_PAUSE_S = 0.3
_HEAD_LOST_S = 15.0
_CONNECT_S = 2.0


class PlacedWorkers(Workers, Protocol):
    """Workers that were placed for a run."""

    def start(self) -> int:
        """Place them. Returns how many there are. Blocking."""

    def possible(self) -> int:
        """How many there can be. Blocking."""

    def renew(self, facts: Mapping[str, Any]) -> None:
        """The run lives, and does this. Blocking."""

    def close(self) -> None:
        """The run has no need for them any more. Blocking."""


def workers_for(place: Place, job: str) -> PlacedWorkers:
    """job: who asks for them. Raises ConfigError (E0404) where Ray is not installed, SystemError_ (E0617) where there is no
    cluster. Blocking."""
    if place.address is None:
        return LocalWorkers(place)
    connect(place.address)
    return KeptWorkers(place, job)


class LocalWorkers:
    """Workers of a small Ray that begins and ends with this process. There are as many as are asked for, whatever the processors of
    this machine."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.token = secrets.token_bytes(32)
        self.count = 0
        self._ray = _ray()
        self._actors: list[Any] = []
        self._addresses: list[Address | None] = []
        self._placing = threading.Lock()

    @property
    def host(self) -> str:
        return str(self._ray.util.get_node_ip_address())

    @property
    def tls(self) -> Tls | None:
        return self.place.tls

    def possible(self) -> int:
        assert self.place.workers is not None
        return self.place.workers

    def start(self) -> int:
        self.count = self.possible()
        return len(self._ready(self.count))

    async def ready(self) -> Sequence[Address]:
        return (await in_thread(self._ready, self.count))[: self.count]

    async def want(self, count: int) -> None:
        """This machine does not grow."""

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
            self._ray.kill(actor)

    def renew(self, facts: Mapping[str, Any]) -> None:
        """No other job asks for them."""

    def close(self) -> None:
        self._ray.shutdown()

    def _ready(self, count: int) -> Sequence[Address]:
        """The addresses of at least so many workers, placed where they are not there."""
        with self._placing:
            return self._placed_all(count)

    def _placed_all(self, count: int) -> Sequence[Address]:
        from dataflare.cluster.ray_actors import WorkerActor

        if not self._ray.is_initialized():
            self._ray.init(num_cpus=count, include_dashboard=False, **_QUIET)
        more = [None] * (count - len(self._actors))
        self._actors += more
        self._addresses += more
        for number, actor in enumerate(self._actors):
            if actor is None:
                made = self._ray.remote(WorkerActor).options(num_cpus=0, max_concurrency=2)
                self._actors[number] = made.remote(self.token, f"worker {number}", self.place)
                self._addresses[number] = None
        asked = {
            number: actor.address.remote()
            for number, actor in enumerate(self._actors)
            if self._addresses[number] is None
        }
        try:
            told = self._ray.get(list(asked.values()), timeout=PLACED_S)
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, DataFlareError):
                raise cause from None
            raise SystemError_(
                f"Ray has not placed {len(asked)} workers within {PLACED_S:g} s: {_first_line(error)}",
                code="E0617",
                help="see `ray status`: the cluster needs free processors and memory for them; or ask for fewer workers",
                retry=Retry.LATER,
            ) from error
        for number, address in zip(asked, told, strict=True):
            self._addresses[number] = (address[0], address[1])
        return [address for address in self._addresses if address is not None]


class KeptWorkers:
    """Workers of a job that the cluster's keeper gives it. This process is connected to the cluster."""

    def __init__(self, place: Place, job: str) -> None:
        self.place, self._job = place, job
        self.count = 0
        self._token: bytes | None = None
        self.seats: list[Seat] = []
        self._lost: set[str] = set()
        self._asking = threading.Lock()

    @property
    def token(self) -> bytes:
        if self._token is None:
            self._token = _keeper("token")
        return self._token

    @property
    def host(self) -> str:
        return str(_ray().util.get_node_ip_address())

    @property
    def tls(self) -> Tls | None:
        return self.place.tls

    def possible(self) -> int:
        return self.place.workers or int(_keeper("possible", self.place))

    def start(self) -> int:
        self._seat(None)
        self.count = len(self.seats)
        return self.count

    def _seat(self, count: int | None) -> None:
        """Have at least so many workers, all alive."""
        with self._asking:
            lost = [*self._lost]
            asked = self._job, self.place, lost, count
            self.seats = _keeper("seats", *asked, patience_s=2 * PLACED_S)
            self._lost.difference_update(lost)

    async def ready(self) -> Sequence[Address]:
        await in_thread(self._seat, self.count)
        return [seat.address for seat in self.seats[: self.count]]

    async def want(self, count: int) -> None:
        await in_thread(_keeper, "want", self._job, self.place, count)

    async def hold(self, count: int) -> None:
        await in_thread(self._seat, count)

    def use(self, count: int) -> None:
        self.count = count

    async def release(self) -> None:
        with self._asking:
            self.seats = self.seats[: self.count]
        await in_thread(_keeper, "give_back", self._job, self.count)

    def lost(self, number: int) -> None:
        self._lost.add(self.seats[number].worker)

    def renew(self, facts: Mapping[str, Any]) -> None:
        """Say that the job lives, and what it does. Blocking."""
        held = [seat for seat in self.seats if seat.worker not in self._lost]
        _keeper("renew", self._job, held, self.place, facts)

    def close(self) -> None:
        with contextlib.suppress(SystemError_):  # the lease runs out
            _keeper("ended", self._job)


class RayJob:
    """A job in an actor, as its command sees it. name: its workflow and its run. Its methods block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._actor: Any = None
        self._heard = time.monotonic()

    @property
    def run_id(self) -> str:
        return self.name.rpartition(" ")[2]

    @classmethod
    def begin(cls, entry: Entry, order: bytes, name: str, place: Place, node: str | None) -> RayJob:
        """Begin a job. node: as `ClusterActor.begin` says."""
        _keeper("begin", entry, order, name, place, node)
        return cls(name)

    def since(self, number: int) -> bytes | None:
        """What it said since. None while its process does not answer. Raises SystemError_ (E0840, E0841) where nothing will
        come any more."""
        ray = _ray()
        try:
            told: bytes = ray.get(self._of_actor().since.remote(number), timeout=_PATIENCE_S)
        except (ray.exceptions.RayError, ConnectionError, ValueError) as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                raise
            self._actor = None
            silent_s = time.monotonic() - self._heard
            if silent_s > _HEAD_LOST_S and not _has_head():
                raise _head_lost() from error
            if silent_s > _PATIENCE_S:
                raise SystemError_(
                    f"the job '{self.name}' is gone: {_first_line(error)}",
                    code="E0841",
                    help="run the same command again: it goes on from the last checkpoint",
                    retry=Retry.RESTART,
                ) from error
            time.sleep(_PAUSE_S)
            return None
        self._heard = time.monotonic()
        return told

    def stop(self) -> None:
        """Ask it to take a checkpoint and end."""
        self._of_actor().stop.remote()

    def scale(self, workers: int | None, parallelism: int | None) -> dict[str, Any]:
        """Give it another size, as `Scaled` says. Raises as the run does, and SystemError_ (E0841) where the job is gone."""
        ray = _ray()
        try:
            told = pickle.loads(ray.get(self._of_actor().scale.remote(workers, parallelism)))
        except (ray.exceptions.RayError, ConnectionError, ValueError) as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                raise
            raise SystemError_(
                f"the job '{self.name}' is gone: {_first_line(error)}",
                code="E0841",
                help="see dataflare runs",
            ) from error
        if isinstance(told, Exception):
            raise told
        assert isinstance(told, dict)
        return told

    def told(self) -> None:
        """Its result was shown. Returns when that is recorded, or the job is gone."""
        ray = _ray()
        with contextlib.suppress(ray.exceptions.RayError, ValueError, ConnectionError):
            ray.get(self._of_actor().told.remote(), timeout=_PATIENCE_S)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(SystemError_):
            _keeper("ended", self.name, patience_s=2.0)

    def _of_actor(self) -> Any:
        from dataflare.cluster.ray_actors import NAMESPACE, job_actor

        if self._actor is None:
            self._actor = _ray().get_actor(job_actor(self.name), NAMESPACE)
        return self._actor


def view_of(address: str) -> dict[str, Any]:
    """The nodes, workers and jobs of a cluster, as plain data. Raises as `workers_for` does. Blocking."""
    connect(address_of(address))
    view = _keeper("view")
    assert isinstance(view, dict)
    return view


def own_node() -> str | None:
    """The node of the cluster that this process runs on, or None."""
    for node in _ray().nodes():
        if node["Alive"] and _is_of_this_machine(str(node["NodeManagerAddress"])):
            return str(node["NodeID"])
    return None


def connect(address: str) -> None:
    """Connect this process to a cluster, if it is not. Raises ConfigError (E0404), SystemError_ (E0617). Blocking."""
    global _address
    ray = _ray()
    if ray.is_initialized():
        return
    _address = address
    tries = 2 if address.startswith("ray://") else 1  # the server starts a process for each client
    for left in reversed(range(tries)):
        try:
            ray.init(address=address, **_QUIET)
            return
        except Exception as error:
            if left:
                continue
            help = "start one with `ray start --head`, or use --cluster local:N"
            if "InvalidAuthToken" in str(error):
                help = "set RAY_AUTH_MODE=token: the cluster asks for a token (see `ray get-auth-token`)"
            raise SystemError_(
                f"no Ray cluster at {address}: {_first_line(error)}",
                code="E0617",
                help=help,
                retry=Retry.LATER,
            ) from error


_QUIET: Mapping[str, Any] = {
    "log_to_driver": False,
    "logging_level": "ERROR",
    "namespace": "dataflare",
}
_address = "auto"
"""Of the cluster that this process is connected to."""


def _keeper(method: str, *arguments: Any, patience_s: float = _PATIENCE_S) -> Any:
    """Call the keeper, which begins if there is none; again, while Ray starts another process of it. Blocking."""
    from dataflare.cluster.ray_actors import KEEPER, NAMESPACE, ClusterActor

    ray = _ray()
    until = time.monotonic() + patience_s
    while True:
        try:
            keeper = (
                ray.remote(ClusterActor)
                .options(
                    name=KEEPER,
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    max_restarts=-1,
                    num_cpus=0,
                    max_concurrency=1000,
                )
                .remote(secrets.token_bytes(32))
            )
            call = getattr(keeper, method).remote(*arguments)
            return ray.get(call, timeout=max(0.1, until - time.monotonic()))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, DataFlareError) else error from None
        except (ray.exceptions.RayError, ConnectionError, ValueError) as error:
            if time.monotonic() < until:
                time.sleep(_PAUSE_S)
                continue
            if not _has_head():
                raise _head_lost() from error
            raise SystemError_(
                f"the cluster's actor does not answer: {_first_line(error)}",
                code="E0617",
                help="see `ray list actors`",
                retry=Retry.LATER,
            ) from error


def _has_head() -> bool:
    """Whether the control store of the cluster takes connections."""
    ray = _ray()
    try:
        address = _address.removeprefix("ray://")
        if address == "auto":
            address = ray.get_runtime_context().gcs_address
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), _CONNECT_S):
            return True
    except (OSError, ValueError, RuntimeError, AttributeError, ray.exceptions.RayError):
        return False


def _head_lost() -> SystemError_:
    return SystemError_(
        "the head of the Ray cluster is lost",
        code="E0840",
        help="start the cluster again, and run the same command: it goes on from the last checkpoint",
        retry=Retry.RESTART,
    )


def _is_of_this_machine(host: str) -> bool:
    """Whether an address is one of this machine: only then a socket can have it."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError), socket.socket(family) as own:
            own.bind((host, 0))
            return True
    return False


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
