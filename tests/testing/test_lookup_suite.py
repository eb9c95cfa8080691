"""The suite of keyed lookups passes what keeps the contract, and finds what does not."""

from __future__ import annotations

import asyncio
import dbm.dumb
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.lookup import KeyedLookup, LookupConnector
from dataflare.testing import LOOKUP_LAWS, ContractBroken, check_lookup, description

KEYS = pl.DataFrame({"id": [1, 2, 3, 4]})


class Evens(LookupConnector, KeyedLookup):
    """Knows even numbers, and may have a fault."""

    type = "evens"
    Config = BaseModel

    def __init__(self, fault: str | None = None) -> None:
        super().__init__(None, ConnectorContext("tested"))
        self.fault = fault

    def schema(self, keys: Schema, fields: Sequence[str] | None) -> Schema:
        return Schema.of({"id": "int64", "name": "string"})

    async def open(self, keys: Sequence[str], schema: Schema) -> KeyedLookup:
        self.names = schema.names
        return self

    async def get(self, keys: pl.DataFrame) -> pl.DataFrame:
        found = keys.filter(pl.col("id") % 2 == 0).with_columns(name=pl.format("n{}", "id"))
        match self.fault:
            case "gives_its_columns":
                return found.with_columns(more=1)
            case "gives_what_is_asked":
                return pl.concat([found, pl.DataFrame({"id": [6], "name": ["n6"]})])
            case "a_key_alone_gives_the_same" if keys.height == 1:
                return found.clear()
            case "leaves_out_unrequested_fields":
                return found if "name" in self.names else found.select("id").clear()
        return found.select(self.names)


def test_what_keeps_the_contract_passes() -> None:
    asyncio.run(check_lookup(Evens(), KEYS))


@pytest.mark.parametrize(
    "law", [name for name in LOOKUP_LAWS if name != "is_asked_by_several_at_once"]
)
def test_a_fault_is_found_by_its_law(law: str) -> None:
    with pytest.raises(ContractBroken) as broken:
        asyncio.run(check_lookup(Evens(law), KEYS, only=[law]))
    assert broken.value.law == law


def test_the_example_on_the_extend_page_keeps_the_contract(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/extend.md").read_text()
    found = re.search(r'```python title="dataflare_names.py"\n(.*?)^```', page, re.S | re.M)
    assert found is not None
    space: dict[str, Any] = {"__name__": "dataflare_names"}
    exec(found[1], space)
    with dbm.dumb.open(str(tmp_path / "names"), "c") as names:
        names["2"], names["4"] = "two", "four"
    lookup = description(space["NamesLookup"], {"path": "names"}, base=tmp_path)
    asyncio.run(check_lookup(lookup, KEYS))
