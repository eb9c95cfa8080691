"""Requests to read tables again, in the folder of a workflow."""

from __future__ import annotations

from pathlib import Path

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
