"""What a source reads: in parts, from one snapshot, from a position, by a condition, what is new."""

from __future__ import annotations

import datetime as dt
import pickle

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_kit import Database, drain, run

from dataflare.errors import ConfigError, DataError, ExpressionError, Retry, SystemError_
from dataflare.expr import check_condition
from dataflare.model.text import SourceText, Variable
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.source import Replay

ROWS = 2_000


@pytest.fixture(scope="module")
def filled(server, tmp_path_factory) -> Database:
    name = "sources"
    Database(server, "postgres", tmp_path_factory.mktemp("x")).execute(f"create database {name}")
    made = Database(server, name, tmp_path_factory.mktemp("sources"))
    made.execute(
        "create table t (id int primary key, name text, at timestamptz, day date, v float8, n numeric(8, 2))",
        f"insert into t select i, 'n' || i % 10, timestamptz '2026-01-01 00:00+00' + i * interval '1 minute', "
        f"date '2026-01-01' + i % 30, case when i % 7 > 0 then i / 10.0 end, i / 4.0 from generate_series(1, {ROWS}) i",
        "create table keyless as select * from t",
        "create table pair (a text, b int, v int, primary key (a, b))",
        f"insert into pair select 'a' || i % 7, i, i from generate_series(1, {ROWS}) i",
        'create table "Odd Name" ("Id" uuid primary key)',
        'insert into "Odd Name" select gen_random_uuid() from generate_series(1, 50)',
        "create view seen as select id, name from t",
        "create table parted (id int, k int, primary key (id, k)) partition by hash (k)",
        "create table parted0 partition of parted for values with (modulus 2, remainder 0)",
        "create table parted1 partition of parted for values with (modulus 2, remainder 1)",
        f"insert into parted select i, i from generate_series(1, {ROWS}) i",
        "analyze",
    )
    return made


def ids(frame: pl.DataFrame) -> list[int]:
    return sorted(frame[frame.columns[0]].to_list())


@pytest.mark.parametrize(
    "config",
    [
        {"table": "t"},
        {"table": "public.t"},
        {"table": "T"},
        {"table": "keyless"},
        {"table": "seen"},
        {"table": "parted"},
        {"query": "select * from t"},
        {"query": "with x as (select * from t) select * from x order by id desc; -- end"},
        {"table": "t", "sharding": {"by": "range"}},
        {"table": "t", "sharding": {"by": "range", "splits": 5}},
        {"table": "t", "sharding": {"by": "range", "column": "v", "splits": 4}},
        {"table": "t", "sharding": {"by": "range", "boundaries": [1500, 3, 700, 3]}},
        {"table": "t", "sharding": {"by": "range", "column": "name", "boundaries": ["n3", "n5"]}},
        {"table": "t", "sharding": {"by": "hash", "splits": 3}},
        {"table": "t", "sharding": {"by": "hash", "column": "v", "splits": 3}},
        {"table": "t", "sharding": {"by": "time", "column": "at", "every": "5h"}},
        {"table": "t", "sharding": {"by": "time", "column": "at", "splits": 3}},
        {"table": "t", "sharding": {"by": "time", "column": "day", "every": "7d"}},
        {"table": "t", "sharding": {"by": "time", "column": "day", "every": "month"}},
        {"table": "t", "sharding": {"by": "time", "column": "at", "every": "year"}},
        {"table": "t", "sharding": {"by": "time", "column": "day", "boundaries": [dt.date(2026, 1, 9)]}},
        {"table": "t", "sharding": {"by": "ctid", "splits": 3}},
        {"table": "keyless", "sharding": {"by": "ctid"}},
        {"table": "parted", "sharding": {"by": "range", "splits": 3}},
        {"query": "select * from t", "sharding": {"by": "range", "column": "id", "splits": 3}},
        {"query": "select * from t", "sharding": {"by": "hash", "column": "id", "splits": 3}},
        {"query": "select * from t", "sharding": {"by": "time", "column": "at", "splits": 3}},
    ],
)  # fmt: skip
def test_each_row_is_read_once(filled, config):
    found, carried = run(filled.read(rows_max=300, **config))
    assert ids(found) == list(range(1, ROWS + 1))
    assert carried is None


