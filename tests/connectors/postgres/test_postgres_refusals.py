"""Rows that PostgreSQL refuses are left out and given back; the good ones of the batch stay."""

from __future__ import annotations

from typing import Any

import polars as pl
import psycopg
import pytest
from postgres_kit import Database, batch, run

from dataflare.connectors.postgres.binary import binary
from dataflare.errors import DataError
from dataflare.model.types import Schema

SCHEMA = Schema.of({"id": "int64", "v": "string", "n": "int64", "u": "int64", "p": "int64"})
DDL = (
    "create table parent (p bigint primary key)",
    "insert into parent values (1)",
    "create table t (id bigint primary key, v varchar(20) not null, n int check (n > 0), u bigint unique, "
    "p bigint references parent, m text default 'made')",
)
COLUMNS = "id, v, n, u, p"
MODES = [
    {"mode": "append"},
    {"mode": "upsert", "key": ["id"]},
    {"mode": "mirror", "key": ["id"]},
    {"mode": "overwrite"},
]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a check": ({"n": 0}, 'violates check constraint "'),
    "a missing value": ({"v": None}, 'null value in column "v"'),
    "a double": ({"u": 100}, 'duplicate key value violates unique constraint "'),
    "a foreign key": ({"p": 2}, 'violates foreign key constraint "'),
    "a value out of range": ({"n": 2**40}, "out of range for type integer"),
    "a text too long": ({"v": "x" * 21}, "value too long"),
    "a zero byte": ({"v": "a\0b"}, "invalid byte sequence"),
}
INSERT, BEFORE, AFTER, DELETE = 0, 1, 2, 3


def given(changed: dict[int, dict[str, Any]], count: int = 3_000) -> pl.DataFrame:
    """Rows 0 to count, each with a unique value, except for changes in some rows. One value is that
    of row 100."""
    made = [{"id": i, "v": "a\nb" if i % 7 else "x", "n": 1, "u": i, "p": 1} for i in range(count)]
    for at, values in changed.items():
        made[at] |= values
    return pl.DataFrame(made, schema=SCHEMA.to_polars())


async def go_through(database: Database, config: dict[str, Any], frame: pl.DataFrame, lost: bool,
                     size: int = 1_000, final: bool = True) -> list[Any]:  # fmt: skip
    """Write a frame in an epoch, and commit it, after a crash if asked."""
    step = await database.step(SCHEMA, sift=True, **config).start()
    parts = [batch(part.to_dicts(), **SCHEMA.to_polars()) for part in frame.iter_slices(size)]
    refused = await step.settle(*parts)
    made = await step.prepare(1, final=final)
    if lost:
        step.die()
    await step.commit(1, [made], final=final)
    await step.close()
    return refused


@pytest.mark.parametrize("config", MODES, ids=lambda c: c["mode"])
@pytest.mark.parametrize("lost", [False, True], ids=["commit", "redo"])
@pytest.mark.parametrize("why", BAD)
def test_just_the_bad_rows_are_left_out(database, config, lost, why):
    changed, said = BAD[why]
    at = [101, 1_500, 1_501, 2_999] + ([0] if why != "a double" else [])
    frame = given(dict.fromkeys(at, changed))
    bad = frame.filter(pl.col("id").is_in(at))
    database.execute(*DDL)
    refused = run(go_through(database, config, frame, lost))
    assert [row.row for row in refused] == bad.to_dicts()
    assert {row.code for row in refused} == {"E0510"}
    assert all(said in row.message for row in refused)
    found = database.rows(f"select {COLUMNS} from t order by id")
    assert found == frame.join(bad.select("id"), on="id", how="anti").rows()


