"""Make each query of a run a second time, described anew by its operators, and compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import polars as pl
from polars.testing import assert_frame_equal

from dataflare.engine.pool import INLINE_ROWS
from dataflare.engine.queries import Made, Query


@contextmanager
def checked_queries() -> Iterator[Counter[str]]:
    """Compare inside of the `with` block. Counts the queries that were noted, and those that could not be."""
    seen: Counter[str] = Counter()
    run = Query.run

    def both(self: Query, frame: Any) -> Made:
        made = run(self, frame)
        rows = frame if isinstance(frame, pl.DataFrame) else frame.collect(engine="in-memory")
        for part in (rows, rows.slice(rows.height // 2)):
            _same(run(self, part), _described(self, part))
        assert self._noted is not None
        seen["noted" if self._noted.calls is not None else "described"] += 1
        return made

    with mock.patch.object(Query, "run", both):
        yield seen


def _described(query: Query, frame: pl.DataFrame) -> Made:
    lazy, lowering = query._described(frame.lazy(), frame.columns)
    few = frame.height < INLINE_ROWS
    flags = pl.QueryOptFlags.none() if few else pl.QueryOptFlags()
    return query._sifted(lazy.collect(engine="in-memory", optimizations=flags), lowering)


def _same(made: Made, described: Made) -> None:
    assert_frame_equal(made.frame, described.frame, check_exact=True)
    assert (made.bad is None) == (described.bad is None)
    if made.bad is not None and described.bad is not None:
        assert_frame_equal(made.bad, described.bad, check_exact=True)
    assert made.lowering.sites == described.lowering.sites
    assert made.lowering.policies == described.lowering.policies
    assert made.lowering.changelog == described.lowering.changelog
