"""Join two frames by key: how many rows come out is known before they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import polars as pl

from dataflare.operators.join_shape import LEFT, RIGHT, JoinShape

CHUNK_ROWS = 1_000_000
"""About so many rows of output are made at once."""

_MATCHES = "__dataflare_matches"
_CHUNK = "__dataflare_chunk"


def prepared(shape: JoinShape, frame: pl.DataFrame, port: int) -> pl.DataFrame:
    """The rows of a side with the columns that are compared; those of the right side have the names that
    they get in the output, where they come out."""
    if port == LEFT:
        return frame.with_columns(shape.key_columns(LEFT))
    own = zip(shape.right_keys, _own_names(shape), strict=True) if shape.kind == "right" else ()
    own_keys = [pl.col(key).alias(name) for key, name in own]
    return frame.select(*shape.right_values(), *shape.key_columns(RIGHT), *own_keys)


def _own_names(shape: JoinShape) -> list[str]:
    """Names for the keys of the right side as they are."""
    return [f"__dataflare_own{i}" for i in range(len(shape.right_keys))]


def chunks(
    names: Sequence[str], probe: pl.DataFrame, build: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """The rows of the probe side, cut so that each part makes about CHUNK_ROWS pairs. names: the columns
    that must be equal."""
    counts = build.select(names).group_by(names).agg(pl.len().cast(pl.Int64).alias(_MATCHES))
    if not counts.height or counts[_MATCHES].max() == 1:
        yield from probe.iter_slices(CHUNK_ROWS)
        return
    numbered = probe.join(counts, on=names, how="left", maintain_order="left")
    place = pl.col(_MATCHES).fill_null(1).cum_sum() // CHUNK_ROWS
    cut = numbered.with_columns(place.alias(_CHUNK)).drop(_MATCHES)
    yield from cut.partition_by(_CHUNK, include_key=False, maintain_order=True)


def matched(shape: JoinShape, probe: pl.DataFrame, build: pl.DataFrame) -> pl.DataFrame:
    """What comes out of a part of the probe side: its matches, and its rows without one where these come
    out. The probe side is the right one in a right join, else the left one."""
    how: Literal["inner", "left", "semi", "anti"]
    match shape.kind:
        case "right":
            joined = probe.join(build, on=shape.key_names, how="left")
            keys = zip(shape.left_keys, _own_names(shape), strict=True)
            types = shape.output.to_polars()
            joined = joined.with_columns(
                pl.coalesce(pl.col(own), pl.col(key).cast(types[own])).alias(own)
                for own, key in keys
            )
            return joined.select(shape.whole())
        case "full":
            how = "left"
        case other:
            how = other
    return probe.join(build, on=shape.key_names, how=how).select(shape.whole())


def unmatched(shape: JoinShape, rows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The rows that have no match on the other side."""
    return rows.join(other.select(shape.key_names), on=shape.key_names, how="anti")
