"""Other writers, and other attempts at a run, change the table at the worst moments."""

from __future__ import annotations

import asyncio
from typing import Any

import polars as pl
import pytest
from lake_kit import Lake, Step, batch
from msgspec.structs import replace

from dataflare.errors import DataFlareError, Retry, RunError, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.lakes import marker
from dataflare.sdk.lakes.store import LakeStore
from dataflare.sdk.lakes.table import LakeTable

ROWS = pl.DataFrame({"id": [1, 2, 3], "v": ["a", "b", "c"]})
SCHEMA = Schema.from_polars(ROWS.schema)
KEYED: dict[str, Any] = {"mode": "upsert", "key": ["id"]}
OTHER = "1f0e0d0c-0b0a-4000-8000-000000000002"


def contents(lake: Lake) -> list[tuple[Any, ...]]:
    return lake.frame().select("id", "v").sort("id", "v").rows()


def data_files(lake: Lake) -> int:
    return len([p for p in lake.folder.rglob("*.parquet") if "_delta_log" not in str(p)])


def test_appended_rows_come_behind_those_of_a_faster_writer(lake: Lake):
    async def go() -> None:
        step = await Step(lake, SCHEMA).start()
        await step.epoch(1, batch(ROWS[:1]))
        made = await step.prepare(2, batch(ROWS[1:2]))
        lake.add(ROWS[2:])
        files = data_files(lake)
        await step.commit(2, [made])
        assert data_files(lake) == files, "the rows are not written again"
        await step.commit(2, [made])
        await step.close()

    asyncio.run(go())
    assert contents(lake) == ROWS.rows()


def test_a_changed_key_is_looked_for_in_what_a_faster_writer_added(lake: Lake):
    async def go() -> None:
        step = await Step(lake, SCHEMA, **KEYED).start()
        await step.epoch(1, batch(ROWS[:1]))
        made = await step.prepare(2, batch(pl.DataFrame({"id": [3], "v": ["new"]})))
        lake.add(ROWS[2:])
        with pytest.raises(DataFlareError) as caught:
            await step.commit(2, [made])
        assert caught.value.code == "E0605"
        assert caught.value.retry is Retry.LATER
        await step.commit(2, [made])
        await step.close()

    asyncio.run(go())
    assert contents(lake) == [(1, "a"), (3, "new")]


def test_the_engine_makes_such_a_commit_again_by_itself(lake: Lake, monkeypatch):
    """Without a retry policy."""
    assert lake.run("[{id: 1, v: a}]", "mode: upsert, key: [id]").error is None
    plain, added = LakeStore._change, []

    def change(store: LakeStore, table: Any) -> Any:
        made = plain(store, table)
        if made.adds and not added:
            added.append(True)
            lake.add(pl.DataFrame({"id": [2], "v": ["other"]}))
        return made

    monkeypatch.setattr(LakeStore, "_change", change)
    result = lake.run("[{id: 1, v: x}, {id: 2, v: y}]", "mode: upsert, key: [id]")
    assert result.error is None
    assert contents(lake) == [(1, "x"), (2, "y")]


def test_an_attempt_that_was_replaced_writes_no_more(lake: Lake):
    async def go() -> None:
        old = await Step(lake, SCHEMA).start()
        await old.epoch(1, batch(ROWS[:1]))
        made = await old.prepare(2, batch(ROWS[1:2]))
        old.die()
        new = await Step(lake, SCHEMA, attempt=2).start(2, [made])
        with pytest.raises(RunError) as caught:
            await old.commit(2, [made])
        assert caught.value.code == "E0804"
        await new.epoch(3, batch(ROWS[2:]), final=True)
        with pytest.raises(RunError):
            await old.commit(2, [made])
        await new.close()

    asyncio.run(go())
    assert contents(lake) == ROWS.rows()


def test_an_attempt_that_is_replaced_while_it_commits_writes_no_more(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
):
    """The other one writes its marker after the older one has read its own."""
    plain, replaced = LakeStore._change, []

    def change(store: LakeStore, table: LakeTable) -> Any:
        made = plain(store, table)
        if not replaced:
            ((slot, text),) = made.markers.items()
            other = replace(marker.parse(text), attempt=2, token="token 2")
            replaced.append(slot)
            newest = store.load()
            assert newest is not None
            newest.commit(replace(made, adds=[], counters={}, markers={slot: other.text()}))
        return made

    async def go() -> None:
        old = await Step(lake, SCHEMA).start()
        await old.epoch(1, batch(ROWS[:1]))
        made = await old.prepare(2, batch(ROWS[1:]))
        monkeypatch.setattr(LakeStore, "_change", change)
        with pytest.raises(DataFlareError) as caught:
            await old.commit(2, [made])
        assert caught.value.code == "E0605"
        with pytest.raises(RunError) as fenced:
            await old.commit(2, [made])
        assert fenced.value.code == "E0804"
        old.die()

    asyncio.run(go())
    assert contents(lake) == ROWS[:1].rows()


