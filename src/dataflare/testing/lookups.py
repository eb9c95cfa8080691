"""The laws of keyed lookups.

async def test_names():
    lookup = description(NamesLookup, {"path": "names"}, base=tmp_path)
    await check_lookup(lookup, pl.DataFrame({"id": [1, 2, 99]}), fields=["name"])
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType

import polars as pl
from msgspec import Struct

from dataflare.model.types import Schema
from dataflare.sdk.lookup import KeyedLookup, LookupConnector
from dataflare.testing.contract import ContractBroken, Laws, check_laws, equal, hold


class LookupUnderTest(Struct, frozen=True):
    """A lookup, and the keys to request from it. keys: distinct, without NULLs."""

    lookup: LookupConnector
    keys: pl.DataFrame
    fields: tuple[str, ...] | None

    @property
    def schema(self) -> Schema:
        return self.lookup.schema(Schema.from_polars(self.keys.schema), self.fields)

    @asynccontextmanager
    async def live(self, schema: Schema | None = None) -> AsyncIterator[KeyedLookup]:
        opened = await self.lookup.open(self.keys.columns, schema or self.schema)
        try:
            yield opened
        finally:
            await opened.aclose()


async def check_lookup(
    lookup: LookupConnector,
    keys: pl.DataFrame,
    fields: Sequence[str] | None = None,
    *,
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
    gaps: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check a keyed lookup against `LOOKUP_LAWS`. Raises ContractBroken with the law's name.

    keys: the key columns with some dozen keys, distinct and without NULLs. The system must have rows for
    some of them and none for others. fields: the fields to request; None for all.
    """
    requested = None if fields is None else tuple(fields)
    await check_laws(LOOKUP_LAWS, LookupUnderTest(lookup, keys, requested), only, skip, gaps)


async def _gives_its_columns(tested: LookupUnderTest) -> None:
    law = "gives_its_columns"
    names = tested.schema.names
    hold(
        law, names[: tested.keys.width] == tuple(tested.keys.columns), "its keys do not come first"
    )
    async with tested.live() as live:
        for keys in (tested.keys, tested.keys.head(1), tested.keys.tail(1)):
            actual = (await live.get(keys)).schema
            promised = tested.schema.to_polars()
            hold(law, actual == promised, f"it gives {dict(actual)}, and said {dict(promised)}")


async def _gives_what_is_asked(tested: LookupUnderTest) -> None:
    law = "gives_what_is_asked"
    async with tested.live() as live:
        answered = await live.get(tested.keys)
        unrequested = answered.join(tested.keys, on=tested.keys.columns, how="anti")
        hold(
            law,
            not unrequested.height,
            f"{unrequested.height} rows have keys that were not asked for",
        )
        missing = tested.keys.join(answered, on=tested.keys.columns, how="anti").height
        present = tested.keys.height - missing
        hold(
            law,
            bool(missing and present),
            f"{present} keys have rows and {missing} have none: give both kinds",
        )


async def _a_key_alone_gives_the_same(tested: LookupUnderTest) -> None:
    async with tested.live() as live:
        whole = await live.get(tested.keys)
        parts = [await live.get(tested.keys.slice(i, 1)) for i in range(tested.keys.height)]
    message = "keys one by one give other rows than all at once"
    equal("a_key_alone_gives_the_same", pl.concat(parts), whole, message, ordered=False)


async def _is_asked_by_several_at_once(tested: LookupUnderTest) -> None:
    async with tested.live() as live:
        whole = await live.get(tested.keys)
        answers = await asyncio.gather(
            *(live.get(tested.keys.reverse().head(n)) for n in range(1, tested.keys.height + 1))
        )
    message = "it gives other rows when several ask at once"
    equal("is_asked_by_several_at_once", answers[-1], whole, message, ordered=False)


async def _leaves_out_unrequested_fields(tested: LookupUnderTest) -> None:
    law = "leaves_out_unrequested_fields"
    whole = tested.schema
    async with tested.live() as live:
        all_fields = await live.get(tested.keys)
    for names in (tested.keys.columns, [*tested.keys.columns, whole.names[-1]]):
        part = whole.select(dict.fromkeys(names))
        async with tested.live(part) as live:
            try:
                answered = await live.get(tested.keys)
            except pl.exceptions.PolarsError as error:
                raise ContractBroken(
                    law, f"it fails when asked for {part.names}: {error}"
                ) from error
        equal(
            law,
            answered,
            all_fields.select(part.names),
            "fewer fields give other rows",
            ordered=False,
        )


LOOKUP_LAWS: Laws[LookupUnderTest] = {
    "gives_its_columns": _gives_its_columns,
    "gives_what_is_asked": _gives_what_is_asked,
    "a_key_alone_gives_the_same": _a_key_alone_gives_the_same,
    "is_asked_by_several_at_once": _is_asked_by_several_at_once,
    "leaves_out_unrequested_fields": _leaves_out_unrequested_fields,
}
"""The laws by name. Each is an async function of a `LookupUnderTest` that raises ContractBroken."""
