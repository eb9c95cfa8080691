"""An epoch is whole when every task has answered, and only then published and committed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, SourceSnapshot, SplitState
from dataflare.checkpoint.source_record import SourceRecord
from dataflare.checkpoint.store import LocalStore
from dataflare.engine import coordinator
from dataflare.engine.coordinator import CannotCut, Coordinator, Identity
from dataflare.engine.messages import Assign, Checkpoint, Deploy, Fail, Found, Opened, Share, Wait
from dataflare.engine.pool import ThreadPool
from dataflare.errors import CheckpointError, Retry, RunError
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Position, Split
from dataflare.sdk.destination import Committable, Committer, Epoch, NoCommitter

LINEAGE = "0f0e0d0c-0000-4000-8000-000000000000"
SPLITS = [Split("a"), Split("b"), Split("c")]


class Kind(Struct, frozen=True):
    """As much of a stage as a coordinator looks at."""

    name: str
    source: object = None
    operator: object = None
    destination: object = None
    event_time: str | None = None
    refuses_at_commit: bool = False


class Puppet:
    """A task that answers as the test says."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.spec = Deploy(name, kind, 0)  # type: ignore[arg-type]
        self.asked: list[Checkpoint] = []
        self.told_open: list[str] = []
        self.told_found: list[str] = []
        self.reason: str | None = None
        self.answer: Callable[[Checkpoint], None] = lambda asked: None

    def checkpoint(self, asked: Checkpoint) -> None:
        self.asked.append(asked)
        self.answer(asked)

    def opened(self, opened: Opened) -> None:
        self.told_open.append(opened.source)

    def found(self, found: Found) -> None:
        self.told_found.append(found.source)

    def uncut(self) -> str | None:
        return self.reason


class Noting(NoCommitter):
    """Notes its commits."""

    def __init__(self) -> None:
        self.commits: list[tuple[int, Sequence[Committable]]] = []

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        self.commits.append((epoch.number, committables))