def test_a_commit_whose_answer_is_lost_keeps_its_files(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """A rollback may not delete them: the table may have them, and here it does."""
    plain = LakeStore._change

    def change(store: LakeStore, table: LakeTable) -> Any:
        commit = type(table).commit

        def lost(self: LakeTable, made: Any) -> None:
            commit(self, made)
            raise SystemError_("the answer is lost", code="E0607", retry=Retry.LATER)

        monkeypatch.setattr(type(table), "commit", lost)
        return plain(store, table)

    async def go() -> None:
        step = await Step(lake, SCHEMA).start()
        await step.epoch(1, batch(ROWS[:1]))
        made = await step.prepare(2, batch(ROWS[1:]))
        with monkeypatch.context() as patched:
            patched.setattr(LakeStore, "_change", change)
            with pytest.raises(SystemError_, match="the answer is lost"):
                await step.commit(2, [made])
        monkeypatch.undo()
        assert contents(lake) == ROWS.rows()
        await step.commit(2, [made])
        await step.close()

    asyncio.run(go())
    assert contents(lake) == ROWS.rows()


def test_two_workflows_append_to_one_table_side_by_side(lake: Lake):
    async def go() -> None:
        one = await Step(lake, SCHEMA, workflow="one").start()
        two = await Step(lake, SCHEMA, workflow="two", lineage=OTHER).start()
        first = await one.prepare(1, batch(ROWS[:1]))
        second = await two.prepare(1, batch(ROWS[1:]))
        await two.commit(1, [second])
        await one.commit(1, [first])
        await one.close()
        await two.close()

    asyncio.run(go())
    assert contents(lake) == ROWS.rows()


def test_a_second_home_is_refused_and_goes_on_when_it_adopts(lake: Lake):
    assert lake.run("[{id: 1, v: a}]", "mode: append", "one").error is None
    refused = lake.run("[{id: 1, v: a}]", "mode: append", "two")
    assert refused.error is not None
    assert refused.error.code == "E0806"
    assert contents(lake) == [(1, "a")]
    assert lake.run("[{id: 2, v: b}]", "mode: append", "two", adopt=True).error is None
    fenced = lake.run("[{id: 3, v: c}]", "mode: append", "one")
    assert fenced.error is not None
    assert contents(lake) == [(1, "a"), (2, "b")]


def test_a_compaction_in_the_middle_of_a_mirror_deletes_nothing(lake: Lake):
    options = {"mode": "mirror", "key": ["id"], "delete_max": "100%"}

    async def go() -> None:
        old = await Step(lake, SCHEMA, **options).start()
        await old.epoch(1, batch(pl.DataFrame({"id": [9], "v": ["old"]})), final=True)
        await old.close()
        step = await Step(lake, SCHEMA, attempt=2, complete=True, **options).start(1)
        await step.epoch(2, batch(ROWS[:2]))
        if lake.kind == "delta":
            lake.table().optimize.compact()
        else:
            lake.table().overwrite(lake.table().scan().to_arrow())
        with pytest.raises(DataFlareError) as caught:
            await step.epoch(3, batch(ROWS[2:]), final=True)
        assert caught.value.code == "E0705"
        await step.close()

    asyncio.run(go())
    assert contents(lake) == [(1, "a"), (2, "b"), (9, "old")]


def test_a_mirror_of_a_full_read_removes_what_did_not_come(lake: Lake):
    rows = "[{id: 1, v: a}, {id: 2, v: b}, {id: 3, v: c}, {id: 4, v: d}, {id: 5, v: e}]"
    assert lake.run(rows, "mode: mirror, key: [id]").error is None
    fewer = rows.replace("{id: 2, v: b}, ", "").replace("v: c", "v: new")
    result = lake.run(fewer, "mode: mirror, key: [id]")
    assert result.error is None
    assert result.published["d"]["deleted"] == 1
    assert contents(lake) == [(1, "a"), (3, "new"), (4, "d"), (5, "e")]
    refused = lake.run("[{id: 1, v: a}]", "mode: mirror, key: [id]")
    assert refused.error is not None
    assert refused.error.code == "E0512"
    assert contents(lake) == [(1, "a"), (3, "new"), (4, "d"), (5, "e")]
