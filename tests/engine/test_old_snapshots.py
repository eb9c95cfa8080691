"""State of versions that did not know tables is read: which chunks and values go where."""

from __future__ import annotations

from dataflare.checkpoint.manifest import OperatorSnapshot, StateChunk
from dataflare.engine.operating import share_of, snapshot_of
from dataflare.state.tables import LEGACY, TableShare

A, B, C = (StateChunk(f"{name}.arrow", 1, 10, "0" * 16) for name in "abc")


def test_the_chunks_of_an_aggregate_belong_to_its_first_table() -> None:
    share = share_of(OperatorSnapshot(0, (A, B), {"answered": True}))
    assert share == TableShare({LEGACY: (A, B)}, {"answered": True}, legacy=True)


def test_a_limit_has_a_value_and_a_deduplicate_has_only_chunks() -> None:
    assert share_of(OperatorSnapshot(0, (), {"left": 3})).values == {"left": 3}
    assert share_of(OperatorSnapshot(1, (A,), None)) == TableShare({LEGACY: (A,)}, {}, legacy=True)


def test_the_rows_of_a_processor_go_by_their_names() -> None:
    facts = {"ended": False, "names": ["state.seen.1", "state.seen.7", "result.0"]}
    share = share_of(OperatorSnapshot(0, (A, B, C), facts))
    assert share == TableShare({"state.seen": [A, B], "results": [C]}, {"ended": False})


def test_what_is_written_now_comes_back() -> None:
    share = TableShare({"groups": (A, B), "empty": (), "others": (C,)}, {"answered": False})
    assert share_of(snapshot_of(2, share)) == share
