"""`mode: mirror`: a changelog, and the table without the rows that it deletes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from clickhouse_kit import Database, batch, run

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions
from dataflare.jobs import run as run_workflow
from dataflare.model.batch import RowKind
from dataflare.model.types import INT64, STRING, Schema
from dataflare.workflow.load import load_text

SCHEMA = Schema.of([("id", INT64), ("text", STRING)])
MIRROR = {"mode": "mirror", "key": ["id"], "batch_size": 7}
THERE = "select id, text from t final order by id"


def changes(rng: random.Random, rows: dict[int, str], count: int) -> Any:
    """A batch of so many changes. rows: what is there, changed along."""
    made: list[tuple[int, str | None, RowKind]] = []
    for _ in range(count):
        id_, text = rng.randrange(8), f"t{rng.randrange(1_000)}"
        if id_ not in rows:
            made.append((id_, text, RowKind.INSERT))
        elif rng.random() < 0.4:
            del rows[id_]
            made.append((id_, None, RowKind.DELETE))
            continue
        else:
            made += [(id_, rows[id_], RowKind.UPDATE_BEFORE), (id_, text, RowKind.UPDATE_AFTER)]
        rows[id_] = text
    return batch(
        [{"id": id_, "text": text} for id_, text, _ in made],
        [kind.value for *_, kind in made],
        id=SCHEMA["id"].to_polars(),
        text=SCHEMA["text"].to_polars(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_table_has_what_the_changelog_leaves_also_where_epochs_are_committed_again(
    database: Database, seed: int
) -> None:
    """A run that goes on commits its last epoch again; a new lineage begins with low epochs, and its rows are the newest."""
    rng, rows = random.Random(seed), dict[int, str]()

    async def write() -> None:
        for lineage in range(2):
            name, before = f"0f0e0d0c-0b0a-4000-8000-00000000000{lineage}", dict(rows)
            step = await database.step(SCHEMA, lineage=name, **MIRROR).start()
            if lineage:
                await step.committer.supersede(0)
            first = changes(rng, before, 30)
            rows.clear()
            rows.update(before)
            made = await step.epoch(1, first)
            await step.close()
            step = await database.step(SCHEMA, lineage=name, attempt=2, **MIRROR).start(1, [made])
            assert database.rows(THERE) == [[k, rows[k]] for k in sorted(rows)]
            await step.epoch(2, changes(rng, rows, 30), changes(rng, rows, 5), final=True)
            await step.close()
            assert database.rows(THERE) == [[k, rows[k]] for k in sorted(rows)]

    run(write())


def test_rows_that_a_changelog_deletes_stay_with_the_time(database: Database) -> None:
    schema = Schema.of([("id", INT64), ("text", STRING)])

    def of(*rows: tuple[int, str | None, RowKind]) -> Any:
        return batch(
            [{"id": id_, "text": text} for id_, text, _ in rows],
            [kind.value for *_, kind in rows],
            id=schema["id"].to_polars(),
            text=schema["text"].to_polars(),
        )

    def there() -> dict[int, tuple[str, str | None]]:
        return {i: (t, g) for i, t, g in database.rows("select id, text, gone from t final")}

    async def write() -> None:
        step = await database.step(schema, deleted_at="gone", **MIRROR).start()
        await step.epoch(1, of((1, "a", RowKind.INSERT), (2, "b", RowKind.INSERT)))
        await step.epoch(2, of((2, None, RowKind.DELETE), (3, None, RowKind.DELETE)))
        marked = there()
        assert {i: (t, g is None) for i, (t, g) in marked.items()} == {
            1: ("a", True), 2: ("b", False)
        }  # fmt: skip
        await step.epoch(3, of((2, None, RowKind.DELETE)))
        assert there() == marked
        await step.epoch(4, of((2, "back", RowKind.INSERT)), final=True)
        assert there() == {1: ("a", None), 2: ("back", None)}
        assert database.rows("show tables like '_dataflare_seen%'") == []
        await step.close()

    run(write())


def test_a_table_that_could_not_tell_deleted_rows_is_refused(database: Database) -> None:
    database.execute(
        "create table t (id Int64, text String, v UInt64) engine = ReplacingMergeTree(v) order by id"
    )
    with pytest.raises(DataFlareError, match=r"ReplacingMergeTree\(_version, _deleted\)"):
        run(database.step(SCHEMA, **MIRROR).start())


WORKFLOW = """\
name: full
sources: {rows: {type: file, config: {path: rows.csv}, schema: {id: int64, text: string}}}
destinations:
  out: {type: clickhouse, inputs: [rows], config: {connection_string: "CLICKHOUSE", table: t, MODE}}
"""


def ran(database: Database, folder: Path, mode: str) -> Any:
    text = WORKFLOW.replace("CLICKHOUSE", database.dsn).replace("MODE", mode)
    return run_workflow(load_text(text, base=folder), RunOptions(folder / mode[:10]))


def test_a_full_read_is_refused_because_it_does_not_say_which_rows_are_gone(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n")
    result = ran(database, tmp_path, "mode: mirror, key: id")
    assert result.error is not None
    assert (result.error.code, "which ones are gone" in result.error.message) == ("E0404", True)


def test_a_failed_run_says_nothing_of_rows_that_were_not_committed(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("id,text\n" + "1,a\n" * 200_000 + "x,a\n")
    result = ran(database, tmp_path, "mode: append")
    assert result.error is not None
    assert database.rows("select count() from t") in ([], [[0]])
    assert not [text for text in result.warnings if "of this run" in text]
