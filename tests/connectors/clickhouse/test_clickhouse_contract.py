"""The laws of all sources and destinations, against the engine."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from clickhouse_kit import Database, run
from conformance import keeps_destination_laws, keeps_source_laws

from dataflare.sdk import registry
from dataflare.testing import check_destination, check_source, description

CUT_LAWS = ("rows_do_not_depend_on_batches", "positions_resume", "a_split_ends_where_it_may_be_cut")
MODE_LAWS = ("each_row_arrives_once", "what_was_never_published_goes")
ORDERS = """\
create table orders (id Int64, name Nullable(String), at DateTime64(3, 'UTC'), amount Decimal(9, 2))
engine = MergeTree order by (at, id)"""


def fill(database: Database) -> None:
    database.execute(
        ORDERS,
        "insert into orders select number % 40, if(number % 7 = 0, null, concat('n', toString(number))), "
        "toDateTime64('2024-01-01 00:00:00', 3, 'UTC') + toIntervalMillisecond((number % 5) * 250), "
        "number / 4 from numbers(90)",
    )


@pytest.mark.parametrize("config", [
    {"table": "orders"},
    {"table": "orders", "sharding": {"column": "id", "splits": 3}},
    {"table": "orders", "sharding": {"by": "hash", "splits": 3}},
    {"table": "orders", "sharding": {"by": "time", "column": "at", "splits": 2}},
    {"table": "orders", "incremental": {"column": "id"}},
    {"query": "select id, name, amount from orders order by id, amount"},
], ids=["table", "range", "hash", "time", "incremental", "query"])  # fmt: skip
def test_a_source_keeps_the_contract(database, config):
    fill(database)
    # Each law makes hundreds of requests: those that do not depend on the cut are checked once.
    if config == {"table": "orders"}:
        keeps_source_laws("clickhouse", lambda: database.source(**config))
    else:
        run(check_source(lambda: database.source(**config), only=CUT_LAWS))


@pytest.mark.parametrize("mode", ["append", "upsert", "overwrite", "mirror"])
def test_a_destination_keeps_the_contract(database, tmp_path, mode):
    config = {"connection_string": database.dsn, "mode": mode}
    if mode in ("upsert", "mirror"):
        config["key"] = ["id"]

    def table(folder: Path) -> str:
        return "t_" + "_".join(folder.relative_to(tmp_path).parts).replace("-", "_")

    def make(folder: Path):
        return description(
            registry.destination("clickhouse"), {**config, "table": table(folder)}, base=folder
        )

    def read(folder: Path) -> pl.DataFrame:
        names = [name for (name,) in database.rows("show tables")]
        schema = {"id": pl.Int64(), "name": pl.String(), "amount": pl.Float64()}
        if table(folder) not in names:
            return pl.DataFrame(schema=schema)
        final = "final" if mode in ("upsert", "mirror") else ""
        rows = database.rows(f"select id, name, amount from {table(folder)} {final}")
        return pl.DataFrame(rows, schema=schema, orient="row")

    if mode == "append":
        keeps_destination_laws("clickhouse", make, read, tmp_path)
    else:
        run(check_destination(make, read, tmp_path, only=MODE_LAWS))