def test_a_large_table_is_read_in_ranges_of_its_key(filled, monkeypatch):
    monkeypatch.setattr("dataflare.connectors.postgres.shards._ROWS_PER_SPLIT", 500)

    async def go():
        for table, key in (("t", "id"), ("pair", "a")):
            made = filled.source(table=table)
            splits = await made.splits()
            assert len(splits) > 2
            assert splits[0].data["column"] == key
            assert [s.id for s in splits] == [f"rows-{i}" for i in range(len(splits))]
            sizes = [len(pl.concat((await drain(made, s, None))[0])) for s in splits]
            assert sum(sizes) == ROWS
            assert min(sizes) > 100
            await made.aclose()
        keyless = filled.source(table="keyless")
        assert all("block" in split.data for split in await keyless.splits())
        await keyless.aclose()

    run(go())


@pytest.mark.parametrize(
    "config",
    [
        *({"table": table} for table in ("t", "pair", "Odd Name", "parted")),
        {"table": "t", "columns": ["name", "n"]},
        {"table": "pair", "columns": ["v", "b"]},
        {"table": "parted", "columns": ["k"]},
        {
            "table": "t",
            "contract": Schema.of([("id", parse_type("string")), ("n", parse_type("float64"))]),
        },
    ],
)
def test_a_part_goes_on_from_its_last_key(filled, config):
    async def go():
        made = filled.source(**config)
        [split] = await made.splits()
        whole, _ = await drain(made, split, None)
        first, place = await drain(made, split, None, rows_max=7, batches=3)
        await made.aclose()  # as after a crash: the snapshot is gone
        again = pickle.loads(pickle.dumps(filled.source(**config)))
        rest, _ = await drain(again, split, place)
        await again.aclose()
        assert pl.concat([*first, *rest]).equals(pl.concat(whole))
        assert sum(f.height for f in first) == 21

    run(go())


def test_all_parts_see_one_snapshot(database):
    database.execute(
        "create table t (id int primary key)", "insert into t select generate_series(1, 100)"
    )

    async def go():
        made = database.source(table="t", sharding={"by": "range", "splits": 4})
        splits = await made.splits()
        database.execute(
            "insert into t select generate_series(101, 200)", "delete from t where id < 50"
        )
        found = [frame for s in splits for frame in (await drain(made, s, None))[0]]
        assert ids(pl.concat(found)) == list(range(1, 101))
        await made.aclose()
        assert not database.rows(
            "select 1 from pg_stat_activity where application_name like 'dataflare%' "
            f"and datname = '{database.name}'"
        )

    run(go())


def test_a_snapshot_that_is_gone_asks_for_a_restart(database):
    database.execute("create table t (id int primary key)", "insert into t values (1), (2)")

    async def go():
        made = database.source(table="t", sharding={"by": "range", "splits": 2})
        splits = await made.splits()
        database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            f"where application_name like '%snapshot%' and datname = '{database.name}'"
        )
        with pytest.raises(SystemError_) as caught:
            await drain(made, splits[0], None)
        assert (caught.value.code, caught.value.retry) == ("E0607", Retry.RESTART)
        await made.aclose()
        found = [frame for s in splits for frame in (await drain(made, s, None))[0]]
        assert ids(pl.concat(found)) == [1, 2]
        await made.aclose()

    run(go())


def test_heirs_of_a_table_may_have_its_keys(database):
    database.execute(
        "create table t (id int primary key)", "create table heir () inherits (t)",
        "insert into t values (1)", "insert into heir values (1)",
    )  # fmt: skip

    async def go():
        made = database.source(table="t")
        await made.schema()
        assert made.capabilities().replay is Replay.NONE
        found, _ = await database.read(table="t")
        assert ids(found) == [1, 1]

    run(go())


def test_what_can_be_read_again_is_said_honestly(filled):
    async def go():
        for config, wanted in [
            ({"table": "t"}, Replay.BY_KEY),
            ({"table": "keyless"}, Replay.NONE),
            ({"table": "seen"}, Replay.NONE),
            ({"query": "select 1 as a"}, Replay.NONE),
            ({"table": "t", "sharding": {"by": "ctid"}}, Replay.NONE),
            ({"table": "t", "sharding": {"by": "hash"}}, Replay.BY_KEY),
            ({"table": "keyless", "incremental": {"column": "id"}}, Replay.BY_KEY),
        ]:
            made = filled.source(**config)
            await made.schema()
            assert made.capabilities().replay is wanted, config

    run(go())


