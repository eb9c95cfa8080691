"""State as a manifest holds it, also of versions that did not know tables: which chunks and values go where."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, StateChunk
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


@given(st.permutations(["rows", "cuts", "state.a", "state.B", "results"]))
def test_what_is_written_now_comes_back_from_a_manifest(names: list[str]) -> None:
    chunks = {
        name: tuple(StateChunk(f"{number}-{n}.arrow", 1, 10, "0" * 16) for n in range(number))
        for number, name in enumerate(names)
    }
    share = TableShare(chunks, {"answered": False})
    text = Manifest(
        lineage="0f0e0d0c",
        run_id="r",
        attempt=1,
        epoch=1,
        created_at="",
        operators={"step": [snapshot_of(2, share)]},
    ).to_text()
    (snapshot,) = Manifest.from_text(text).operators["step"]
    assert share_of(snapshot) == share