@pytest.mark.parametrize("sift", [True, False], ids=["sift", "fail"])
@pytest.mark.parametrize("config", MODES, ids=lambda c: c["mode"])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("v ä", "four", "value too long for type character varying(3)"),
        ("c", "five!", "value too long for type character(4)"),
        ("d", 1e6, "numeric field overflow"),
        ("s", 70_000, "out of range for type smallint"),
        ("short", "four", "value too long for type character varying(3)"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_column(
    database, config, sift, column, value, said
):
    schema = Schema.of({
        "id": "int64", "v ä": "string", "c": "string", "d": "float64", "s": "int64", "short": "string",
    })  # fmt: skip
    good = {"v ä": "abc", "c": "abc", "d": 1.5, "s": 1, "short": "abc"}
    rows = [{"id": n} | good | ({column: value} if n == 2 else {}) for n in range(5)]
    database.execute(
        "create domain brief as varchar(3)",
        'create table t (id bigint primary key, "v ä" varchar(3), c char(4), d numeric(5, 2), '
        "s smallint, short brief)",
    )

    async def go() -> str:
        step = await database.step(schema, sift=sift, **config).start()
        frame = batch(rows, **schema.to_polars())
        if not sift:
            with pytest.raises(DataError) as caught:
                await step.prepare(1, frame, final=True)
            assert caught.value.notes[0].startswith("the row: id = 2")
            step.die()
            return caught.value.message
        [refused] = await step.settle(frame)
        assert refused.row == rows[2]
        await step.close()
        return refused.message

    message = run(go())
    assert f"refuses a row: column '{column}': " in message
    assert said in message


@pytest.mark.parametrize("config", MODES, ids=lambda c: c["mode"])
def test_the_column_is_told_of_rows_that_go_as_binary_too(database, config):
    schema = Schema.of({"id": "int64", "v": "string"})
    database.execute("create table t (id bigint primary key, v varchar(3))")
    rows = batch([{"id": 1, "v": "abc"}, {"id": 2, "v": "four"}], **schema.to_polars())

    async def go() -> DataError:
        step = await database.step(schema, **config).start()
        assert binary(rows.frame, {f.name: f.type for f in schema}, {}) is not None
        with pytest.raises(DataError) as caught:
            await step.prepare(1, rows, final=True)
        step.die()
        return caught.value

    error = run(go())
    assert error.message == (
        "table 't' refuses a row: column 'v': value too long for type character varying(3)"
    )
    assert error.notes == ["the row: id = 2" + ("" if "key" in config else ", v = 'four'")]


def test_rows_of_all_kinds_in_many_epochs(database):
    """Eager copies, several of them in an epoch, and a refusal in each."""
    kinds = [values for values, _ in BAD.values()]
    frame = given({at: kinds[at // 500 % len(kinds)] for at in range(250, 20_000, 500)}, 20_000)
    database.execute(*DDL)

    async def go() -> list[int]:
        step = await database.step(SCHEMA, sift=True, batch_size=1_000).start()
        refused = []
        for number, part in enumerate(frame.iter_slices(4_000), 1):
            parts = [batch(p.to_dicts(), **SCHEMA.to_polars()) for p in part.iter_slices(300)]
            refused += await step.settle(*parts)
            await step.commit(number, [await step.prepare(number)])
        await step.close()
        return [row.row["id"] for row in refused]

    assert run(go()) == list(range(250, 20_000, 500))
    assert database.rows("select count(*), count(distinct id) from t") == [(19_960, 19_960)]


@pytest.mark.rotates(3)
@pytest.mark.parametrize("config", MODES[:3], ids=lambda c: c["mode"])
def test_a_child_may_come_before_its_parent(database, config):
    """In one table, whether its constraint waits or not, though a bad row has the rest cut in slices."""
    schema = Schema.of({"id": "int64", "up": "int64", "n": "int64"})

    async def go(table: str) -> list[int]:
        rows = [{"id": i, "up": i + 1_000 if i < 2_000 else None, "n": 1} for i in range(3_000)]
        rows[1_234]["n"] = 0
        rows[7]["up"] = 99_999
        step = await database.step(schema, step=table, sift=True, table=table, **config).start()
        refused = await step.settle(batch(rows, **schema.to_polars()))
        await step.commit(1, [await step.prepare(1)])
        await step.close()
        return [row.row["id"] for row in refused]

    for table, when in (("now", ""), ("later", "deferrable initially deferred")):
        database.execute(
            f"create table {table} (id bigint primary key, up bigint references {table} {when}, "
            "n bigint check (n > 0))"
        )
        # 234 refers to 1234, which is bad.
        assert run(go(table)) == [7, 234, 1_234]
        assert database.rows(f"select count(*) from {table}") == [(2_997,)]


@pytest.mark.parametrize("lost", [False, True], ids=["commit", "redo"])
@pytest.mark.parametrize("sequence", [None, "u"])
@pytest.mark.parametrize("mode", ["upsert", "mirror"])
def test_the_last_good_row_of_a_key_stays(database, mode, sequence, lost):
    database.execute(*DDL, "insert into t values (1, 'old', 1, 1, 1), (3, 'gone', 1, 3, 1)")
    changes = [
        (1, "old", 1, 1, None, BEFORE), (1, "new", 2, 10, None, AFTER), (1, "new", 2, 10, None, BEFORE),
        (1, "bad", 0, 11, None, AFTER), (2, "in", 1, 2, None, INSERT), (None, "keyless", 1, 5, None, INSERT),
        (3, "gone", 1, 3, None, DELETE),
    ]  # fmt: skip
    made = [dict(zip(SCHEMA.names, row, strict=False)) for row in changes]

    async def go() -> list[Any]:
        more = {"sequence": sequence} if sequence else {}
        step = await database.step(
            SCHEMA, sift=True, mode=mode, key=["id"], is_changelog=True, **more
        ).start()
        rows = batch(made, [row[-1] for row in changes], **SCHEMA.to_polars())
        refused = await step.settle(rows)
        prepared = await step.prepare(1)
        if lost:
            step.die()
        await step.commit(1, [prepared])
        await step.close()
        return [row.row for row in refused]

    assert run(go()) == [made[3], made[5]]
    kept = [(3, "gone", 1)] if mode == "upsert" else []
    assert database.rows("select id, v, n from t order by id") == [
        (1, "new", 2),
        (2, "in", 1),
        *kept,
    ]


def test_a_refused_delete_fails_the_run(database):
    database.execute(*DDL, "insert into t values (1, 'x', 1, 1, 1)")

    async def go() -> None:
        step = await database.step(
            Schema.of({"p": "int64"}), table="parent", sift=True, mode="mirror", key=["p"],
            is_changelog=True,
        ).start()  # fmt: skip
        with pytest.raises(DataError, match="foreign key") as caught:
            await step.settle(batch([{"p": 1}], [DELETE]))
        assert caught.value.notes[0] == "the row: p = 1"
        await step.close()

    run(go())
    assert database.rows("select p from parent") == [(1,)]


def test_what_a_trigger_or_a_policy_refuses(database):
    database.execute(
        *DDL,
        "create function odd() returns trigger language plpgsql as $$ begin if new.id % 1000 = 7 then "
        "raise exception 'not this one' using errcode = 'check_violation'; end if; return new; end $$",
        "create trigger odd before insert on t for each row execute function odd()",
    )
    refused = run(go_through(database, MODES[0], given({}), lost=False))
    assert [row.row["id"] for row in refused] == [7, 1_007, 2_007]
    assert refused[0].message == "table 't' refuses a row: not this one"


def test_values_that_we_refuse_ourselves_are_left_out_too(database):
    schema = Schema.of({"id": "int64", "at": "timestamp[ns]"})
    database.execute("create table t (id int primary key, at timestamp)")

    async def go() -> list[Any]:
        step = await database.step(schema, sift=True).start()
        at = [0, 1, 1_000, 5_000, 2_000]
        frame = pl.DataFrame({"id": [1, 2, 3, 3, 2**40], "at": at}).cast(schema.to_polars())
        from dataflare.model.batch import SharedDataBatch

        refused = await step.settle(SharedDataBatch(frame))
        await step.commit(1, [await step.prepare(1)])
        await step.close()
        return [(row.row["id"], row.code) for row in refused]

    assert run(go()) == [(2, "E0511"), (3, "E0510"), (2**40, "E0510")]
    assert database.rows("select id from t order by 1") == [(1,), (3,)]


@pytest.mark.parametrize("config", MODES[:3], ids=lambda c: c["mode"])
def test_refusals_are_found_again_after_the_connection_was_lost(database, config):
    """Before they were asked for, and between that and the commit."""
    database.execute(*DDL)
    frame = given({5: {"n": 0}, 2_500: {"v": None}})

    async def go() -> None:
        step = await database.step(SCHEMA, sift=True, batch_size=500, **config).start()
        for part in frame.iter_slices(600):
            await step.writer.write_batch(batch(part.to_dicts(), **SCHEMA.to_polars()))
        step.lose_connection()
        refused = await step.settle()
        assert [row.row["id"] for row in refused] == [5, 2_500]
        step.lose_connection()
        made = await step.prepare(1)
        step.lose_connection()
        await step.commit(1, [made])
        refused = await step.settle(batch([{"id": 9_000, "n": 0}], **SCHEMA.to_polars()))
        assert len(refused) == 1
        await step.commit(2, [await step.prepare(2)])
        await step.close()

    run(go())
    assert database.rows("select count(*) from t") == [(2_998,)]


def test_the_next_epoch_may_be_settled_before_the_last_is_committed(database):
    database.execute(*DDL)

    async def go() -> None:
        step = await database.step(SCHEMA, sift=True).start()
        frame = given({3: {"n": 0}, 8: {"n": 0}, 9: {"u": 1}}, 10)
        parts = [batch(p.to_dicts(), **SCHEMA.to_polars()) for p in frame.iter_slices(5)]
        refused = await step.settle(parts[0])
        first = await step.prepare(1)
        refused += await step.settle(parts[1])
        second = await step.prepare(2)
        assert [row.row["id"] for row in refused] == [3, 8, 9]
        await step.commit(1, [first])
        await step.commit(2, [second])
        await step.close()

    run(go())
    assert database.rows("select id from t order by 1") == [
        (0,),
        (1,),
        (2,),
        (4,),
        (5,),
        (6,),
        (7,),
    ]


def test_two_tables_of_a_run_share_the_transaction(database):
    """A deferred constraint between them is none of the other table's rows' business."""
    database.execute(
        "create table a (id bigint primary key, n bigint check (n > 0))",
        "create table b (id bigint primary key, a bigint references a deferrable initially deferred)",
    )

    async def go() -> None:
        a = Schema.of({"id": "int64", "n": "int64"})
        b = Schema.of({"id": "int64", "a": "int64"})
        to_a = await database.step(a, step="a", table="a", sift=True, batch_size=1).start()
        to_b = await database.step(b, step="b", table="b", batch_size=1).start()
        await to_b.writer.write_batch(batch([{"id": 1, "a": 1}]))
        refused = await to_a.settle(batch([{"id": 2, "n": 0}, {"id": 1, "n": 1}]))
        assert [row.row for row in refused] == [{"id": 2, "n": 0}]
        made = [await to_a.prepare(1), await to_b.prepare(1)]
        await to_a.commit(1, made[:1])
        await to_b.commit(1, made[1:])
        await to_a.close()
        await to_b.close()

    run(go())
    assert database.rows("select a.id, b.id from a join b on a.id = b.a") == [(1, 1)]


def test_staged_rules_need_no_more_rights_than_writing(database):
    """Under overwrite a foreign key is checked early only where the user may make one."""
    database.execute(*DDL, "drop role if exists keeper", "create role keeper login password 'keeper-1'",
                     "grant create, usage on schema public to keeper", "alter table t owner to keeper")  # fmt: skip
    dsn = database.server.dsn(database.name, user="keeper").replace(
        "s3cret-Pass%2Fw0rd", "keeper-1"
    )
    try:
        with psycopg.connect(dsn, autocommit=True) as db, pytest.raises(psycopg.Error):
            db.execute("create table x (p bigint references parent)")
        config = {"mode": "overwrite", "connection_string": dsn}
        refused = run(go_through(database, config, given({7: {"n": 0}}), lost=False))
        assert [row.row["id"] for row in refused] == [7]
        assert database.rows("select count(*) from t") == [(2_999,)]
    finally:
        database.execute("drop owned by keeper", "drop role keeper")