def test_columns_are_read_in_the_order_asked_for(filled):
    found, _ = run(filled.read(table="t", columns=["name", "id"]))
    assert found.columns == ["name", "id"]
    found, _ = run(filled.read(table="t"))
    assert Schema.from_polars(found.schema).to_json() == {
        "id": "int32", "name": "string", "at": "timestamp[us, UTC]", "day": "date", "v": "float64",
        "n": "decimal(8, 2)"}  # fmt: skip


def test_no_columns_at_all_still_count_rows(filled):
    async def go():
        for table in ("t", "keyless"):
            made = filled.source(table=table)
            await made.schema()
            made = made.with_columns([])
            [split] = await made.splits()
            reader = await made.open(split, None)
            chunk = await reader.read_chunk()
            assert chunk.rows == ROWS or chunk.scan().collect().height == ROWS
            await reader.aclose()
            await made.aclose()

    run(go())


CONDITIONS = [
    "id > 10 and id <= 20", "name = 'n3'", "name == 'n3' or v is null", "name > 'n5'", "not (v > 50)",
    "at >= timestamptz '2026-01-01 10:00:00+00:00'", "day = date '2026-01-05'", "n = 12.25",
    "name like 'n_'", "name in ('n1', 'n2')", "v between 1.5 and 7.25", "name <> 'it''s'",
]  # fmt: skip


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_condition_means_in_the_database_what_it_means_here(filled, text):
    async def go():
        made = filled.source(table="t")
        condition = check_condition(text, await made.schema())
        pushed = made.with_filter(condition)
        if pushed is None:
            pytest.skip("not pushed down")
        found, _ = await filled.read(table="t", filters=[condition])
        whole, _ = await filled.read(table="t")
        assert ids(found) == ids(whole.filter(condition.lower().value))

    run(go())


def test_most_conditions_are_pushed_down(filled):
    async def go():
        made = filled.source(table="t")
        schema = await made.schema()
        taken = [made.with_filter(check_condition(text, schema)) is not None for text in CONDITIONS]
        assert sum(taken) >= 9, list(zip(CONDITIONS, taken, strict=True))
        typed = filled.source(table="t", contract=Schema.of({"id": "string"}))
        assert typed.with_filter(check_condition("id = '1'", await typed.schema())) is None

    run(go())


def variable(value: object, type_: str) -> SourceText:
    """A query with one variable of a value."""
    place = Variable("__00______", "${param:x}", value, parse_type(type_))
    return SourceText("", template="__00______", variables=(place,))


def with_variable(text: str, value: object, type_: str = "string") -> SourceText:
    found = variable(value, type_).variables
    return SourceText(
        text.replace("$x", str(value)), template=text.replace("$x", "__00______"), variables=found
    )


@pytest.mark.parametrize(
    ("sql", "value", "wanted"),
    [
        ("select id from t where id <= $x", 3, [1, 2, 3]),
        ("select id from t where name = $x and id < 15", "n3", [3, 13]),
        ("select id from t where name = $x", "'; drop table t; --", []),
        ("select id from t order by id limit $x", 2, [1, 2]),
        ("select id from t where at < $x", dt.datetime(2026, 1, 1, 0, 2, tzinfo=dt.UTC), [1]),
        ("select id from t where day < $x and id < 40", dt.date(2026, 1, 2), [30]),
        ("select id from t where substr(name, $x) = '3' and id < 10", 2, [3]),
        ("select id from t where id = $x", None, []),
        ("select $x as id", "7", ["7"]),
    ],
)
def test_variables_of_a_query_are_bound_values(filled, sql, value, wanted):
    found, _ = run(filled.read(query=with_variable(sql, value)))
    assert ids(found) == wanted


