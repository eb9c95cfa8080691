"""Workers that a Ray cluster has room for, and nodes that are asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from optional_packages import package

from dataflare.cluster import on_ray
from dataflare.cluster.on_ray import Place, RayWorkers
from dataflare.errors import SystemError_

ray = package("ray")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A Ray cluster with room for two workers, and the bundles that are asked of it."""
    from ray.autoscaler import sdk

    requests: list[Any] = []
    ask = sdk.request_resources

    def recorded(**wanted: Any) -> None:
        requests.append(wanted["bundles"])
        ask(**wanted)

    monkeypatch.setattr(sdk, "request_resources", recorded)
    ray.init(num_cpus=2, include_dashboard=False, namespace="dataflare", log_to_driver=False)
    yield requests
    ray.shutdown()


def test_room_is_asked_for_and_workers_are_given_back(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = RayWorkers(Place("auto", 1, memory=1 << 20))
    assert workers.start() == 1
    (first,) = asyncio.run(workers.ready())
    asyncio.run(workers.want(2))
    asyncio.run(workers.hold(2))
    assert asyncio.run(workers.ready()) == [first], "not used yet"
    workers.use(2)
    assert len({*asyncio.run(workers.ready())}) == 2
    each = {"CPU": 1.0, "memory": 1 << 20}
    assert asked == [[each, each]]

    monkeypatch.setattr(on_ray, "_PLACED_S", 3.0)
    with pytest.raises(SystemError_, match="has not placed") as refused:
        asyncio.run(workers.hold(3))
    assert refused.value.code == "E0617"
    assert len(asyncio.run(workers.ready())) == 2, "those that were there are there"

    monkeypatch.undo()
    workers.use(1)
    asyncio.run(workers.release())
    asyncio.run(workers.hold(2))  # the processor of the one that went is free again
    assert asyncio.run(workers.ready()) == [first]
    workers.close()


def test_what_was_asked_for_is_not_asked_for_any_more_at_the_end(asked: list[Any]) -> None:
    workers = RayWorkers(Place("auto", 1))
    workers.start()
    asyncio.run(workers.want(2))
    workers.close()
    assert [len(each) for each in asked] == [2, 0]


def test_a_cluster_of_this_machine_is_asked_for_nothing(asked: list[Any]) -> None:
    workers = RayWorkers(Place(None, 1))
    asyncio.run(workers.want(2))
    assert asked == []