class House:
    """A coordinator with a source, an operator and a writer."""

    def __init__(self, folder: Path, timeout_s: float = 10.0) -> None:
        self.committer, self.noted, self.judged = Noting(), [], 0
        self.events: list[tuple[object, ...]] = []
        self.told: list[tuple[int, Mapping[str, Position]]] = []
        self.store = LocalStore(folder, LINEAGE)
        committers: Mapping[str, Committer] = {"out": self.committer}
        self.coordinator = Coordinator(
            Identity(LINEAGE, "run", 1, {}),
            self.store,
            ThreadPool(1),
            epoch=4,
            sources={
                "in": SourceRecord(
                    SourceSnapshot(tuple(SPLITS), {"a": SplitState(SPLITS[0], done=True)})
                )
            },
            committers=committers,
            retain=2,
            timeout_s=timeout_s,
            counters=lambda: {"in": 7},
            judge=self._judge,
            note=self.noted.append,
            left_out=lambda epoch: {"in": epoch},
            published=lambda epoch: self.events.append(("published", epoch)),
            committed=lambda epoch: self.events.append(
                ("committed", epoch, len(self.committer.commits))
            ),
            followers={"in": self._follow},
        )
        self.source = Puppet("in[0]", Kind("in", source=True))
        self.operator = Puppet("op[0]", Kind("op", operator=True))
        self.writer = Puppet("out[0]", Kind("out", destination=True))
        for puppet in (self.source, self.operator, self.writer):
            self.coordinator.register(puppet)

    async def _follow(self, positions: Mapping[str, Position]) -> None:
        self.told.append((len(self.committer.commits), positions))

    def _judge(self, *, final: bool) -> None:
        self.judged += 1

    def all_answer(self) -> None:
        position = Position({"at": 3})
        self.source.answer = lambda asked: self.coordinator.share(
            Share("in[0]", asked.barrier.epoch, splits=(SplitState(SPLITS[1], position),))
        )
        self.operator.answer = lambda asked: self.coordinator.share(
            Share("op[0]", asked.barrier.epoch, state=OperatorSnapshot(0, (), {"left": 1}))
        )
        self.writer.answer = lambda asked: self.coordinator.share(
            Share("out[0]", asked.barrier.epoch, committable=Committable(0, {"staged": 1}))
        )

    @property
    def published(self) -> list[Manifest]:
        return [fact.manifest for fact in self.store.list_manifests() if fact.manifest is not None]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_manifest_names_the_share_of_every_task(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        manifest = await house.coordinator.checkpoint()
        assert (manifest.epoch, house.noted, house.judged) == (5, [5], 1)
        assert house.published == [manifest]
        states = manifest.sources["in"].states
        assert (states["a"].done, states["b"].position) == (True, Position({"at": 3}))
        assert "c" not in states
        assert manifest.operators["op"][0].facts == {"left": 1}
        assert manifest.counters == {"in": 7}
        (commit,) = house.committer.commits
        assert commit == (5, manifest.committables["out"])
        assert house.told == [(1, {"b": Position({"at": 3})})], "after the commit, and once"

    run(main())


def test_nothing_is_published_before_the_last_task_has_answered(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        house.operator.answer = lambda asked: None
        cutting = asyncio.ensure_future(house.coordinator.checkpoint())
        await settle()
        assert (house.published, house.committer.commits) == ([], [])
        house.coordinator.share(Share("op[0]", 4))
        await settle()
        assert not cutting.done()
        assert house.events == [], "a share of another epoch is none of this one"
        house.coordinator.share(Share("op[0]", 5))
        assert (await cutting).epoch == 5

    run(main())


def test_a_task_that_has_ended_counts_with_its_last_share_but_a_writer_answers(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        house = House(tmp_path)
        coordinator = house.coordinator
        done = tuple(SplitState(split, Position({"end": 1}), done=True) for split in SPLITS)
        coordinator.share(Share("in[0]", None, splits=done))
        coordinator.share(Share("op[0]", None, state=OperatorSnapshot(0, (), {"left": 0})))
        assert not coordinator.all_ended.is_set()
        coordinator.share(Share("out[0]", None))
        assert coordinator.all_ended.is_set()
        cutting = asyncio.ensure_future(coordinator.checkpoint(final=True))
        await settle()
        assert not cutting.done()
        assert house.writer.asked[0].barrier.final
        coordinator.share(Share("out[0]", 5, committable=Committable(0, {})))
        manifest = await cutting
        assert manifest.final
        assert all(state.done for state in manifest.sources["in"].all_states())
        assert manifest.operators["op"][0].facts == {"left": 0}
        assert manifest.committables["out"] == (Committable(0, {}),), "the writer's own answer"

    run(main())


def test_an_epoch_that_takes_too_long_says_which_task_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path, timeout_s=0.05)
        house.all_answer()
        house.operator.answer = lambda asked: None
        with pytest.raises(CheckpointError) as caught:
            await house.coordinator.checkpoint()
        assert caught.value.code == "E0705"
        assert caught.value.notes == ["waiting for: op[0]"]
        assert (house.published, house.committer.commits) == ([], [])

    run(main())


def test_splits_are_assigned_once_and_those_done_never(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        coordinator = house.coordinator
        assigned = [await coordinator.assign("in", "in[0]")]
        assert not house.source.told_open  # a split is not open yet
        assigned += [await coordinator.assign("in", "in[0]") for _ in range(2)]
        assert [each and each.split.id for each in assigned] == ["b", "c", None]
        assert (house.source.told_open, house.writer.told_open) == (["in"], [])

    run(main())


def test_failures_and_new_fields_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        coordinator = House(tmp_path).coordinator
        fields = NewFields([0], {"x": [0]}, lambda row: "", None, lambda samples: {})
        coordinator.fail(Fail("in[0]", new_fields=[fields]))
        assert coordinator.fields_appeared.is_set()
        assert coordinator.new_fields == {"in": [fields]}
        assert not coordinator.failed.done()
        coordinator.fail(Fail("op[0]", OSError("gone")))
        coordinator.fail(Fail("out[0]", OSError("the second is not told")))
        with pytest.raises(OSError, match="gone"):
            await coordinator.failed

    run(main())


def test_epochs_follow_each_other_and_old_checkpoints_go(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        for _ in range(4):
            manifest = await house.coordinator.checkpoint()
        await house.coordinator.settle()
        assert [epoch for epoch, _ in house.committer.commits] == [5, 6, 7, 8]
        assert [each.epoch for each in house.published] == [8, 7], "so many are retained"
        assert house.noted == [5, 6, 7, 8]
        assert house.events[:4] == [
            ("published", 5), ("committed", 5, 1), ("published", 6), ("committed", 6, 2),
        ]  # fmt: skip
        stats = house.coordinator.stats
        assert (stats.completed, stats.last_epoch) == (4, 8)
        assert stats.last_bytes >= len(manifest.to_text())
        assert stats.last_s is not None

    run(main())


def test_the_final_barrier_says_what_was_left_out_and_others_do_not(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        first = await house.coordinator.checkpoint(stops=True)
        last = await house.coordinator.checkpoint(final=True)
        asked = house.writer.asked
        assert [(each.barrier.final, each.stops) for each in asked] == [
            (False, True),
            (True, False),
        ]
        assert [each.barrier.left_out for each in asked] == [{}, {"in": 6}]
        assert [(m.final, m.left_out) for m in (first, last)] == [
            (False, {"in": 5}),
            (True, {"in": 6}),
        ]

    run(main())


def test_too_many_failed_rows_end_the_run_before_anything_is_published(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()

        def judge(*, final: bool) -> None:
            raise RunError("too many", code="E0802", help="look at the rows")

        house.coordinator._judge = judge
        with pytest.raises(RunError):
            await house.coordinator.checkpoint()
        assert (house.published, house.events, house.committer.commits) == ([], [], [])

    run(main())


def test_an_epoch_that_takes_too_long_may_be_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(CheckpointError) as caught:
            await House(tmp_path, timeout_s=0.02).coordinator.checkpoint()
        assert caught.value.retry is Retry.LATER

    run(main())


class Held(Noting):
    """Commits when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let = asyncio.Event(), asyncio.Event()
        self.cancelled = False

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        self.begun.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        await super().commit(epoch, committables)


@pytest.mark.parametrize("in_time", [True, False])
def test_a_commit_that_has_begun_is_waited_for_when_the_attempt_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        house.committer = held = Held()
        house.coordinator.committers = {"out": held}
        cutting = asyncio.ensure_future(house.coordinator.checkpoint())
        await held.begun.wait()
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
        if not in_time:
            monkeypatch.setattr(coordinator, "_SETTLE_S", 0.01)
        settling = asyncio.ensure_future(house.coordinator.settle())
        if in_time:
            await settle()
            assert not settling.done()
            held.let.set()
        await settling
        assert (len(held.commits), held.cancelled) == ((1, False) if in_time else (0, True))

    run(main())


def test_a_manifest_that_is_being_stored_is_waited_for_when_the_attempt_fails(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        storing, let = threading.Event(), threading.Event()

        class Slow(LocalStore):
            def publish(self, manifest: Manifest) -> None:
                storing.set()
                let.wait(10)
                super().publish(manifest)

        house = House(tmp_path)
        house.all_answer()
        house.coordinator.store = house.store = Slow(tmp_path, LINEAGE)
        cutting = asyncio.ensure_future(house.coordinator.checkpoint())
        while not storing.is_set():
            await asyncio.sleep(0.001)
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
        settling = asyncio.ensure_future(house.coordinator.settle())
        await settle()
        assert not settling.done()
        let.set()
        await settling
        assert ([each.epoch for each in house.published], house.noted) == ([5], [5])

    run(main())


def test_a_cut_that_is_cancelled_with_its_last_share_publishes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        house.operator.answer = lambda asked: None
        cutting = asyncio.ensure_future(house.coordinator.checkpoint())
        await settle()
        house.coordinator.share(Share("op[0]", 5))
        cutting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cutting
        assert (house.published, house.noted) == ([], [])

    run(main())


def finding(house: House, listed: int = 3) -> tuple[list[bool], list[str]]:
    """Make the source of the house one that finds splits. Gives how often a checkpoint was asked for, and which
    calls its finder had."""
    wanted: list[bool] = []
    woken: list[str] = []

    class Ear:
        def wake(self) -> None:
            woken.append("woken")

    record = SourceRecord(SourceSnapshot(tuple(SPLITS[:listed])))
    house.coordinator = Coordinator(
        Identity(LINEAGE, "run", 1, {}),
        house.store,
        ThreadPool(1),
        epoch=4,
        sources={"in": record},
        committers={},
        retain=2,
        timeout_s=10.0,
        counters=dict,
        judge=lambda final: None,
        note=house.noted.append,
        published=lambda epoch: None,
        committed=lambda epoch: None,
        discovering={"in"},
        wants_checkpoint=lambda: wanted.append(True),
    )
    house.coordinator.finders["in"] = Ear()  # type: ignore[assignment]
    house.coordinator.register(house.source)
    return wanted, woken


def test_splits_that_are_found_are_in_the_next_manifest_and_are_given_once(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        finding(house, listed=1)
        coordinator = house.coordinator
        assert await coordinator.assign("in", "in[0]") == Assign(SPLITS[0])
        assert await coordinator.assign("in", "in[0]") == Wait()
        coordinator.find("in", [*SPLITS[:2], SPLITS[1]])
        assert house.source.told_found == ["in"]
        house.source.answer = lambda asked: coordinator.share(
            Share("in[0]", asked.barrier.epoch, splits=(SplitState(SPLITS[0], done=True),))
        )
        states = (await coordinator.checkpoint()).sources["in"].states
        assert (states["a"].done, states["b"]) == (True, SplitState(SPLITS[1]))
        assert await coordinator.assign("in", "in[0]") == Assign(SPLITS[1])
        assert await coordinator.assign("in", "in[0]") == Wait()
        known = await coordinator.known("in")
        assert (set(known.ids), set(known.done)) == ({"a", "b"}, {"a"})
        coordinator.find("in", None)
        assert await coordinator.assign("in", "in[0]") is None

    run(main())


def test_when_all_is_read_a_checkpoint_is_asked_for_and_then_splits(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        wanted, woken = finding(house, listed=1)
        coordinator = house.coordinator
        await coordinator.assign("in", "in[0]")
        assert not wanted
        assert await coordinator.assign("in", "in[0]") == Wait()
        assert (wanted, woken) == ([True], [])
        assert not (await coordinator.known("in")).all_done, "no checkpoint says so"
        house.source.answer = lambda asked: coordinator.share(
            Share("in[0]", asked.barrier.epoch, splits=(SplitState(SPLITS[0], done=True),))
        )
        await coordinator.checkpoint()
        assert woken == ["woken"]
        assert (await coordinator.known("in")).all_done
        await coordinator.checkpoint()
        assert woken == ["woken"], "nothing has changed"

    run(main())


def test_new_fields_inside_a_transaction_end_the_cut_that_waits_for_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        house.all_answer()
        house.source.answer = lambda asked: None
        coordinator = house.coordinator
        cutting = asyncio.ensure_future(coordinator.checkpoint())
        await settle()
        fields = NewFields([0], {"x": [0]}, lambda row: "", None, lambda samples: {})
        coordinator.fail(Fail("in[0]", new_fields=[fields], may_cut=False))
        with pytest.raises(CannotCut):
            await cutting
        with pytest.raises(CannotCut):
            await coordinator.checkpoint(stops=True)
        assert (house.published, house.committer.commits) == ([], [])

    run(main())


def test_an_epoch_that_waits_for_a_transaction_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path, timeout_s=0.05)
        house.all_answer()
        house.source.answer, house.source.reason = lambda asked: None, "inside a transaction"
        with pytest.raises(CheckpointError) as caught:
            await house.coordinator.checkpoint()
        assert caught.value.notes == ["waiting for: in[0]", "inside a transaction"]

    run(main())


class Counted(dict[str, Any]):
    """Counts how often a member is read."""

    looks = 0

    def items(self) -> Any:
        for each in super().items():
            self.looks += 1
            yield each

    def __getitem__(self, task: str) -> Any:
        self.looks += 1
        return super().__getitem__(task)


def test_an_epoch_looks_at_each_task_a_few_times_however_many_there_are(tmp_path: Path) -> None:
    async def looks(tasks: int) -> int:
        house = House(tmp_path / str(tasks))
        house.all_answer()
        for number in range(1, tasks):
            house.coordinator.register(Puppet(f"op[{number}]", Kind("op", operator=True)))
        house.coordinator.members = members = Counted(house.coordinator.members)
        cut = asyncio.ensure_future(house.coordinator.checkpoint())
        await asyncio.sleep(0)
        for number in range(1, tasks):
            share = OperatorSnapshot(number, (), {"left": 1})
            house.coordinator.share(Share(f"op[{number}]", 5, state=share))
        await cut
        return members.looks

    async def main() -> None:
        assert await looks(500) <= await looks(50) * 11

    run(main())
