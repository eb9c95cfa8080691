"""Requests to read tables again, in the folder of a workflow."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from dataflare.sdk import resyncs


def test_a_request_that_is_done_is_removed_and_one_that_was_made_meanwhile_stays(
    tmp_path: Path,
) -> None:
    assert (resyncs.asked(tmp_path), resyncs.resyncs(tmp_path)) == ({}, [])
    first = resyncs.ask(tmp_path, "shop.orders")
    assert resyncs.asked(tmp_path) == {"shop.orders": first}
    resyncs.tell(tmp_path, {"shop.orders": (first, "reading")})
    assert [each.state for each in resyncs.resyncs(tmp_path)] == ["reading"]
    last = resyncs.ask(tmp_path, "shop.orders")
    resyncs.tell(tmp_path, {"shop.orders": (first, "done")})
    assert resyncs.asked(tmp_path) == {"shop.orders": last}
    assert [(each.id, each.state) for each in resyncs.resyncs(tmp_path)] == [(last, "asked")]
    resyncs.tell(tmp_path, {"shop.orders": (last, "done")})
    assert resyncs.asked(tmp_path) == {}
    assert [(each.id, each.state) for each in resyncs.resyncs(tmp_path)] == [(last, "done")]
    assert list((tmp_path / "resync").glob("*.json")) == []


def test_ranges_are_kept_in_their_order_and_removed_when_they_are_done(tmp_path: Path) -> None:
    keys = pl.DataFrame({"id": [1, 2]})
    first = resyncs.ask_for_range(tmp_path, "shop.orders", '"id" < 10', keys)
    last = resyncs.ask_for_range(tmp_path, "shop.orders", '"id" > 90', keys.clear())
    found = resyncs.ranges(tmp_path)
    assert [(each.source, each.id) for each in found] == [
        ("shop.orders", first),
        ("shop.orders", last),
    ]
    assert pl.read_parquet(found[0].keys).equals(keys)
    assert resyncs.asked(tmp_path) == {}
    assert [each.state for each in resyncs.resyncs(tmp_path)] == ["asked"]
    resyncs.range_done(tmp_path, first)
    resyncs.range_done(tmp_path, "another one")
    assert [each.id for each in resyncs.ranges(tmp_path)] == [last]
    resyncs.range_done(tmp_path, last)
    assert [(each.id, each.state) for each in resyncs.resyncs(tmp_path)] == [(last, "done")]
    assert [each.name for each in (tmp_path / "resync").iterdir()] == ["shop.orders.state"]
