"""Which job has which workers, with a placer that has so many processors and no processes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.cluster import leases as leases_module
from dataflare.cluster.leases import IDLE_S, LEASE_S, Leases
from dataflare.cluster.orders import Address
from dataflare.cluster.place import Place
from dataflare.errors import SystemError_

ONE = Place("auto", 1)


class Machine:
    """A placer. A worker waits until there are processors for it, as with Ray."""

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self.placed: dict[str, float] = {}
        self.silent: set[str] = set()
        self.starts = 0
        self._changed = asyncio.Condition()

    async def place(self, name: str, place: Place) -> tuple[Address, str]:
        async with self._changed:
            await self._changed.wait_for(lambda: self.free >= place.worker_cpu)
            self.placed[name] = place.worker_cpu
        self.starts += 1
        return ("host", self.starts), "node"

    def end(self, name: str) -> None:
        self.placed.pop(name, None)
        self._telling = asyncio.ensure_future(self._told())

    async def _told(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def answers(self, name: str) -> bool:
        return name in self.placed and name not in self.silent

    async def free_cpu(self) -> float:
        return self.free

    @property
    def free(self) -> float:
        return self.cpus - sum(self.placed.values())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(scenario: Callable[[Machine, Leases, Clock], Awaitable[None]], cpus: float = 4) -> None:
    async def inside() -> None:
        machine, clock = Machine(cpus), Clock()
        await scenario(machine, Leases(machine, clock=clock), clock)

    asyncio.run(inside())


def jobs(leases: Leases) -> dict[str, Any]:
    return {job["job"]: job for job in leases.view()["jobs"]}


def test_workers_of_a_job_that_ended_are_given_to_the_next_one() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        first = await leases.seats("a", Place("auto", 3))
        leases.ended("a")
        second = await leases.seats("b", Place("auto", 2))
        assert {seat.worker for seat in second} < {seat.worker for seat in first}
        assert machine.starts == 3
        clock.now += IDLE_S + 1
        leases.renew("b", second, ONE, {})
        leases.tick()
        assert len(machine.placed) == 2, "the third one was idle"

    run(scenario)


def test_a_job_with_code_of_its_own_shares_no_process() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        await leases.seats("a", Place("auto", 2, own=True))
        leases.ended("a")
        assert machine.placed == {}
        await leases.seats("b", Place("auto", 2))
        assert machine.starts == 4

    run(scenario)


def test_a_job_has_its_workers_again_and_others_for_those_that_were_lost() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        first = await leases.seats("a", Place("auto", 3))
        assert await leases.seats("a", Place("auto", 3)) == first
        machine.silent.add(first[0].worker)
        second = await leases.seats("a", Place("auto", 3), [first[2].worker])
        assert second[1] == first[1]
        assert not {second[0].worker, second[2].worker} & {seat.worker for seat in first}
        assert len(machine.placed) == 3

    run(scenario)


def test_a_silent_job_has_no_workers_any_more_and_an_empty_cluster_ends() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        await leases.seats("a", ONE)
        clock.now += LEASE_S + 1
        assert not leases.tick()
        assert jobs(leases) == {}
        clock.now += IDLE_S + 1
        assert not leases.tick()
        assert machine.placed == {}
        clock.now += 11
        assert leases.tick()

    run(scenario)


def test_small_jobs_share_a_processor() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        small = Place("auto", 1, cpu=0.4, shared=True)
        seats = [(await leases.seats(name, small))[0] for name in "abcd"]
        assert seats[0].worker == seats[1].worker != seats[2].worker == seats[3].worker
        whole = await leases.seats("e", ONE)
        assert whole[0].worker not in {seat.worker for seat in seats}
        leases.ended("a")
        assert len(machine.placed) == 3, "the other one has it still"

    run(scenario)


def test_more_and_fewer_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "PLACED_S", 0.05)

    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        two = await leases.seats("a", Place("auto", 2))
        four = await leases.seats("a", Place("auto", 2), (), 4)
        assert four[:2] == two
        with pytest.raises(SystemError_, match="has not placed 1 of 5"):
            await leases.seats("a", Place("auto", 2), (), 5)
        assert await leases.seats("a", Place("auto", 2)) == four
        leases.give_back("a", 2)
        assert await leases.seats("a", Place("auto", 2)) == two

    run(scenario)


def test_no_room_is_an_error_and_costs_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "PLACED_S", 0.05)

    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        seats = await leases.seats("a", Place("auto", 3))
        with pytest.raises(SystemError_) as told:
            await leases.seats("b", Place("auto", 2))
        assert told.value.code == "E0617"
        assert len(machine.placed) == 3
        assert await leases.seats("a", Place("auto", 3)) == seats
        rest = await leases.seats("c", Place("auto"))
        assert len(rest) == 1, "as many as there is room for"

    run(scenario)


def test_of_those_that_wait_the_one_with_the_highest_priority_is_next() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        await leases.seats("first", Place("auto", 4))
        order: list[str] = []

        async def wait(name: str, priority: int) -> None:
            await leases.seats(name, Place("auto", 4, priority=priority))
            order.append(name)
            leases.ended(name)

        waiting = [
            asyncio.ensure_future(wait(name, priority))
            for name, priority in {"low": -1, "plain": 0, "high": 5, "later": 0}.items()
        ]
        await asyncio.sleep(0)
        leases.ended("first")
        await asyncio.gather(*waiting)
        assert order == ["high", "plain", "later", "low"]

    run(scenario)


def test_a_new_keeper_believes_jobs_which_workers_they_have() -> None:
    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        seats = await leases.seats("a", Place("auto", 3))
        other = Leases(machine, clock=clock)
        for seat in seats:
            other.adopt(seat, ONE, None)
        other.renew("a", seats[:2], Place("auto", 2), {})
        assert await other.seats("a", Place("auto", 2)) == seats[:2]
        (new,) = await other.seats("b", ONE)
        assert new.worker == seats[2].worker, "no job said that it has this one"
        (more,) = await other.seats("c", ONE)
        assert more.worker not in {seat.worker for seat in seats}, "its name is a new one"

    run(scenario)


@given(seed=st.integers(0, 10**6))
def test_whatever_happens_no_worker_is_overbooked(seed: int) -> None:
    chance = random.Random(seed)

    async def scenario(machine: Machine, leases: Leases, clock: Clock) -> None:
        used: dict[str, float] = {}
        for _ in range(20):
            name = chance.choice("abcde")
            if name in used:
                leases.ended(name)
                del used[name]
            elif chance.random() < 0.2:
                clock.now += chance.choice((1, IDLE_S + 1))
                for each in used:
                    leases.renew(each, (), ONE, {})
                leases.tick()
            else:
                shared = chance.random() < 0.5
                cpu = chance.choice((0.25, 0.5)) if shared else 1.0
                count = chance.randint(1, 2)
                if machine.cpus - 2 * len(used) < 2:
                    continue
                place = Place("auto", count, cpu=cpu, shared=shared, own=chance.random() < 0.3)
                seats = await leases.seats(name, place)
                assert len({seat.worker for seat in seats}) == count
                used[name] = cpu
            for worker in leases.view()["workers"]:
                assert sum(used[job] for job in worker["jobs"]) <= worker["cpu"]
            assert {
                worker["worker"] for worker in leases.view()["workers"]
            } == machine.placed.keys()
            assert machine.free >= 0

    run(scenario, cpus=10)
