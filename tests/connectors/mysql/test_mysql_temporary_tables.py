"""Statements over a temporary table of the client, inside of an epoch's transaction."""

from __future__ import annotations

import polars as pl
from mysql_kit import LINEAGE

from dataflare.connectors.mysql.connection import Server
from dataflare.connectors.mysql.store import MysqlStore
from dataflare.model.types import Schema

SCHEMA = Schema.of({"id": "int64", "v": "string"})


def test_an_update_that_leaves_columns_as_they_are_does_not_end_the_transaction(database):
    database.execute(
        "create table t (id bigint primary key, v text)", "insert into t values (1, 'a')"
    )
    destination = database.destination(mode="upsert", key=["id"])
    store = MysqlStore(Server.of(destination.config), LINEAGE, 1)
    store.begin()
    store.update(destination.target(SCHEMA), pl.DataFrame({"id": [1], "v": ["b"]}))
    store.rollback()
    store.close()
    assert database.rows("select * from t") == [(1, "a")]
