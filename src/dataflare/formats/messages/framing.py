"""The first bytes of a message whose schema is in a registry: a zero, and the schema's id in four bytes."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from dataflare.formats.messages.contract import bad_messages

HEAD = 5
NO_HEAD = "it does not begin with a zero byte and the id of a schema, so it was not written with a registry"


class Framed(NamedTuple):
    """The messages of one id. places: their indexes in the batch. bodies: what follows the id."""

    id: int
    places: pl.Series
    bodies: pl.Series


class Groups(NamedTuple):
    groups: list[Framed]
    bad: pl.DataFrame


def framed(values: pl.Series) -> Groups:
    """The messages of a batch by the id of their schema, and those without one."""
    places = values.is_not_null().arg_true().cast(pl.UInt32).alias("message")
    present = values.gather(places)
    is_framed = present.bin.starts_with(b"\0") & (present.bin.size() >= HEAD)
    bad = bad_messages(values, places.filter(~is_framed), "E0571", NO_HEAD)
    if bad.height:
        places, present = places.filter(is_framed), present.filter(is_framed)
    if not places.len():
        return Groups([], bad)
    ids = present.bin.slice(1, 4).bin.reinterpret(dtype=pl.UInt32, endianness="big")
    bodies = present.bin.slice(HEAD)
    first = ids[0]
    if (ids == first).all():
        return Groups([Framed(first, places, bodies)], bad)
    groups = []
    for id_ in ids.unique(maintain_order=True):
        chosen = ids == id_
        groups.append(Framed(id_, places.filter(chosen), bodies.filter(chosen)))
    return Groups(groups, bad)


def with_head(values: pl.Series, id_: int) -> pl.Series:
    """The messages with the id of their schema before them; NULL stays NULL."""
    head = b"\0" + id_.to_bytes(4, "big")
    return pl.Series([None if v is None else head + v for v in values], dtype=pl.Binary)