@pytest.mark.parametrize(
    ("query", "error", "code", "said"),
    [
        ("delete from t", ConfigError, "E0412", "a query starts with SELECT, not delete"),
        ("select 1; select 2", ConfigError, "E0412", "a query is one statement, and this has several"),
        ("select id, name as id from t", ConfigError, "E0412", "the query has two columns 'id'"),
        ("select nme from t", ConfigError, "E0412", "the query is refused: column \"nme\" does not exist"),
        ("select * from tt", SystemError_, "E0604", 'relation "tt" does not exist'),
        ("select 1 +", ConfigError, "E0412", "the query is refused: syntax error"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_is_refused(filled, query, error, code, said):
    with pytest.raises(error) as caught:
        run(filled.read(query=query))
    assert caught.value.code == code
    assert said in caught.value.message


def test_a_query_cannot_write(filled):
    with pytest.raises(SystemError_) as caught:
        run(filled.read(query="with x as (select setval('s', 1)) select nextval('s') from x"))
    assert caught.value.code in ("E0602", "E0604")


def test_a_variable_in_quotes_is_refused(filled):
    with pytest.raises(ExpressionError) as caught:
        run(filled.read(query=with_variable("select id from t where name = '$x'", "a")))
    assert caught.value.code == "E0207"


@pytest.mark.parametrize(
    ("config", "code", "said", "help_"),
    [
        ({"table": "tt"}, "E0604", "no table 'tt' in 127.0.0.1", "did you mean 't'?"),
        ({"table": "t", "columns": ["nme"]}, "E0604", "no column 'nme' in table 't'", "did you mean 'name'?"),
        ({"table": "t", "incremental": {"column": "id", "initial_value": "x"}}, "E0413",
         "initial_value 'x' does not fit column 'id', which is int32", None),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(filled, config, code, said, help_):
    with pytest.raises((SystemError_, ConfigError)) as caught:
        run(filled.source(**config).validate())
    assert caught.value.code == code
    assert said in caught.value.message
    assert help_ is None or caught.value.help == help_
    assert caught.value.step == "in"


@pytest.mark.parametrize(
    ("sharding", "said"),
    [
        (
            {"by": "time", "column": "name", "splits": 2},
            "column 'name' is string, and by: time needs",
        ),
        ({"by": "time", "column": "at", "every": "1ms"}, "'every' would make"),
    ],
)
def test_sharding_that_cannot_be_is_refused(filled, sharding, said):
    with pytest.raises(ConfigError) as caught:
        run(filled.read(table="t", sharding=sharding))
    assert caught.value.code == "E0413"
    assert said in caught.value.message


# --- incremental ----------------------------------------------------------------------------------


def test_only_new_rows_are_read_and_boundary_rows_once(database):
    database.execute(
        "create table t (id int primary key, at timestamptz)",
        "insert into t values (1, '2026-01-01 00:00+00'), (2, '2026-01-01 00:01+00'), "
        "(3, '2026-01-01 00:01+00'), (4, null)",
    )
    config = {"table": "t", "incremental": {"column": "at"}}

    async def go():
        found, carried = await database.read(**config)
        assert ids(found) == [1, 2, 3, 4]
        database.execute("insert into t values (5, '2026-01-01 00:01+00'), (6, '2026-01-01 00:02+00'), "
                         "(7, '2026-01-01 00:00:30+00'), (8, null)")  # fmt: skip
        found, carried = await database.read(carried=carried, **config)
        assert ids(found) == [5, 6]
        found, carried = await database.read(carried=carried, **config)
        assert ids(found) == []
        database.execute("update t set at = '2026-01-01 00:03+00' where id = 1")
        found, carried = await database.read(carried=carried, **config)
        assert ids(found) == [1]

    run(go())


def test_a_lag_finds_rows_that_came_late(database):
    database.execute("create table t (id int primary key, at timestamp)",
                     "insert into t values (1, '2026-01-01 00:00'), (2, '2026-01-01 00:10')")  # fmt: skip
    config = {
        "table": "t",
        "incremental": {"column": "at", "lag": "5m", "initial_value": "2026-01-01"},
    }

    async def go():
        found, carried = await database.read(**config)
        assert ids(found) == [1, 2]
        database.execute("insert into t values (3, '2026-01-01 00:06'), (4, '2026-01-01 00:04')")
        found, carried = await database.read(carried=carried, **config)
        assert ids(found) == [3]
        found, carried = await database.read(carried=carried, **config)
        assert ids(found) == []

    run(go())


@pytest.mark.parametrize(
    ("pg", "values"),
    [
        ("int", [5, 7, 7, 9]), ("bigint", [-5, 0, 0, 2**62]), ("float8", [0.1, 0.2, 0.2, 1e300]),
        ("date", ["2026-01-01", "2026-01-02", "2026-01-02", "2026-02-01"]),
        ("text", ["A", "a", "a", "é"]), ("timestamp", ["2026-01-01", "2026-01-02 00:00:00.000001"] * 2),
    ],
)  # fmt: skip
def test_any_column_that_grows_will_do(database, pg, values):
    ordered = sorted(values)
    database.execute(f"create table t (id serial, c {pg})")
    config = {"table": "t", "incremental": {"column": "c", "key": "id"}}

    async def go():
        carried, seen = None, []
        for value in ordered:
            database.execute(f"insert into t (c) values ('{value}')")
            found, carried = await database.read(carried=carried, **config)
            seen += ids(found)
        assert seen == list(range(1, len(ordered) + 1))

    run(go())


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=5),
    rows_max=st.integers(1, 4),
)
def test_rows_with_one_cursor_value_are_neither_lost_nor_doubled(filled, steps, rows_max):
    filled.execute("drop table if exists inc", "create table inc (id serial primary key, c int)")
    config = {"table": "inc", "incremental": {"column": "c", "lag": 3}}

    async def go():
        carried, given, greatest = None, [], None
        expected: list[int] = []
        number = 0
        for values in steps:
            start = greatest
            for value in values:
                number += 1
                filled.execute(f"insert into inc (c) values ({value})")
                if start is None or value >= start - 3:
                    expected.append(number)
            greatest = max([*values, *([] if greatest is None else [greatest])], default=None)
            found, carried = await filled.read(rows_max=rows_max, carried=carried, **config)
            given += found["id"].to_list()
        assert sorted(given) == expected

    run(go())


def test_an_incremental_read_goes_on_from_the_middle(database):
    database.execute("create table t (id int primary key, c int)",
                     "insert into t select i, i / 10 from generate_series(1, 100) i")  # fmt: skip

    async def go():
        made = database.source(table="t", incremental={"column": "c"})
        [split] = await made.splits()
        first, place = await drain(made, split, None, rows_max=7, batches=5)
        rest, end = await drain(made, split, place, rows_max=11)
        assert ids(pl.concat([*first, *rest])) == list(range(1, 101))
        assert made.carry({split.id: end})["last"] == 10

    run(go())


def test_null_cursors_are_counted(database):
    database.execute(
        "create table t (id int, c int)", "insert into t values (1, null), (2, null), (3, 1)"
    )

    async def go():
        made = database.source(table="t", incremental={"column": "c"})
        [split] = await made.splits()
        reader = await made.open(split, None)
        found = await reader.read_batch(100)
        assert found.metadata["null_cursors"] == 2
        assert reader.position().value["null_rows"] == 2
        await reader.aclose()

    run(go())


def test_an_endless_cursor_is_an_error(database):
    database.execute("create table t (id int, c timestamp)", "insert into t values (1, 'infinity')")
    with pytest.raises(DataError) as caught:
        run(database.read(table="t", incremental={"column": "c"}))
    assert caught.value.code == "E0501"


def test_new_rows_are_filtered_by_the_server_and_those_without_a_cursor_counted(database):
    database.execute(
        "create table t (id int, c int, s text)",
        "insert into t values (1, null, 'a'), (2, 5, 'a'), (3, 5, 'b'), (4, 1, 'a'), (5, 6, 'a')",
    )

    async def go():
        config = {"table": "t", "incremental": {"column": "c", "initial_value": 2}}
        condition = check_condition("s = 'a' and id < 5", await database.source(**config).schema())
        found, carried = await database.read(filters=[condition], **config)
        assert sorted(ids(found)) == [1, 2]
        database.execute("insert into t values (0, 7, 'a'), (6, 7, 'a'), (0, null, 'a')")
        found, carried = await database.read(filters=[condition], carried=carried, **config)
        assert ids(found) == [0]
        assert carried["null_rows"] == 1

    run(go())
