"""What a system that is asked key by key must keep, law by law.

async def test_names():
    lookup = description(NamesLookup, {"path": "names"}, base=tmp_path)
    await check_lookup(lookup, pl.DataFrame({"id": [1, 2, 99]}), fields=["name"])
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import polars as pl
from msgspec import Struct

from dataflare.model.types import Schema
from dataflare.sdk.lookup import KeyedLookup, LookupConnector
from dataflare.testing.contract import ContractBroken, Laws, check_laws, equal, hold


class Asking(Struct, frozen=True):
    """A lookup and keys to ask it for. keys: distinct, without NULLs."""

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
) -> None:
    """Hold a keyed lookup to `LOOKUP_LAWS`.

    keys: its key columns, some dozen keys, distinct and without NULLs; the system must know some of
    them, and not others. fields: those to ask for; None for all. Raises ContractBroken, naming the
    law.
    """
    wanted = None if fields is None else tuple(fields)
    await check_laws(LOOKUP_LAWS, Asking(lookup, keys, wanted), only, skip)


async def _gives_its_columns(asking: Asking) -> None:
    law = "gives_its_columns"
    names = asking.schema.names
    hold(
        law, names[: asking.keys.width] == tuple(asking.keys.columns), "its keys do not come first"
    )
    async with asking.live() as live:
        for keys in (asking.keys, asking.keys.head(1), asking.keys.tail(1)):
            found = (await live.get(keys)).schema
            said = asking.schema.to_polars()
            hold(law, found == said, f"it gives {dict(found)}, and said {dict(said)}")


async def _gives_what_is_asked(asking: Asking) -> None:
    law = "gives_what_is_asked"
    async with asking.live() as live:
        found = await live.get(asking.keys)
        strange = found.join(asking.keys, on=asking.keys.columns, how="anti")
        hold(law, not strange.height, f"{strange.height} rows have keys that were not asked for")
        missing = asking.keys.join(found, on=asking.keys.columns, how="anti").height
        known = asking.keys.height - missing
        hold(
            law, bool(missing and known), f"{known} keys are known and {missing} are not: give both"
        )


async def _a_key_alone_gives_the_same(asking: Asking) -> None:
    async with asking.live() as live:
        whole = await live.get(asking.keys)
        parts = [await live.get(asking.keys.slice(i, 1)) for i in range(asking.keys.height)]
    said = "keys one by one give other rows than all at once"
    equal("a_key_alone_gives_the_same", pl.concat(parts), whole, said, ordered=False)


async def _is_asked_by_several_at_once(asking: Asking) -> None:
    async with asking.live() as live:
        whole = await live.get(asking.keys)
        several = await asyncio.gather(
            *(live.get(asking.keys.reverse().head(n)) for n in range(1, asking.keys.height + 1))
        )
    said = "it gives other rows when several ask at once"
    equal("is_asked_by_several_at_once", several[-1], whole, said, ordered=False)


async def _leaves_out_what_nobody_wants(asking: Asking) -> None:
    law = "leaves_out_what_nobody_wants"
    whole = asking.schema
    async with asking.live() as live:
        every = await live.get(asking.keys)
    for names in (asking.keys.columns, [*asking.keys.columns, whole.names[-1]]):
        part = whole.select(dict.fromkeys(names))
        async with asking.live(part) as live:
            try:
                found = await live.get(asking.keys)
            except pl.exceptions.PolarsError as error:
                raise ContractBroken(
                    law, f"it fails when asked for {part.names}: {error}"
                ) from error
        equal(law, found, every.select(part.names), "fewer fields give other rows", ordered=False)


LOOKUP_LAWS: Laws[Asking] = {
    "gives_its_columns": _gives_its_columns,
    "gives_what_is_asked": _gives_what_is_asked,
    "a_key_alone_gives_the_same": _a_key_alone_gives_the_same,
    "is_asked_by_several_at_once": _is_asked_by_several_at_once,
    "leaves_out_what_nobody_wants": _leaves_out_what_nobody_wants,
}
"""What each keyed lookup keeps, by name."""
