"""Constraints that a server checks only when a transaction is committed."""

from __future__ import annotations

import pytest
from postgres_kit import batch, run

from dataflare.errors import DataError
from dataflare.model.types import Schema

SCHEMA = Schema.of({"id": "int64", "v": "string"})
ONE, TWO = (batch([{"id": i, "v": f"v{i}"}]) for i in (1, 2))


def test_a_deferred_constraint_is_found_out_before_the_epoch_counts(database):
    database.execute(
        "create table parent (id bigint primary key)",
        "create table t (id bigint references parent deferrable initially deferred, v text)",
        "insert into parent values (1)",
    )

    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE)
        with pytest.raises(DataError) as caught:
            await step.prepare(2, TWO)
        assert caught.value.code == "E0510"
        assert "Key (id)=(2) is not present in table" in caught.value.notes[0]
        assert database.ids() == [1]

    run(go())
