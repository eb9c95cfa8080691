"""Workers that a Ray cluster has room for: those that a run gets and gives back while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from ray_cluster import RayCluster, ray_cluster

from dataflare.cluster.on_ray import KeptWorkers, LocalWorkers, connect
from dataflare.cluster.place import Place
from dataflare.errors import SystemError_


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    import ray

    with ray_cluster(2) as made:
        connect(made.address)
        yield made
        ray.shutdown()


def test_room_is_taken_and_workers_are_given_back(cluster: RayCluster) -> None:
    workers = KeptWorkers(Place("auto", 1), "sized 1")
    assert workers.start() == 1
    (first,) = asyncio.run(workers.ready())
    asyncio.run(workers.want(2))
    asyncio.run(workers.hold(2))
    assert asyncio.run(workers.ready()) == [first], "not used yet"
    workers.use(2)
    assert len({*asyncio.run(workers.ready())}) == 2

    with pytest.raises(SystemError_) as refused:
        asyncio.run(workers.hold(3))
    assert refused.value.code == "E0617"
    assert len({*asyncio.run(workers.ready())}) == 2, "those that were there are there"

    workers.use(1)
    asyncio.run(workers.release())
    asyncio.run(workers.hold(2))  # the processor of the one that went is free again
    assert asyncio.run(workers.ready()) == [first]
    workers.close()


def test_a_cluster_of_this_machine_has_as_many_as_are_asked_for() -> None:
    workers = LocalWorkers(Place(None, 1))
    try:
        assert workers.start() == 1
        asyncio.run(workers.want(2))
        asyncio.run(workers.hold(2))
        workers.use(2)
        assert len({*asyncio.run(workers.ready())}) == 2
        workers.use(1)
        asyncio.run(workers.release())
        assert len(asyncio.run(workers.ready())) == 1
    finally:
        workers.close()
